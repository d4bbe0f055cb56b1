package fedsend_test

import (
	"slices"
	"testing"

	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// Each of our names speaks for its own users.
func TestSeveralNames(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open, "here.example", "also.example").start()
		carol := id.UserID("@carol:also.example")
		r := n.create()
		_, err := n.rooms.Join(n.ctx, room.Join{Membership: room.Membership{Room: r, Sender: carol}})
		ok(t, err)
		n.join(r, a)
		n.say(r, "alice")
		_, err = n.rooms.Send(n.ctx, room.Message{Room: r, Proposal: room.Proposal{Sender: carol, Type: "m.room.message", Content: []byte(`{"body":"carol"}`)}})
		ok(t, err)
		a.has(t, "alice")
		a.has(t, "carol")
		seen := a.seen()
		for i, text := range seen.pdus {
			want := map[string]string{"alice": "here.example", "carol": "also.example"}[text]
			if want != "" && seen.origins[i] != want {
				t.Errorf("%s spoke in the name of %s", text, seen.origins[i])
			}
		}
		if !slices.Contains(seen.origins, "also.example") {
			t.Errorf("origins %q", seen.origins)
		}
	})
}
