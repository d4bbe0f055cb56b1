package stateres

import (
	"maps"
	"slices"
	"strings"

	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// model is the algorithm of v2 and v2.1 written down as the specification has it, over complete
// states and complete chains, without a thought for cost.
type model struct {
	room     *testRoom
	rejected map[id.EventID]bool
	// letter takes the definitions to the letter where doc.go declares another reading.
	letter bool
	// quirks are departures from the specification that other implementations are known for.
	quirks quirk
	// check is the authorisation rules; nil means eventauth.
	check func(p *event.PDU, state Set) bool
	// both says which events are conflicted and in the auth difference.
	both map[id.EventID]bool
}

func (m *model) allows(p *event.PDU, state Set) bool {
	if m.check != nil {
		return m.check(p, state)
	}
	return eventauth.Check(p, m.room.at(state)) == nil
}

// resolve returns the complete resolved state.
func (m *model) resolve(sets []Set) Set {
	v21 := m.room.version.StateRes == roomver.StateResV21
	conflictedColumns, unconflicted := Split(sets)
	conflicted := map[id.EventID]bool{}
	for _, column := range conflictedColumns {
		for _, e := range column {
			if e != "" {
				conflicted[e] = true
			}
		}
	}
	chosen := maps.Clone(conflicted)
	difference := m.authDifference(sets, unconflicted)
	m.both = map[id.EventID]bool{}
	for e := range difference {
		m.both[e] = conflicted[e]
		chosen[e] = true
	}
	if v21 {
		for e := range m.subgraph(conflicted) {
			chosen[e] = true
		}
	}
	if len(conflicted) == 0 {
		return unconflicted
	}

	base := Set{}
	if !v21 {
		base = maps.Clone(unconflicted)
	}
	x := m.powerSet(chosen, conflicted)
	state := m.iterate(m.powerOrder(x, conflicted, unconflicted), base)
	var rest []id.EventID
	for e := range chosen {
		if !slices.Contains(x, e) {
			rest = append(rest, e)
		}
	}
	state = m.iterate(m.mainlineOrder(rest, state[powerLevelsKey]), state)
	maps.Copy(state, unconflicted)
	return state
}

func (m *model) chain(e id.EventID, into map[id.EventID]bool) {
	for _, a := range m.room.events[e].AuthEvents() {
		if !into[a] {
			into[a] = true
			m.chain(a, into)
		}
	}
}

func (m *model) authDifference(sets []Set, unconflicted Set) map[id.EventID]bool {
	union, count := map[id.EventID]bool{}, map[id.EventID]int{}
	for _, s := range sets {
		c := map[id.EventID]bool{}
		for _, e := range s {
			m.chain(e, c)
		}
		for e := range c {
			union[e] = true
			count[e]++
		}
	}
	maps.DeleteFunc(union, func(e id.EventID, _ bool) bool {
		p := m.room.events[e]
		return count[e] == len(sets) || !m.letter && unconflicted[p.Key()] == e
	})
	return union
}

func (m *model) subgraph(conflicted map[id.EventID]bool) map[id.EventID]bool {
	paths := map[id.EventID]bool{}
	below := map[id.EventID]bool{}
	for c := range conflicted {
		below[c] = true
		m.chain(c, below)
	}
	for e := range below {
		above := map[id.EventID]bool{e: true}
		m.chain(e, above)
		for c := range conflicted {
			if above[c] {
				paths[e] = true
			}
		}
	}
	return paths
}

// powerSet is X of step 1.
func (m *model) powerSet(chosen, conflicted map[id.EventID]bool) []id.EventID {
	within := chosen
	if m.quirks&enlargeByConflictedOnly != 0 {
		within = conflicted
	}
	x := map[id.EventID]bool{}
	var enlarge func(id.EventID)
	enlarge = func(e id.EventID) {
		for _, a := range m.room.events[e].AuthEvents() {
			if within[a] && !x[a] {
				x[a] = true
				enlarge(a)
			}
		}
	}
	for e := range chosen {
		if isPower(m.room.events[e]) {
			x[e] = true
			if m.letter {
				all := map[id.EventID]bool{}
				m.chain(e, all)
				for a := range all {
					if chosen[a] {
						x[a] = true
					}
				}
				continue
			}
			enlarge(e)
		}
	}
	return slices.Collect(maps.Keys(x))
}

func (m *model) senderPower(e id.EventID, unconflicted Set) eventauth.Power {
	p := m.room.events[e]
	create := m.room.at(unconflicted)("m.room.create", "")
	if !m.room.version.CreateAsRoomID {
		create = nil
	}
	var levels *event.PDU
	for _, a := range p.AuthEvents() {
		switch q := m.room.events[a]; q.Key() {
		case createKey:
			create = q
		case powerLevelsKey:
			levels = q
		}
	}
	if levels == nil && m.quirks&noLevelsNoPower != 0 {
		return 0
	}
	return eventauth.PowerLevels(m.room.version, create, levels).User(p.Sender())
}

func (m *model) powerOrder(x []id.EventID, conflicted map[id.EventID]bool, unconflicted Set) []id.EventID {
	power := map[id.EventID]eventauth.Power{}
	for _, e := range x {
		power[e] = m.senderPower(e, unconflicted)
	}
	smaller := func(a, b id.EventID) bool {
		p, q := m.room.events[a], m.room.events[b]
		switch {
		case power[a] != power[b]:
			return power[a] > power[b]
		case p.OriginServerTS() != q.OriginServerTS():
			return p.OriginServerTS() < q.OriginServerTS()
		}
		return a < b
	}
	if m.quirks&orderFromTheEnd != 0 {
		return m.orderFromTheEnd(x, conflicted, smaller)
	}
	left := slices.Clone(x)
	var order []id.EventID
	for len(left) > 0 {
		best := -1
		for i, e := range left {
			ready := true
			for _, a := range m.room.events[e].AuthEvents() {
				ready = ready && !slices.Contains(left, a)
			}
			if ready && (best < 0 || smaller(e, left[best])) {
				best = i
			}
		}
		order = append(order, left[best])
		left = slices.Delete(left, best, best+1)
	}
	return order
}

func (m *model) mainlineOrder(list []id.EventID, levels id.EventID) []id.EventID {
	parent := func(e id.EventID) id.EventID {
		for _, a := range m.room.events[e].AuthEvents() {
			if m.room.events[a].Key() == powerLevelsKey {
				return a
			}
		}
		return ""
	}
	position := map[id.EventID]int{}
	for e := levels; e != ""; e = parent(e) {
		position[e] = len(position)
	}
	type place struct{ at, steps int }
	places := map[id.EventID]place{}
	for _, e := range list {
		p := place{at: 1 << 30}
		if m.quirks&nowhereIsTheEnd != 0 {
			p.at = len(position) - 1
		}
		for l := parent(e); l != ""; l = parent(l) {
			if i, ok := position[l]; ok {
				p.at = i
				break
			}
			p.steps++
		}
		if m.quirks&countSteps == 0 {
			p.steps = 0
		}
		places[e] = p
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b id.EventID) int {
		p, q := m.room.events[a], m.room.events[b]
		switch {
		case places[a].at != places[b].at:
			return places[b].at - places[a].at
		case places[a].steps != places[b].steps:
			return places[a].steps - places[b].steps
		case p.OriginServerTS() != q.OriginServerTS():
			return int(p.OriginServerTS() - q.OriginServerTS())
		}
		return strings.Compare(string(a), string(b))
	})
	return list
}

func (m *model) iterate(list []id.EventID, base Set) Set {
	state := maps.Clone(base)
	var left sticky
	for _, e := range list {
		p := m.room.events[e]
		if _, ok := state[createKey]; !ok && m.quirks&noImpliedCreate != 0 && m.room.version.CreateAsRoomID && p.Type() != "m.room.create" {
			continue
		}
		view := maps.Clone(state)
		if m.quirks&noStandIns != 0 {
			view = m.itselfAsStandIn(p, state)
		} else {
			for _, a := range p.AuthEvents() {
				q := m.room.events[a]
				if _, ok := view[q.Key()]; !ok && !m.rejected[a] {
					view[q.Key()] = a
				}
			}
		}
		if m.quirks&restrictedSticks != 0 {
			view = m.stick(&left, p, view)
		}
		if m.allows(p, view) {
			state[p.Key()] = e
		}
	}
	return state
}
