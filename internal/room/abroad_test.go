package room_test

import (
	"fmt"
	"maps"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// abroad is a room that lives on another server, of which this one learns only what a test tells it.
type abroad struct {
	tb      testing.TB
	version *roomver.Version
	room    id.RoomID
	key     sign.Key
	// all are the events in the order in which they were made; after holds the state after each.
	all   []*event.PDU
	after map[id.EventID]map[event.Key]*event.PDU
	count int
}

// newAbroad begins a room that erin made and everybody may join.
func newAbroad(tb testing.TB, version string) *abroad {
	tb.Helper()
	v, ok := roomver.Get(version)
	if !ok {
		tb.Fatalf("no version %s", version)
	}
	k, err := sign.FromSeed("ed25519:1", []byte("77777777777777777777777777777777"))
	if err != nil {
		tb.Fatal(err)
	}
	a := &abroad{tb: tb, version: v, key: k, after: map[id.EventID]map[event.Key]*event.PDU{}}
	if !v.CreateAsRoomID {
		a.room = "!abroad:there.example"
	}
	a.state(erin, "m.room.create", "", fmt.Sprintf(`{"creator":%q,"room_version":%q}`, erin, v.ID))
	a.room = a.all[0].RoomID()
	a.state(erin, "m.room.member", string(erin), joinContent)
	a.state(erin, "m.room.power_levels", "", a.levels(`{}`))
	a.state(erin, "m.room.join_rules", "", `{"join_rule":"public"}`)
	return a
}

// levels makes the content of power levels in which erin may do everything.
func (a *abroad) levels(others string) string {
	users := others
	if !a.version.PrivilegedCreators {
		users = fmt.Sprintf(`{%q:100,%s`, erin, others[1:])
		if others == "{}" {
			users = fmt.Sprintf(`{%q:100}`, erin)
		}
	}
	return fmt.Sprintf(`{"users":%s,"state_default":50}`, users)
}

// tip is the newest event.
func (a *abroad) tip() *event.PDU { return a.all[len(a.all)-1] }

// state adds a state event after the newest.
func (a *abroad) state(sender id.UserID, typ, stateKey, content string, prev ...*event.PDU) *event.PDU {
	return a.add(event.Draft{Type: typ, StateKey: &stateKey, Sender: sender, Content: []byte(content)}, prev...)
}

// say adds a message after the newest event, or after others.
func (a *abroad) say(sender id.UserID, body string, prev ...*event.PDU) *event.PDU {
	return a.add(event.Draft{Type: "m.room.message", Sender: sender, Content: fmt.Appendf(nil, `{"body":%q}`, body)}, prev...)
}

// add makes an event after the newest or after others; the first of these has the state.
func (a *abroad) add(d event.Draft, prev ...*event.PDU) *event.PDU {
	a.tb.Helper()
	if len(prev) == 0 && len(a.all) > 0 {
		prev = []*event.PDU{a.tip()}
	}
	var state map[event.Key]*event.PDU
	if len(prev) > 0 {
		state = a.after[prev[0].ID()]
	}
	p := a.build(d, state, prev...)
	if p.IsState() {
		state = maps.Clone(state)
		if state == nil {
			state = map[event.Key]*event.PDU{}
		}
		state[p.Key()] = p
	}
	a.after[p.ID()] = state
	a.all = append(a.all, p)
	return p
}

// build makes an event that the state authorises, or doesn't.
func (a *abroad) build(d event.Draft, state map[event.Key]*event.PDU, prev ...*event.PDU) *event.PDU {
	a.tb.Helper()
	a.count++
	d.RoomID = a.room
	if d.OriginServerTS == 0 {
		d.OriginServerTS = int64(1000 + a.count)
	}
	for _, p := range prev {
		d.PrevEvents = append(d.PrevEvents, p.ID())
		d.Depth = max(d.Depth, p.Depth())
	}
	d.Depth++
	if d.AuthEvents == nil {
		for _, k := range eventauth.NeededFor(a.version, d.Type, d.StateKey, d.Sender, d.Content) {
			if e := state[k]; e != nil {
				d.AuthEvents = append(d.AuthEvents, e.ID())
			}
		}
	}
	p, err := d.Build(a.version, d.Sender.Domain(), a.key, func() string { return fmt.Sprintf("abroad%d", a.count) })
	if err != nil {
		a.tb.Fatal(err)
	}
	return p
}

// crowd lets n users of there.example join. The state is changed in place: what came before must not be built upon.
func (a *abroad) crowd(n int) {
	a.tb.Helper()
	state := a.after[a.tip().ID()]
	for i := range n {
		u := fmt.Sprintf("@member%d:there.example", i)
		p := a.build(event.Draft{Type: "m.room.member", StateKey: &u, Sender: id.UserID(u), Content: []byte(joinContent)}, state, a.tip())
		state[p.Key()] = p
		a.after[p.ID()] = state
		a.all = append(a.all, p)
	}
}

// before returns the IDs of the state after an event, which is that before what follows it.
func (a *abroad) before(prev *event.PDU) []id.EventID {
	ids := make([]id.EventID, 0, len(a.after[prev.ID()]))
	for _, e := range a.after[prev.ID()] {
		ids = append(ids, e.ID())
	}
	return ids
}

// told returns the state after an event as PDUs.
func (a *abroad) told(prev *event.PDU) []*event.PDU {
	pdus := make([]*event.PDU, 0, len(a.after[prev.ID()]))
	for _, e := range a.after[prev.ID()] {
		pdus = append(pdus, e)
	}
	return pdus
}

// admit has alice of this server join the room after its newest event.
func (a *abroad) admit(n *node, u id.UserID) *event.PDU {
	a.tb.Helper()
	last := a.tip()
	joins := a.state(u, "m.room.member", string(u), joinContent)
	if err := n.Outliers(n.ctx, a.room, a.version, a.told(last)); err != nil {
		a.tb.Fatal(err)
	}
	if err := n.Adopt(n.ctx, room.Adoption{Room: a.room, Version: a.version, Join: joins, State: a.before(last)}); err != nil {
		a.tb.Fatal(err)
	}
	return joins
}

// same fails the test where the node's current state is not that after an event.
func (a *abroad) same(n *node, last *event.PDU) {
	a.tb.Helper()
	got := n.wholeState(a.room)
	want := a.after[last.ID()]
	for k, e := range want {
		if got[k] != e.ID() {
			a.tb.Errorf("%v is %s, want %s", k, got[k], e.ID())
		}
	}
	if len(got) != len(want) {
		a.tb.Errorf("%d entries of state, want %d", len(got), len(want))
	}
}

// flags returns the flags of a stored event.
func (n *node) flags(p *event.PDU) graph.Flags {
	n.t.Helper()
	e, ok, err := n.graph.Event(n.ctx, p.ID())
	must(n.t, err)
	if !ok {
		n.t.Fatalf("%s is not stored", p.ID())
	}
	return e.Flags
}
