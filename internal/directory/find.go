package directory

import (
	"context"

	"myelin/internal/graph"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Found is what a user is told of a room.
//
// Spec: cs getRoomSummary
type Found struct {
	SpaceRoom
	// Membership is that of the user, empty for anybody.
	Membership graph.Membership `json:"membership,omitempty"`
}

// Find describes a room, and returns M_NOT_FOUND where there is none that the user could read or join. Other servers are
// asked where nobody of ours is in the room.
//
// Spec: cs getRoomSummary
func (d *Directory) Find(ctx context.Context, who Seeker, room id.RoomID, via []id.ServerName) (*Found, error) {
	unknown := mxerr.NotFound("The room %s is not known here, or closed to you.", room)
	head, err := d.resident(ctx, room)
	if err != nil {
		return nil, err
	}
	f := new(Found)
	switch {
	case head != nil:
		if f.SpaceRoom, err = d.spaceRoom(ctx, head); err != nil {
			return nil, err
		}
	case who.Ask == nil:
		return nil, unknown
	default:
		t, err := d.ask(ctx, who, room, via, false)
		if err != nil {
			return nil, err
		}
		if t == nil {
			return nil, unknown
		}
		f.SpaceRoom = t.room
	}
	// What anybody may know isn't kept from those who were banned.
	open, err := d.mayFind(ctx, "", head, f.SpaceRoom)
	if err == nil && !open && who.User != "" {
		open, err = d.mayFind(ctx, who.User, head, f.SpaceRoom)
	}
	if err != nil {
		return nil, err
	}
	if !open {
		return nil, unknown
	}
	if who.User != "" {
		f.Membership, err = d.membership(ctx, who.User, head, room)
	}
	return f, err
}
