package fedroom_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/fedroom"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

var stagedSizes = sqldb.SQL(`SELECT LENGTH(body) FROM staged WHERE room_id = $1`)

// staged is the sizes of what waits of a room.
func (s *server) staged(r id.RoomID) (sizes []int) {
	s.t.Helper()
	must(s.t, s.db.Read(s.ctx, func(tx *sqldb.Tx) error {
		sizes = nil
		return tx.Query(stagedSizes, func(row *sqldb.Row) error {
			var n int
			err := row.Scan(&n)
			sizes = append(sizes, n)
			return err
		}, r)
	}))
	return sizes
}

// changed is an event of this server as somebody else might pass it on.
func (s *server) changed(e id.EventID, change func(o map[string]any)) json.RawMessage {
	s.t.Helper()
	_, out := object(change)(200, s.raw(e))
	return out
}

// Copies that can't be judged yet don't keep the genuine ones away, however they were altered.
func TestCopiesOfEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		a, b, _, _, r := pair(t, w, nil)
		c := w.server("c.example")
		carol := c.user("carol")
		must(t, c.join(r, carol, a.name))
		c.refuses(500, "M_UNKNOWN", "server", "query")
		a.refuses(404, "M_UNRECOGNIZED", "query")
		said := c.speak(r, carol, 3)
		c.catchUp(a, r)
		alter := func(o map[string]any) {
			o["content"].(map[string]any)["body"] = "altered"
			o["unsigned"] = map[string]any{"junk": strings.Repeat("x", 100_000)}
		}
		unsign := func(o map[string]any) {
			for key := range o["signatures"].(map[string]any)["c.example"].(map[string]any) {
				o["signatures"].(map[string]any)["c.example"].(map[string]any)[key] = strings.Repeat("A", 86)
			}
		}
		if refused := a.transact(b, c.changed(said[0], alter), c.changed(said[1], unsign), c.changed(said[2], unsign)); len(refused) > 0 {
			t.Fatal(refused)
		}
		sizes := b.staged(r)
		if len(sizes) != 3 {
			t.Fatalf("%d events wait", len(sizes))
		}
		for _, n := range sizes {
			if n > 2000 {
				t.Errorf("%d bytes are kept of a small event", n)
			}
		}
		a.transact(b, c.raw(said[0]))
		time.Sleep(24 * time.Hour)
		c.honest()
		a.refuses(404, "M_UNRECOGNIZED", "nothing")
		must(t, b.fed.Repair(t.Context(), r))
		same(t, r, a, b)
		for _, e := range said {
			if raw := string(b.raw(e)); !strings.Contains(raw, "message") {
				t.Errorf("stored is %s", raw)
			}
		}
		if troubles, _ := fedroom.Troubles(t.Context(), b.db, 10); len(troubles) > 0 || len(b.staged(r)) > 0 {
			t.Errorf("listed are %+v, waiting %v", troubles, b.staged(r))
		}
	})
}

// A copy with a wrong signature is forgotten where nobody has another, and the genuine one is taken when it comes.
func TestForgedCopyIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		a, b, _, _, r := pair(t, w, nil)
		c := w.server("c.example")
		carol := c.user("carol")
		must(t, c.join(r, carol, a.name))
		said := c.speak(r, carol, 2)
		c.refuses(500, "M_UNKNOWN", "server", "query", "event")
		a.refuses(404, "M_UNRECOGNIZED", "query", "event")
		for _, e := range said {
			a.transact(b, c.changed(e, func(o map[string]any) {
				keys := o["signatures"].(map[string]any)["c.example"].(map[string]any)
				for key := range keys {
					keys[key] = strings.Repeat("A", 86)
				}
			}))
		}
		if n := len(b.staged(r)); n != 2 {
			t.Fatalf("%d events wait", n)
		}
		time.Sleep(24 * time.Hour)
		c.refuses(500, "M_UNKNOWN", "event")
		// A genuine copy that waits takes the place of the forged one.
		c.deliver(b, said[0])
		must(t, b.fed.Repair(t.Context(), r))
		if got := b.timeline(r); got[len(got)-1] != said[0] {
			t.Error("the genuine copy was not taken")
		}
		if n := len(b.staged(r)); n > 0 {
			t.Errorf("%d events wait still", n)
		}
		c.deliver(b, said[1])
		same(t, r, c, b)
		if troubles, _ := fedroom.Troubles(t.Context(), b.db, 10); len(troubles) > 0 {
			t.Errorf("listed are %+v", troubles)
		}
	})
}

// A server with nobody in the room can have few events wait; it may have more when it is known to be in it.
func TestOutsidersStageLittle(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newTown(t)
		a := w.server("a.example")
		b := w.serverOn("b.example", open)
		c := w.server("c.example")
		alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
		r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
		must(t, b.join(r, bob, a.name))
		must(t, c.join(r, carol, a.name))
		said := c.speak(r, carol, 30)
		if refused := c.deliver(b, said...); len(refused) != 10 || refused[said[29]] == "" || refused[said[19]] != "" {
			t.Errorf("refused are %d", len(refused))
		}
		must(t, b.fed.Repair(t.Context(), r))
		if refused := c.deliver(b, said[20:]...); len(refused) > 0 || len(b.staged(r)) > 0 {
			t.Errorf("refused are %v", refused)
		}
		said = c.speak(r, carol, 40)
		if refused := c.deliver(b, said[1:]...); len(refused) > 0 || len(b.staged(r)) != 39 {
			t.Errorf("refused are %v, %d wait", refused, len(b.staged(r)))
		}
	})
}
