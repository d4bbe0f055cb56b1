package graph

import (
	"context"
	"slices"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Awaited is a redaction that came before the event that it redacts. Like an event it is stored once, so what a remote
// server can make us keep here is bounded by the redactions that it can send.
type Awaited struct {
	Target id.EventID
	By     EventNID
}

var (
	insertAwaited = sqldb.SQL(`INSERT INTO awaited (room_nid, target, by_nid) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	dropAwaited   = sqldb.SQL(`DELETE FROM awaited WHERE room_nid = $1 AND target = $2`)
	awaitedFor    = sqldb.SQL(`SELECT by_nid FROM awaited WHERE room_nid = $1 AND target = $2 ORDER BY by_nid LIMIT $3`)
	awaitedForAny = sqldb.SQL(`SELECT target, by_nid FROM awaited WHERE room_nid = $1 AND target = ANY($2) ORDER BY target, by_nid LIMIT $3`)
)

// AwaitingAny is Awaiting for several events. Those for which nothing waits are left out.
func (g *Graph) AwaitingAny(ctx context.Context, room RoomNID, targets []id.EventID) (map[id.EventID][]EventNID, error) {
	found := make(map[id.EventID][]EventNID)
	for part := range slices.Chunk(targets, maxLookup) {
		names := make([]string, len(part))
		for i, t := range part {
			names[i] = string(t)
		}
		var waiting []Awaited
		err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
			waiting = nil
			return tx.Query(awaitedForAny, func(r *sqldb.Row) error {
				var a Awaited
				err := r.Scan(&a.Target, &a.By)
				waiting = append(waiting, a)
				return err
			}, room, names, maxAwaiting*len(part))
		})
		if err != nil {
			return nil, wrap(err, "find redactions that came early")
		}
		for _, a := range waiting {
			found[a.Target] = append(found[a.Target], a.By)
		}
	}
	return found, nil
}

// maxAwaiting is the most redactions of one event that are looked at.
const maxAwaiting = 100

// Awaiting returns the redactions of an event that came before it, those that came first first.
func (g *Graph) Awaiting(ctx context.Context, room RoomNID, target id.EventID) (found []EventNID, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(awaitedFor, func(r *sqldb.Row) error {
			var nid EventNID
			err := r.Scan(&nid)
			found = append(found, nid)
			return err
		}, room, target, maxAwaiting)
	})
	return found, wrap(err, "find redactions that came early")
}
