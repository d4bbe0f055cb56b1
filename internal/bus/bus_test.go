package bus_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

func commit(from, to sqldb.Pos, entries ...any) sqldb.Commit {
	return sqldb.Commit{From: from, To: to, Entries: entries}
}

// record subscribes and checks the invariant: ranges join without holes.
func record(t *testing.T, b *bus.Bus) (ranges func() []bus.Range) {
	t.Helper()
	var mu sync.Mutex
	var out []bus.Range
	var at sqldb.Pos
	at, cancel := b.Subscribe(func(r bus.Range) {
		mu.Lock()
		defer mu.Unlock()
		if r.From != at || r.To < r.From {
			t.Errorf("a range %d..%d after %d", r.From, r.To, at)
		}
		if r.Foreign && len(r.Entries) > 0 {
			t.Errorf("a foreign range has entries: %v", r.Entries)
		}
		at = r.To
		out = append(out, r)
	})
	t.Cleanup(cancel)
	return func() []bus.Range {
		mu.Lock()
		defer mu.Unlock()
		r := out
		out = nil
		return r
	}
}

func TestHolesAreForeign(t *testing.T) {
	b := bus.New(bus.Config{})
	ranges := record(t, b)
	event := func(p sqldb.Pos) bus.Entry { return bus.Entry{Pos: p, Kind: bus.RoomEvent} }
	b.Committed(commit(0, 2, event(1), event(2), "not an entry"))
	b.Committed(commit(5, 6, event(6)))                              // another node wrote 3 to 5
	b.Committed(commit(6, 6, bus.Entry{Kind: bus.TokenRevoked}))     // no position
	b.Committed(commit(6, 6))                                        // nothing to tell
	b.Committed(commit(4, 5, event(5), bus.Entry{Kind: bus.Typing})) // 5 was told as foreign already
	got := ranges()
	want := []bus.Range{{From: 0, To: 2}, {From: 2, To: 5, Foreign: true}, {From: 5, To: 6}, {From: 6, To: 6}, {From: 6, To: 6}}
	if len(got) != len(want) {
		t.Fatalf("told %+v", got)
	}
	for i, r := range got {
		if r.From != want[i].From || r.To != want[i].To || r.Foreign != want[i].Foreign {
			t.Errorf("told %+v, want %+v", r, want[i])
		}
	}
	if len(got[0].Entries) != 2 || len(got[4].Entries) != 1 || got[4].Entries[0].Kind != bus.Typing {
		t.Errorf("entries %v and %v", got[0].Entries, got[4].Entries)
	}
	if b.Last() != 6 {
		t.Errorf("last is %d", b.Last())
	}
}

func TestSubscribeAndWait(t *testing.T) {
	b := bus.New(bus.Config{})
	b.Committed(commit(0, 7))
	calls := 0
	from, cancel := b.Subscribe(func(bus.Range) { calls++ })
	if from != 7 {
		t.Errorf("begins at %d", from)
	}
	b.Committed(commit(7, 8))
	cancel()
	b.Committed(commit(8, 9))
	if calls != 1 {
		t.Errorf("called %d times", calls)
	}
	if pos, err := b.Wait(t.Context(), 8); pos != 9 || err != nil {
		t.Errorf("Wait: %d, %v", pos, err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	stop(why)
	if _, err := b.Wait(ctx, 9); err != why {
		t.Errorf("Wait: %v", err)
	}
	waited := make(chan sqldb.Pos)
	go func() { pos, _ := b.Wait(t.Context(), 9); waited <- pos }()
	b.Committed(commit(9, 12))
	if pos := <-waited; pos != 12 {
		t.Errorf("Wait: %d", pos)
	}
}

// Two nodes over one database: each is told of all positions, its own with entries.
func TestNodes(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		var buses [2]*bus.Bus
		var dbs [2]*sqldb.DB
		var told [2]func() []bus.Range
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		for i := range buses {
			b := bus.New(bus.Config{})
			buses[i], told[i] = b, record(t, b)
			dbs[i] = open(func(c *sqldb.Config) { c.Committed, c.Notify = b.Committed, bus.Channel })
		}
		write := func(db *sqldb.DB) sqldb.Pos {
			var pos sqldb.Pos
			err := db.Write(t.Context(), func(tx *sqldb.Tx) (err error) {
				pos, err = tx.Pos()
				tx.Emit(bus.Entry{Pos: pos, Kind: bus.AccountData})
				return err
			})
			if err != nil {
				t.Error(err)
			}
			return pos
		}
		write(dbs[1]) // before anybody listens
		for i := range buses {
			wg.Go(func() { _ = buses[i].Follow(ctx, dbs[i]) })
			if _, err := buses[i].Wait(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		var writers sync.WaitGroup
		for i := range dbs {
			writers.Go(func() {
				for range 20 {
					write(dbs[i])
				}
			})
		}
		writers.Wait()
		if dbs[0].Dialect() == sqldb.SQLite { // no hints between processes; the next commit closes the hole
			write(dbs[0])
			write(dbs[1])
		}
		for i := range buses {
			if _, err := buses[i].Wait(t.Context(), 40); err != nil {
				t.Fatal(err)
			}
			own := 0
			for _, r := range told[i]() {
				own += len(r.Entries)
			}
			if own == 0 {
				t.Errorf("node %d was told no entries of its own", i)
			}
		}
	})
}
