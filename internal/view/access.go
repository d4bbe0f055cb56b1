package view

import (
	"context"
	"math"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// access is what a user may read of a room: everything up to now for members, the room as of
// their departure for those who left, the present for onlookers of a public room.
type access struct {
	user id.UserID
	head *graph.Head
	row  graph.MemberRow
	// departure is the event that ended the last time that the user was in the room; nil for
	// who is in it and for who never was.
	departure *graph.Event
	// peeking is set for who is not in the room, which is world readable.
	peeking bool
}

// access returns M_FORBIDDEN where the user may not read the room, also where there is no
// such room: strangers learn nothing.
func (v *View) access(ctx context.Context, user id.UserID, room id.RoomID) (access, error) {
	forbidden := mxerr.Forbidden("you are not in this room")
	head, err := v.cfg.Graph.Head(ctx, room)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return access{}, forbidden
	}
	if err != nil {
		return access{}, err
	}
	a := access{user: user, head: head}
	var ok bool
	if a.row, ok, err = v.cfg.Graph.MembershipOf(ctx, user, head.Room); err != nil {
		return access{}, err
	}
	if ok && a.row.Membership == graph.Join {
		return a, nil
	}
	if ok && !a.row.Forgotten {
		if a.departure, err = v.departure(ctx, head.Room, a.row.Event); err != nil {
			return access{}, err
		}
	}
	if a.peeking, err = v.isWorldReadable(ctx, head); err != nil {
		return access{}, err
	}
	if a.peeking || a.departure != nil {
		return a, nil
	}
	return access{}, forbidden
}

// MayRead returns M_FORBIDDEN where the user may read nothing of the room.
func (v *View) MayRead(ctx context.Context, user id.UserID, room id.RoomID) error {
	_, err := v.access(ctx, user, room)
	return err
}

func (v *View) isWorldReadable(ctx context.Context, head *graph.Head) (bool, error) {
	nid, ok := head.State.Get("m.room.history_visibility", "")
	if !ok {
		return false, nil
	}
	events, err := v.cfg.Graph.Events(ctx, head.Room, []graph.EventNID{nid})
	if err != nil {
		return false, err
	}
	return gjson.GetBytes(events[0].PDU.Content(), "history_visibility").Str == worldReadable, nil
}

// end is the place in the room's order after which the reader may read nothing.
func (a access) end() int64 {
	if a.peeking || a.departure == nil {
		return math.MaxInt64
	}
	return a.departure.Ord
}

// state returns the state that the reader may see: the current one, or that after their
// departure.
func (v *View) state(ctx context.Context, a access) (*graph.State, error) {
	if a.peeking || a.departure == nil {
		return a.head.State, nil
	}
	return v.stateAt(ctx, a.departure)
}

// stateAt returns what this server held to be the state of the room once it had an event: where the
// room had forked that is more than the state after the event. Backfilled events have only the latter.
func (v *View) stateAt(ctx context.Context, e *graph.Event) (*graph.State, error) {
	if e.HeadState != 0 {
		return v.cfg.Graph.StateAt(ctx, e.Room, e.HeadState)
	}
	return v.cfg.Graph.StateAfter(ctx, e)
}
