package fedroom_test

import (
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
