package stateres

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"
	"strings"

	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
)

var (
	createKey      = event.Key{Type: "m.room.create"}
	powerLevelsKey = event.Key{Type: "m.room.power_levels"}
	joinRulesKey   = event.Key{Type: "m.room.join_rules"}
)

// isPower reports whether an event might take away somebody's ability to do something.
//
// Deviates: rooms/v2 Definitions (see the package comment)
//
// Spec: rooms/v2 Definitions
func isPower(p *event.PDU) bool {
	if !p.IsState() {
		return false
	}
	switch key := p.Key(); key.Type {
	case powerLevelsKey.Type, joinRulesKey.Type:
		return key.StateKey == ""
	case "m.room.member":
		m := p.Membership()
		return (m == "leave" || m == "ban") && key.StateKey != string(p.Sender())
	}
	return false
}

// ranked is an event with what the reverse topological power ordering compares.
type ranked struct {
	node  int32
	power eventauth.Power
	ts    int64
	id    id.EventID
	// waits counts the auth events that must come first.
	waits int32
	// children are events that have this one in their auth events.
	children []int32
}

func (a *ranked) compare(b *ranked) int {
	if c := cmp.Compare(b.power, a.power); c != 0 {
		return c
	}
	if c := cmp.Compare(a.ts, b.ts); c != 0 {
		return c
	}
	return strings.Compare(string(a.id), string(b.id))
}

// rankHeap holds indexes into events, the smallest event first.
type rankHeap struct {
	events []ranked
	list   []int32
}

func (h *rankHeap) Len() int           { return len(h.list) }
func (h *rankHeap) Less(i, j int) bool { return h.events[h.list[i]].compare(&h.events[h.list[j]]) < 0 }
func (h *rankHeap) Swap(i, j int)      { h.list[i], h.list[j] = h.list[j], h.list[i] }
func (h *rankHeap) Push(x any)         { h.list = append(h.list, x.(int32)) }
func (h *rankHeap) Pop() any {
	last := len(h.list) - 1
	x := h.list[last]
	h.list = h.list[:last]
	return x
}

// powerOrder sorts linked nodes by the reverse topological power ordering.
//
// Spec: rooms/v2 Definitions
func (r *resolution) powerOrder(list []int32) []int32 {
	h := &rankHeap{events: make([]ranked, len(list))}
	place := make(map[int32]int32, len(list))
	levels := make(map[[2]int32]eventauth.Levels)
	for i, n := range list {
		p := r.nodes[n].pdu
		h.events[i] = ranked{node: n, power: r.senderPower(n, levels), ts: p.OriginServerTS(), id: p.ID()}
		place[n] = int32(i)
	}
	for i, n := range list {
		for _, m := range r.nodes[n].auth {
			if parent, ok := place[m]; ok {
				h.events[i].waits++
				h.events[parent].children = append(h.events[parent].children, int32(i))
			}
		}
	}
	for i := range h.events {
		if h.events[i].waits == 0 {
			h.list = append(h.list, int32(i))
		}
	}
	heap.Init(h)
	order := make([]int32, 0, len(list))
	for h.Len() > 0 {
		at := &h.events[heap.Pop(h).(int32)]
		order = append(order, at.node)
		for _, c := range at.children {
			if h.events[c].waits--; h.events[c].waits == 0 {
				heap.Push(h, c)
			}
		}
	}
	return order
}

// senderPower is the level of an event's sender by the event's own auth events. levels keeps what
// was read, by create and power levels event.
func (r *resolution) senderPower(n int32, levels map[[2]int32]eventauth.Levels) eventauth.Power {
	at := &r.nodes[n]
	source := [2]int32{r.create, -1}
	for _, m := range at.auth {
		switch a := r.nodes[m].pdu; {
		case !a.IsState():
		case a.Key() == createKey && r.create < 0:
			source[0] = m
		case a.Key() == powerLevelsKey:
			source[1] = m
		}
	}
	l, ok := levels[source]
	if !ok {
		l = eventauth.PowerLevels(r.in.Version, r.pduOf(source[0]), r.pduOf(source[1]))
		levels[source] = l
	}
	return l.User(at.pdu.Sender())
}

// pduOf returns a node's event, nil for -1.
func (r *resolution) pduOf(n int32) *event.PDU {
	if n < 0 {
		return nil
	}
	return r.nodes[n].pdu
}

// nowhere is the mainline position of events that have nothing of the mainline above them.
const nowhere = math.MaxInt32

// mainline finds positions on the mainline of a power levels event. It goes back no further than
// it is asked to.
type mainline struct {
	*resolution
	// tip is the last event of the mainline found so far, -1 when there is no further one.
	tip int32
	// length is the number of events found, position their index.
	length   int32
	position map[int32]int32
}

// mainlineOrder sorts linked nodes by the mainline ordering based on the power levels event, or -1.
//
// Spec: rooms/v2 Definitions
func (r *resolution) mainlineOrder(list []int32, powerLevels int32) ([]int32, error) {
	m := &mainline{resolution: r, tip: powerLevels, position: make(map[int32]int32)}
	if powerLevels >= 0 {
		m.position[powerLevels], m.length = 0, 1
	}
	if err := r.linkParents(list); err != nil {
		return nil, err
	}
	positions := make(map[int32]int32, len(list))
	for _, n := range list {
		at, err := m.of(n)
		if err != nil {
			return nil, err
		}
		positions[n] = at
	}
	order := slices.Clone(list)
	slices.SortFunc(order, func(x, y int32) int {
		if c := cmp.Compare(positions[y], positions[x]); c != 0 {
			return c
		}
		a, b := r.nodes[x].pdu, r.nodes[y].pdu
		if c := cmp.Compare(a.OriginServerTS(), b.OriginServerTS()); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID()), string(b.ID()))
	})
	return order, nil
}

// linkParents links the power levels events that the nodes refer to, in one batch.
func (r *resolution) linkParents(list []int32) error {
	var parents []int32
	for _, n := range list {
		if p := r.powerParent(n); p >= 0 {
			parents = append(parents, p)
		}
	}
	return r.link(parents)
}

// powerParent returns the power levels event among the auth events of a linked node, or -1.
func (r *resolution) powerParent(n int32) int32 {
	for _, m := range r.nodes[n].auth {
		if p := r.nodes[m].pdu; p.IsState() && p.Key() == powerLevelsKey {
			return m
		}
	}
	return -1
}

// parent links a node and returns its powerParent.
func (m *mainline) parent(n int32) (int32, error) {
	if err := m.link([]int32{n}); err != nil {
		return -1, err
	}
	return m.powerParent(n), nil
}

// of returns the mainline position of a node: that of the first event of the mainline on its own
// line of power levels events.
func (m *mainline) of(n int32) (int32, error) {
	var line []int32
	at, found := m.powerParent(n), int32(nowhere)
	for at >= 0 {
		i, known, err := m.find(at)
		if err != nil {
			return 0, err
		}
		if known {
			found = i
			break
		}
		line = append(line, at)
		if len(line) > len(m.nodes) {
			return 0, fmt.Errorf("%w: %s", errCycle, m.nodes[at].pdu.ID())
		}
		if at, err = m.parent(at); err != nil {
			return 0, err
		}
	}
	// The events passed share the result.
	for _, passed := range line {
		m.position[passed] = found
	}
	return found, nil
}

// find says where a power levels event leads: its own place on the mainline, or what of found for
// an event before. It extends the mainline until the event would have come.
func (m *mainline) find(n int32) (int32, bool, error) {
	for {
		if i, ok := m.position[n]; ok {
			return i, true, nil
		}
		if m.tip < 0 || m.in.Generation != nil && m.nodes[m.tip].gen <= m.nodes[n].gen {
			return 0, false, nil
		}
		next, err := m.parent(m.tip)
		if err != nil {
			return 0, false, err
		}
		if next >= 0 {
			if at, ok := m.position[next]; ok && at < m.length {
				return 0, false, fmt.Errorf("%w: %s", errCycle, m.nodes[next].pdu.ID())
			}
			m.position[next] = m.length
			m.length++
		}
		m.tip = next
	}
}
