package fedroom_test

import (
	"encoding/json"
	"slices"
	"testing"

	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// Servers that nobody knows to be in the room, and that answer nothing, don't keep those that are from being asked.
func TestRepairAsksResidents(t *testing.T) {
	w := newTown(t)
	a, b, alice, _, r := pair(t, w, nil)
	var strangers []*server
	for _, name := range []id.ServerName{"c.example", "d.example", "e.example", "f.example", "g.example", "h.example"} {
		s := w.server(name)
		u := s.user("stranger")
		must(t, s.join(r, u, a.name))
		s.deliver(b, s.say(r, u, "you don't know what this follows"))
		s.refuses(404, "M_NOT_FOUND", "get_missing_events", "state_ids", "state", "event", "event_auth")
		strangers = append(strangers, s)
	}
	last := a.say(r, alice, "this follows what a knows")
	a.deliver(b, last)
	must(t, b.fed.Repair(t.Context(), r))
	if got := b.timeline(r); !slices.Contains(got, last) {
		t.Error("the gap was not filled")
	}
	asked := 0
	for _, s := range strangers {
		asked += min(1, s.count("get_missing_events"))
	}
	if asked > 1 {
		t.Errorf("%d strangers were asked", asked)
	}
}

// Many old events of one server don't hide those of another.
func TestRepairTakesTurns(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newTown(t)
		a := w.server("a.example")
		b := w.serverOn("b.example", open)
		c := w.server("c.example")
		alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
		r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
		must(t, c.join(r, carol, a.name))
		must(t, b.join(r, bob, a.name))
		said := c.speak(r, carol, 251)
		c.refuses(404, "M_NOT_FOUND", "get_missing_events", "state_ids", "state", "event", "event_auth")
		for part := range slices.Chunk(said[1:], 50) {
			c.deliver(b, part...)
		}
		if n := len(b.staged(r)); n != 250 {
			t.Fatalf("%d events wait", n)
		}
		missed := a.speak(r, alice, 3)
		a.deliver(b, missed[2])
		must(t, b.fed.Repair(t.Context(), r))
		if got := b.timeline(r); !slices.Contains(got, missed[2]) {
			t.Error("the gap was not filled")
		}
	})
}

// What comes along with auth events and has no part in them is not kept.
func TestIntakeKeepsWhatWasWanted(t *testing.T) {
	w := newTown(t)
	a, b, alice, bob, r := pair(t, w, nil)
	junk := a.setState(r, alice, "m.room.topic", "", `{"topic":"nobody asked for this"}`)
	a.setState(r, alice, "m.room.topic", "", `{"topic":"this is the topic"}`)
	levels := a.setState(r, alice, "m.room.power_levels", "", `{"users":{"`+string(bob)+`":50}}`)
	last := a.say(r, alice, "hello")
	for _, op := range []string{"event_auth", "get_missing_events"} {
		if n := a.count(op); n > 0 {
			t.Fatalf("%s was asked for before", op)
		}
	}
	a.liesTo(map[string]func(int, []byte) (int, []byte){
		"event_auth": object(func(o map[string]any) {
			o["auth_chain"] = append(o["auth_chain"].([]any), json.RawMessage(a.raw(junk)))
		}),
		"get_missing_events": func(int, []byte) (int, []byte) { return 404, []byte(`{"errcode":"M_UNRECOGNIZED"}`) },
	})
	a.deliver(b, last)
	must(t, b.fed.Repair(t.Context(), r))
	if n := a.count("event_auth"); n == 0 {
		t.Error("the auth chain was not asked for")
	}
	for _, e := range []id.EventID{last, levels} {
		if _, ok, _ := b.graph.Event(t.Context(), e); !ok {
			t.Errorf("%s is not here", e)
		}
	}
	if _, ok, _ := b.graph.Event(t.Context(), junk); ok {
		t.Error("an event was stored that nothing refers to")
	}
}
