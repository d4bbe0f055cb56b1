package room

import (
	"context"
	"errors"
	"slices"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Past is an event from before what is known of a room. Its signatures and its hash have been checked.
type Past struct {
	PDU *event.PDU
	// Before is the state before the event as another server told it, as IDs of stored events: empty and not nil for the creation. With nil the
	// event's own predecessors say it, which must be stored or come in the same call.
	Before []id.EventID
}

// Backfill puts events into a room's past, all in one commit: below everything that is known, in the order in which they follow each other.
// They are judged by their auth events and by the state before them. The results are in the order of the events; their errors are
// those of Receive. Events that are stored already, other than as outliers, keep their place.
//
// Spec: ss Backfilling and retrieving missing events
func (r *Rooms) Backfill(ctx context.Context, room id.RoomID, past []Past) []Result {
	results := make([]Result, len(past))
	_, err := r.advance(ctx, room, graph.TxnRef{}, func(head *graph.Head, settled bool) (step, error) {
		if !settled {
			return step{}, errUnsettled
		}
		h := &history{rooms: r, head: head, fresh: make(map[id.EventID]*graph.Event), after: make(map[id.EventID]*graph.State)}
		commit, err := h.commit(ctx, past, results)
		return step{commit: commit}, err
	})
	if err != nil {
		return failed(results, err)
	}
	return results
}

// history collects events of the past for one commit.
type history struct {
	rooms *Rooms
	head  *graph.Head
	// fresh are the events so far, after the states after those that count.
	fresh map[id.EventID]*graph.Event
	after map[id.EventID]*graph.State
	// placed are the events in the order of their ancestry, with the states before them.
	placed []placed
	// filled are events that were placed before: no gaps, though a rejected one may have left its own behind.
	filled []id.EventID
}

type placed struct {
	event  *graph.Event
	before *graph.State
	judge  *judgement
}

func (h *history) commit(ctx context.Context, past []Past, results []Result) (*graph.Commit, error) {
	index := make(map[id.EventID]int, len(past))
	pdus := make([]*event.PDU, len(past))
	for i, p := range past {
		index[p.PDU.ID()], pdus[i] = i, p.PDU
	}
	for _, p := range parentsFirst(pdus) {
		i := index[p.ID()]
		var err error
		results[i], err = h.add(ctx, past[i])
		if _, ok := mxerr.Of(err); ok || isMissing(err) {
			results[i] = Result{Err: err}
		} else if err != nil {
			return nil, err
		}
	}
	if len(h.placed) == 0 {
		return h.tidy(ctx)
	}
	return h.place(ctx)
}

// tidy closes gaps that are none any more.
func (h *history) tidy(ctx context.Context) (*graph.Commit, error) {
	for _, x := range h.filled {
		gap, _, err := h.rooms.cfg.Graph.IsGap(ctx, h.head.Room, x)
		if err != nil {
			return nil, err
		}
		if gap {
			return &graph.Commit{Room: h.head.Room, Filled: h.filled}, nil
		}
	}
	return nil, nil
}

func isMissing(err error) bool {
	var missing *Missing
	return errors.As(err, &missing)
}

// parentsFirst orders events so that each comes after those of its prev events that are among them.
func parentsFirst(pdus []*event.PDU) []*event.PDU {
	byID := make(map[id.EventID]*event.PDU, len(pdus))
	for _, p := range pdus {
		byID[p.ID()] = p
	}
	return ancestorsFirst(pdus, func(p *event.PDU) []*event.PDU {
		var found []*event.PDU
		for _, x := range p.PrevEvents() {
			if a := byID[x]; a != nil {
				found = append(found, a)
			}
		}
		return found
	})
}

// add judges one event.
func (h *history) add(ctx context.Context, p Past) (Result, error) {
	if p.PDU.RoomID() != h.head.ID {
		return Result{}, mxerr.InvalidParam("the event %s belongs to another room", p.PDU.ID())
	}
	known, _, err := h.rooms.cfg.Graph.Event(ctx, p.PDU.ID())
	switch {
	case err != nil:
		return Result{}, err
	case known != nil && known.Room != h.head.Room:
		return Result{}, mxerr.InvalidParam("the event ID %s is that of an event in another room", p.PDU.ID())
	case known != nil && known.Flags&graph.Outlier == 0:
		h.filled = append(h.filled, p.PDU.ID())
		return Result{Verdict: verdictOf(known.Flags)}, nil
	}
	j := h.rooms.judgement(h.head, true, incoming{pdu: p.PDU, flags: graph.Backfilled}, known)
	p.PDU = j.pdu
	before, err := h.before(ctx, p)
	if err != nil {
		return Result{}, err
	}
	auth, err := h.auth(ctx, j)
	if err != nil {
		return Result{}, err
	}
	e, err := j.event(ctx)
	if err != nil {
		return Result{}, err
	}
	if j.rejection, err = j.allowed(ctx, auth, before); err != nil {
		return Result{}, err
	}
	h.after[p.PDU.ID()] = before
	if j.rejection != nil {
		e.Flags |= graph.Rejected
	} else {
		h.after[p.PDU.ID()] = after(e, before)
	}
	h.fresh[p.PDU.ID()] = e
	h.placed = append(h.placed, placed{e, before, j})
	return Result{Verdict: verdictOf(e.Flags), Rejection: j.rejection}, nil
}

// before returns the state before an event of the past.
func (h *history) before(ctx context.Context, p Past) (*graph.State, error) {
	if p.Before != nil {
		return h.rooms.stateOf(ctx, h.head, p.Before, false)
	}
	var states []*graph.State
	var stored []*graph.Event
	var missing Missing
	known, err := h.rooms.cfg.Graph.EventsByID(ctx, p.PDU.PrevEvents())
	if err != nil {
		return nil, err
	}
	for _, x := range p.PDU.PrevEvents() {
		switch e := known[x]; {
		case h.after[x] != nil:
			states = append(states, h.after[x])
		case e != nil && e.Flags&graph.Outlier == 0 && e.Room == h.head.Room:
			stored = append(stored, e)
		default:
			missing.Prev = append(missing.Prev, x)
		}
	}
	if len(missing.Prev) > 0 || len(p.PDU.PrevEvents()) == 0 {
		return nil, &missing
	}
	more, err := h.rooms.statesAfter(ctx, stored)
	if err != nil {
		return nil, err
	}
	return h.rooms.resolve(ctx, h.head, append(states, more...), h.events()...)
}

func (h *history) events() []*graph.Event {
	events := make([]*graph.Event, len(h.placed))
	for i, p := range h.placed {
		events[i] = p.event
	}
	return events
}

// auth returns the auth events of an event of the past.
func (h *history) auth(ctx context.Context, j *judgement) ([]*graph.Event, error) {
	var missing Missing
	var auth, found []*graph.Event
	var ask []id.EventID
	for _, x := range j.pdu.AuthEvents() {
		if e := h.fresh[x]; e != nil {
			auth = append(auth, e)
		} else {
			ask = append(ask, x)
		}
	}
	var err error
	if found, missing.Auth, err = j.load(ctx, ask, 0); err != nil {
		return nil, err
	}
	if len(missing.Auth) > 0 {
		return nil, &missing
	}
	return append(auth, found...), nil
}

// place gives the events their places, the newest first, since each goes below what is there.
func (h *history) place(ctx context.Context) (*graph.Commit, error) {
	commit := &graph.Commit{Prev: h.head, Filled: h.filled}
	next := h.head
	for _, p := range slices.Backward(h.placed) {
		var err error
		if next, err = next.Place(p.event, graph.Placement{Before: p.before}); err != nil {
			return nil, err
		}
		commit.Filled = append(commit.Filled, p.event.PDU.ID())
		gone, err := h.gone(ctx, p.event.PDU)
		if err != nil {
			return nil, err
		}
		for _, g := range gone {
			commit.Gaps = append(commit.Gaps, graph.Gap{Missing: g, Child: p.event.NID})
		}
	}
	commit.Next, commit.Events = next, h.events()
	for _, p := range h.placed {
		if err := h.redact(ctx, commit, p); err != nil {
			return nil, err
		}
	}
	return commit, nil
}

// gone returns the prev events that are neither stored nor about to be.
func (h *history) gone(ctx context.Context, pdu *event.PDU) ([]id.EventID, error) {
	var gone []id.EventID
	known, err := h.rooms.cfg.Graph.EventsByID(ctx, pdu.PrevEvents())
	if err != nil {
		return nil, err
	}
	for _, x := range pdu.PrevEvents() {
		if h.fresh[x] == nil && (known[x] == nil || known[x].Flags&graph.Outlier != 0) {
			gone = append(gone, x)
		}
	}
	return gone, nil
}

// redact applies the redactions among the events, and those that waited for them.
func (h *history) redact(ctx context.Context, commit *graph.Commit, p placed) error {
	if target, ok := p.judge.pdu.Redacts(); ok && p.judge.pdu.Type() == "m.room.redaction" && h.fresh[target] != nil {
		if p.event.Flags&graph.Rejected != 0 || h.fresh[target].Flags&graph.Redacted != 0 {
			return nil
		}
		return p.judge.redact(ctx, commit, h.fresh[target], p.event, p.before)
	}
	return p.judge.redactions(ctx, commit, p.event, p.before)
}
