package graph

import (
	"fmt"
	"testing"
	"time"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
)

const bigEntries = 50_000

// bigRoom makes a room with 50,000 state entries, as a join to a room of that size does: the entries' events are not stored, which
// no test here needs.
func bigRoom(tb testing.TB, g *Graph) *writer {
	tb.Helper()
	w := newRoom(tb, g)
	first := must(g.NextNIDs(tb.Context(), bigEntries))(tb)
	changes := make([]StateChange, bigEntries)
	for i := range changes {
		changes[i] = StateChange{Key: event.Key{Type: memberType, StateKey: fmt.Sprintf("@user%d:x.test", i)}, NID: first + EventNID(i), Membership: Join}
	}
	e := w.build("m.room.message", nil, alice, "{}")
	w.push(e, Placement{After: w.head.State.With(changes...)})
	w.commit()
	return w
}

// change makes the n-th of a series of state changes, all over the room.
func (w *writer) change(n int) *Event {
	key := fmt.Sprintf("@user%d:x.test", n*7919%bigEntries)
	w.ts++
	pdu, err := event.Draft{RoomID: w.head.ID, Type: memberType, StateKey: &key, Sender: alice, OriginServerTS: w.ts,
		Content: []byte(`{"membership":"join"}`), PrevEvents: nil}.Build(v10, "hs.test", testKey, nil)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.head.Extremities = nil
	return &Event{NID: must(w.g.NextNID(w.tb.Context()))(w.tb), PDU: pdu, Flags: Local}
}

var statesSize = sqldb.SQL(`SELECT COUNT(*), SUM(LENGTH(delta) + COALESCE(LENGTH(full_state), 0)) FROM states WHERE room_nid = $1`)

// What 1,000 changes store besides their events, and how long an old state takes to load, in a room of 50,000 entries.
func TestBigState(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		g := open(t, o)
		w := bigRoom(t, g)
		size := func() (n, bytes int64) {
			err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
				_, err := tx.Get(statesSize, []any{w.head.Room}, &n, &bytes)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return n, bytes
		}
		from, before := size()
		start := w.head.StateNID
		const n = 8000
		for i := range n {
			w.push(w.change(i), Placement{})
			if i%200 == 199 {
				w.commit()
			}
		}
		to, after := size()
		perChange := float64(after-before)/n + 40 // and the other columns of a row
		t.Logf("%d changes: %.0f bytes a change", to-from, perChange)
		if to-from != n || perChange > 512 {
			t.Errorf("%d changes store %.0f bytes each, more than 512", to-from, perChange)
		}
		worst, worstDiff := time.Duration(0), time.Duration(0)
		for nid := start; nid < w.head.StateNID; nid += 331 {
			cold := open1(t, g)
			begin := time.Now()
			s := must(cold.StateAt(ctx, w.head.Room, nid))(t)
			took := time.Since(begin)
			if s.Len() < bigEntries {
				t.Fatalf("%d entries", s.Len())
			}
			if nid > start { // the first load reads the room's keys too
				worst = max(worst, took)
			}
			if nid+100 < w.head.StateNID {
				cold := open1(t, g)
				must(cold.room(ctx, w.head.Room))(t).keys = g.rooms1(w.head.Room).keys
				begin := time.Now()
				diff := must(cold.StateDiff(ctx, w.head.Room, nid, nid+100))(t)
				worstDiff = max(worstDiff, time.Since(begin))
				if len(diff) == 0 || len(diff) > 100 {
					t.Fatalf("%d changes", len(diff))
				}
			}
		}
		t.Logf("the slowest snapshot loads in %v, keys included; the slowest comparison of two 100 apart takes %v", worst, worstDiff)
	})
}

// open1 is another store over the same open database, with nothing in memory.
func open1(tb testing.TB, g *Graph) *Graph {
	tb.Helper()
	return must(Open(tb.Context(), Config{DB: g.db}))(tb)
}

func (g *Graph) rooms1(nid RoomNID) *room {
	r, _ := g.rooms.GetIfPresent(nid)
	return r
}

func BenchmarkAdvanceBigState(b *testing.B) {
	g := open(b, func(...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(b) })
	w := bigRoom(b, g)
	events := make([]*Event, b.N)
	for i := range events {
		events[i] = w.change(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	head := w.head
	for _, e := range events {
		next, err := head.Advance(e)
		if err != nil {
			b.Fatal(err)
		}
		// What Commit computes before it queues.
		j, err := g.prepare(&Commit{Prev: head, Next: next, Events: []*Event{e}})
		if err != nil || len(j.states) != 6 {
			b.Fatal(err)
		}
		head = next
		head.Extremities = nil
	}
}

func BenchmarkLoadBigState(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, o sqldbtest.Open) {
		g := open(b, o)
		w := bigRoom(b, g)
		for i := range 1000 {
			w.push(w.change(i), Placement{})
		}
		w.commit()
		b.ResetTimer()
		for range b.N {
			g.states.InvalidateAll()
			if _, err := g.StateAt(b.Context(), w.head.Room, w.head.StateNID-1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// With nothing in memory: the room's keys have to be read as well.
func BenchmarkLoadBigHead(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, o sqldbtest.Open) {
		g := open(b, o)
		w := bigRoom(b, g)
		b.ResetTimer()
		for range b.N {
			b.StopTimer()
			cold := open1(b, g)
			b.StartTimer()
			if _, err := cold.Head(b.Context(), w.head.ID); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDiffBigState(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, o sqldbtest.Open) {
		g := open(b, o)
		w := bigRoom(b, g)
		for i := range 1000 {
			w.push(w.change(i), Placement{})
		}
		w.commit()
		b.ResetTimer()
		for i := range b.N {
			g.states.InvalidateAll()
			from := w.head.StateNID - StateNID(200+i%700)
			if diff, err := g.StateDiff(b.Context(), w.head.Room, from, from+100); err != nil || len(diff) != 100 {
				b.Fatal(len(diff), err)
			}
		}
	})
}
