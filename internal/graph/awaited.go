package graph

import (
	"context"

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
)

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
