package stateres

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"myelin/matrix/event"
	"myelin/matrix/id"
)

// small is a room with a conflict about the topic, and its two states.
func small(t *testing.T, version string) (*testRoom, []Set) {
	t.Helper()
	h := newHistory(newTestRoom(t, mustVersion(t, version)), rand.New(rand.NewPCG(1, 1)))
	h.users = h.users[:3]
	b := &branch{state: Set{}}
	create := map[string]any{"creator": "@alice:a", "room_version": version}
	users := map[string]any{"@alice:a": 100, "@bob:b": 50}
	if h.version.PrivilegedCreators {
		users = map[string]any{"@bob:b": 50}
	}
	for _, d := range []draft{
		{typ: "m.room.create", sender: "@alice:a", content: create},
		{typ: "m.room.member", stateKey: "@alice:a", sender: "@alice:a", content: `{"membership":"join"}`},
		{typ: "m.room.power_levels", sender: "@alice:a", content: map[string]any{"users": users}},
		{typ: "m.room.join_rules", sender: "@alice:a", content: `{"join_rule":"public"}`},
		{typ: "m.room.member", stateKey: "@bob:b", sender: "@bob:b", content: `{"membership":"join"}`},
	} {
		if !h.try(b, d, true) {
			t.Fatalf("not allowed: %+v", d)
		}
	}
	left, right := *b, *b
	h.try(&left, draft{typ: "m.room.topic", sender: "@alice:a", content: `{"topic":"left"}`}, true)
	h.try(&right, draft{typ: "m.room.topic", sender: "@bob:b", content: `{"topic":"right"}`}, true)
	return h.testRoom, []Set{left.state, right.state}
}

func TestMissingEvents(t *testing.T) {
	for _, version := range []string{"1", "2", "10", "12"} {
		r, sets := small(t, version)
		topic := sets[1][event.Key{Type: "m.room.topic"}]
		levels := sets[0][powerLevelsKey]
		for _, missing := range []id.EventID{topic, levels} {
			p := r.events[missing]
			delete(r.events, missing)
			for _, generations := range []bool{true, false} {
				_, err := ResolveSets(r.input(generations), sets)
				var m *MissingError
				if !errors.As(err, &m) || len(m.IDs) != 1 || m.IDs[0] != missing || !strings.Contains(err.Error(), string(missing)) {
					t.Errorf("version %s without %s: %v", version, missing, err)
				}
			}
			r.events[missing] = p
		}
	}
}

func TestLimit(t *testing.T) {
	r, sets := small(t, "10")
	in := r.input(false)
	in.Limit = 3
	if _, err := ResolveSets(in, sets); !errors.Is(err, ErrTooLarge) {
		t.Errorf("want ErrTooLarge, got %v", err)
	}
}

func TestLoaderFails(t *testing.T) {
	r, sets := small(t, "10")
	broken := errors.New("broken")
	in := r.input(true)
	in.Events = func([]id.EventID) (map[id.EventID]*event.PDU, error) { return nil, broken }
	if _, err := ResolveSets(in, sets); !errors.Is(err, broken) {
		t.Errorf("want the loader's error, got %v", err)
	}
}

func TestOtherRoom(t *testing.T) {
	r, sets := small(t, "10")
	other := newTestRoom(t, r.version)
	other.id = "!other:a"
	p := other.build(draft{typ: "m.room.topic", sender: "@alice:a", content: `{}`, auth: []id.EventID{}})
	r.keep(p)
	sets[1] = with(sets[1], p)
	if _, err := ResolveSets(r.input(true), sets); err == nil || !strings.Contains(err.Error(), string(p.ID())) {
		t.Errorf("want an error about %s, got %v", p.ID(), err)
	}
}

func TestWrongKey(t *testing.T) {
	r, sets := small(t, "10")
	sets[1][event.Key{Type: "m.room.topic"}] = sets[1][powerLevelsKey]
	if _, err := ResolveSets(r.input(true), sets); err == nil {
		t.Error("an event at a key that is not its own was accepted")
	}
}

// Versions 1 and 2 let servers choose event IDs, so auth events can form a cycle.
func TestCycle(t *testing.T) {
	r, sets := small(t, "2")
	var made []*event.PDU
	for i := range 3 {
		next := id.EventID(fmt.Sprintf("$e%d:a", (r.next+1+(i+1)%3-i)*7919%100003))
		p := r.build(draft{typ: "m.room.power_levels", sender: "@alice:a", content: fmt.Sprintf(`{"n":%d,"users":{"@alice:a":100}}`, i), auth: []id.EventID{next}})
		made = append(made, p)
	}
	for i, p := range made {
		if want := made[(i+1)%3].ID(); p.AuthEvents()[0] != want {
			t.Fatalf("event %d refers to %s, not to %s", i, p.AuthEvents()[0], want)
		}
		r.keep(p)
	}
	sets[0], sets[1] = with(sets[0], made[0]), with(sets[1], made[1])
	for _, generations := range []bool{true, false} {
		if _, err := ResolveSets(r.input(generations), sets); !errors.Is(err, errCycle) {
			t.Errorf("generations %v: want errCycle, got %v", generations, err)
		}
	}
	// A cycle under an unconflicted power levels event is met on the mainline.
	sets[0], sets[1] = with(sets[0], made[0]), with(sets[1], made[0])
	if _, err := ResolveSets(r.input(false), sets); !errors.Is(err, errCycle) {
		t.Errorf("on the mainline: want errCycle, got %v", err)
	}
}

// The walk stops where everything that waits is part of the unconflicted state: neither the number
// of members nor the length of the history counts.
func TestStopsEarly(t *testing.T) {
	r := newTestRoom(t, mustVersion(t, "10"))
	room := bigRoom(r, 300, 50)
	var sets []Set
	for i, mod := range room.mods[:3] {
		f := *room
		f.state = maps.Clone(room.state)
		f.add(draft{typ: "m.room.topic", sender: mod, content: map[string]any{"topic": i}})
		f.add(draft{typ: "m.custom", stateKey: string(mod), sender: mod, content: `{}`})
		sets = append(sets, f.state)
	}
	loaded := 0
	in := r.input(true)
	in.Events = func(ids []id.EventID) (map[id.EventID]*event.PDU, error) {
		loaded += len(ids)
		return r.load(ids)
	}
	mustResolve(t, r, in, sets)
	if loaded > 20 || r.loads > 6 {
		t.Errorf("loaded %d events in %d batches", loaded, r.loads)
	}
}

// A power levels event that lost long ago is in the chain of one member's join. Only the whole state
// shows that, once; then a witness does.
func TestCoveredByFarEvent(t *testing.T) {
	h := newHistory(newTestRoom(t, mustVersion(t, "10")), rand.New(rand.NewPCG(1, 1)))
	main := &branch{state: Set{}}
	join := func(b *branch, u id.UserID) {
		if !h.try(b, draft{typ: "m.room.member", stateKey: string(u), sender: u, content: `{"membership":"join"}`}, true) {
			t.Fatalf("%s can't join", u)
		}
	}
	send := func(b *branch, typ string, sender id.UserID, content string) id.EventID {
		if !h.try(b, draft{typ: typ, sender: sender, content: content}, true) {
			t.Fatalf("%s can't send %s", sender, typ)
		}
		return h.order[len(h.order)-1]
	}
	send(main, "m.room.create", "@alice:a", `{"creator":"@alice:a","room_version":"10"}`)
	join(main, "@alice:a")
	send(main, "m.room.power_levels", "@alice:a", `{"users":{"@alice:a":100}}`)
	send(main, "m.room.join_rules", "@alice:a", `{"join_rule":"public"}`)
	side := *main
	lost := send(&side, "m.room.power_levels", "@alice:a", `{"users":{"@alice:a":100},"ban":7}`)
	join(&side, "@zoe:z")
	send(&side, "m.room.topic", "@alice:a", `{"topic":"by the lost levels"}`)
	send(main, "m.room.power_levels", "@alice:a", `{"users":{"@alice:a":100},"ban":8}`)
	// Zoe's join and the topic arrive; the levels under them do not.
	zoe, topic := event.Key{Type: "m.room.member", StateKey: "@zoe:z"}, event.Key{Type: "m.room.topic"}
	one, two := maps.Clone(main.state), maps.Clone(main.state)
	one[zoe], two[zoe], one[topic] = side.state[zoe], side.state[zoe], side.state[topic]
	sets := []Set{one, two}

	want := (&model{room: h.testRoom}).resolve(sets)
	listed := 0
	conflicted, unconflicted := Split(sets)
	in := h.input(true)
	in.Sets, in.Conflicted, in.Witnesses = 2, conflicted, &Witnesses{}
	in.Unconflicted = func(k event.Key) (id.EventID, bool) { e, ok := unconflicted[k]; return e, ok }
	in.AllUnconflicted = func(yield func(event.Key, id.EventID) bool) {
		listed++
		for k, e := range unconflicted {
			if !yield(k, e) {
				return
			}
		}
	}
	for round := range 3 {
		got, err := Resolve(in)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(got, unconflicted)
		same(t, h.testRoom, fmt.Sprint("round ", round), sets, got, want)
	}
	if listed != 1 {
		t.Errorf("the state was listed %d times", listed)
	}
	if by := in.Witnesses.entries[lost]; by.key != zoe {
		t.Errorf("the witness is at %v", by.key)
	}
}

func TestSplit(t *testing.T) {
	k := func(s string) event.Key { return event.Key{Type: s} }
	sets := []Set{
		{k("all"): "$1", k("differs"): "$2", k("first"): "$3"},
		{k("all"): "$1", k("differs"): "$4"},
		{k("all"): "$1", k("differs"): "$2", k("last"): "$5"},
	}
	conflicted, unconflicted := Split(sets)
	want := map[event.Key][]id.EventID{
		k("differs"): {"$2", "$4", "$2"}, k("first"): {"$3", "", ""}, k("last"): {"", "", "$5"},
	}
	if fmt.Sprint(conflicted) != fmt.Sprint(want) || !maps.Equal(unconflicted, Set{k("all"): "$1"}) {
		t.Errorf("got %v and %v", conflicted, unconflicted)
	}
}

func TestInputIsChecked(t *testing.T) {
	r, sets := small(t, "10")
	in := r.input(true)
	in.Sets, in.Conflicted = 2, map[event.Key][]id.EventID{{Type: "m.room.topic"}: {"$a"}}
	in.Unconflicted = func(event.Key) (id.EventID, bool) { return "", false }
	if _, err := Resolve(in); err == nil {
		t.Error("neither AllUnconflicted nor Covered, and no error")
	}
	in.Covered = func([]id.EventID) ([]id.EventID, error) { return nil, nil }
	if _, err := Resolve(in); err == nil {
		t.Error("a column that is too short, and no error")
	}
	if _, err := Resolve(Input{}); err == nil {
		t.Error("empty input, and no error")
	}
	if got, err := ResolveSets(r.input(true), nil); err != nil || len(got) != 0 {
		t.Errorf("no states: %v, %v", got, err)
	}
	_ = sets
}
