package view

import (
	"context"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// access is what a user may read of a room: everything up to now for members, the state as
// of their departure for those who left, the present for onlookers of a public room.
type access struct {
	head *graph.Head
	row  graph.MemberRow
	// departed is set for who was in the room and is not now: they see the past.
	departed bool
	// peeking is set for who was never in the room, which is world readable.
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
	a := access{head: head}
	var ok bool
	if a.row, ok, err = v.cfg.Graph.MembershipOf(ctx, user, head.Room); err != nil {
		return access{}, err
	}
	if ok && a.row.Membership == graph.Join {
		return a, nil
	}
	open, err := v.isWorldReadable(ctx, head)
	if err != nil {
		return access{}, err
	}
	if open {
		a.peeking = true
		return a, nil
	}
	if ok && !a.row.Forgotten && (a.row.Membership == graph.Leave || a.row.Membership == graph.Ban) {
		end, err := v.lastJoinEnd(ctx, head.Room, a.row.Event)
		if err != nil {
			return access{}, err
		}
		if a.departed = end > 0; a.departed {
			return a, nil
		}
	}
	return access{}, forbidden
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

// last returns the newest event that the reader may build on: that of their departure for
// who left. It returns nil where there is no bound.
func (v *View) last(ctx context.Context, a access) (*graph.Event, error) {
	if !a.departed {
		return nil, nil
	}
	events, err := v.cfg.Graph.Events(ctx, a.head.Room, []graph.EventNID{a.row.Event})
	if err != nil {
		return nil, err
	}
	return events[0], nil
}

// state returns the state that the reader may see: the current one, or that after their
// departure.
func (v *View) state(ctx context.Context, a access) (*graph.State, error) {
	last, err := v.last(ctx, a)
	if err != nil || last == nil {
		return a.head.State, err
	}
	return v.cfg.Graph.StateAfter(ctx, last)
}
