package syncer

import (
	"context"
	"slices"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

const memberType = "m.room.member"

// roomState works out what one answer says of one room's state.
type roomState struct {
	a *answer
	v *visit
	t *timeline
	// full: the client is told the whole state. Otherwise it knows base.
	full bool
	// based: the client knows base, also where it is told the whole state.
	based bool
	base  graph.StateNID
	end   graph.StateNID

	keys    map[event.Key]*graph.Event // state events in the timeline
	changes []graph.StateDiff          // from base to end
	// lazily loaded
	endState, startState *graph.State

	nids []graph.EventNID
	have map[event.Key]bool
}

// state returns the state events to send beside a timeline.
//
// Spec: cs sync
func (r *roomState) state(ctx context.Context) ([]*graph.Event, error) {
	r.keys, r.have = r.t.keys(), make(map[event.Key]bool)
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	if !r.a.q.Filter.Room.State.MatchRoom(r.v.row.RoomID) {
		return nil, nil
	}
	collect := r.collectChanges
	if r.full {
		collect = r.collectAll
	}
	if err := collect(ctx); err != nil {
		return nil, err
	}
	if err := r.collectConfirmed(ctx); err != nil {
		return nil, err
	}
	if r.lazy() {
		if err := r.collectMembers(ctx); err != nil {
			return nil, err
		}
	}
	slices.Sort(r.nids) // about the order in which they came
	events, err := r.a.s.cfg.Graph.Events(ctx, r.v.row.Room, r.nids)
	if err != nil {
		return nil, err
	}
	events = slices.DeleteFunc(events, func(e *graph.Event) bool { return !r.a.q.Filter.Room.State.MatchEvent(e.PDU) })
	if r.lazy() {
		r.a.s.lazy.told(r.a, r.v.row.Room, events)
		r.a.s.lazy.told(r.a, r.v.row.Room, r.t.events)
	}
	return events, nil
}

func (r *roomState) lazy() bool { return r.a.q.Filter.Room.State.LazyLoadMembers }

func (r *roomState) after() bool { return r.a.q.Mode != StateBefore }

func (r *roomState) atEnd(ctx context.Context) (*graph.State, error) {
	var err error
	if r.endState == nil {
		r.endState, err = r.a.s.cfg.Graph.StateAt(ctx, r.v.row.Room, r.end)
	}
	return r.endState, err
}

// atStart returns the state before the timeline's first event.
func (r *roomState) atStart(ctx context.Context) (*graph.State, error) {
	if r.startState != nil {
		return r.startState, nil
	}
	nid, err := r.startNID(ctx)
	if err != nil {
		return nil, err
	}
	r.startState, err = r.a.s.cfg.Graph.StateAt(ctx, r.v.row.Room, nid)
	return r.startState, err
}

func (r *roomState) startNID(ctx context.Context) (graph.StateNID, error) {
	if len(r.t.events) == 0 {
		return r.end, nil
	}
	switch first := r.t.events[0]; {
	case first.HeadBefore != 0 || first.PDU.Type() == "m.room.create":
		return first.HeadBefore, nil
	case r.t.before != nil:
		return r.t.before.HeadState, nil
	default:
		return r.a.s.cfg.Graph.HeadStateAt(ctx, r.v.row.Room, first.Pos-1)
	}
}

// settle looks for state events in the timeline that did not prevail: clients without state_after would take them for
// the room's state.
func (r *roomState) settle(ctx context.Context) error {
	if r.after() || len(r.keys) == 0 {
		return nil
	}
	end, err := r.atEnd(ctx)
	if err != nil {
		return err
	}
	var from sqldb.Pos
	cut := 0
	for i, e := range r.t.events {
		if !e.PDU.IsState() || r.keys[e.PDU.Key()] != e {
			continue
		}
		key := e.PDU.Key()
		if nid, _ := end.Get(key.Type, key.StateKey); nid != e.NID {
			cut = i + 1
			if from == 0 {
				from = e.Pos - 1
			}
		}
	}
	switch {
	case cut == 0:
	case r.full || r.t.limited:
		r.t.cut(cut)
		r.keys = r.t.keys()
	default:
		r.a.confirmFrom(max(1, from))
	}
	return nil
}

func (r *roomState) add(key event.Key, nid graph.EventNID) {
	if nid == 0 || r.have[key] || !r.a.q.Filter.Room.State.MatchType(key.Type) {
		return
	}
	r.have[key] = true
	r.nids = append(r.nids, nid)
}

// collectAll collects the whole state; with lazy loading, without members.
func (r *roomState) collectAll(ctx context.Context) error {
	end, err := r.atEnd(ctx)
	if err != nil {
		return err
	}
	lazy, after := r.lazy(), r.after()
	for key, nid := range end.All() {
		if lazy && key.Type == memberType || !after && r.keys[key] != nil {
			continue
		}
		r.add(key, nid)
	}
	return r.collectShown(ctx, func(key event.Key) bool { return !lazy || key.Type != memberType })
}

// collectShown collects what stood before the timeline under the keys that it shows.
func (r *roomState) collectShown(ctx context.Context, want func(event.Key) bool) error {
	if r.after() || len(r.keys) == 0 {
		return nil
	}
	start, err := r.atStart(ctx)
	if err != nil {
		return err
	}
	for key := range r.keys {
		if want(key) {
			nid, _ := start.Get(key.Type, key.StateKey)
			r.add(key, nid)
		}
	}
	return nil
}

// collectChanges collects what the client has to be told besides the timeline.
func (r *roomState) collectChanges(ctx context.Context) error {
	var err error
	if r.changes, err = r.a.s.cfg.Graph.StateDiff(ctx, r.v.row.Room, r.base, r.end); err != nil {
		return err
	}
	for _, c := range r.changes {
		if r.after() || r.keys[c.Key] == nil {
			r.add(c.Key, c.New)
		}
	}
	if r.after() || len(r.keys) == 0 {
		return nil
	}
	start, err := r.startNID(ctx)
	if err != nil || start == r.base {
		return err
	}
	changes, err := r.a.s.cfg.Graph.StateDiff(ctx, r.v.row.Room, r.base, start)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if r.keys[c.Key] != nil {
			r.add(c.Key, c.New)
		}
	}
	return nil
}

// collectConfirmed collects what the token asks to confirm and the timeline doesn't show.
func (r *roomState) collectConfirmed(ctx context.Context) error {
	keys := r.a.confirm[r.v.row.Room]
	if len(keys) == 0 {
		return nil
	}
	end, err := r.atEnd(ctx)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if r.after() || r.keys[key] == nil {
			nid, _ := end.Get(key.Type, key.StateKey)
			r.add(key, nid)
		}
	}
	return nil
}

// collectMembers collects the members that lazy loading wants: who sent the events of the timeline, in a full state
// the user too, and who the room may be named after.
//
// Spec: cs Lazy-loading room members
func (r *roomState) collectMembers(ctx context.Context) error {
	renamed := r.full || r.renamed()
	if !renamed && len(r.t.events) == 0 {
		return nil
	}
	end, err := r.atEnd(ctx)
	if err != nil {
		return err
	}
	var users []id.UserID
	if r.full {
		if err := r.addMember(ctx, end, r.a.q.User, true); err != nil {
			return err
		}
	}
	if r.full && r.based {
		// The whole state leaves members out, but not those who changed.
		changes, err := r.a.s.cfg.Graph.StateDiff(ctx, r.v.row.Room, r.base, r.end)
		if err != nil {
			return err
		}
		for _, c := range changes {
			if c.Key.Type != memberType {
				continue
			}
			if err := r.addMember(ctx, end, id.UserID(c.Key.StateKey), true); err != nil {
				return err
			}
		}
	}
	if renamed {
		if users, err = r.shownHeroes(ctx, end); err != nil {
			return err
		}
	}
	for _, e := range r.t.events {
		users = append(users, e.PDU.Sender())
	}
	for _, user := range users {
		if err := r.addMember(ctx, end, user, false); err != nil {
			return err
		}
	}
	return nil
}

// addMember adds the member event of a user, unless the device knows it and always is false.
func (r *roomState) addMember(ctx context.Context, end *graph.State, user id.UserID, always bool) error {
	key := event.Key{Type: memberType, StateKey: string(user)}
	if r.have[key] {
		return nil
	}
	state := end
	if !r.after() && r.keys[key] != nil {
		start, err := r.atStart(ctx)
		if err != nil {
			return err
		}
		state = start
	}
	nid, _ := state.Get(key.Type, key.StateKey)
	if !always && !r.a.q.Filter.Room.State.IncludeRedundantMembers && r.a.s.lazy.knows(r.a, r.v.row.Room, user, nid) {
		return nil
	}
	r.add(key, nid)
	return nil
}
