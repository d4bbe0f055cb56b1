package view

import (
	"context"
	"slices"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// copies are what is shown in place of events, by their numbers.
type copies map[graph.EventNID]*event.PDU

// erased returns redacted copies of those of the events, which are of one room, that their senders want no newcomers to read: the user was in the room neither when the
// event was sent nor when its sender was erased. was has the user's membership at each event.
//
// Spec: cs deactivateAccount
// Deviates: cs deactivateAccount
func (v *View) erased(ctx context.Context, user id.UserID, events []*graph.Event, was []graph.Membership) (copies, error) {
	if v.cfg.Erased == nil {
		return nil, nil
	}
	var senders []id.UserID
	for i, e := range events {
		if sender := e.PDU.Sender(); was[i] != graph.Join && erasable(e) && !slices.Contains(senders, sender) {
			senders = append(senders, sender)
		}
	}
	if len(senders) == 0 {
		return nil, nil // as for whoever is in the room and reads what is new
	}
	since, err := v.cfg.Erased(ctx, senders)
	if err != nil || len(since) == 0 {
		return nil, err
	}
	made := make(copies)
	states := make(map[sqldb.Pos]*graph.State) // of the room, when senders were erased
	for i, e := range events {
		at, is := since[e.PDU.Sender()]
		if !is || was[i] == graph.Join || !erasable(e) {
			continue
		}
		state, read := states[at]
		if !read {
			if state, err = v.headAt(ctx, e.Room, at); err != nil {
				return nil, err
			}
			states[at] = state
		}
		if user != "" && state != nil && state.Membership(user) == graph.Join {
			continue
		}
		if made[e.NID], err = e.PDU.Redacted(); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// erasable reports whether an event is redacted for newcomers once its sender is erased. State stays: the room would fall apart.
func erasable(e *graph.Event) bool { return !e.PDU.IsState() && e.Flags&graph.Redacted == 0 }

// headAt returns the state of a room at a position of the stream, nil where this server was not in it yet.
func (v *View) headAt(ctx context.Context, room graph.RoomNID, at sqldb.Pos) (*graph.State, error) {
	nid, err := v.cfg.Graph.HeadStateAt(ctx, room, at)
	if err != nil || nid == 0 {
		return nil, err
	}
	return v.cfg.Graph.StateAt(ctx, room, nid)
}

// Erased reports which of the events, which are of one room, a user gets redacted copies of because their senders are erased.
//
// Spec: cs deactivateAccount
func (v *View) Erased(ctx context.Context, user id.UserID, events []*graph.Event) (map[graph.EventNID]bool, error) {
	was, err := v.memberships(ctx, user, events)
	if err != nil {
		return nil, err
	}
	made, err := v.erased(ctx, user, events, was)
	gone := make(map[graph.EventNID]bool, len(made))
	for nid := range made {
		gone[nid] = true
	}
	return gone, err
}

// memberships returns the user's membership at each event.
func (v *View) memberships(ctx context.Context, user id.UserID, events []*graph.Event) ([]graph.Membership, error) {
	was := make([]graph.Membership, len(events))
	for i, e := range events {
		var err error
		if was[i], err = v.membershipAt(ctx, user, e); err != nil {
			return nil, err
		}
	}
	return was, nil
}

// erased reports whether a server, which may see an event, came too late to be shown what its sender wrote.
//
// Spec: cs deactivateAccount
func (s *Server) erased(ctx context.Context, e *graph.Event) (bool, error) {
	if s.view.cfg.Erased == nil || !erasable(e) {
		return false, nil
	}
	sender := e.PDU.Sender()
	at, known := s.since[sender]
	if !known {
		found, err := s.view.cfg.Erased(ctx, []id.UserID{sender})
		if err != nil {
			return false, err
		}
		at = found[sender]
		s.since[sender] = at
	}
	if at == 0 {
		return false, nil
	}
	before, err := s.view.cfg.Graph.StateBefore(ctx, e)
	if err != nil {
		return false, err
	}
	then, err := s.view.headAt(ctx, e.Room, at)
	if err != nil {
		return false, err
	}
	for _, state := range []*graph.State{before, then} {
		var m serverMoment
		if state == nil {
			continue
		}
		if err := s.atThatTime(ctx, state, &m); err != nil || m.joined {
			return false, err
		}
	}
	return true, nil
}
