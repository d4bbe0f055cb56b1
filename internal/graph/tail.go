package graph

import (
	"slices"
	"sync"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
)

const (
	tailEvents = 4096    // events in the tail at most
	tailBytes  = 4 << 20 // of their PDUs
)

// tail is the end of the stream in memory: the visible live events that this node committed last. Those who follow the stream read the
// same few hundred events one after the other, moments after they were written. It holds nothing of the time before another node wrote.
type tail struct {
	mu       sync.Mutex // guards all below
	from, to sqldb.Pos  // events holds all visible live events at the positions after from, up to to
	events   []*Event   // in order
	bytes    int
}

// begin starts at a position unless the bus told of later ones already.
func (t *tail) begin(at sqldb.Pos) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at > t.to {
		t.restart(at)
	}
}

// forget drops all events.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.restart(t.to)
}

// restart makes the tail begin at a position. Caller holds mu.
func (t *tail) restart(at sqldb.Pos) {
	t.from, t.to, t.events, t.bytes = at, at, nil, 0
}

func (t *tail) hear(r bus.Range) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.Foreign || r.From != t.to {
		t.restart(r.To)
		return
	}
	for _, entry := range r.Entries {
		e, ok := entry.Data.(*Event)
		if !ok || entry.Kind != bus.RoomEvent || entry.Pos == 0 {
			continue
		}
		t.without(e.Pruned)
		t.events = append(t.events, e)
		t.bytes += len(e.PDU.Raw())
	}
	t.to = r.To
	if len(t.events) > tailEvents || t.bytes > tailBytes {
		t.cut(max(1, len(t.events)/2))
	}
}

// cut drops the first n events. Caller holds mu.
func (t *tail) cut(n int) {
	t.from = t.events[n-1].Pos
	t.events = slices.Clone(t.events[n:])
	t.bytes = 0
	for _, e := range t.events {
		t.bytes += len(e.PDU.Raw())
	}
}

// drop forgets events whose rows changed, and those before them.
func (t *tail) drop(changed []EventNID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.without(changed)
}

// without is drop for whoever holds mu.
func (t *tail) without(changed []EventNID) {
	if len(changed) == 0 {
		return
	}
	if len(changed) > 16 {
		t.restart(t.to)
		return
	}
	for i := len(t.events) - 1; i >= 0; i-- {
		if slices.Contains(changed, t.events[i].NID) {
			t.cut(i + 1)
			return
		}
	}
}

// since returns the events at positions after from, up to to, at most limit of them; false if some may not be in memory.
func (t *tail) since(from, to sqldb.Pos, limit int) ([]*Event, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if from < t.from || to > t.to {
		return nil, false
	}
	first, _ := slices.BinarySearchFunc(t.events, from+1, func(e *Event, at sqldb.Pos) int { return int(e.Pos - at) })
	last, _ := slices.BinarySearchFunc(t.events, to+1, func(e *Event, at sqldb.Pos) int { return int(e.Pos - at) })
	return slices.Clone(t.events[first:min(last, first+limit)]), true
}
