package room

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// batch collects the events of one commit. Each is decided on the head that the one before
// it produces; all of them become durable together or not at all.
type batch struct {
	rooms *Rooms
	// settled says that prev is durable.
	settled bool
	// prev is the head that the batch began with, nil for a room that is being created.
	prev *graph.Head
	head *graph.Head
	// asking is nil for what no policy server is asked about.
	asking *asking

	events     []*graph.Event
	redactions []graph.Redaction
	awaiting   []graph.Awaited
	// fresh and after hold what the batch added, which the graph can't load yet, and the
	// state after it.
	fresh map[graph.EventNID]*graph.Event
	after map[graph.EventNID]*graph.State
}

func (r *Rooms) batch(head *graph.Head, settled bool) *batch {
	return &batch{
		rooms: r, settled: settled, prev: head, head: head,
		fresh: make(map[graph.EventNID]*graph.Event), after: make(map[graph.EventNID]*graph.State),
	}
}

// commit returns what the graph shall do, nil where the batch is empty.
func (b *batch) commit() *graph.Commit {
	if len(b.events) == 0 {
		return nil
	}
	return &graph.Commit{Prev: b.prev, Next: b.head, Events: b.events, Redactions: b.redactions, Awaiting: b.awaiting}
}

// add decides the proposal on the newest head of the batch.
// A state event that would change nothing is not added: the one that stands is returned.
func (b *batch) add(ctx context.Context, p Proposal) (*event.PDU, error) {
	if p.Type == "m.room.create" {
		return nil, mxerr.InvalidParam("a room is created once")
	}
	content, err := canon.Canonicalize(nil, p.Content, b.head.Version.Canon)
	if err != nil {
		return nil, mxerr.BadJSON("content: %v", err)
	}
	if len(content) == 0 || content[0] != '{' {
		return nil, mxerr.BadJSON("the content of an event must be a JSON object")
	}
	p.Content = content
	origin, key, err := b.rooms.signer(p.Sender)
	if err != nil {
		return nil, err
	}
	at, err := b.place(ctx)
	if err != nil {
		return nil, err
	}
	needed := append(eventauth.NeededFor(b.head.Version, p.Type, p.StateKey, p.Sender, p.Content), event.Key{Type: "m.room.create"})
	state, err := b.entries(ctx, at.before, needed)
	if err != nil {
		return nil, err
	}
	pdu, err := decide(facts{head: b.head, follow: at.follow, state: state, origin: origin, key: key, now: now()}, p)
	if err != nil {
		return nil, err
	}
	if at.others != nil {
		// What the branches left aside say counts as well.
		if state, err = b.entries(ctx, b.head.State, needed); err != nil {
			return nil, err
		}
		if err := eventauth.Check(pdu, state); err != nil {
			return nil, forbidden(err)
		}
	}
	if old, err := b.unchanged(ctx, pdu); err != nil || old != nil {
		return old, err
	}
	if pdu, at, err = b.recommended(ctx, pdu, at); err != nil {
		return nil, err
	}
	return pdu, b.push(ctx, pdu, at)
}

// place is where the next event of a batch goes.
type place struct {
	follow []graph.Extremity
	// before is the state after the events in follow.
	before *graph.State
	// others are the states after the extremities that are not followed: nil, but for a room
	// that has more extremities than one event may follow.
	others []*graph.State
}

// place follows all extremities, or those of greatest depth. The event that comes out has the
// greatest depth of all, so that the next one ties up others.
func (b *batch) place(ctx context.Context) (place, error) {
	at := place{follow: b.head.Extremities, before: b.head.State}
	if len(at.follow) <= event.MaxPrevEvents {
		return at, nil
	}
	if !b.settled {
		return at, errUnsettled
	}
	all := slices.Clone(at.follow)
	slices.SortStableFunc(all, func(x, y graph.Extremity) int { return cmp.Compare(y.Depth, x.Depth) })
	at.follow = all[:event.MaxPrevEvents]
	states, err := b.rooms.branches(ctx, b.head, at.follow, b.after)
	if err != nil {
		return at, err
	}
	if at.before, err = b.resolve(ctx, states); err != nil {
		return at, err
	}
	at.others, err = b.rooms.branches(ctx, b.head, all[event.MaxPrevEvents:], b.after)
	return at, err
}

func (b *batch) resolve(ctx context.Context, states []*graph.State) (*graph.State, error) {
	return b.rooms.resolve(ctx, b.head, states, slices.Collect(maps.Values(b.fresh))...)
}

// push appends an event that has been decided.
func (b *batch) push(ctx context.Context, pdu *event.PDU, at place) error {
	nid, err := b.rooms.cfg.Graph.NextNID(ctx)
	if err != nil {
		return err
	}
	e := &graph.Event{NID: nid, PDU: pdu, Flags: graph.Local}
	b.events = append(b.events, e)
	b.fresh[nid] = e
	var where graph.Placement
	if at.others != nil {
		where.Before = at.before
		b.after[nid] = after(e, at.before)
		if where.After, err = b.resolve(ctx, append([]*graph.State{b.after[nid]}, at.others...)); err != nil {
			return err
		}
	}
	b.head, err = b.head.Place(e, where)
	if at.others == nil && err == nil {
		b.after[nid] = b.head.State
	}
	return err
}

// after is the state after an event that is accepted.
func after(e *graph.Event, before *graph.State) *graph.State {
	if !e.PDU.IsState() {
		return before
	}
	return before.With(graph.ChangeOf(e))
}

// entries loads the events that stand in a state under these keys.
func (b *batch) entries(ctx context.Context, s *graph.State, keys []event.Key) (eventauth.State, error) {
	byKey := make(map[event.Key]*event.PDU, len(keys))
	var missing []graph.EventNID
	for _, k := range keys {
		nid, ok := s.Get(k.Type, k.StateKey)
		if !ok {
			continue
		}
		if e := b.fresh[nid]; e != nil {
			byKey[k] = e.PDU
			continue
		}
		missing = append(missing, nid)
	}
	events, err := b.rooms.cfg.Graph.Events(ctx, b.head.Room, missing)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		byKey[e.PDU.Key()] = e.PDU
	}
	return func(typ, stateKey string) *event.PDU {
		return byKey[event.Key{Type: typ, StateKey: stateKey}]
	}, nil
}

// authority returns the creation and the power levels on the batch's head.
func (b *batch) authority(ctx context.Context) (create, levels *event.PDU, err error) {
	state, err := b.entries(ctx, b.head.State, []event.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}})
	if err != nil {
		return nil, nil, err
	}
	return state("m.room.create", ""), state("m.room.power_levels", ""), nil
}

// current returns the event that stands in the state of the batch's head under the key,
// nil where there is none.
func (b *batch) current(ctx context.Context, typ, stateKey string) (*event.PDU, error) {
	state, err := b.entries(ctx, b.head.State, []event.Key{{Type: typ, StateKey: stateKey}})
	if err != nil {
		return nil, err
	}
	return state(typ, stateKey), nil
}

// membership returns a user's membership on the batch's head: "leave" where there is none.
func (b *batch) membership(user id.UserID) graph.Membership {
	if m := b.head.State.Membership(user); m != "" {
		return m
	}
	return graph.Leave
}

// levels returns the power levels on the batch's head.
func (b *batch) levels(ctx context.Context) (eventauth.Levels, error) {
	create, levels, err := b.authority(ctx)
	if err != nil {
		return eventauth.Levels{}, err
	}
	return eventauth.PowerLevels(b.head.Version, create, levels), nil
}

// privileged lists the creators and the users who are given a power level by name.
func (b *batch) privileged(ctx context.Context) ([]id.UserID, error) {
	create, levels, err := b.authority(ctx)
	if err != nil {
		return nil, err
	}
	users := eventauth.Creators(create)
	if levels != nil {
		gjson.GetBytes(levels.Content(), "users").ForEach(func(user, _ gjson.Result) bool {
			users = append(users, id.UserID(user.Str))
			return true
		})
	}
	return users, nil
}

// unchanged returns the state event that already says what the event would say, if one does: a
// client that sets a state twice gets the first event again.
func (b *batch) unchanged(ctx context.Context, pdu *event.PDU) (*event.PDU, error) {
	if !pdu.IsState() || pdu.Sticky() > 0 { // what sticks begins to do so anew
		return nil, nil
	}
	key := pdu.Key()
	old, err := b.current(ctx, key.Type, key.StateKey)
	if err != nil || old == nil || old.Sender() != pdu.Sender() || !bytes.Equal(pdu.Content(), old.Content()) {
		return nil, err
	}
	return old, nil
}
