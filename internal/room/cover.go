package room

import (
	"sync"

	"github.com/maypok86/otter/v2"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// State resolution asks about an event that only some of the conflicting states have in their auth chains: is it in the chain of an event
// that they share? That many events are shared as the room has members, so they are not walked if it can be helped.
//
// An event is stored after everything in its auth chain. What was in the room's state when the event in question arrived was stored
// before it, and has it in no chain. Only what has become state since must be walked, down to what is older than the event.
//
// This says nothing of outliers, and of events that were some once: others may have cited them before they arrived. For them all the state is
// walked, and the finding is kept: who has the event in its chain, or in which state nobody had.

// coverage is what is known of one room. Auth chains never change.
type coverage struct {
	mu    sync.Mutex // guards found
	found map[id.EventID]finding
}

// finding says who has an event in its auth chain.
type finding struct {
	// witness stood under key in some state of the room; 0 if nobody in the state had the event in its chain.
	key     event.Key
	witness graph.EventNID
	state   *graph.State
}

const (
	// maxFindings bounds what is known of one room.
	maxFindings = 256
	// maxCoverage bounds the states that are kept for findings, in bytes.
	maxCoverage = 64 << 20
	// maxMoved is how much a state may have changed since a finding for it to be of use.
	maxMoved = 5000
)

func newCoverages() *otter.Cache[graph.RoomNID, *coverage] {
	return otter.Must(&otter.Options[graph.RoomNID, *coverage]{
		MaximumWeight: maxCoverage,
		// Most states hold less than a kilobyte beyond what they share with others.
		Weigher: func(graph.RoomNID, *coverage) uint32 { return maxFindings << 10 },
	})
}

// covered returns those of the events that are in the auth chain of an event which all states to resolve share.
func (x *resolution) covered(candidates []id.EventID) ([]id.EventID, error) {
	if _, err := x.events(candidates); err != nil {
		return nil, err
	}
	wanted, others := make(map[id.EventID]bool), make(map[id.EventID]bool)
	var first *graph.Event
	for _, c := range candidates {
		e := x.byID[c]
		switch {
		case e == nil:
			continue
		case !live(e):
			others[c] = true
			continue
		case first == nil || e.Pos < first.Pos:
			first = e
		}
		wanted[c] = true
	}
	found := make(map[id.EventID]bool)
	if first != nil {
		then, err := x.graph.StateAt(x.ctx, x.room, first.HeadState)
		if err != nil {
			return nil, err
		}
		w := x.walk(wanted)
		w.old = func(e *graph.Event) bool { return e.Pos != 0 && e.Pos < first.Pos }
		shared, _, err := x.moved(then)
		if err != nil {
			return nil, err
		}
		if err := w.from(shared); err != nil {
			return nil, err
		}
		for c := range w.reached {
			found[c] = true
		}
	}
	if len(others) > 0 {
		if err := x.recall(others, found); err != nil {
			return nil, err
		}
	}
	out := make([]id.EventID, 0, len(found))
	for c := range found {
		out = append(out, c)
	}
	return out, nil
}

// live reports whether nobody knew of an event before it arrived.
func live(e *graph.Event) bool {
	return e.Pos != 0 && e.HeadState != 0 && e.Flags&(graph.Outlier|graph.Backfilled|graph.Known) == 0
}

// moved returns the events that are in the states to resolve and were not in an older one: those that all share, and others.
func (x *resolution) moved(then *graph.State) (shared, conflicted []*graph.Event, err error) {
	var in, out []graph.EventNID
	for d := range graph.Diff(then, x.base) {
		if d.New == 0 {
			continue
		}
		if x.conflicted[d.Key] == nil {
			in = append(in, d.New)
		} else {
			out = append(out, d.New)
		}
	}
	return x.both(in, out)
}

func (x *resolution) both(in, out []graph.EventNID) (shared, conflicted []*graph.Event, err error) {
	if err := x.load(in); err != nil {
		return nil, nil, err
	}
	if err := x.load(out); err != nil {
		return nil, nil, err
	}
	return x.named(in), x.named(out), nil
}

func (x *resolution) named(nids []graph.EventNID) []*graph.Event {
	events := make([]*graph.Event, len(nids))
	for i, n := range nids {
		events[i] = x.byNID[n]
	}
	return events
}

// recall answers about events of which anything may be stored earlier or later, from memory where it can.
func (x *resolution) recall(wanted, found map[id.EventID]bool) error {
	known, _ := x.coverages.ComputeIfAbsent(x.room, func() (*coverage, bool) {
		return &coverage{found: make(map[id.EventID]finding)}, false
	})
	known.mu.Lock()
	x.locked = true // whoever has a slot may wait for the same room's coverage
	defer func() {
		x.locked = false
		known.mu.Unlock()
	}()
	open, unseen := make(map[id.EventID]bool), make(map[*graph.State]map[id.EventID]bool)
	for c := range wanted {
		f, ok := known.found[c]
		nid, _ := x.base.Get(f.key.Type, f.key.StateKey)
		switch {
		case ok && f.witness != 0 && nid == f.witness && x.conflicted[f.key] == nil:
			found[c] = true
		case ok && f.witness == 0:
			if unseen[f.state] == nil {
				unseen[f.state] = make(map[id.EventID]bool)
			}
			unseen[f.state][c] = true
		default:
			open[c] = true
		}
	}
	for then, of := range unseen {
		shared, conflicted, err := x.moved(then)
		if err != nil {
			return err
		}
		if len(shared)+len(conflicted) > maxMoved {
			for c := range of {
				open[c] = true
			}
			continue
		}
		if err := x.find(of, shared, conflicted, known, found, then); err != nil {
			return err
		}
	}
	if len(open) == 0 {
		return nil
	}
	var in, out []graph.EventNID
	for key, nid := range x.base.All() {
		if x.conflicted[key] == nil {
			in = append(in, nid)
		} else {
			out = append(out, nid)
		}
	}
	shared, conflicted, err := x.both(in, out)
	if err != nil {
		return err
	}
	return x.find(open, shared, conflicted, known, found, x.base)
}

// find walks the chains of events and writes down what it finds; of what it finds in no chain, that this is so in a state.
func (x *resolution) find(of map[id.EventID]bool, shared, conflicted []*graph.Event, known *coverage, found map[id.EventID]bool, state *graph.State) error {
	w := x.walk(of)
	if err := w.from(shared); err != nil {
		return err
	}
	for c, by := range w.reached {
		found[c] = true
		known.put(c, finding{key: by.PDU.Key(), witness: by.NID})
	}
	clear(w.reached)
	if err := w.from(conflicted); err != nil {
		return err
	}
	for c := range of {
		switch {
		case found[c]:
		case w.reached[c] != nil:
			delete(known.found, c) // who knows what will be shared next time
		default:
			known.put(c, finding{state: state})
		}
	}
	return nil
}

// put notes a finding. It is called with mu held.
func (c *coverage) put(e id.EventID, f finding) {
	if _, ok := c.found[e]; !ok && len(c.found) >= maxFindings {
		clear(c.found)
	}
	c.found[e] = f
}

// chainWalk looks for events in auth chains. No chain leads in a circle, though servers may choose IDs: an event is stored after those that it cites.
type chainWalk struct {
	x      *resolution
	wanted map[id.EventID]bool
	seen   map[id.EventID]bool
	// reached are the events that were found, with one of those from which a chain leads to each.
	reached map[id.EventID]*graph.Event
	// old reports of an event that nothing wanted can be in its chain; nil for none.
	old func(*graph.Event) bool
}

func (x *resolution) walk(wanted map[id.EventID]bool) *chainWalk {
	return &chainWalk{x: x, wanted: wanted, seen: make(map[id.EventID]bool), reached: make(map[id.EventID]*graph.Event)}
}

// waypoint is an event on the way, and where the way began.
type waypoint struct {
	event, start *graph.Event
}

// from walks the chains of events, a step of all of them at a time.
func (w *chainWalk) from(events []*graph.Event) error {
	wave := make([]waypoint, 0, len(events))
	for _, e := range events {
		if e != nil && (w.old == nil || !w.old(e)) {
			wave = append(wave, waypoint{e, e})
		}
	}
	for len(wave) > 0 && len(w.reached) < len(w.wanted) {
		starts := make(map[id.EventID]*graph.Event)
		var next []id.EventID
		for _, at := range wave {
			for _, a := range at.event.PDU.AuthEvents() {
				if w.seen[a] {
					continue
				}
				w.seen[a] = true
				if w.wanted[a] {
					w.reached[a] = at.start
				}
				starts[a] = at.start
				next = append(next, a)
			}
		}
		if _, err := w.x.events(next); err != nil {
			return err
		}
		wave = wave[:0]
		for _, a := range next {
			if e := w.x.byID[a]; e != nil && (w.old == nil || !w.old(e)) {
				wave = append(wave, waypoint{e, starts[a]})
			}
		}
	}
	return nil
}
