package graph

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// Child is an event that relates to another one. Hidden and redacted events are none.
type Child struct {
	Parent id.EventID
	Event  EventNID
	// ID is set by ChildrenOfAny only.
	ID  id.EventID
	Ord int64
	// RelType is the type of the relation, Type that of the event.
	RelType, Type string
	Sender        id.UserID
}

var (
	childrenUp   = children("")
	childrenDown = children(" DESC")
	childrenOf   = sqldb.SQL(`SELECT e.event_id, r.parent_id, r.event_nid, r.ord, r.kind, r.rel_type, r.type, r.sender
		FROM relations AS r JOIN events AS e ON e.event_nid = r.event_nid WHERE r.room_nid = $1 AND r.parent_id = ANY($2) LIMIT $3`)
	relatedBy = sqldb.SQL(`SELECT parent_id FROM relations WHERE room_nid = $1 AND parent_id = ANY($2)
		AND ($3 = 0 OR kind = ANY($4) OR (kind = 0 AND rel_type = ANY($5))) AND ($6 = 0 OR sender = ANY($7)) GROUP BY parent_id`)
	aggregatesOf = sqldb.SQL(`SELECT parent_id, kind, sender, type, event_nid, ord, ts, event_id, total FROM aggregates
		WHERE room_nid = $1 AND parent_id = ANY($2)`)
	threadsBefore = sqldb.SQL(`SELECT parent_id, event_nid, ord, total FROM aggregates
		WHERE room_nid = $1 AND kind = 2 AND ord < $2 ORDER BY ord DESC LIMIT $3`)
	threadsWith = sqldb.SQL(`SELECT a.parent_id, a.event_nid, a.ord, a.total FROM thread_users AS u
		JOIN aggregates AS a ON a.room_nid = u.room_nid AND a.parent_id = u.root_id AND a.kind = 2 AND a.sender = '' AND a.type = ''
		WHERE u.room_nid = $1 AND u.user_id = $2 AND a.ord < $3 ORDER BY a.ord DESC LIMIT $4`)
	threadUsers = sqldb.SQL(`SELECT root_id, user_id, total FROM thread_users
		WHERE room_nid = $1 AND user_id = ANY($2) AND root_id = ANY($3)`)
)

// children is a statement that lists an event's children of the kinds in $2, each kind by its own run of the index.
func children(order string) *sqldb.Stmt {
	var parts []string
	for k := range kinds {
		parts = append(parts, fmt.Sprintf(`SELECT * FROM (SELECT event_nid, ord, kind, rel_type, type, sender FROM relations
			WHERE room_nid = $1 AND parent_id = $3 AND kind = %d AND kind = ANY($2) AND ord > $4 AND ord < $5 ORDER BY ord%s LIMIT $6) AS k%[1]d`, k, order))
	}
	return sqldb.SQL(strings.Join(parts, " UNION ALL ") + " ORDER BY ord" + order + " LIMIT $6")
}

func numbers(of []kind) []int64 {
	n := make([]int64, len(of))
	for i, k := range of {
		n[i] = int64(k)
	}
	return n
}

func texts[T ~string](of []T) []string {
	s := make([]string, len(of))
	for i, x := range of {
		s[i] = string(x)
	}
	return s
}

// Children returns events that relate to an event, with a type of relation or, for "", with any, in the order of the room. Those with
// a type that the specification doesn't know are found among all of that sort, so there may be fewer than the limit though there are more:
// next is where to go on, 0 at the end.
//
// Spec: cs Relationships API
func (g *Graph) Children(ctx context.Context, room RoomNID, parent id.EventID, relType string, r Range) (found []Child, next int64, err error) {
	if r.Limit <= 0 {
		return nil, 0, nil
	}
	if r.Before == 0 {
		r.Before = End
	}
	s := childrenUp
	if r.Backward {
		s = childrenDown
	}
	n, last := 0, int64(0)
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, n = nil, 0
		return tx.Query(s, func(row *sqldb.Row) error {
			c := Child{Parent: parent}
			if err := c.scan(row); err != nil {
				return err
			}
			n++
			last = c.Ord
			if relType == "" || c.RelType == relType {
				found = append(found, c)
			}
			return nil
		}, room, numbers(kindsOf(relType)), parent, r.After, r.Before, r.Limit)
	})
	if n == r.Limit {
		next = last
	}
	return found, next, wrap(err, "list related events")
}

// scan reads what stands in a row after the parent.
func (c *Child) scan(row *sqldb.Row, first ...any) error {
	var k kind
	err := row.Scan(append(first, &c.Event, &c.Ord, &k, &c.RelType, &c.Type, &c.Sender)...)
	if err == nil && k != otherKind && k < kinds {
		c.RelType = kindNames[k]
	}
	return err
}

// ChildrenOfAny returns up to limit of the events that relate to any of the parents, in no order.
func (g *Graph) ChildrenOfAny(ctx context.Context, room RoomNID, parents []id.EventID, limit int) (found []Child, err error) {
	for part := range slices.Chunk(parents, maxLookup) {
		had := len(found)
		err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
			found = found[:had]
			return tx.Query(childrenOf, func(row *sqldb.Row) error {
				var c Child
				err := c.scan(row, &c.ID, &c.Parent)
				found = append(found, c)
				return err
			}, room, texts(part), limit-had)
		})
		if err != nil || len(found) >= limit {
			return found, wrap(err, "list related events")
		}
	}
	return found, nil
}

// RelatedBy returns those of the events to which another one relates by one of the types and that was sent by one of the senders; a nil list
// stands for any.
//
// Spec: cs Filtering
func (g *Graph) RelatedBy(ctx context.Context, room RoomNID, events []id.EventID, relTypes []string, senders []id.UserID) (map[id.EventID]bool, error) {
	of := []int64{}
	for _, t := range relTypes {
		if k := kindsOf(t); k[0] != otherKind && t != "" {
			of = append(of, numbers(k)...)
		}
	}
	found := make(map[id.EventID]bool)
	for part := range slices.Chunk(events, maxLookup) {
		err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
			return tx.Query(relatedBy, func(row *sqldb.Row) error {
				var parent id.EventID
				err := row.Scan(&parent)
				found[parent] = true
				return err
			}, room, texts(part), btoi(relTypes != nil), of, texts(relTypes), btoi(senders != nil), texts(senders))
		})
		if err != nil {
			return nil, wrap(err, "find events that others relate to")
		}
	}
	return found, nil
}

// Aggregate is what is known at once of the children of an event.
type Aggregate struct {
	// Edits are the last m.replace events by each sender and type. Whether the parent allows them to replace it isn't looked at.
	Edits []Edit
	// Thread is set for an event that m.thread relations name.
	Thread *Thread
	// References is how many m.reference relations name the event.
	References int64
}

// Edit is the most recent event by which somebody wants to replace another one.
//
// Spec: cs Validity of replacement events
type Edit struct {
	Sender id.UserID
	Type   string
	Event  EventNID
}

// Thread is a thread as everybody sees it.
type Thread struct {
	Root id.EventID
	// Latest is the newest event by the room's order, at Ord.
	Latest EventNID
	Ord    int64
	// Count is how many events it has, without the root.
	Count int64
}

// Aggregates returns what is known of the children of events of one room; most have none and are not in the map.
//
// Spec: cs Aggregations of child events
func (g *Graph) Aggregates(ctx context.Context, room RoomNID, parents []id.EventID) (map[id.EventID]*Aggregate, error) {
	var found map[id.EventID]*Aggregate
	for part := range slices.Chunk(parents, maxLookup) {
		err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
			for _, p := range part {
				delete(found, p) // the function may run again
			}
			return tx.Query(aggregatesOf, func(row *sqldb.Row) error {
				var parent id.EventID
				var k kind
				var e Edit
				var ord, total int64
				if err := row.Scan(&parent, &k, &e.Sender, &e.Type, &e.Event, &ord, nil, nil, &total); err != nil {
					return err
				}
				if found == nil {
					found = make(map[id.EventID]*Aggregate)
				}
				a := found[parent]
				if a == nil {
					a = new(Aggregate)
					found[parent] = a
				}
				switch k {
				case replaceKind:
					a.Edits = append(a.Edits, e)
				case threadKind:
					a.Thread = &Thread{Root: parent, Latest: e.Event, Ord: ord, Count: total}
				case referenceKind:
					a.References = total
				}
				return nil
			}, room, texts(part))
		})
		if err != nil {
			return nil, wrap(err, "load what events are related by")
		}
	}
	return found, nil
}

// Threads returns threads of a room by their latest activity, the newest first: those whose latest event stands before an ord. With
// a user, only those whose root they sent or that they wrote in.
//
// Spec: cs getThreadRoots
func (g *Graph) Threads(ctx context.Context, room RoomNID, user id.UserID, before int64, limit int) (found []Thread, err error) {
	s, args := threadsBefore, []any{room, before, limit}
	if user != "" {
		s, args = threadsWith, []any{room, user, before, limit}
	}
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(s, func(row *sqldb.Row) error {
			var t Thread
			err := row.Scan(&t.Root, &t.Latest, &t.Ord, &t.Count)
			found = append(found, t)
			return err
		}, args...)
	})
	return found, wrap(err, "list threads")
}

// InThreads returns how many events each of the users has in each of the threads; who has none, and has not sent the root either, is left out.
func (g *Graph) InThreads(ctx context.Context, room RoomNID, roots []id.EventID, users []id.UserID) (map[id.EventID]map[id.UserID]int64, error) {
	found := make(map[id.EventID]map[id.UserID]int64)
	for part := range slices.Chunk(users, maxLookup) {
		err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
			return tx.Query(threadUsers, func(row *sqldb.Row) error {
				var root id.EventID
				var user id.UserID
				var n int64
				err := row.Scan(&root, &user, &n)
				if found[root] == nil {
					found[root] = make(map[id.UserID]int64)
				}
				found[root][user] = n
				return err
			}, room, texts(part), texts(roots))
		})
		if err != nil {
			return nil, wrap(err, "count events in threads")
		}
	}
	return found, nil
}

// maxHops is how many relations are followed from an event to its thread.
//
// Spec: cs Threaded read receipts
const maxHops = 3

// ThreadOf returns the root of the thread that an event is in; empty for the main timeline, which has the roots of threads and what
// is related to them otherwise. A redacted event, or one that relates to a redacted one, has lost its thread.
//
// Spec: cs Threaded read receipts
func (g *Graph) ThreadOf(ctx context.Context, e *Event) (id.EventID, error) {
	for range maxHops + 1 {
		to, ok := e.PDU.Relation()
		switch {
		case !ok:
			return "", nil
		case to.Type == event.InThread:
			return to.Parent, nil
		}
		parent, ok, err := g.Event(ctx, to.Parent)
		if err != nil || !ok || parent.Room != e.Room {
			return "", err
		}
		e = parent
	}
	return "", nil
}
