package room

import (
	"bytes"
	"context"

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
	// prev is the head that the batch began with, nil for a room that is being created.
	prev *graph.Head
	head *graph.Head

	events     []*graph.Event
	redactions []graph.Redaction
	// fresh holds what the batch added, which the graph can't load yet.
	fresh map[graph.EventNID]*event.PDU
}

func (r *Rooms) batch(head *graph.Head) *batch {
	return &batch{rooms: r, prev: head, head: head, fresh: make(map[graph.EventNID]*event.PDU)}
}

// commit returns what the graph shall do, nil where the batch is empty.
func (b *batch) commit() *graph.Commit {
	if len(b.events) == 0 {
		return nil
	}
	return &graph.Commit{Prev: b.prev, Next: b.head, Events: b.events, Redactions: b.redactions}
}

// add decides the proposal on the newest head of the batch.
// A state event that would change nothing is not added: the one that stands is returned.
func (b *batch) add(ctx context.Context, p Proposal) (*event.PDU, error) {
	content, err := canon.Canonicalize(nil, p.Content, canon.Strict)
	if err != nil {
		return nil, mxerr.BadJSON("content: %v", err)
	}
	if len(content) == 0 || content[0] != '{' {
		return nil, mxerr.BadJSON("the content of an event must be a JSON object")
	}
	p.Content = content
	if old, err := b.unchanged(ctx, p); err != nil || old != nil {
		return old, err
	}
	origin, key, err := b.rooms.signer(p.Sender)
	if err != nil {
		return nil, err
	}
	needed := eventauth.NeededFor(b.head.Version, p.Type, p.StateKey, p.Sender, p.Content)
	state, err := b.entries(ctx, append(needed, event.Key{Type: "m.room.create"}))
	if err != nil {
		return nil, err
	}
	pdu, err := decide(facts{head: b.head, state: state, origin: origin, key: key, now: now()}, p)
	if err != nil {
		return nil, err
	}
	return pdu, b.push(ctx, pdu)
}

// push appends an event that has been decided.
func (b *batch) push(ctx context.Context, pdu *event.PDU) error {
	nid, err := b.rooms.cfg.Graph.NextNID(ctx)
	if err != nil {
		return err
	}
	e := &graph.Event{NID: nid, PDU: pdu, Flags: graph.Local}
	next, err := b.head.Advance(e)
	if err != nil {
		return err
	}
	b.head = next
	b.events = append(b.events, e)
	b.fresh[nid] = pdu
	return nil
}

// entries loads the events that stand in the state of the batch's head under these keys.
func (b *batch) entries(ctx context.Context, keys []event.Key) (eventauth.State, error) {
	byKey := make(map[event.Key]*event.PDU, len(keys))
	var missing []graph.EventNID
	for _, k := range keys {
		nid, ok := b.head.State.Get(k.Type, k.StateKey)
		if !ok {
			continue
		}
		if pdu := b.fresh[nid]; pdu != nil {
			byKey[k] = pdu
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

// current returns the event that stands in the state of the batch's head under the key,
// nil where there is none.
func (b *batch) current(ctx context.Context, typ, stateKey string) (*event.PDU, error) {
	state, err := b.entries(ctx, []event.Key{{Type: typ, StateKey: stateKey}})
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
	state, err := b.entries(ctx, []event.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}})
	if err != nil {
		return eventauth.Levels{}, err
	}
	return eventauth.PowerLevels(b.head.Version, state("m.room.create", ""), state("m.room.power_levels", "")), nil
}

// privileged lists the users who are given a power level by name, and the creators.
func (b *batch) privileged(ctx context.Context) ([]id.UserID, error) {
	state, err := b.entries(ctx, []event.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}})
	if err != nil {
		return nil, err
	}
	users := eventauth.Creators(state("m.room.create", ""))
	if levels := state("m.room.power_levels", ""); levels != nil {
		gjson.GetBytes(levels.Content(), "users").ForEach(func(user, _ gjson.Result) bool {
			users = append(users, id.UserID(user.Str))
			return true
		})
	}
	return users, nil
}

// unchanged returns the state event that already says what the proposal says, if one does:
// a client that sets a state twice gets the first event again.
func (b *batch) unchanged(ctx context.Context, p Proposal) (*event.PDU, error) {
	if p.StateKey == nil {
		return nil, nil
	}
	old, err := b.current(ctx, p.Type, *p.StateKey)
	if err != nil || old == nil || old.Sender() != p.Sender || !bytes.Equal(p.Content, old.Content()) {
		return nil, err
	}
	return old, nil
}
