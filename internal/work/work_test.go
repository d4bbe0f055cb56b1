package work_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/work"
)

var errMine = errors.New("mine")

func TestGroupStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		g := work.NewGroup(slog.New(slog.NewTextHandler(&log, nil)))
		var starts []time.Duration
		begin := time.Now()
		g.Go("task", func(ctx context.Context) error {
			starts = append(starts, time.Since(begin))
			switch len(starts) {
			case 1:
				return errMine
			case 2:
				panic("boom")
			case 3:
				panic(errMine)
			case 4:
				time.Sleep(2 * time.Minute) // well again
				return errMine
			case 5:
				return nil
			}
			t.Error("started again after it was done")
			return nil
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(starts) != 5 {
			t.Fatalf("started at %v", starts)
		}
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 2*time.Minute + time.Second} {
			if d := starts[i+1] - starts[i]; d < want*3/4 || d > want*5/4+time.Second {
				t.Errorf("pause %d is %v, about %v expected", i+1, d, want)
			}
		}
		for _, want := range []string{"mine", "boom", "work_test.go", "task=task"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, &log)
			}
		}
		g.Stop()
	})
}

func TestGroupStopWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := work.NewGroup(nil)
		ended := false
		g.Go("slow", func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			ended = true
			return ctx.Err()
		})
		synctest.Wait()
		g.Stop()
		if !ended {
			t.Error("Stop did not wait")
		}
		g.Go("late", func(context.Context) error { t.Error("started after Stop"); return nil })
		g.Stop()
	})
}

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := work.NewGroup(nil)
		n := 0
		g.Every("tick", time.Minute, func(context.Context) error {
			n++
			if n%2 == 0 {
				panic("even")
			}
			return errMine
		})
		time.Sleep(10 * time.Minute)
		g.Stop()
		if n < 9 || n > 11 {
			t.Errorf("%d runs in ten minutes", n)
		}
	})
}

type node struct {
	db  *sqldb.DB
	bus *bus.Bus
	run *work.Runner
}

func newNode(t testing.TB, open sqldbtest.Open, name string) *node {
	t.Helper()
	n := &node{bus: bus.New(bus.Config{})}
	n.db = open(func(c *sqldb.Config) { c.Committed, c.Notify = n.bus.Committed, bus.Channel })
	if err := n.db.Migrate(t.Context(), append(work.Migrations(), effects)...); err != nil {
		t.Fatal(err)
	}
	n.run = work.New(work.Config{DB: n.db, Bus: n.bus, Node: name, TTL: 300 * time.Millisecond})
	t.Cleanup(n.run.Stop)
	n.run.Go("bus", func(ctx context.Context) error { return n.bus.Follow(ctx, n.db) })
	return n
}

var effects = sqldb.Migration{Slice: "effects", Version: 1, SQL: "CREATE TABLE effects (pos BIGINT NOT NULL, node TEXT NOT NULL)"}

var (
	addEffect   = sqldb.SQL("INSERT INTO effects (pos, node) VALUES ($1, $2)")
	listEffects = sqldb.SQL("SELECT pos FROM effects ORDER BY pos")
)

func write(t testing.TB, n *node) {
	t.Helper()
	err := n.db.Write(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Pos(); return err })
	if err != nil {
		t.Error(err)
	}
}

// Two nodes follow the stream with an effect in the database; followers fail, panic, and one node stops in the middle. Every
// position has its effect exactly once.
func TestFollowersHaveTheirEffectOnce(t *testing.T) {
	const positions = 120
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		nodes := []*node{newNode(t, open, "a"), newNode(t, open, "b")}
		sqldbtest.PrepareAll(t, nodes[0].db)
		var batches atomic.Int64
		halfway := make(chan string, 1)
		for i, name := range []string{"a", "b"} {
			nodes[i].run.Follow(work.Follower{Name: "effects", Batch: func(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
				if n := batches.Add(1); n == 3 {
					return 0, nil, errMine
				}
				if from > positions/2 {
					select {
					case halfway <- name:
					default:
					}
				}
				to := min(last, from+7)
				return to, func(tx *sqldb.Tx) error {
					for p := from + 1; p <= to; p++ {
						tx.Queue(addEffect, p, name)
					}
					return nil
				}, nil
			}})
		}
		var wg sync.WaitGroup
		for _, n := range nodes {
			wg.Go(func() {
				for range positions / 2 {
					write(t, n)
				}
			})
		}
		wg.Wait()
		for _, n := range nodes {
			write(t, n) // tells each node of all that the other one wrote
		}
		first := <-halfway
		for i, name := range []string{"a", "b"} {
			if name == first {
				nodes[i].run.Stop()
			}
		}
		waitFor(t, func() bool { return len(effectsOf(t, nodes[0].db)) >= positions })
		got := effectsOf(t, nodes[0].db)
		for i, p := range got {
			if p != int64(i+1) {
				t.Fatalf("the effects are %v", got)
			}
		}
	})
}

// waitFor polls a condition that another process's clock decides.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 30 s")
		}
	}
}

func effectsOf(t testing.TB, db *sqldb.DB) (out []int64) {
	t.Helper()
	err := db.Read(context.WithoutCancel(t.Context()), func(tx *sqldb.Tx) error {
		out = nil
		return tx.Query(listEffects, func(r *sqldb.Row) error {
			var p int64
			err := r.Scan(&p)
			out = append(out, p)
			return err
		})
	})
	if err != nil {
		t.Error(err)
	}
	return out
}

// At most one node leads; when it stops or loses its heartbeat another one takes over.
func TestLead(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		var mu sync.Mutex
		leading := make(map[string]int)
		var order []string
		started := make(chan string, 10)
		nodes := make(map[string]*node)
		for _, name := range []string{"a", "b", "c"} {
			n := newNode(t, open, name)
			nodes[name] = n
			n.run.Lead("crown", func(ctx context.Context, l *work.Lease) error {
				mu.Lock()
				leading[name]++
				if len(leading) > 1 {
					t.Errorf("several lead: %v", leading)
				}
				order = append(order, name)
				mu.Unlock()
				started <- name
				<-ctx.Done()
				mu.Lock()
				delete(leading, name)
				mu.Unlock()
				return context.Cause(ctx)
			})
		}
		for range 2 {
			nodes[<-started].run.Stop()
		}
		last := <-started
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(order)
		if fmt.Sprint(order) != "[a b c]" {
			t.Errorf("%v led, at last %s", order, last)
		}
	})
}

// A node that is started again under its name need not wait until its former self expires.
func TestRestartTakesLeasesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := sqldbtest.SQLite(t)
		if err := db.Migrate(t.Context(), work.Migrations()...); err != nil {
			t.Fatal(err)
		}
		start := func() *work.Runner { return work.New(work.Config{DB: db, Node: "one", TTL: time.Minute}) }
		crashed := start()
		gotIt := make(chan time.Time, 3)
		hang := make(chan struct{})
		take := func(ctx context.Context, l *work.Lease) error { gotIt <- time.Now(); <-hang; return nil }
		crashed.Lead("crown", take) // and never gives it up while we look
		<-gotIt
		begin := time.Now()
		again := start()
		again.Lead("crown", take)
		if waited := (<-gotIt).Sub(begin); waited > time.Second {
			t.Errorf("the same name waited %v", waited)
		}
		close(hang)
		crashed.Stop()
		again.Stop()
		db.Close()
	})
}

// A node that holds a lease is seen by whoever looks at the database, until it stops or dies.
func TestAlive(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := newNode(t, open, "one")
		expect := func(want bool, when string) {
			t.Helper()
			if alive, err := work.Alive(t.Context(), n.db); err != nil || alive != want {
				t.Errorf("%s: alive %v, %v", when, alive, err)
			}
		}
		expect(false, "before it holds anything")
		holds := make(chan struct{})
		n.run.Lead("crown", func(ctx context.Context, _ *work.Lease) error {
			close(holds)
			<-ctx.Done()
			return ctx.Err()
		})
		<-holds
		expect(true, "while it holds a lease")
		n.run.Stop()
		expect(false, "after it stopped")
	})
}

// A job keeps its rhythm over a restart, whatever its runs return.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := sqldbtest.SQLite(t)
		if err := db.Migrate(t.Context(), work.Migrations()...); err != nil {
			t.Fatal(err)
		}
		var runs []time.Time
		start := func() *work.Runner {
			r := work.New(work.Config{DB: db, Bus: bus.New(bus.Config{}), Node: "one", TTL: 15 * time.Minute})
			r.Schedule(work.Job{Name: "sweep", Period: time.Hour, Run: func(context.Context) error {
				runs = append(runs, time.Now())
				if len(runs)%2 == 0 {
					panic("even")
				}
				return errMine
			}})
			return r
		}
		for range 3 {
			r := start()
			time.Sleep(90 * time.Minute)
			synctest.Wait()
			r.Stop()
		}
		if len(runs) != 5 {
			t.Fatalf("%d runs in 4.5 hours: %v", len(runs), runs)
		}
		for i := range runs[1:] {
			if d := runs[i+1].Sub(runs[i]); d < time.Hour || d > time.Hour+10*time.Second {
				t.Errorf("%v between two runs", d)
			}
		}
		db.Close()
	})
}

// A follower without effects need not write for every position, and still knows after a stop how far it came.
func TestCursorWithoutEffect(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := newNode(t, open, "a")
		for range 5 {
			write(t, n)
		}
		seen := make(chan sqldb.Pos, 100)
		follow := func(n *node) {
			n.run.Follow(work.Follower{Name: "reader", Batch: func(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
				for p := from + 1; p <= last; p++ {
					seen <- p
				}
				return last, nil, nil
			}})
		}
		follow(n)
		for want := range sqldb.Pos(5) {
			if p := <-seen; p != want+1 {
				t.Fatalf("position %d after %d", p, want)
			}
		}
		n.run.Stop()
		if pos, err := n.run.Cursor(t.Context(), "reader"); pos != 5 || err != nil {
			t.Errorf("the cursor is at %d, %v", pos, err)
		}
		again := newNode(t, open, "a")
		follow(again)
		write(t, again)
		if p := <-seen; p != 6 {
			t.Errorf("after a restart it continues at %d", p)
		}
		late := make(chan sqldb.Pos, 10)
		again.run.Follow(work.Follower{Name: "late", FromNow: true, Batch: func(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
			late <- from
			return last, nil, nil
		}})
		waitFor(t, func() bool { write(t, again); return len(late) > 0 })
		if from := <-late; from < 6 {
			t.Errorf("a follower from now began at %d", from)
		}
	})
}

// A follower of some kinds is called for every position that holds one of them, or may, and for no position of this
// node's that is known to hold others.
func TestFollowKinds(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := newNode(t, open, "a")
		emit := func(n *node, kind bus.Kind) (pos sqldb.Pos) {
			err := n.db.Write(t.Context(), func(tx *sqldb.Tx) (err error) {
				pos, err = tx.Pos()
				tx.Emit(bus.Entry{Pos: pos, Kind: kind})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return pos
		}
		emit(n, bus.Typing) // before it follows: not known to be of no interest
		type span struct{ from, last sqldb.Pos }
		called := make(chan span, 100)
		n.run.Follow(work.Follower{Name: "receipts", Kinds: []bus.Kind{bus.Receipt}, Batch: func(_ context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
			called <- span{from, last}
			return last, nil, nil
		}})
		if s := <-called; s.from != 0 {
			t.Errorf("it began with %+v", s)
		}
		for range 3 {
			emit(n, bus.Typing)
		}
		pos := emit(n, bus.Receipt)
		s := <-called
		if s.last < pos {
			s = <-called
		}
		if s.last < pos {
			t.Errorf("the receipt at %d came as %+v", pos, s)
		}
		other := newNode(t, open, "b")
		pos = emit(other, bus.Typing) // of another node: it may be anything
		emit(n, bus.Typing)           // tells n of it where nodes share no notifications
		if s := <-called; s.last < pos {
			t.Errorf("another node's position %d came as %+v", pos, s)
		}
	})
}

// A follower that gathers has time between its batches, and sees each position once all the same.
func TestGather(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		const gather = 20 * time.Millisecond
		n := newNode(t, open, "a")
		type batch struct {
			at         time.Time
			from, last sqldb.Pos
		}
		batches := make(chan batch, 1000)
		n.run.Follow(work.Follower{Name: "patient", Gather: gather, Batch: func(_ context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
			batches <- batch{time.Now(), from, last}
			return last, nil, nil
		}})
		var seen []batch
		for len(seen) < 5 {
			write(t, n)
			for len(batches) > 0 {
				seen = append(seen, <-batches)
			}
		}
		for i, b := range seen[1:] {
			if b.from != seen[i].last {
				t.Errorf("a batch begins at %d, the one before ended at %d", b.from, seen[i].last)
			}
			if d := b.at.Sub(seen[i].at); d < gather {
				t.Errorf("batches %v apart", d)
			}
		}
	})
}
