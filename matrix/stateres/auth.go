package stateres

import (
	"fmt"

	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
)

// applyAuthorised is the iterative auth checks algorithm: it takes the linked nodes in their order
// and puts each that the state so far allows into the state. base says whether the unconflicted
// state lies under it.
//
// Spec: rooms/v2 Definitions
func (r *resolution) applyAuthorised(list []int32, base bool) error {
	if base {
		if err := r.prefetch(list); err != nil {
			return err
		}
	}
	for _, n := range list {
		if !r.nodes[n].pdu.IsState() {
			continue
		}
		allowed, err := r.allowed(n, func(key event.Key) (int32, error) {
			if m, ok := r.state[key]; ok {
				return m, nil
			}
			if base {
				if m, err := r.baseNode(key); m >= 0 || err != nil {
					return m, err
				}
			}
			return r.fromAuthEvents(n, key), nil
		})
		if err != nil {
			return err
		}
		if allowed {
			r.state[r.nodes[n].pdu.Key()] = n
		}
	}
	return nil
}

// allowed checks an event against a state. The create event of versions whose room IDs name it is
// always in the state.
func (r *resolution) allowed(n int32, find func(event.Key) (int32, error)) (bool, error) {
	var failed error
	verdict := eventauth.Check(r.nodes[n].pdu, func(typ, stateKey string) *event.PDU {
		if failed != nil {
			return nil
		}
		key := event.Key{Type: typ, StateKey: stateKey}
		if r.create >= 0 && key == createKey {
			return r.nodes[r.create].pdu
		}
		m, err := find(key)
		if err != nil {
			failed = err
			return nil
		}
		return r.pduOf(m)
	})
	return verdict == nil, failed
}

// baseNode returns the node of an unconflicted key, -1 where there is none.
func (r *resolution) baseNode(key event.Key) (int32, error) {
	e, ok := r.unconflicted(key)
	if !ok {
		return -1, nil
	}
	if n, ok := r.index[e]; ok {
		return n, nil
	}
	if err := r.load([]id.EventID{e}); err != nil {
		return -1, err
	}
	return r.index[e], nil
}

// fromAuthEvents returns the auth event of a linked node that has this key and was not rejected, or -1.
func (r *resolution) fromAuthEvents(n int32, key event.Key) int32 {
	for _, m := range r.nodes[n].auth {
		p := r.nodes[m].pdu
		if p.IsState() && p.Key() == key && (r.in.Rejected == nil || !r.in.Rejected(p.ID())) {
			return m
		}
	}
	return -1
}

// prefetch loads, in one batch, the unconflicted events that the checks of the list will ask for.
func (r *resolution) prefetch(list []int32) error {
	asked := make(map[event.Key]bool)
	var ids []id.EventID
	for _, n := range list {
		for _, key := range eventauth.Needed(r.in.Version, r.nodes[n].pdu) {
			if asked[key] {
				continue
			}
			asked[key] = true
			if e, ok := r.unconflicted(key); ok {
				ids = append(ids, e)
			}
		}
	}
	return r.load(ids)
}

// loadCreate finds the create event of a room whose ID names it.
//
// Spec: rooms/v12 Event format
func (r *resolution) loadCreate() error {
	if !r.in.Version.CreateAsRoomID || r.room == "" {
		return nil
	}
	e := id.EventID("$" + string(r.room[1:]))
	if err := r.load([]id.EventID{e}); err != nil {
		return fmt.Errorf("load the create event: %w", err)
	}
	r.create = r.index[e]
	return nil
}

// loadConflicts loads the conflicted events.
func (r *resolution) loadConflicts() error {
	var ids []id.EventID
	for i := range r.conflicts {
		ids = append(ids, r.conflicts[i].ids...)
	}
	if err := r.load(ids); err != nil {
		return err
	}
	for i := range r.conflicts {
		c := &r.conflicts[i]
		for _, e := range c.ids {
			if p := r.nodes[r.index[e]].pdu; !p.IsState() || p.Key() != c.key {
				return fmt.Errorf("event %s is not an event of the key it stands at, %s %q", e, c.key.Type, c.key.StateKey)
			}
		}
	}
	return nil
}
