package room

import (
	"context"
	"fmt"

	"github.com/maypok86/otter/v2"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/stateres"
)

// entries loads the events that stand in a state under these keys.
func (r *Rooms) entries(ctx context.Context, room graph.RoomNID, s *graph.State, keys []event.Key) (eventauth.State, error) {
	nids := make([]graph.EventNID, 0, len(keys))
	for _, k := range keys {
		if nid, ok := s.Get(k.Type, k.StateKey); ok {
			nids = append(nids, nid)
		}
	}
	events, err := r.cfg.Graph.Events(ctx, room, nids)
	if err != nil {
		return nil, err
	}
	byKey := make(map[event.Key]*event.PDU, len(events))
	for _, e := range events {
		byKey[e.PDU.Key()] = e.PDU
	}
	return func(typ, stateKey string) *event.PDU {
		return byKey[event.Key{Type: typ, StateKey: stateKey}]
	}, nil
}

// branches returns the states after the extremities, each state once. Those of events that are not stored are
// given in after.
func (r *Rooms) branches(ctx context.Context, head *graph.Head, of []graph.Extremity, after map[graph.EventNID]*graph.State) ([]*graph.State, error) {
	var states []*graph.State
	var nids []graph.EventNID
	for _, x := range of {
		if s := after[x.NID]; s != nil {
			states = append(states, s)
			continue
		}
		nids = append(nids, x.NID)
	}
	events, err := r.cfg.Graph.Events(ctx, head.Room, nids)
	if err != nil {
		return nil, err
	}
	stored, err := r.statesAfter(ctx, events)
	return append(states, stored...), err
}

// statesAfter returns the states after stored events, each state once.
func (r *Rooms) statesAfter(ctx context.Context, events []*graph.Event) ([]*graph.State, error) {
	states := make([]*graph.State, 0, len(events))
	seen := make(map[graph.StateNID]bool)
	for _, e := range events {
		s, err := r.cfg.Graph.StateAfter(ctx, e)
		if err != nil {
			return nil, err
		}
		if n := s.NID(); n == 0 || !seen[n] {
			seen[n] = true
			states = append(states, s)
		}
	}
	return states, nil
}

// resolution maps between the numbers of the graph and the IDs of state resolution.
type resolution struct {
	ctx   context.Context
	rooms *Rooms
	graph *graph.Graph
	room  graph.RoomNID
	// byID and byNID hold every event seen so far.
	byID  map[id.EventID]*graph.Event
	byNID map[graph.EventNID]*graph.Event
	// judged are stored events that are thought of otherwise than is stored.
	judged map[graph.EventNID]*graph.Event
	err    error
	// base is one of the states, and conflicted the keys on which they differ.
	base       *graph.State
	conflicted map[event.Key][]id.EventID
	coverages  *otter.Cache[graph.RoomNID, *coverage]
	// bytes are what the events seen so far take; large says that a slot for large resolutions is held, locked that none may be waited for.
	bytes         int64
	large, locked bool
}

// resolve merges states of a room. fresh are events that are in them but not yet stored.
//
// Spec: rooms/v12 State resolution
func (r *Rooms) resolve(ctx context.Context, head *graph.Head, states []*graph.State, fresh ...*graph.Event) (*graph.State, error) {
	return r.resolveJudged(ctx, head, states, nil, fresh...)
}

// resolveJudged is resolve where stored events have been judged again and the outcome isn't stored yet. There may be any number of them: only those that the
// resolution comes across count for it.
func (r *Rooms) resolveJudged(ctx context.Context, head *graph.Head, states []*graph.State, judged map[graph.EventNID]*graph.Event, fresh ...*graph.Event) (*graph.State, error) {
	if len(states) == 0 {
		return nil, fmt.Errorf("room: no states to resolve")
	}
	base := states[0]
	if len(states) == 1 {
		return base, nil
	}
	x := &resolution{
		ctx: ctx, rooms: r, graph: r.cfg.Graph, room: head.Room, coverages: r.coverages,
		byID: make(map[id.EventID]*graph.Event), byNID: make(map[graph.EventNID]*graph.Event), judged: judged,
	}
	defer x.leave()
	if err := x.learn(fresh...); err != nil {
		return nil, err
	}
	conflicted, err := x.conflicts(states)
	if err != nil || len(conflicted) == 0 {
		return base, err
	}
	x.base, x.conflicted = base, conflicted
	resolved, err := stateres.Resolve(stateres.Input{
		Version:      head.Version,
		Sets:         len(states),
		Conflicted:   conflicted,
		Unconflicted: func(k event.Key) (id.EventID, bool) { return x.lookup(base, k) },
		Covered:      x.covered,
		Events:       x.events,
		Limit:        r.resolvable.events,
		Rejected:     func(e id.EventID) bool { return x.byID[e] != nil && x.byID[e].Flags&graph.Rejected != 0 },
	})
	if err != nil {
		return nil, err
	}
	if x.err != nil {
		return nil, x.err
	}
	return x.apply(base, conflicted, resolved)
}

// learn takes note of events that were loaded, as far as the resolution may grow.
func (x *resolution) learn(events ...*graph.Event) error {
	for _, e := range events {
		if again := x.judged[e.NID]; again != nil {
			e = again
		}
		if x.byID[e.PDU.ID()] == nil {
			x.bytes += int64(len(e.PDU.Raw()))
		}
		x.byID[e.PDU.ID()] = e
		x.byNID[e.NID] = e
	}
	return x.grow()
}

// load makes sure that events are known by number.
func (x *resolution) load(nids []graph.EventNID) error {
	unknown := nids[:0:0]
	for _, n := range nids {
		if n != 0 && x.byNID[n] == nil {
			unknown = append(unknown, n)
		}
	}
	events, err := x.graph.Events(x.ctx, x.room, unknown)
	if err != nil {
		return err
	}
	return x.learn(events...)
}

// conflicts lists the keys on which the states differ, found by diffing snapshots.
func (x *resolution) conflicts(states []*graph.State) (map[event.Key][]id.EventID, error) {
	columns := make(map[event.Key][]graph.EventNID)
	for _, s := range states[1:] {
		for d := range graph.Diff(states[0], s) {
			columns[d.Key] = nil
		}
	}
	var all []graph.EventNID
	for k := range columns {
		column := make([]graph.EventNID, len(states))
		for i, s := range states {
			column[i], _ = s.Get(k.Type, k.StateKey)
		}
		columns[k] = column
		all = append(all, column...)
	}
	if err := x.load(all); err != nil {
		return nil, err
	}
	conflicted := make(map[event.Key][]id.EventID, len(columns))
	for k, column := range columns {
		ids := make([]id.EventID, len(column))
		for i, n := range column {
			if n != 0 {
				ids[i] = x.byNID[n].PDU.ID()
			}
		}
		conflicted[k] = ids
	}
	return conflicted, nil
}

// lookup finds an entry that all states share.
func (x *resolution) lookup(base *graph.State, k event.Key) (id.EventID, bool) {
	nid, ok := base.Get(k.Type, k.StateKey)
	if !ok {
		return "", false
	}
	if err := x.load([]graph.EventNID{nid}); err != nil {
		x.err = err
		return "", false
	}
	return x.byNID[nid].PDU.ID(), true
}

// events is the loader of state resolution.
func (x *resolution) events(ids []id.EventID) (map[id.EventID]*event.PDU, error) {
	var unknown []id.EventID
	for _, e := range ids {
		if x.byID[e] == nil {
			unknown = append(unknown, e)
		}
	}
	stored, err := x.graph.EventsByID(x.ctx, unknown)
	if err != nil {
		return nil, err
	}
	for _, e := range stored {
		if err := x.learn(e); err != nil {
			return nil, err
		}
	}
	found := make(map[id.EventID]*event.PDU, len(ids))
	for _, e := range ids {
		if s := x.byID[e]; s != nil {
			found[e] = s.PDU
		}
	}
	return found, nil
}

// apply turns the result into a state of the graph.
func (x *resolution) apply(base *graph.State, conflicted map[event.Key][]id.EventID, resolved map[event.Key]id.EventID) (*graph.State, error) {
	changes := make([]graph.StateChange, 0, len(conflicted))
	for k := range conflicted {
		if _, ok := resolved[k]; !ok {
			changes = append(changes, graph.StateChange{Key: k})
		}
	}
	for k, e := range resolved {
		stored := x.byID[e]
		if stored == nil {
			return nil, fmt.Errorf("room: state resolution chose %s, which is not stored", e)
		}
		if nid, _ := base.Get(k.Type, k.StateKey); nid != stored.NID {
			changes = append(changes, graph.ChangeOf(stored))
		}
	}
	return base.With(changes...), nil
}
