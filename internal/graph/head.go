package graph

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Placement says where an event stands in its room, where that is not simply after everything else.
type Placement struct {
	// Before is the state before the event; nil for the state of the head, or, if the event has a StateBefore already, for that
	// snapshot.
	Before *State
	// After is the state of the room after the event; nil for the state of the head with the event applied.
	After *State
	// Sole: nothing that was in the room before counts any more, as after a time in which no user of ours was in it. The event is the
	// only extremity.
	Sole bool
	// Partial: the states lack member events from here on.
	Partial bool
	// Followed: events that are stored already follow this one, so it is no forward extremity.
	Followed bool
	// Drop takes extremities out that the event does not follow. After must be given with it.
	Drop []EventNID
}

// Advance returns the head after one more event, which follows all extremities that are among its prev_events. It sets
// StateBefore, HeadState, Replaces and Change of the event, and touches nothing else. Calls may be chained before a
// Commit, which takes the events in the same order.
func (h *Head) Advance(e *Event) (*Head, error) { return h.Place(e, Placement{}) }

// Place is Advance for an event that came late, or that merges branches of the room, or that is backfilled, rejected or soft-failed.
// Backfilled events change neither extremities nor state, and need Before or StateBefore. Rejected and soft-failed events
// change neither, unless After is given.
func (h *Head) Place(e *Event, p Placement) (*Head, error) {
	switch {
	case e.PDU == nil || e.NID == 0:
		return nil, errors.New("graph: the event has no PDU or no number")
	case e.Flags&Outlier != 0:
		return nil, fmt.Errorf("graph: %s is an outlier: it has no place", e.PDU.ID())
	}
	n := h.next(e)
	before := n.State
	if p.Before != nil {
		before = n.keep(p.Before)
		e.StateBefore = before.nid
	} else if e.StateBefore == 0 && e.Flags&Backfilled == 0 {
		e.StateBefore = h.StateNID
	} else if e.StateBefore != h.StateNID {
		before = nil // known by number only
		n.use(e.StateBefore)
	}
	if key := e.PDU.Key(); before != nil && e.PDU.IsState() {
		e.Replaces, _ = before.Get(key.Type, key.StateKey)
	}
	if e.Flags&Backfilled != 0 {
		n.MinOrd--
		e.Ord = n.MinOrd
		return n.seal(e), nil
	}
	if p.Sole {
		n.Extremities, n.Partial = nil, false
	}
	n.Partial = n.Partial || p.Partial
	if n.Partial {
		e.Flags |= Thin
	}
	live := e.Flags&(Rejected|SoftFailed) == 0
	if live {
		n.follow(e, p)
	}
	switch {
	case p.After != nil:
		n.moveTo(p.After, e)
	case live && e.PDU.IsState():
		n.moveTo(n.State.With(e.change()), e)
	}
	e.HeadBefore, e.HeadState = h.StateNID, n.StateNID
	return n.seal(e), nil
}

// next copies the head for a change.
func (h *Head) next(e *Event) *Head {
	n := *h
	if h.settled {
		n.base, n.settled, n.fresh, n.reused = h.Rev, false, nil, nil
	}
	n.fresh = slices.Clip(n.fresh)
	n.reused = slices.Clip(n.reused)
	e.Room = h.Room
	return &n
}

// follow updates the extremities.
func (h *Head) follow(e *Event, p Placement) {
	prev := e.PDU.PrevEvents()
	kept := make([]Extremity, 0, len(h.Extremities)+1)
	for _, x := range h.Extremities {
		if !slices.Contains(prev, x.ID) && !slices.Contains(p.Drop, x.NID) {
			kept = append(kept, x)
		}
	}
	if !p.Followed {
		kept = append(kept, Extremity{NID: e.NID, ID: e.PDU.ID(), Depth: e.PDU.Depth()})
	}
	h.Extremities = kept
}

// keep makes sure that a state which an event refers to has a number and is stored.
func (h *Head) keep(s *State) *State {
	s = s.in(h.State.keys)
	switch {
	case s.Len() == 0 || s.nid != 0 && s.nid == h.StateNID:
		return s
	case s.nid != 0:
		h.use(s.nid)
		return s
	case s.m == h.State.m:
		return h.State
	}
	for _, f := range h.fresh {
		if f.m == s.m {
			return f
		}
	}
	h.states++
	s = s.number(h.states)
	h.use(s.chain[len(s.chain)-1].parent)
	h.fresh = append(h.fresh, s)
	return s
}

// use notes a reference to a snapshot whose existence the head's revision does not imply: the commit will look.
func (h *Head) use(nid StateNID) {
	of := func(l link) bool { return l.nid == nid }
	if nid == 0 || slices.ContainsFunc(h.State.chain, of) || slices.Contains(h.reused, nid) ||
		slices.ContainsFunc(h.fresh, func(f *State) bool { return f.nid == nid }) {
		return
	}
	h.reused = append(h.reused, nid)
}

// moveTo makes s the current state, counting members. e is the event that caused it.
func (h *Head) moveTo(s *State, e *Event) {
	s = h.keep(s)
	for d := range Diff(h.State, s) {
		if d.Key.Type != memberType {
			continue
		}
		h.count(d.OldMembership, -1)
		h.count(d.NewMembership, +1)
		if d.New == e.NID {
			e.Change = &MemberChange{User: userOf(d.Key), Old: d.OldMembership, New: d.NewMembership}
		}
	}
	h.State, h.StateNID = s, s.nid
}

func (h *Head) count(m Membership, by int64) {
	switch m {
	case Join:
		h.Joined += by
	case Invite:
		h.Invited += by
	}
}

// seal gives the head its revision: 63 bits of a hash over the revision before, the event and the state.
func (h *Head) seal(e *Event) *Head {
	buf := make([]byte, 0, 128)
	for _, n := range []int64{h.Rev, int64(e.NID), int64(e.Flags), int64(e.StateBefore), int64(h.StateNID), int64(len(h.Extremities))} {
		buf = binary.BigEndian.AppendUint64(buf, uint64(n))
	}
	h.Rev = hash63(append(buf, e.PDU.ID()...))
	return h
}

func hash63(b []byte) int64 {
	sum := sha256.Sum256(b)
	return max(1, int64(binary.BigEndian.Uint64(sum[:])>>1))
}
