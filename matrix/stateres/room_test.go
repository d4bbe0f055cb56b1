package stateres

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// testRoom makes and keeps the events of one room.
type testRoom struct {
	tb      testing.TB
	version *roomver.Version
	id      id.RoomID
	key     sign.Key
	events  map[id.EventID]*event.PDU
	// gens holds the true generations.
	gens map[id.EventID]int64
	// order lists the events as they were made.
	order []id.EventID
	// loads counts calls of load.
	loads int
	next  int
}

func newTestRoom(tb testing.TB, v *roomver.Version) *testRoom {
	tb.Helper()
	key, err := sign.FromSeed("ed25519:1", make([]byte, 32))
	if err != nil {
		tb.Fatal(err)
	}
	r := &testRoom{tb: tb, version: v, key: key, events: make(map[id.EventID]*event.PDU), gens: make(map[id.EventID]int64)}
	if !v.CreateAsRoomID {
		r.id = "!room:a"
	}
	return r
}

func mustVersion(tb testing.TB, name string) *roomver.Version {
	tb.Helper()
	v, ok := roomver.Get(name)
	if !ok {
		tb.Fatalf("no room version %q", name)
	}
	return v
}

// draft describes an event for testRoom.build. Auth nil means: chosen from state.
type draft struct {
	typ, stateKey string
	message       bool
	sender        id.UserID
	content       any
	ts, depth     int64
	prev, auth    []id.EventID
	state         Set
	redacts       id.EventID
}

// build makes an event without checking it against anything.
func (r *testRoom) build(d draft) *event.PDU {
	r.tb.Helper()
	content, ok := d.content.(string)
	if !ok {
		raw, err := json.Marshal(d.content)
		if err != nil {
			r.tb.Fatal(err)
		}
		content = string(raw)
	}
	if d.auth == nil && d.typ != "m.room.create" {
		d.auth = r.authEvents(d, content)
	}
	stateKey := &d.stateKey
	if d.message {
		stateKey = nil
	}
	r.next++
	p, err := event.Draft{
		RoomID: r.id, Type: d.typ, StateKey: stateKey, Sender: d.sender, Content: []byte(content),
		OriginServerTS: d.ts, Depth: d.depth, PrevEvents: d.prev, AuthEvents: d.auth, Redacts: d.redacts,
	}.Build(r.version, d.sender.Domain(), r.key, func() string { return "e" + strconv.Itoa(r.next*7919%100003) })
	if err != nil {
		r.tb.Fatalf("build %+v: %v", d, err)
	}
	for _, server := range p.RequiredSigners() {
		if server == d.sender.Domain() {
			continue
		}
		raw, err := r.key.Sign(p.Raw(), string(server))
		if err != nil {
			r.tb.Fatal(err)
		}
		if p, err = event.Trusted(r.version, p.ID(), raw); err != nil {
			r.tb.Fatal(err)
		}
	}
	return p
}

func (r *testRoom) authEvents(d draft, content string) []id.EventID {
	auth := []id.EventID{}
	stateKey := &d.stateKey
	if d.message {
		stateKey = nil
	}
	for _, key := range eventauth.NeededFor(r.version, d.typ, stateKey, d.sender, []byte(content)) {
		if e, ok := d.state[key]; ok {
			auth = append(auth, e)
		}
	}
	return auth
}

// keep stores an event.
func (r *testRoom) keep(p *event.PDU) {
	if p.Type() == "m.room.create" {
		r.id = p.RoomID()
	}
	var gen int64
	for _, a := range p.AuthEvents() {
		gen = max(gen, r.gens[a]+1)
	}
	r.gens[p.ID()] = gen
	r.events[p.ID()] = p
	r.order = append(r.order, p.ID())
}

// at makes the state function of a set.
func (r *testRoom) at(s Set) eventauth.State {
	return func(typ, stateKey string) *event.PDU {
		if typ == "m.room.create" && r.version.CreateAsRoomID && r.id != "" {
			return r.events[id.EventID("$"+string(r.id[1:]))]
		}
		return r.events[s[event.Key{Type: typ, StateKey: stateKey}]]
	}
}

// load is an Input.Events.
func (r *testRoom) load(ids []id.EventID) (map[id.EventID]*event.PDU, error) {
	r.loads++
	found := make(map[id.EventID]*event.PDU, len(ids))
	for _, e := range ids {
		if p, ok := r.events[e]; ok {
			found[e] = p
		}
	}
	return found, nil
}

func (r *testRoom) generation(e id.EventID) (int64, bool) {
	gen, ok := r.gens[e]
	return gen, ok
}

// input is an Input without states, with generations or without.
func (r *testRoom) input(generations bool) Input {
	in := Input{Version: r.version, Events: r.load}
	if generations {
		in.Generation = r.generation
	}
	return in
}

// with returns a copy of a set with an event in it.
func with(s Set, p *event.PDU) Set {
	s = maps.Clone(s)
	if s == nil {
		s = Set{}
	}
	s[p.Key()] = p.ID()
	return s
}

// describe prints a set in a stable order.
func (r *testRoom) describe(s Set) string {
	keys := slices.SortedFunc(maps.Keys(s), compareKeys)
	out := ""
	for _, k := range keys {
		p := r.events[s[k]]
		out += fmt.Sprintf("  %s %q = %s", k.Type, k.StateKey, s[k])
		if p != nil {
			out += fmt.Sprintf(" by %s ts %d depth %d %s", p.Sender(), p.OriginServerTS(), p.Depth(), p.Content())
		}
		out += "\n"
	}
	return out
}

func compareKeys(a, b event.Key) int {
	return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.StateKey, b.StateKey))
}
