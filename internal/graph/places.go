package graph

import (
	"context"
	"fmt"

	"myelin/internal/sqldb"
)

var (
	eventsAt   = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.ord = ANY($2)`)
	backfilled = sqldb.SQL(`SELECT room_nid, min_ord FROM heads WHERE room_nid > $1 AND min_ord < 0 ORDER BY room_nid LIMIT $2`)
)

// EventsAt returns the events at these places of a room's order, in whatever order. Events that are hidden from timelines are
// returned as well; places without an event are left out.
func (g *Graph) EventsAt(ctx context.Context, room RoomNID, ords []int64) ([]*Event, error) {
	return g.query(ctx, eventsAt, room, ords)
}

// Backfill says how far back a room's history was fetched.
type Backfill struct {
	Room RoomNID
	// MinOrd is the ord of the oldest event that is stored.
	MinOrd int64
}

// Backfilled returns rooms that have backfilled events: those with numbers after a room's, at most limit of them.
func (g *Graph) Backfilled(ctx context.Context, after RoomNID, limit int) (found []Backfill, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(backfilled, func(r *sqldb.Row) error {
			var b Backfill
			err := r.Scan(&b.Room, &b.MinOrd)
			found = append(found, b)
			return err
		}, after, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("list rooms with backfilled events: %w", err)
	}
	return found, nil
}
