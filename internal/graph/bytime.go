package graph

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/internal/work"
)

const (
	// timeBatch is how many positions are put into the order of time at once.
	timeBatch = 2000
	// timeGather is how long they are gathered while many events come.
	timeGather = 200 * time.Millisecond
)

const timesOfEvents = eventColumns + ` JOIN event_times t ON t.room_nid = e.room_nid AND t.ord = e.ord `

var (
	// Live events stand in event_times up to timedTo. The few after it are found by their order.
	timedTo    = sqldb.SQL(`SELECT ord FROM times_done WHERE one = 1`)
	moveTimed  = sqldb.SQL(`UPDATE times_done SET ord = $2 WHERE one = 1 AND ord = $1`)
	timeEvents = sqldb.SQL(`INSERT INTO event_times (room_nid, ts, ord) SELECT room_nid, ts, ord FROM events
		WHERE ord >= $1 AND ord <= $2 AND ord > 0 ORDER BY room_nid, ts, ord ON CONFLICT DO NOTHING`)
	timeBackfilled = rows(`INSERT INTO event_times (room_nid, ts, ord) VALUES `, 3, ` ON CONFLICT DO NOTHING`)

	nextByTime = sqldb.SQL(`SELECT ` + timesOfEvents + `WHERE t.room_nid = $1 AND t.ts >= $2 AND (e.flags & 7) = 0
		ORDER BY t.ts, t.ord LIMIT $3`)
	lastByTime = sqldb.SQL(`SELECT ` + timesOfEvents + `WHERE t.room_nid = $1 AND t.ts <= $2 AND (e.flags & 7) = 0
		ORDER BY t.ts DESC, t.ord DESC LIMIT $3`)
	nextOfTail = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.ord >= $4 AND e.ts >= $2 AND (e.flags & 7) = 0
		ORDER BY e.ts, e.ord LIMIT $3`)
	lastOfTail = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.ord >= $4 AND e.ts <= $2 AND (e.flags & 7) = 0
		ORDER BY e.ts DESC, e.ord DESC LIMIT $3`)
)

// EventsNearTime returns the visible events whose origin_server_ts is nearest to ts (milliseconds) in one direction, the nearest first:
// at or after it, or with backward at or before it. At one time the room's order decides.
//
// Spec: cs getEventByTimestamp
func (g *Graph) EventsNearTime(ctx context.Context, room RoomNID, ts int64, backward bool, limit int) ([]*Event, error) {
	ordered, tail := nextByTime, nextOfTail
	if backward {
		ordered, tail = lastByTime, lastOfTail
	}
	l := g.loading()
	err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
		l.found = nil
		var done int64
		if _, err := tx.Get(timedTo, nil, &done); err != nil {
			return err
		}
		if err := tx.Query(ordered, l.row, room, ts, limit); err != nil {
			return err
		}
		return tx.Query(tail, l.row, room, ts, limit, done+1)
	})
	if err != nil {
		return nil, fmt.Errorf("load events by time: %w", err)
	}
	found := l.keep()
	slices.SortFunc(found, func(a, b *Event) int {
		c := cmp.Or(cmp.Compare(a.PDU.OriginServerTS(), b.PDU.OriginServerTS()), cmp.Compare(a.Ord, b.Ord))
		if backward {
			return -c
		}
		return c
	})
	return found[:min(limit, len(found))], nil
}

// Followers keep what is not written with each commit: the order of a room's events by time.
func (g *Graph) Followers() []work.Follower {
	return []work.Follower{{
		Name: "order events by time", Kinds: []bus.Kind{bus.RoomEvent}, Batch: g.orderByTime, Gather: timeGather,
	}}
}

// orderByTime is the follower's batch. It begins where an earlier one ended, whatever the follower's own cursor says.
func (g *Graph) orderByTime(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
	var done sqldb.Pos
	err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(timedTo, nil, &done)
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("read how far events are in the order of time: %w", err)
	}
	if done >= last {
		return last, nil, nil
	}
	to := min(last, max(from, done)+timeBatch)
	return to, func(tx *sqldb.Tx) error {
		if n, err := tx.Exec(moveTimed, done, to); err != nil || n != 1 {
			return cmp.Or(err, fmt.Errorf("the order of time was moved on from %d by somebody else", done))
		}
		tx.Queue(timeEvents, done+1, to)
		return nil
	}, nil
}
