package view

import (
	"context"
	"math"
	"strconv"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

const (
	// maxReferences is how many references to an event are listed with it: the oldest.
	maxReferences = 100
	// maxLatest is how many of the newest events of a thread are looked at for one that the user may see and wants to.
	maxLatest = 100
)

// bundles are the aggregations of the children of events; most events have none.
type bundles map[id.EventID]bundle

// bundle is an m.relations object.
type bundle struct {
	json []byte
	// thread: it has something to say of a thread.
	thread bool
}

// bundler makes the bundles of events of one room for one user.
type bundler struct {
	view     *View
	to       Audience
	room     graph.RoomNID
	ignored  map[id.UserID]struct{}
	onlooker *onlooker
	known    map[id.EventID]*graph.Aggregate
	// children are the events that may be shown inside others, and that the user may see.
	children map[graph.EventNID]*graph.Event
	in       map[id.EventID]map[id.UserID]int64
	// latest are the bundles of the newest events of threads.
	latest bundles
	// inner is set for what is shown inside of other events: that can't have a thread.
	inner bool
}

// bundles returns the aggregations of the children of the events, which are of one room. State events have none.
//
// Spec: cs Aggregations of child events
func (v *View) bundles(ctx context.Context, to Audience, events []*graph.Event, inner bool) (bundles, error) {
	if len(events) == 0 {
		return nil, nil
	}
	ids := make([]id.EventID, 0, len(events))
	for _, e := range events {
		if !e.PDU.IsState() {
			ids = append(ids, e.PDU.ID())
		}
	}
	b := bundler{view: v, to: to, room: events[0].Room, inner: inner}
	var err error
	if b.known, err = v.cfg.Graph.Aggregates(ctx, b.room, ids); err != nil || len(b.known) == 0 {
		return nil, err
	}
	if b.ignored, err = v.cfg.Ignored(ctx, to.User); err != nil {
		return nil, err
	}
	if b.onlooker, err = v.onlooker(ctx, to.User, b.room); err != nil {
		return nil, err
	}
	if err := b.load(ctx, events); err != nil {
		return nil, err
	}
	made := make(bundles, len(b.known))
	for _, e := range events {
		if a := b.known[e.PDU.ID()]; a != nil && !e.PDU.IsState() {
			if x, err := b.bundle(ctx, e, a); err != nil {
				return nil, err
			} else if len(x.json) > len("{}") {
				made[e.PDU.ID()] = x
			}
		}
	}
	return made, nil
}

// load reads at once what the events need.
func (b *bundler) load(ctx context.Context, events []*graph.Event) error {
	var nids []graph.EventNID
	var roots []id.EventID
	for _, e := range events {
		a := b.known[e.PDU.ID()]
		if a == nil {
			continue
		}
		if nid := edit(e, a); nid != 0 {
			nids = append(nids, nid)
		}
		if b.hasThread(e, a) {
			nids = append(nids, a.Thread.Latest)
			roots = append(roots, e.PDU.ID())
		}
	}
	b.children = make(map[graph.EventNID]*graph.Event, len(nids))
	newest := make(map[graph.EventNID]bool, len(roots))
	for _, root := range roots {
		newest[b.known[root].Thread.Latest] = true
	}
	var latest []*graph.Event
	loaded, err := b.view.cfg.Graph.Events(ctx, b.room, nids)
	if err != nil {
		return err
	}
	for _, e := range loaded {
		shown, err := b.shows(ctx, e)
		if err != nil {
			return err
		}
		if shown {
			b.children[e.NID] = e
		}
		if shown && newest[e.NID] {
			latest = append(latest, e)
		}
	}
	if len(roots) == 0 {
		return nil
	}
	if b.latest, err = b.view.bundles(ctx, b.to, latest, true); err != nil {
		return err
	}
	users := []id.UserID{b.to.User}
	for u := range b.ignored {
		users = append(users, u)
	}
	b.in, err = b.view.cfg.Graph.InThreads(ctx, b.room, roots, users)
	return err
}

// shows reports whether a child counts for the user.
func (b *bundler) shows(ctx context.Context, e *graph.Event) (bool, error) {
	if ignores(b.ignored, e) {
		return false, nil
	}
	return b.onlooker.sees(ctx, e)
}

// edit returns the event that replaces another one, 0 for none.
//
// Spec: cs Validity of replacement events
func edit(e *graph.Event, a *graph.Aggregate) graph.EventNID {
	if e.Flags&graph.Redacted != 0 || e.PDU.IsState() {
		return 0
	}
	if to, ok := e.PDU.Relation(); ok && to.Type == event.Replaces {
		return 0
	}
	for _, x := range a.Edits {
		if x.Sender == e.PDU.Sender() && x.Type == e.PDU.Type() {
			return x.Event
		}
	}
	return 0
}

// hasThread reports whether the event is the root of a thread: what relates to another event can be none.
//
// Spec: cs Threading
func (b *bundler) hasThread(e *graph.Event, a *graph.Aggregate) bool {
	if a.Thread == nil || b.inner {
		return false
	}
	_, related := e.PDU.Relation()
	return !related
}

// bundle makes the m.relations object of an event.
func (b *bundler) bundle(ctx context.Context, e *graph.Event, a *graph.Aggregate) (x bundle, err error) {
	out := []byte{'{'}
	if edited := b.children[edit(e, a)]; edited != nil {
		to := b.to
		to.Bundle, to.Fields = false, nil
		if out, err = b.view.AppendEvent(ctx, append(out, `"m.replace":`...), to, edited); err != nil {
			return x, err
		}
	}
	if a.References > 0 {
		if out, err = b.appendReferences(ctx, out, e); err != nil {
			return x, err
		}
	}
	if b.hasThread(e, a) {
		before := len(out)
		if out, err = b.appendThread(ctx, out, e, a.Thread); err != nil {
			return x, err
		}
		x.thread = len(out) > before
	}
	x.json = append(out, '}')
	return x, nil
}

// appendReferences lists which events refer to an event.
//
// Deviates: cs Server-side aggregation of m.reference
func (b *bundler) appendReferences(ctx context.Context, out []byte, e *graph.Event) ([]byte, error) {
	g := b.view.cfg.Graph
	found, _, err := g.Children(ctx, b.room, e.PDU.ID(), event.References, graph.Range{After: math.MinInt64, Before: math.MaxInt64, Limit: maxReferences})
	if err != nil {
		return nil, err
	}
	nids := make([]graph.EventNID, len(found))
	for i, c := range found {
		nids[i] = c.Event
	}
	loaded, err := g.Events(ctx, b.room, nids)
	if err != nil {
		return nil, err
	}
	open := false
	for _, x := range loaded {
		shown, err := b.shows(ctx, x)
		if err != nil {
			return nil, err
		}
		if !shown {
			continue
		}
		if open {
			out = append(out, ',')
		} else {
			out = append(comma(out), `"m.reference":{"chunk":[`...)
		}
		open = true
		out = append(canon.AppendString(append(out, `{"event_id":`...), string(x.PDU.ID())), '}')
	}
	if open {
		out = append(out, `]}`...)
	}
	return out, nil
}

// comma separates the members of an object that has been begun.
func comma(out []byte) []byte {
	if len(out) > 1 {
		return append(out, ',')
	}
	return out
}

// appendThread appends what there is to say of a thread, nothing where the user may see, and wants to see, none of its events.
//
// Spec: cs Server-side aggregation of m.thread relationships
func (b *bundler) appendThread(ctx context.Context, out []byte, root *graph.Event, t *graph.Thread) ([]byte, error) {
	latest, inside := b.children[t.Latest], b.latest
	var err error
	if latest == nil {
		if latest, err = b.older(ctx, t); err != nil || latest == nil {
			return out, err
		}
		if inside, err = b.view.bundles(ctx, b.to, []*graph.Event{latest}, true); err != nil {
			return nil, err
		}
	}
	count := t.Count
	in := b.in[t.Root]
	for u := range b.ignored {
		if u != b.to.User {
			count -= in[u]
		}
	}
	took := root.PDU.Sender() == b.to.User || in[b.to.User] > 0
	out = append(comma(out), `"m.thread":{"latest_event":`...)
	to := b.to
	to.Fields = nil
	if out, err = b.view.appendWith(ctx, out, to, latest, inside); err != nil {
		return nil, err
	}
	out = strconv.AppendInt(append(out, `,"count":`...), max(1, count), 10)
	out = strconv.AppendBool(append(out, `,"current_user_participated":`...), took)
	return append(out, '}'), nil
}

// older looks for the newest event of a thread that counts for the user where the very newest does not; nil where there is none among the newest.
func (b *bundler) older(ctx context.Context, t *graph.Thread) (*graph.Event, error) {
	g := b.view.cfg.Graph
	found, _, err := g.Children(ctx, b.room, t.Root, event.InThread,
		graph.Range{After: math.MinInt64, Before: t.Ord, Backward: true, Limit: maxLatest})
	if err != nil {
		return nil, err
	}
	var nids []graph.EventNID
	for _, c := range found {
		nids = append(nids, c.Event)
	}
	loaded, err := g.Events(ctx, b.room, nids)
	if err != nil {
		return nil, err
	}
	for _, e := range loaded {
		if shown, err := b.shows(ctx, e); err != nil || shown {
			return e, err
		}
	}
	return nil, nil
}
