package graph

import (
	"context"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// The table sticky_events has the events that stick, by room, with their place in the stream and the time at which they no longer do. Those that were
// soft-failed by the state of the room stand in sticky_waiting instead, with that state: once it is another they may be judged again.
//
// MSC4354: Sticky events
var (
	insertSticky = sqldb.SQL(`INSERT INTO sticky_events (room_nid, event_nid, pos, until) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)
	deleteSticky = sqldb.SQL(`DELETE FROM sticky_events WHERE room_nid = $1 AND event_nid = $2`)
	stickyFor    = sqldb.SQL(`SELECT s.room_nid, s.event_nid, s.pos, m.since FROM sticky_events AS s JOIN memberships AS m ON m.room_nid = s.room_nid
		WHERE m.user_id = $1 AND m.membership = 'join' AND s.until > $2 AND s.pos <= $3 AND m.since <= $3
		AND (s.pos > $4 OR m.since > $4 OR m.since = $4 AND s.pos > $5)
		ORDER BY CASE WHEN s.pos > m.since THEN s.pos ELSE m.since END, s.pos LIMIT $6`)
	ownSticky = sqldb.SQL(`SELECT ` + eventColumns + ` JOIN sticky_events s ON s.room_nid = e.room_nid AND s.event_nid = e.event_nid
		WHERE s.room_nid = $1 AND s.pos > $2 AND s.pos <= $3 AND s.until > $4 AND (e.flags & 7) = 0 AND (e.flags & 32) <> 0 ORDER BY s.pos LIMIT $5`)
	forgetSticky = sqldb.SQL(`DELETE FROM sticky_events WHERE until <= $1`)

	insertWaiting = sqldb.SQL(`INSERT INTO sticky_waiting (room_nid, event_nid, until, state_nid) VALUES ($1, $2, $3, $4)
		ON CONFLICT (room_nid, event_nid) DO UPDATE SET state_nid = excluded.state_nid`)
	deleteWaiting = sqldb.SQL(`DELETE FROM sticky_waiting WHERE room_nid = $1 AND event_nid = $2`)
	forgetWaiting = sqldb.SQL(`DELETE FROM sticky_waiting WHERE until <= $1`)
	stickyWaiting = sqldb.SQL(`SELECT ` + eventColumns + ` JOIN sticky_waiting w ON w.room_nid = e.room_nid AND w.event_nid = e.event_nid
		JOIN heads h ON h.room_nid = w.room_nid WHERE w.until > $1 AND w.state_nid <> h.state_nid ORDER BY e.room_nid, e.event_nid LIMIT $2`)
)

// stick notes the events of a commit that stick, and those that would. Positions are known.
func (j *job) stick(tx *sqldb.Tx) {
	for _, e := range j.c.Events {
		if e.PDU.Sticky() == 0 {
			continue
		}
		if e.stored {
			tx.Queue(deleteWaiting, j.room, e.NID)
		}
		if e.Pos == 0 || e.Flags&hidden != 0 {
			continue
		}
		if until := e.PDU.StickyUntil(nowMillis()); until > nowMillis() {
			tx.Queue(insertSticky, j.room, e.NID, e.Pos, until)
		}
	}
	if e := j.c.Waiting; e != nil {
		if until := e.PDU.StickyUntil(nowMillis()); until > nowMillis() {
			tx.Queue(insertWaiting, j.room, e.NID, until, j.c.Next.StateNID)
		}
	}
}

// StickyPlace is how far somebody was told of events that stick, in the order in which they learn of them: an event at its position in the stream, or
// where they came into its room later, all that stuck there already at the position where they came. Those of one such position go by their own.
type StickyPlace struct{ At, Pos sqldb.Pos }

// Sticky is an event that still sticks, in a room that a user is in.
type Sticky struct {
	Room  RoomNID
	Event *Event
	// Place is where the user learns of it.
	Place StickyPlace
}

// StickyFor returns the events that stick at a time, in rooms that a user is in, up to a position of the stream: those after a place, in the order of their
// places, at most limit of them.
//
// MSC4354: Sticky events
func (g *Graph) StickyFor(ctx context.Context, user id.UserID, from StickyPlace, to sqldb.Pos, limit int) (found []Sticky, err error) {
	var nids []EventNID
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, nids = nil, nil
		return tx.Query(stickyFor, func(r *sqldb.Row) error {
			var s Sticky
			var nid EventNID
			var joined sqldb.Pos
			err := r.Scan(&s.Room, &nid, &s.Place.Pos, &joined)
			s.Place.At = max(s.Place.Pos, joined)
			found, nids = append(found, s), append(nids, nid)
			return err
		}, user, nowMillis(), to, from.At, from.Pos, limit)
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

// OwnSticky returns the events of our users that stick in a room: those at positions after one, up to another, at most limit of them.
//
// MSC4354: Sticky events
func (g *Graph) OwnSticky(ctx context.Context, room RoomNID, after, to sqldb.Pos, limit int) ([]*Event, error) {
	return g.query(ctx, ownSticky, room, after, to, nowMillis(), limit)
}

// StickyWaiting returns events that would stick, were they not soft-failed by a state of their room which is another now; at most limit of them.
//
// MSC4354: Sticky events
func (g *Graph) StickyWaiting(ctx context.Context, limit int) ([]*Event, error) {
	return g.query(ctx, stickyWaiting, nowMillis(), limit)
}

// StillWaits notes that such an event was judged again by a state of its room and came to nothing; with 0 for the state, that it never will.
//
// MSC4354: Sticky events
func (g *Graph) StillWaits(ctx context.Context, e *Event, by StateNID) error {
	return g.db.Write(ctx, func(tx *sqldb.Tx) error {
		if by == 0 {
			tx.Queue(deleteWaiting, e.Room, e.NID)
		} else {
			tx.Queue(insertWaiting, e.Room, e.NID, e.PDU.StickyUntil(nowMillis()), by)
		}
		return nil
	})
}

// ForgetSticky forgets the events that stick no longer. The server runs it now and then.
func (g *Graph) ForgetSticky(ctx context.Context) error {
	return g.db.Write(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(forgetSticky, nowMillis()); err != nil {
			return err
		}
		_, err := tx.Exec(forgetWaiting, nowMillis())
		return err
	})
}
