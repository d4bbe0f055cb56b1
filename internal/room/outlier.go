package room

import (
	"context"
	"errors"
	"fmt"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Outliers stores events of a room that this server only needs in order to judge others by: states and auth chains. Their
// signatures and hashes have been checked, and they may come in any order. Each is judged by its auth events and kept as rejected where the
// rules say so. The room need not have begun here.
//
// It returns M_INVALID_PARAM for events of other rooms, and *Missing for auth events that are not here; whatever does not depend on those is
// stored all the same.
//
// Spec: ss Checks performed on receipt of a PDU
func (r *Rooms) Outliers(ctx context.Context, room id.RoomID, v *roomver.Version, pdus []*event.PDU) error {
	for _, p := range pdus {
		if p.RoomID() != room {
			return mxerr.InvalidParam("the event %s belongs to another room", p.ID())
		}
	}
	nid, err := r.cfg.Graph.NameRoom(ctx, room, v)
	if err != nil {
		return err
	}
	for attempt := range maxAttempts {
		if err := pause(ctx, attempt); err != nil {
			return err
		}
		o := outliers{rooms: r, room: nid, create: creationOf(room, v), byID: make(map[id.EventID]*graph.Event)}
		err := o.store(ctx, pdus)
		if err == nil && len(o.missing.Auth) > 0 {
			return &o.missing
		}
		if !errors.Is(err, graph.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("store outliers of %s: lost against other writers %d times in a row", room, maxAttempts)
}

// creationOf returns the ID of the creation event that a room is named after, empty in versions where it is named otherwise.
func creationOf(room id.RoomID, v *roomver.Version) id.EventID {
	if !v.CreateAsRoomID {
		return ""
	}
	return id.EventID("$" + string(room[1:]))
}

// outliers is one attempt to store some.
type outliers struct {
	rooms  *Rooms
	room   graph.RoomNID
	create id.EventID
	// byID has the events and their auth events as far as they are here.
	byID    map[id.EventID]*graph.Event
	missing Missing
}

func (o *outliers) store(ctx context.Context, pdus []*event.PDU) error {
	if err := o.load(ctx, pdus); err != nil {
		return err
	}
	first, err := o.rooms.cfg.Graph.NextNIDs(ctx, max(1, len(pdus)))
	if err != nil {
		return err
	}
	commit := &graph.Commit{Room: o.room}
	for _, p := range authFirst(pdus) {
		if o.byID[p.ID()] != nil {
			continue
		}
		auth, ok := o.authOf(p)
		if !ok {
			continue
		}
		rejection, err := byAuthEvents(p, auth, func() (*event.PDU, error) {
			if e := o.byID[o.create]; e != nil {
				return e.PDU, nil
			}
			return nil, nil
		})
		if err != nil {
			return err
		}
		e := &graph.Event{NID: first + graph.EventNID(len(commit.Events)), PDU: p, Flags: graph.Outlier}
		if rejection != nil {
			e.Flags |= graph.Rejected
		}
		o.byID[p.ID()] = e
		commit.Events = append(commit.Events, e)
	}
	if len(commit.Events) == 0 {
		return nil
	}
	if err := o.redact(ctx, commit); err != nil {
		return err
	}
	return o.rooms.cfg.Graph.Commit(commit).Wait(context.WithoutCancel(ctx))
}

// redact lets redactions take effect that came before their targets.
func (o *outliers) redact(ctx context.Context, c *graph.Commit) error {
	ids := make([]id.EventID, len(c.Events))
	for i, e := range c.Events {
		ids[i] = e.PDU.ID()
	}
	waiting, err := o.rooms.cfg.Graph.AwaitingAny(ctx, o.room, ids)
	if err != nil || len(waiting) == 0 {
		return err
	}
	for _, e := range c.Events {
		j := judgement{rooms: o.rooms, head: &graph.Head{Room: o.room, Version: e.PDU.Version()}, pdu: e.PDU}
		if err := j.redactedBy(ctx, c, e, waiting[e.PDU.ID()]); err != nil {
			return err
		}
	}
	return nil
}

// load finds out what is stored of the events and of what they refer to.
func (o *outliers) load(ctx context.Context, pdus []*event.PDU) error {
	wanted := make(map[id.EventID]bool, 2*len(pdus))
	if o.create != "" {
		wanted[o.create] = true
	}
	for _, p := range pdus {
		wanted[p.ID()] = true
		for _, a := range p.AuthEvents() {
			wanted[a] = true
		}
	}
	ids := make([]id.EventID, 0, len(wanted))
	for x := range wanted {
		ids = append(ids, x)
	}
	stored, err := o.rooms.cfg.Graph.EventsByID(ctx, ids)
	if err != nil {
		return err
	}
	for x, e := range stored {
		if e.Room == o.room {
			o.byID[x] = e
		}
	}
	return nil
}

// authOf returns the auth events of an event, and false where some are not here.
func (o *outliers) authOf(p *event.PDU) (auth []*graph.Event, ok bool) {
	ok = true
	lacks := func(x id.EventID) {
		o.missing.Auth = append(o.missing.Auth, x)
		ok = false
	}
	for _, x := range p.AuthEvents() {
		if e := o.byID[x]; e != nil {
			auth = append(auth, e)
		} else {
			lacks(x)
		}
	}
	if o.create != "" && p.ID() != o.create && o.byID[o.create] == nil {
		lacks(o.create)
	}
	return auth, ok
}

// authFirst orders events so that each comes after those of its auth events that are among them. Where servers made up IDs that lead
// in a circle, somebody in it comes too early, and lacks an auth event.
func authFirst(pdus []*event.PDU) []*event.PDU {
	byID := make(map[id.EventID]*event.PDU, len(pdus))
	for _, p := range pdus {
		byID[p.ID()] = p
	}
	return ancestorsFirst(pdus, func(p *event.PDU) []*event.PDU {
		var found []*event.PDU
		for _, x := range p.AuthEvents() {
			if a := byID[x]; a != nil {
				found = append(found, a)
			}
		}
		// Versions that name the room after its creation don't name that as an auth event.
		if create := byID[creationOf(p.RoomID(), p.Version())]; create != nil && create != p {
			found = append(found, create)
		}
		return found
	})
}

// ancestorsFirst orders events so that each comes after its parents, each once. It does not recurse: a chain may be long.
func ancestorsFirst(pdus []*event.PDU, parents func(*event.PDU) []*event.PDU) []*event.PDU {
	sorted := make([]*event.PDU, 0, len(pdus))
	begun := make(map[id.EventID]bool, len(pdus))
	type visit struct {
		of   *event.PDU
		left []*event.PDU
	}
	var stack []visit
	for _, p := range pdus {
		if !begun[p.ID()] {
			begun[p.ID()] = true
			stack = append(stack, visit{p, parents(p)})
		}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.left) == 0 {
				sorted = append(sorted, top.of)
				stack = stack[:len(stack)-1]
				continue
			}
			next := top.left[0]
			top.left = top.left[1:]
			if !begun[next.ID()] {
				begun[next.ID()] = true
				stack = append(stack, visit{next, parents(next)})
			}
		}
	}
	return sorted
}

// stateOf makes a state of stored events. It shares what it can with the head's. With memberless it keeps the member events of the head
// that it is not given.
func (r *Rooms) stateOf(ctx context.Context, head *graph.Head, ids []id.EventID, memberless bool) (*graph.State, error) {
	const piece = 1000
	var changes []graph.StateChange
	var missing Missing
	given := make(map[event.Key]bool, len(ids))
	for start := 0; start < len(ids); start += piece {
		part := ids[start:min(start+piece, len(ids))]
		stored, err := r.cfg.Graph.EventsByID(ctx, part)
		if err != nil {
			return nil, err
		}
		for _, x := range part {
			e := stored[x]
			switch {
			case e == nil || e.Room != head.Room:
				missing.Prev = append(missing.Prev, x)
			case e.PDU.IsState() && e.Flags&graph.Rejected == 0 && !given[e.PDU.Key()]:
				key := e.PDU.Key()
				given[key] = true
				if nid, _ := head.State.Get(key.Type, key.StateKey); nid != e.NID {
					changes = append(changes, graph.ChangeOf(e))
				}
			}
		}
	}
	if len(missing.Prev) > 0 {
		return nil, &missing
	}
	for key := range head.State.All() {
		if !given[key] && !(memberless && key.Type == "m.room.member") {
			changes = append(changes, graph.StateChange{Key: key})
		}
	}
	return head.State.With(changes...), nil
}
