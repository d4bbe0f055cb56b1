package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Verdict is what became of a received event.
type Verdict uint8

// The verdicts. An event with any of them is stored.
const (
	// Accepted events are part of the room and are sent to clients.
	Accepted Verdict = iota
	// SoftFailed events were allowed where they stand, but not by the room's current state.
	// They are not sent to clients, and nothing of ours will follow them.
	SoftFailed
	// Rejected events break the authorisation rules.
	Rejected
)

// Missing is the error for an event whose ancestors are not stored. Fetch them, receive them,
// and receive the event again.
type Missing struct {
	// Prev and Auth are those of its prev_events and auth_events that are not here.
	Prev, Auth []id.EventID
}

func (m *Missing) Error() string {
	return fmt.Sprintf("room: %d previous and %d auth events are missing", len(m.Prev), len(m.Auth))
}

// Receive takes in an event that another server made. Its signatures and its hash have been
// checked. An event that is stored already is not judged again.
//
// It returns *Missing where ancestors are missing, and M_NOT_FOUND for a room that this
// server is not in. A rejected event is no error: the rejection comes as the third result.
//
// Spec: ss Checks performed on receipt of a PDU
func (r *Rooms) Receive(ctx context.Context, pdu *event.PDU) (Verdict, *eventauth.Rejection, error) {
	var verdict Verdict
	var why *eventauth.Rejection
	_, err := r.advance(ctx, pdu.RoomID(), graph.TxnRef{}, func(head *graph.Head) (step, error) {
		known, ok, err := r.cfg.Graph.Event(ctx, pdu.ID())
		if err != nil {
			return step{}, err
		}
		if ok && known.Room != head.Room {
			return step{}, mxerr.InvalidParam("the event ID %s is that of an event in another room", pdu.ID())
		}
		if ok && known.Flags&graph.Outlier == 0 {
			verdict, why = verdictOf(known.Flags), nil
			return step{event: pdu.ID()}, nil
		}
		commit, rejection, err := r.judge(ctx, head, pdu)
		if err != nil {
			return step{}, err
		}
		verdict, why = verdictOf(commit.Events[0].Flags), rejection
		return step{commit: commit, event: pdu.ID()}, nil
	})
	return verdict, why, err
}

func verdictOf(f graph.Flags) Verdict {
	switch {
	case f&graph.Rejected != 0:
		return Rejected
	case f&graph.SoftFailed != 0:
		return SoftFailed
	}
	return Accepted
}

// judge decides what to do with a received event on top of the head.
func (r *Rooms) judge(ctx context.Context, head *graph.Head, pdu *event.PDU) (*graph.Commit, *eventauth.Rejection, error) {
	prev, auth, err := r.ancestors(ctx, pdu)
	if err != nil {
		return nil, nil, err
	}
	before, err := r.stateAfter(ctx, head, prev)
	if err != nil {
		return nil, nil, err
	}
	nid, err := r.cfg.Graph.NextNID(ctx)
	if err != nil {
		return nil, nil, err
	}
	e := &graph.Event{NID: nid, PDU: pdu}
	place := graph.Placement{Before: before}
	rejection, err := r.allowed(ctx, head, pdu, auth, before)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case rejection != nil:
		e.Flags |= graph.Rejected
	default:
		soft, err := r.check(ctx, head, head.State, pdu)
		if err != nil {
			return nil, nil, err
		}
		if soft != nil {
			rejection = soft
			e.Flags |= graph.SoftFailed
			break
		}
		if place.After, err = r.merge(ctx, head, e, before); err != nil {
			return nil, nil, err
		}
	}
	next, err := head.Place(e, place)
	if err != nil {
		return nil, nil, err
	}
	commit := &graph.Commit{Prev: head, Next: next, Events: []*graph.Event{e}}
	if e.Flags == 0 {
		commit.Redactions, err = r.redactions(ctx, head, e, before)
	}
	return commit, rejection, err
}

// ancestors loads the events that pdu refers to.
func (r *Rooms) ancestors(ctx context.Context, pdu *event.PDU) (prev []*graph.Event, auth []*graph.Event, err error) {
	var missing Missing
	prev, missing.Prev, err = r.load(ctx, pdu, pdu.PrevEvents(), graph.Outlier)
	if err != nil {
		return nil, nil, err
	}
	auth, missing.Auth, err = r.load(ctx, pdu, pdu.AuthEvents(), 0)
	if err != nil {
		return nil, nil, err
	}
	if len(missing.Prev)+len(missing.Auth) > 0 {
		return nil, nil, &missing
	}
	return prev, auth, nil
}

// load returns the stored events of pdu's room among ids; those that are flagged unfit
// count as missing.
func (r *Rooms) load(ctx context.Context, pdu *event.PDU, ids []id.EventID, unfit graph.Flags) (found []*graph.Event, missing []id.EventID, err error) {
	stored, err := r.cfg.Graph.EventsByID(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	for _, x := range ids {
		e := stored[x]
		if e == nil || e.Flags&unfit != 0 || e.PDU.RoomID() != pdu.RoomID() {
			missing = append(missing, x)
			continue
		}
		found = append(found, e)
	}
	return found, missing, nil
}

// allowed checks pdu by its auth events and by the state before it.
func (r *Rooms) allowed(ctx context.Context, head *graph.Head, pdu *event.PDU, auth []*graph.Event, before *graph.State) (*eventauth.Rejection, error) {
	cited := make([]*event.PDU, len(auth))
	byKey := make(map[event.Key]*event.PDU, len(auth)+1)
	for i, a := range auth {
		if a.Flags&graph.Rejected != 0 {
			return eventauth.RejectedAuthEvent(pdu, a.PDU.ID()), nil
		}
		cited[i] = a.PDU
		byKey[a.PDU.Key()] = a.PDU
	}
	if rejection, err := rejected(eventauth.CheckAuthEvents(pdu, cited)); rejection != nil || err != nil {
		return rejection, err
	}
	create := event.Key{Type: "m.room.create"}
	if byKey[create] == nil {
		var err error
		if byKey[create], err = r.current(ctx, head.Room, head.State, create.Type, ""); err != nil {
			return nil, err
		}
	}
	rejection, err := rejected(eventauth.Check(pdu, func(typ, stateKey string) *event.PDU {
		return byKey[event.Key{Type: typ, StateKey: stateKey}]
	}))
	if rejection != nil || err != nil {
		return rejection, err
	}
	return r.check(ctx, head, before, pdu)
}

// check applies the authorisation rules by a state of the room.
func (r *Rooms) check(ctx context.Context, head *graph.Head, s *graph.State, pdu *event.PDU) (*eventauth.Rejection, error) {
	needed := append(eventauth.Needed(head.Version, pdu), event.Key{Type: "m.room.create"})
	state, err := r.entries(ctx, head.Room, s, needed)
	if err != nil {
		return nil, err
	}
	return rejected(eventauth.Check(pdu, state))
}

// rejected tells a rejection from another error.
func rejected(err error) (*eventauth.Rejection, error) {
	var rejection *eventauth.Rejection
	if errors.As(err, &rejection) {
		return rejection, nil
	}
	return nil, err
}

// merge returns the state of the room after e: that of the branch which e ends, resolved with
// the other branches.
func (r *Rooms) merge(ctx context.Context, head *graph.Head, e *graph.Event, before *graph.State) (*graph.State, error) {
	after := before
	if e.PDU.IsState() {
		after = before.With(graph.ChangeOf(e))
	}
	followed := e.PDU.PrevEvents()
	states := []*graph.State{after}
	for _, x := range head.Extremities {
		if slices.Contains(followed, x.ID) {
			continue
		}
		events, err := r.cfg.Graph.Events(ctx, head.Room, []graph.EventNID{x.NID})
		if err != nil {
			return nil, err
		}
		s, err := r.cfg.Graph.StateAfter(ctx, events[0])
		if err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	return r.resolve(ctx, head, states, e)
}

// redactions strips the target of a redaction that may take effect.
//
// Spec: rooms/v3 Handling redactions
func (r *Rooms) redactions(ctx context.Context, head *graph.Head, e *graph.Event, before *graph.State) ([]graph.Redaction, error) {
	target, ok := e.PDU.Redacts()
	if !ok || e.PDU.Type() != "m.room.redaction" {
		return nil, nil
	}
	t, ok, err := r.cfg.Graph.Event(ctx, target)
	if err != nil || !ok || t.PDU.RoomID() != head.ID || t.Flags&graph.Redacted != 0 {
		return nil, err
	}
	state, err := r.entries(ctx, head.Room, before, []event.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}})
	if err != nil {
		return nil, err
	}
	levels := eventauth.PowerLevels(head.Version, state("m.room.create", ""), state("m.room.power_levels", ""))
	if !eventauth.Redacts(e.PDU, t.PDU, levels) {
		return nil, nil
	}
	pruned, err := t.PDU.Redacted()
	if err != nil {
		return nil, err
	}
	return []graph.Redaction{{Target: t.NID, By: e.NID, Pruned: pruned}}, nil
}
