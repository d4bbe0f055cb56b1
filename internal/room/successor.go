package room

import (
	"context"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// succeed has the commit by which a local user joins a room take along what the user keeps for the room that it
// replaces, if it replaces one.
//
// Spec: cs Room Upgrades
func (b *batch) succeed(ctx context.Context, user id.UserID, c *graph.Commit) error {
	if b.rooms.cfg.Succeeded == nil || c == nil {
		return nil
	}
	create, err := b.current(ctx, "m.room.create", "")
	if err != nil || create == nil {
		return err
	}
	old, ok := predecessor(create)
	if !ok {
		return nil
	}
	before, room := c.Also, b.head.ID
	c.Also = func(tx *sqldb.Tx) error {
		if before != nil {
			if err := before(tx); err != nil {
				return err
			}
		}
		return b.rooms.cfg.Succeeded(tx, user, old, room)
	}
	return nil
}

// predecessor returns the room that a room says it replaces.
func predecessor(create *event.PDU) (id.RoomID, bool) {
	old, err := id.ParseRoomID(gjson.GetBytes(create.Content(), "predecessor.room_id").Str)
	return old, err == nil
}
