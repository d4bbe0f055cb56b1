package graph

import (
	"context"

	"myelin/internal/sqldb"
)

// 7 is hidden; 96 is Local and Relayed.
var (
	outgoingSince = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.ord > $1 AND e.ord <= $2 AND e.ord > 0
		AND (e.flags & 7) = 0 AND (e.flags & 96) <> 0 ORDER BY e.ord LIMIT $3`)
	outgoingUp = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.ord > $2 AND e.ord <= $3
		AND (e.flags & 7) = 0 AND (e.flags & 96) <> 0 ORDER BY e.ord LIMIT $4`)
	outgoingDown = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.ord > $2 AND e.ord <= $3
		AND (e.flags & 7) = 0 AND (e.flags & 96) <> 0 ORDER BY e.ord DESC LIMIT $4`)
)

// Outgoing reports whether it is for this server to send the event to the other servers of its room.
func (e *Event) Outgoing() bool {
	return e.Pos != 0 && e.Flags&hidden == 0 && e.Flags&(Local|Relayed) != 0
}

// OutgoingSince returns events of all rooms that this server must send to others, in stream order: positions after from, up to
// to, at most limit of them.
func (g *Graph) OutgoingSince(ctx context.Context, from, to sqldb.Pos, limit int) ([]*Event, error) {
	return g.query(ctx, outgoingSince, from, to, limit)
}

// OutgoingIn returns such events of one room at positions in (r.After, r.Before).
func (g *Graph) OutgoingIn(ctx context.Context, room RoomNID, r Range) ([]*Event, error) {
	s := outgoingUp
	if r.Backward {
		s = outgoingDown
	}
	return g.query(ctx, s, room, max(0, r.After), r.Before-1, r.Limit)
}
