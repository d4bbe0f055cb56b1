package graph

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
)

// What is read of the stream is what the database holds, whether it comes from memory or not.
func TestTail(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		hints := bus.New(bus.Config{})
		a := open(t, o, func(c *sqldb.Config) { c.Committed = hints.Committed })
		a.Follow(hints)
		b := open(t, o) // another node
		rnd := rand.New(rand.NewPCG(1, 2))
		w := newRoom(t, a)
		var said []*Event
		memory := 0
		for range 120 {
			switch n := rnd.IntN(12); {
			case n == 0 && len(said) > 1:
				target := said[rnd.IntN(len(said))]
				w.ts++
				red := w.push(redactionOf(t, w, target.PDU.ID()), Placement{})
				w.c.Redactions = []Redaction{{Target: target.NID, By: red.NID, Pruned: must(target.PDU.Redacted())(t)}}
				w.commit()
				said = slices.DeleteFunc(said, func(e *Event) bool { return e == target })
			case n == 1:
				newRoom(t, b) // a hears of it with its next commit
			default:
				for range 1 + rnd.IntN(4) {
					said = append(said, w.message("hello"))
				}
				w.commit()
			}
			end := hints.Last()
			from := sqldb.Pos(rnd.Int64N(int64(end)))
			to := from + 1 + sqldb.Pos(rnd.Int64N(int64(end-from)))
			limit := 1 + rnd.IntN(30)
			if _, ok := a.tail.since(from, to, limit); ok {
				memory++
			}
			got := must(a.EventsSince(ctx, from, to, limit))(t)
			want := must(b.query(ctx, streamEvents, from+1, to, limit))(t)
			b.forgetEvents()
			same := slices.EqualFunc(got, want, func(g, w *Event) bool {
				return g.NID == w.NID && g.Pos == w.Pos && g.Flags&Redacted == w.Flags&Redacted && string(g.PDU.Raw()) == string(w.PDU.Raw())
			})
			if !same {
				t.Fatalf("from %d to %d, at most %d: %d events, %d in the database", from, to, limit, len(got), len(want))
			}
		}
		if memory < 10 {
			t.Errorf("%d of the reads came from memory", memory)
		}
	})
}

// The tail is bounded in events and bytes, and what it forgets is the oldest.
func TestTailIsBounded(t *testing.T) {
	for _, body := range []int{0, 60_000} {
		tl := newTail()
		content := []byte(`{"body":"` + strings.Repeat("x", body) + `"}`)
		pdu := must(event.Draft{RoomID: "!r:hs.test", Type: "m.room.message", Sender: alice, Content: content}.Build(v10, "hs.test", testKey, nil))(t)
		fit := min(tailEvents, tailBytes/len(pdu.Raw()))
		for pos := sqldb.Pos(1); int(pos) < 3*fit; pos++ {
			e := &Event{NID: EventNID(pos), Pos: pos, PDU: pdu}
			tl.hear(bus.Range{From: pos - 1, To: pos, Entries: []bus.Entry{{Pos: pos, Kind: bus.RoomEvent, Data: e}}})
			n := len(tl.recent.All())
			if n > tailEvents || n*len(pdu.Raw()) > tailBytes || n < min(int(pos), fit/2) {
				t.Fatalf("%d events of %d bytes each at %d", n, len(pdu.Raw()), pos)
			}
			if got, ok := tl.since(pos-1, pos, 10); !ok || len(got) != 1 || got[0] != e {
				t.Fatalf("the newest event of %d is %v, %v", pos, got, ok)
			}
		}
	}
}
