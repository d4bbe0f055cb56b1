package graph

import (
	"slices"
	"sync"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
)

const (
	tailEvents = 4096    // events in the tail at most
	tailBytes  = 8 << 20 // of their PDUs
)

// tail is the end of the stream in memory: the visible live events that this node committed last. Those who follow the stream read the
// same few hundred events one after the other, moments after they were written. It holds nothing of the time before another node wrote.
type tail struct {
	mu     sync.Mutex // guards all below
	to     sqldb.Pos  // recent has all such events up to here
	recent bus.Recent[*Event]
	bytes  int // of the PDUs in recent, and of some that were forgotten
}

func newTail() tail { return tail{recent: bus.Recent[*Event]{Max: tailEvents}} }

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
	t.recent.Restart(at)
	t.to, t.bytes = max(t.to, at), 0
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
		t.without(e.Pruned, e.Pos-1)
		t.recent.Add(e.Pos, e)
		if t.bytes += len(e.PDU.Raw()); t.bytes > tailBytes {
			t.halve()
		}
	}
	t.to = r.To
}

// halve forgets the older half of the events, and counts the bytes of the others: some may have been forgotten for another reason. Caller holds mu.
func (t *tail) halve() {
	t.recent.Cut(len(t.recent.All()) / 2)
	t.bytes = 0
	for _, item := range t.recent.All() {
		t.bytes += len(item.What.PDU.Raw())
	}
}

// drop forgets events whose rows changed, and those before them.
func (t *tail) drop(changed []EventNID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.without(changed, t.to)
}

// without is drop for whoever holds mu, where the events up to a position are here.
func (t *tail) without(changed []EventNID, at sqldb.Pos) {
	if len(changed) == 0 {
		return
	}
	if len(changed) > 16 {
		t.restart(at)
		return
	}
	events := t.recent.All()
	for i := len(events) - 1; i >= 0; i-- {
		if slices.Contains(changed, events[i].What.NID) {
			t.recent.Cut(i + 1)
			return
		}
	}
}

// since returns the events at positions after from, up to to, at most limit of them; false if some may not be in memory.
func (t *tail) since(from, to sqldb.Pos, limit int) ([]*Event, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, ok := t.recent.Between(from, to)
	if !ok || to > t.to {
		return nil, false
	}
	found = found[:min(limit, len(found))]
	events := make([]*Event, len(found))
	for i, item := range found {
		events[i] = item.What
	}
	return events, true
}
