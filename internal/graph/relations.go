package graph

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"

	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// ErrAnnotated says that the sender of an event of the commit has annotated the same event with the same type and key before.
var ErrAnnotated = errors.New("graph: the user has annotated the event so before")

// kind is a relationship type as the index has it.
type kind int64

const (
	otherKind kind = iota // the type stands in rel_type
	replaceKind
	threadKind
	referenceKind
	annotationKind
	// voidKind is an m.replace that can replace nothing, whatever its parent is.
	voidKind
	kinds
)

var kindNames = [kinds]string{"", event.Replaces, event.InThread, event.References, event.Annotates, event.Replaces}

// kindsOf returns the kinds that stand for a type; for "" all.
func kindsOf(relType string) []kind {
	switch relType {
	case "":
		return []kind{otherKind, replaceKind, threadKind, referenceKind, annotationKind, voidKind}
	case event.Replaces:
		return []kind{replaceKind, voidKind}
	case event.InThread:
		return []kind{threadKind}
	case event.References:
		return []kind{referenceKind}
	case event.Annotates:
		return []kind{annotationKind}
	}
	return []kind{otherKind}
}

// relating is an event of a commit that relates to another one.
type relating struct {
	event *Event
	to    event.Relation
	kind  kind
}

// relates tells what the index says of an event, false where that is nothing: nobody sees hidden events.
func relates(e *Event) (relating, bool) {
	if e.Flags&hidden != 0 {
		return relating{}, false
	}
	return relation(e)
}

func relation(e *Event) (relating, bool) {
	to, ok := e.PDU.Relation()
	if !ok {
		return relating{}, false
	}
	r := relating{event: e, to: to, kind: kindsOf(to.Type)[0]}
	if r.kind == replaceKind && !replaces(e.PDU) {
		r.kind = voidKind
	}
	return r, true
}

// replaces reports whether an event can replace another one. What an encrypted event says instead of the old content is encrypted too.
//
// Spec: cs Validity of replacement events
func replaces(p *event.PDU) bool {
	if p.IsState() {
		return false
	}
	content, _ := canon.Get(p.Content(), "m.new_content")
	return p.Type() == "m.room.encrypted" || len(content) > 0 && content[0] == '{'
}

var (
	insertRelations = rows(`INSERT INTO relations (room_nid, parent_id, kind, ord, event_nid, rel_type, type, sender) VALUES `, 8, ` ON CONFLICT DO NOTHING`)
	deleteRelation  = sqldb.SQL(`DELETE FROM relations WHERE room_nid = $1 AND parent_id = $2 AND kind = $3
		AND ord = (SELECT ord FROM events WHERE event_nid = $4)`)

	addEdit = sqldb.SQL(`INSERT INTO aggregates (room_nid, parent_id, kind, sender, type, event_nid, ord, ts, event_id, total)
		VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, 1) ON CONFLICT (room_nid, parent_id, kind, sender, type) DO UPDATE SET
		event_nid = excluded.event_nid, ord = excluded.ord, ts = excluded.ts, event_id = excluded.event_id
		WHERE excluded.ts > aggregates.ts OR (excluded.ts = aggregates.ts AND excluded.event_id > aggregates.event_id)`)
	dropEdit = sqldb.SQL(`DELETE FROM aggregates WHERE room_nid = $1 AND parent_id = $2 AND kind = 1 AND sender = $3 AND type = $4 AND event_nid = $5`)
	lastEdit = sqldb.SQL(`INSERT INTO aggregates (room_nid, parent_id, kind, sender, type, event_nid, ord, ts, event_id, total)
		SELECT r.room_nid, r.parent_id, r.kind, r.sender, r.type, r.event_nid, r.ord, e.ts, e.event_id, 1
		FROM relations AS r JOIN events AS e ON e.event_nid = r.event_nid
		WHERE r.room_nid = $1 AND r.parent_id = $2 AND r.kind = 1 AND r.sender = $3 AND r.type = $4
		ORDER BY e.ts DESC, e.event_id DESC LIMIT 1 ON CONFLICT DO NOTHING`)

	// Of threads the newest event by the room's order, of references how many there are.
	addChild = sqldb.SQL(`INSERT INTO aggregates (room_nid, parent_id, kind, sender, type, event_nid, ord, ts, event_id, total)
		VALUES ($1, $2, $3, '', '', $4, $5, 0, '', 1) ON CONFLICT (room_nid, parent_id, kind, sender, type) DO UPDATE SET
		total = aggregates.total + 1,
		event_nid = CASE WHEN excluded.ord > aggregates.ord THEN excluded.event_nid ELSE aggregates.event_nid END,
		ord = CASE WHEN excluded.ord > aggregates.ord THEN excluded.ord ELSE aggregates.ord END`)
	subChild = sqldb.SQL(`UPDATE aggregates SET total = total - 1,
		event_nid = COALESCE((SELECT r.event_nid FROM relations AS r WHERE r.room_nid = $1 AND r.parent_id = $2 AND r.kind = $3 ORDER BY r.ord DESC LIMIT 1), 0),
		ord = COALESCE((SELECT MAX(r.ord) FROM relations AS r WHERE r.room_nid = $1 AND r.parent_id = $2 AND r.kind = $3), 0)
		WHERE room_nid = $1 AND parent_id = $2 AND kind = $3 AND sender = '' AND type = ''`)
	dropAggregate = sqldb.SQL(`DELETE FROM aggregates WHERE room_nid = $1 AND parent_id = $2 AND kind = $3 AND sender = '' AND type = '' AND total <= 0`)

	addThreadUser = sqldb.SQL(`INSERT INTO thread_users (room_nid, user_id, root_id, total, began) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (room_nid, user_id, root_id) DO UPDATE SET total = thread_users.total + excluded.total,
		began = CASE WHEN excluded.began = 1 THEN 1 ELSE thread_users.began END`)
	subThreadUser  = sqldb.SQL(`UPDATE thread_users SET total = total - 1 WHERE room_nid = $1 AND user_id = $2 AND root_id = $3`)
	dropThreadUser = sqldb.SQL(`DELETE FROM thread_users WHERE room_nid = $1 AND user_id = $2 AND root_id = $3 AND total <= 0 AND began = 0`)
	// The root of a thread came after the thread.
	lateRoot = sqldb.SQL(`INSERT INTO thread_users (room_nid, user_id, root_id, total, began)
		SELECT room_nid, CAST($3 AS TEXT), parent_id, 0, 1 FROM aggregates
		WHERE room_nid = $1 AND parent_id = $2 AND kind = 2 AND sender = '' AND type = ''
		ON CONFLICT (room_nid, user_id, root_id) DO UPDATE SET began = 1`)
	rootBodies = sqldb.SQL(`SELECT room_nid, event_id, body FROM events WHERE event_id = ANY($1)`)

	insertAnnotations = rowsReturning(`INSERT INTO annotations (event_nid, room_nid, parent_id, sender, type, annotation) VALUES `, 6,
		` ON CONFLICT DO NOTHING`, ` RETURNING event_nid`)
	dropAnnotation = sqldb.SQL(`DELETE FROM annotations WHERE room_nid = $1 AND parent_id = $2 AND sender = $3 AND type = $4 AND annotation = $5
		AND event_nid = $6`)
	annotated = sqldb.SQL(`SELECT 1 FROM annotations WHERE room_nid = $1 AND parent_id = $2 AND sender = $3 AND type = $4 AND annotation = $5`)
)

// annotationKey is 128 bits of a hash: keys may be long and hold what no text column does.
func annotationKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// annotation is the row for an annotation.
func (r *relating) annotation() []any {
	e := r.event
	return []any{e.NID, e.Room, r.to.Parent, e.PDU.Sender(), e.PDU.Type(), annotationKey(r.to.Key)}
}

// claims reports whether the event may not say again what its sender said before: only our own server is asked to prevent that.
func (r *relating) claims() bool { return r.kind == annotationKind && r.event.Flags&Local != 0 }

// claimAnnotations fails jobs by which a user of ours annotates an event again.
//
// Spec: cs Avoiding duplicate annotations
func claimAnnotations(tx *sqldb.Tx, jobs []*job) error {
	var args []any
	owner := make(map[EventNID]*job)
	for _, j := range jobs {
		j.annotated = nil
		for i := range j.relating {
			if r := &j.relating[i]; r.claims() && j.failed == nil {
				owner[r.event.NID] = j
				args = append(args, r.annotation()...)
			}
		}
	}
	err := written(insertAnnotations, tx, args, func(nid EventNID) {
		owner[nid].annotated = append(owner[nid].annotated, nid)
		delete(owner, nid)
	})
	if err != nil {
		return err
	}
	for _, j := range owner {
		if j.failed == nil {
			j.failed = ErrAnnotated
		}
	}
	return nil
}

// releaseAnnotations takes back what claimAnnotations wrote for jobs that failed.
func releaseAnnotations(tx *sqldb.Tx, jobs []*job) {
	for _, j := range jobs {
		if j.failed == nil || len(j.annotated) == 0 {
			continue
		}
		for i := range j.relating {
			if r := &j.relating[i]; r.claims() {
				r.forget(tx)
			}
		}
	}
}

func (r *relating) forget(tx *sqldb.Tx) {
	row := r.annotation()
	tx.Queue(dropAnnotation, append(row[1:len(row):len(row)], row[0])...)
}

// Annotated reports whether a user has annotated an event with a type and a key, as far as is durable.
//
// Spec: cs Avoiding duplicate annotations
func (g *Graph) Annotated(ctx context.Context, room RoomNID, sender id.UserID, typ string, to event.Relation) (found bool, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err = tx.Get(annotated, []any{room, to.Parent, sender, typ, annotationKey(to.Key)}, nil)
		return err
	})
	return found, wrap(err, "look for an annotation")
}

// rootSenders finds who sent the roots of the threads that the jobs write to, as far as they are known. It must run before anything is placed.
func (g *Graph) rootSenders(tx *sqldb.Tx, jobs []*job) (map[id.EventID]id.UserID, error) {
	var senders map[id.EventID]id.UserID
	var missing []string
	for _, j := range jobs {
		for i := range j.relating {
			r := &j.relating[i]
			if r.kind != threadKind {
				continue
			}
			if senders == nil {
				senders = make(map[id.EventID]id.UserID)
			}
			if e, ok := g.cachedByID(r.to.Parent); ok {
				if e.Room == j.room {
					senders[r.to.Parent] = e.PDU.Sender()
				}
			} else if e := find(jobs, j.room, r.to.Parent); e != nil {
				senders[r.to.Parent] = e.PDU.Sender()
			} else {
				missing = append(missing, string(r.to.Parent))
			}
		}
	}
	if len(missing) == 0 {
		return senders, nil
	}
	rooms := make(map[RoomNID]bool)
	for _, j := range jobs {
		rooms[j.room] = true
	}
	return senders, tx.Query(rootBodies, func(r *sqldb.Row) error {
		var room RoomNID
		var root id.EventID
		var body []byte
		if err := r.Scan(&room, &root, &body); err != nil {
			return err
		}
		if sender, ok := canon.GetText(body, "sender"); ok && rooms[room] {
			senders[root] = id.UserID(strings.Clone(sender))
		}
		return nil
	}, missing)
}

// find looks for an event among those that jobs insert.
func find(jobs []*job, room RoomNID, name id.EventID) *Event {
	for _, j := range jobs {
		if j.room != room {
			continue
		}
		for _, e := range j.inserts {
			if e.PDU.ID() == name {
				return e
			}
		}
	}
	return nil
}

// writeRelations writes what the events of the jobs relate to. The events have their places.
func writeRelations(tx *sqldb.Tx, jobs []*job, roots map[id.EventID]id.UserID) {
	var args []any
	for _, j := range jobs {
		for i := range j.relating {
			args = append(args, j.relating[i].row()...)
		}
	}
	insertRelations.queue(tx, args)
	for _, j := range jobs {
		for i := range j.relating {
			j.relating[i].add(tx, roots)
		}
		for _, e := range j.c.Events {
			// Only of such events others can have spoken before.
			if e.Flags&(Backfilled|Known) != 0 || e.Flags&Local == 0 && len(j.c.Filled) > 0 {
				tx.Queue(lateRoot, j.room, e.PDU.ID(), e.PDU.Sender())
			}
		}
	}
}

func (r *relating) row() []any {
	e, relType := r.event, ""
	if r.kind == otherKind {
		relType = r.to.Type
	}
	return []any{e.Room, r.to.Parent, int64(r.kind), e.Ord, e.NID, relType, e.PDU.Type(), e.PDU.Sender()}
}

// add counts a relation that is new in the index.
func (r *relating) add(tx *sqldb.Tx, roots map[id.EventID]id.UserID) {
	e, p := r.event, r.event.PDU
	switch r.kind {
	case replaceKind:
		tx.Queue(addEdit, e.Room, r.to.Parent, p.Sender(), p.Type(), e.NID, e.Ord, p.OriginServerTS(), p.ID())
	case referenceKind:
		tx.Queue(addChild, e.Room, r.to.Parent, int64(r.kind), e.NID, e.Ord)
	case annotationKind:
		if !r.claims() {
			insertAnnotations.queue(tx, r.annotation())
		}
	case threadKind:
		tx.Queue(addChild, e.Room, r.to.Parent, int64(r.kind), e.NID, e.Ord)
		root := roots[r.to.Parent]
		tx.Queue(addThreadUser, e.Room, p.Sender(), r.to.Parent, 1, btoi(root == p.Sender()))
		if root != "" && root != p.Sender() {
			tx.Queue(addThreadUser, e.Room, root, r.to.Parent, 0, 1)
		}
	}
}

// remove takes a relation out of the index, if it is there. Edges that were written by the transaction before count.
func (r *relating) remove(tx *sqldb.Tx) error {
	e, p := r.event, r.event.PDU
	n, err := tx.Exec(deleteRelation, e.Room, r.to.Parent, int64(r.kind), e.NID)
	if err != nil || n == 0 {
		return err
	}
	switch r.kind {
	case replaceKind:
		if n, err = tx.Exec(dropEdit, e.Room, r.to.Parent, p.Sender(), p.Type(), e.NID); n > 0 {
			tx.Queue(lastEdit, e.Room, r.to.Parent, p.Sender(), p.Type())
		}
	case annotationKind:
		r.forget(tx)
	case threadKind, referenceKind:
		tx.Queue(subChild, e.Room, r.to.Parent, int64(r.kind))
		tx.Queue(dropAggregate, e.Room, r.to.Parent, int64(r.kind))
	}
	if r.kind == threadKind {
		tx.Queue(subThreadUser, e.Room, p.Sender(), r.to.Parent)
		tx.Queue(dropThreadUser, e.Room, p.Sender(), r.to.Parent)
	}
	return err
}

// unrelate takes what a redaction prunes out of the index.
func (j *job) unrelate(tx *sqldb.Tx, r Redaction) error {
	if r.Was == nil {
		return nil
	}
	if rel, ok := relation(&Event{NID: r.Target, Room: j.room, PDU: r.Was}); ok {
		return rel.remove(tx)
	}
	return nil
}

// rejudge brings the index up to what is thought now of an event that was stored before.
func (g *Graph) rejudge(tx *sqldb.Tx, e *Event) error {
	r, ok := relation(e)
	switch {
	case !ok:
		return nil
	case e.Flags&hidden != 0:
		return r.remove(tx)
	}
	n, err := tx.Exec(insertRelations.stmts[len(multiSizes)-1], r.row()...)
	if err != nil || n == 0 {
		return err
	}
	roots, err := g.rootSenders(tx, []*job{{room: e.Room, relating: []relating{r}}})
	if err == nil {
		r.add(tx, roots)
	}
	return err
}
