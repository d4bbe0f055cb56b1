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
// checked. An event that is stored already, other than as an outlier, is not judged again.
//
// It returns *Missing where ancestors are missing, M_INVALID_PARAM for an event that can have no
// place in the room, and M_NOT_FOUND for a room that this
// server is not in. A rejected event is no error: the rejection comes as the second result.
//
// Spec: ss Checks performed on receipt of a PDU
func (r *Rooms) Receive(ctx context.Context, pdu *event.PDU) (Verdict, *eventauth.Rejection, error) {
	var verdict Verdict
	var why *eventauth.Rejection
	_, err := r.advance(ctx, pdu.RoomID(), graph.TxnRef{}, func(head *graph.Head, settled bool) (step, error) {
		known, ok, err := r.cfg.Graph.Event(ctx, pdu.ID())
		switch {
		case err != nil:
			return step{}, err
		case ok && known.Room != head.Room:
			return step{}, mxerr.InvalidParam("the event ID %s is that of an event in another room", pdu.ID())
		case ok && known.Flags&graph.Outlier == 0:
			verdict, why = verdictOf(known.Flags), nil
			return step{event: pdu.ID()}, nil
		case len(pdu.PrevEvents()) == 0:
			return step{}, mxerr.InvalidParam("the event %s follows nothing, and the room has begun", pdu.ID())
		}
		j := judgement{rooms: r, head: head, settled: settled, pdu: pdu, known: known}
		commit, err := j.judge(ctx)
		if err != nil {
			return step{}, err
		}
		verdict, why = verdictOf(commit.Events[0].Flags), j.rejection
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

// judgement decides about one received event on top of a head.
type judgement struct {
	rooms   *Rooms
	head    *graph.Head
	settled bool
	pdu     *event.PDU
	// known is the event where it is stored as an outlier, else nil.
	known *graph.Event

	// rejection says why the event was rejected or soft-failed.
	rejection *eventauth.Rejection
}

// judge returns the commit that stores the event.
func (j *judgement) judge(ctx context.Context) (*graph.Commit, error) {
	// An event that follows just what we know to be newest needs nothing but the head.
	straight := j.followsHead()
	if !j.settled && (!straight || j.pdu.Type() == "m.room.redaction") {
		return nil, errUnsettled
	}
	prev, auth, err := j.ancestors(ctx)
	if err != nil {
		return nil, err
	}
	before := j.head.State
	if !straight {
		states, err := j.rooms.statesAfter(ctx, prev)
		if err != nil {
			return nil, err
		}
		if before, err = j.rooms.resolve(ctx, j.head, states); err != nil {
			return nil, err
		}
	}
	e, err := j.event(ctx)
	if err != nil {
		return nil, err
	}
	if err := j.weigh(ctx, e, auth, before); err != nil {
		return nil, err
	}
	place := graph.Placement{Before: before}
	if e.Flags&(graph.Rejected|graph.SoftFailed) == 0 && !straight {
		if place.After, err = j.merge(ctx, e, before); err != nil {
			return nil, err
		}
	}
	next, err := j.head.Place(e, place)
	if err != nil {
		return nil, err
	}
	commit := &graph.Commit{Prev: j.head, Next: next, Events: []*graph.Event{e}}
	return commit, j.redactions(ctx, commit, e, before)
}

// followsHead reports whether the event follows all extremities and nothing else.
func (j *judgement) followsHead() bool {
	prev := j.pdu.PrevEvents()
	for _, x := range j.head.Extremities {
		if !slices.Contains(prev, x.ID) {
			return false
		}
	}
	return len(prev) == len(j.head.Extremities)
}

// event returns what will be stored.
func (j *judgement) event(ctx context.Context) (*graph.Event, error) {
	if j.known != nil {
		e := *j.known
		e.Flags &^= graph.Outlier | graph.Rejected
		return &e, nil
	}
	nid, err := j.rooms.cfg.Graph.NextNID(ctx)
	return &graph.Event{NID: nid, PDU: j.pdu}, err
}

// weigh flags an event that breaks the rules.
func (j *judgement) weigh(ctx context.Context, e *graph.Event, auth []*graph.Event, before *graph.State) (err error) {
	if j.rejection, err = j.allowed(ctx, auth, before); err != nil {
		return err
	}
	if j.rejection != nil {
		e.Flags |= graph.Rejected
		return nil
	}
	if before == j.head.State {
		return nil
	}
	if j.rejection, err = j.check(ctx, j.head.State); j.rejection != nil {
		e.Flags |= graph.SoftFailed
	}
	return err
}

// ancestors loads the events that the event refers to. prev is empty where it follows the head.
func (j *judgement) ancestors(ctx context.Context) (prev []*graph.Event, auth []*graph.Event, err error) {
	var missing Missing
	if !j.followsHead() {
		if prev, missing.Prev, err = j.load(ctx, j.pdu.PrevEvents(), graph.Outlier); err != nil {
			return nil, nil, err
		}
	}
	if auth, missing.Auth, err = j.load(ctx, j.pdu.AuthEvents(), 0); err != nil {
		return nil, nil, err
	}
	switch {
	case len(missing.Prev)+len(missing.Auth) == 0:
		return prev, auth, nil
	case !j.settled:
		return nil, nil, errUnsettled
	}
	return nil, nil, &missing
}

// load returns the stored events of the room among ids; those that are flagged unfit count as
// missing.
func (j *judgement) load(ctx context.Context, ids []id.EventID, unfit graph.Flags) (found []*graph.Event, missing []id.EventID, err error) {
	stored, err := j.rooms.cfg.Graph.EventsByID(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	for _, x := range ids {
		e := stored[x]
		if e == nil || e.Flags&unfit != 0 || e.PDU.RoomID() != j.head.ID {
			missing = append(missing, x)
			continue
		}
		found = append(found, e)
	}
	return found, missing, nil
}

// allowed checks the event by its auth events and by the state before it.
func (j *judgement) allowed(ctx context.Context, auth []*graph.Event, before *graph.State) (*eventauth.Rejection, error) {
	cited := make([]*event.PDU, len(auth))
	byKey := make(map[event.Key]*event.PDU, len(auth)+1)
	for i, a := range auth {
		if a.Flags&graph.Rejected != 0 {
			return eventauth.RejectedAuthEvent(j.pdu, a.PDU.ID()), nil
		}
		cited[i] = a.PDU
		byKey[a.PDU.Key()] = a.PDU
	}
	if rejection, err := rejected(eventauth.CheckAuthEvents(j.pdu, cited)); rejection != nil || err != nil {
		return rejection, err
	}
	create := event.Key{Type: "m.room.create"}
	if byKey[create] == nil {
		var err error
		if byKey[create], err = j.rooms.current(ctx, j.head.Room, j.head.State, create.Type, ""); err != nil {
			return nil, err
		}
	}
	rejection, err := rejected(eventauth.Check(j.pdu, func(typ, stateKey string) *event.PDU {
		return byKey[event.Key{Type: typ, StateKey: stateKey}]
	}))
	if rejection != nil || err != nil {
		return rejection, err
	}
	return j.check(ctx, before)
}

// check applies the authorisation rules by a state of the room.
func (j *judgement) check(ctx context.Context, s *graph.State) (*eventauth.Rejection, error) {
	needed := append(eventauth.Needed(j.head.Version, j.pdu), event.Key{Type: "m.room.create"})
	state, err := j.rooms.entries(ctx, j.head.Room, s, needed)
	if err != nil {
		return nil, err
	}
	return rejected(eventauth.Check(j.pdu, state))
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
func (j *judgement) merge(ctx context.Context, e *graph.Event, before *graph.State) (*graph.State, error) {
	followed := j.pdu.PrevEvents()
	others := slices.DeleteFunc(slices.Clone(j.head.Extremities), func(x graph.Extremity) bool {
		return slices.Contains(followed, x.ID)
	})
	states, err := j.rooms.branches(ctx, j.head, others, nil)
	if err != nil {
		return nil, err
	}
	return j.rooms.resolve(ctx, j.head, append([]*graph.State{after(e, before)}, states...), e)
}
