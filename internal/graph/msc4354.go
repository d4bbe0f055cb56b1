package graph

import (
	"context"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// The table sticky_events has the events that stick, by room, with their place in the stream and the time at which they no longer do. Servers that come into
// a room later are not sent those of before: they get them where they fetch the room's history. Events that were soft-failed stay so.
//
// MSC4354: Sticky events
var (
	insertSticky = sqldb.SQL(`INSERT INTO sticky_events (room_nid, event_nid, pos, until) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)
	deleteSticky = sqldb.SQL(`DELETE FROM sticky_events WHERE room_nid = $1 AND event_nid = $2`)
	stickyFor    = sqldb.SQL(`SELECT s.room_nid, s.event_nid, s.pos, m.since FROM sticky_events AS s JOIN memberships AS m ON m.room_nid = s.room_nid
		WHERE m.user_id = $1 AND m.membership = 'join' AND s.until > $2 AND s.pos <= $3 AND (s.pos > $4 OR m.since > $4) ORDER BY s.pos LIMIT $5`)
	forgetSticky = sqldb.SQL(`DELETE FROM sticky_events WHERE until <= $1`)
)

// stick notes the events of a commit that stick. Positions are known.
func (j *job) stick(tx *sqldb.Tx) {
	for _, e := range j.c.Events {
		if e.Pos == 0 || e.Flags&hidden != 0 {
			continue
		}
		if until := e.PDU.StickyUntil(nowMillis()); until > nowMillis() {
			tx.Queue(insertSticky, j.room, e.NID, e.Pos, until)
		}
	}
}

// Sticky is an event that still sticks, in a room that a user is in.
type Sticky struct {
	Room  RoomNID
	Event *Event
	// Joined is the position at which the user came into the room.
	Joined sqldb.Pos
}

// StickyFor returns the events that stick at a time, in rooms that a user is in, up to a position of the stream: those after another position, and all
// of rooms that the user came into after it. They come in the order of the stream, at most limit of them.
//
// MSC4354: Sticky events
func (g *Graph) StickyFor(ctx context.Context, user id.UserID, from, to sqldb.Pos, limit int) (found []Sticky, err error) {
	var nids []EventNID
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, nids = nil, nil
		return tx.Query(stickyFor, func(r *sqldb.Row) error {
			var s Sticky
			var nid EventNID
			var pos sqldb.Pos
			err := r.Scan(&s.Room, &nid, &pos, &s.Joined)
			found, nids = append(found, s), append(nids, nid)
			return err
		}, user, nowMillis(), to, from, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("find what sticks for %s: %w", user, err)
	}
	byRoom := make(map[RoomNID][]int) // places in found
	for i := range found {
		byRoom[found[i].Room] = append(byRoom[found[i].Room], i)
	}
	for room, places := range byRoom {
		wanted := make([]EventNID, len(places))
		for n, i := range places {
			wanted[n] = nids[i]
		}
		events, err := g.Events(ctx, room, wanted)
		if err != nil {
			return nil, err
		}
		for n, i := range places {
			found[i].Event = events[n]
		}
	}
	return found, nil
}

// ForgetSticky forgets the events that stick no longer. The server runs it now and then.
func (g *Graph) ForgetSticky(ctx context.Context) error {
	return g.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(forgetSticky, nowMillis())
		return err
	})
}
