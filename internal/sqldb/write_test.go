package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

// Each Write function of one transaction fails or succeeds by itself, in whatever way it fails.
func TestFailuresStayAlone(t *testing.T) {
	ways := map[string]struct {
		fn   func(tx *sqldb.Tx) error
		want func(error) bool
	}{
		"own error": {func(tx *sqldb.Tx) error { return errors.Join(insert(100)(tx), errMine) },
			func(err error) bool { return errors.Is(err, errMine) }},
		"unique violation": {func(tx *sqldb.Tx) error { _ = insert(100)(tx); return insert(100)(tx) }, sqldb.IsUnique},
		"queued unique violation": {func(tx *sqldb.Tx) error {
			tx.Queue(insertThing, 100, 0, "")
			tx.Queue(insertThing, 100, 0, "")
			return nil
		}, sqldb.IsUnique},
		"ignored statement error": {func(tx *sqldb.Tx) error { _ = insert(100)(tx); _ = insert(100)(tx); return nil }, sqldb.IsUnique},
		"text nobody can keep": {func(tx *sqldb.Tx) error { _, err := tx.Exec(insertThing, 100, 0, "a\x00b"); return err },
			func(err error) bool { return errors.Is(err, sqldb.ErrText) }},
		"broken SQL": {func(tx *sqldb.Tx) error { _, err := tx.Exec(sqldb.Once("SELECT nothing FROM nowhere")); return err },
			func(err error) bool { return err != nil && !sqldb.IsUnique(err) }},
		"panic": {func(tx *sqldb.Tx) error { _ = insert(100)(tx); panic("boom") },
			func(err error) bool { p, ok := err.(*sqldb.PanicError); return ok && p.Value == "boom" }},
		"position taken": {func(tx *sqldb.Tx) error {
			if _, err := tx.Pos(); err != nil {
				return err
			}
			tx.Emit("never")
			return errMine
		}, func(err error) bool { return errors.Is(err, errMine) }},
	}
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		for name, way := range ways {
			t.Run(name, func(t *testing.T) {
				db := openThings(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return open(c...) })
				clearThings(t, db)
				errs := together(t, db, insert(1), way.fn, insert(2), way.fn, insert(3))
				for i, err := range errs {
					if i%2 == 0 && err != nil {
						t.Errorf("write %d failed with its neighbour: %v", i, err)
					}
					if i%2 == 1 && !way.want(err) {
						t.Errorf("write %d: unexpected outcome %v", i, err)
					}
				}
				wantKeys(t, db, 1, 2, 3)
				if err := together(t, db, way.fn)[0]; !way.want(err) {
					t.Errorf("alone: unexpected outcome %v", err)
				}
				wantKeys(t, db, 1, 2, 3)
			})
		}
	})
}

var deleteThings = sqldb.SQL("DELETE FROM things")

func clearThings(t testing.TB, db *sqldb.DB) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(deleteThings); return err })
	if err != nil {
		t.Fatal(err)
	}
}

func TestCommitsAreToldInOrder(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		var mu sync.Mutex
		var told []sqldb.Commit
		answered := make(map[sqldb.Pos]bool)
		db := openThings(t, open, func(c *sqldb.Config) {
			c.Committed = func(c sqldb.Commit) {
				mu.Lock()
				defer mu.Unlock()
				for p := c.From + 1; p <= c.To; p++ {
					if answered[p] {
						t.Errorf("the writer of %d was answered before the commit was told", p)
					}
				}
				told = append(told, c)
			}
		})
		emit := func(entry string, fail error) func(tx *sqldb.Tx) error {
			return func(tx *sqldb.Tx) error {
				pos, err := tx.Pos()
				tx.Emit(fmt.Sprint(entry, pos))
				return errors.Join(err, fail)
			}
		}
		together(t, db, emit("a", errMine), emit("b", nil), emit("c", errMine), emit("d", nil), emit("e", errMine))
		if len(told) != 1 || told[0].From != 0 || told[0].To != 2 || !slices.Equal(told[0].Entries, []any{"b1", "d2"}) {
			t.Fatalf("told %+v", told)
		}
		told = nil
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					var pos sqldb.Pos
					err := db.Write(t.Context(), func(tx *sqldb.Tx) (err error) {
						pos, err = tx.Pos()
						tx.Emit(pos)
						return err
					})
					mu.Lock()
					answered[pos] = err == nil
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		next := sqldb.Pos(2)
		for _, c := range told {
			if c.From != next {
				t.Fatalf("a commit from %d after one up to %d", c.From, next)
			}
			next = c.To
			if len(c.Entries) != int(c.To-c.From) || c.Entries[0] != c.From+1 {
				t.Errorf("entries of %d..%d: %v", c.From, c.To, c.Entries)
			}
		}
		if next != 162 {
			t.Errorf("the last position told is %d", next)
		}
	})
}

// An entry without a position is told as well.
func TestEmitWithoutPosition(t *testing.T) {
	var told []sqldb.Commit
	db := sqldbtest.SQLite(t, func(c *sqldb.Config) { c.Committed = func(c sqldb.Commit) { told = append(told, c) } })
	if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { tx.Emit("x"); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || told[0].From != told[0].To || told[0].Entries[0] != "x" {
		t.Errorf("told %+v", told)
	}
}

func TestBatcher(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		var calls [][]int64
		b := sqldb.NewBatcher(db, "things", func(tx *sqldb.Tx, items []int64) []error {
			calls = append(calls, items)
			errs := make([]error, len(items))
			for i, k := range items {
				if k < 0 {
					errs[i] = errMine
					continue
				}
				tx.Queue(insertThing, k, 0, "")
			}
			return errs
		})
		submit := func(items ...int64) (errs []error) {
			release := hold(t, db)
			var tickets []*sqldb.Ticket
			for _, k := range items {
				tickets = append(tickets, b.Submit(k))
			}
			other := make(chan error, 1)
			go func() { other <- db.Write(t.Context(), func(tx *sqldb.Tx) error { return nil }) }()
			db.WaitQueued(len(items) + 1)
			release()
			for _, tk := range tickets {
				errs = append(errs, tk.Wait(t.Context()))
			}
			if err := <-other; err != nil {
				t.Errorf("the write beside: %v", err)
			}
			return errs
		}
		for i, err := range submit(1, 2, -1, 3) {
			if (i == 2) != errors.Is(err, errMine) || i != 2 && err != nil {
				t.Errorf("item %d: %v", i, err)
			}
		}
		if len(calls) != 1 || !slices.Equal(calls[0], []int64{1, 2, -1, 3}) {
			t.Errorf("applied as %v", calls)
		}
		for i, err := range submit(4, 1, 5, -1) { // 1 is there already
			switch {
			case i == 1 && !sqldb.IsUnique(err), i == 3 && !errors.Is(err, errMine), i%2 == 0 && err != nil:
				t.Errorf("item %d: %v", i, err)
			}
		}
		wantKeys(t, db, 1, 2, 3, 4, 5)
		if err := sqldb.Failed(errMine).Wait(t.Context()); err != errMine {
			t.Errorf("a failed ticket says %v", err)
		}
	})
}

// A batch alone in its transaction survives its poisoned items too.
func TestBatcherAlone(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		b := sqldb.NewBatcher(db, "things", func(tx *sqldb.Tx, items []int64) []error {
			for _, k := range items {
				if k == 13 {
					panic("thirteen")
				}
				tx.Queue(insertThing, k, 0, "")
			}
			return nil
		})
		release := hold(t, db)
		var tickets []*sqldb.Ticket
		for _, k := range []int64{1, 1, 2, 2, 3} {
			tickets = append(tickets, b.Submit(k))
		}
		release()
		for i, tk := range tickets {
			if err := tk.Wait(t.Context()); (i%2 == 1) != sqldb.IsUnique(err) {
				t.Errorf("item %d: %v", i, err)
			}
		}
		wantKeys(t, db, 1, 2, 3)
		func() {
			defer func() {
				if p, ok := recover().(*sqldb.PanicError); !ok || p.Value != "thirteen" || !strings.Contains(p.Error(), "goroutine") {
					t.Errorf("recovered %v", p)
				}
			}()
			t.Errorf("no panic but %v", b.Submit(13).Wait(t.Context()))
		}()
	})
}

func TestContext(t *testing.T) {
	db := openThings(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) })
	release := hold(t, db)
	ctx, cancel := context.WithCancelCause(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- db.Write(ctx, insert(1)) }()
	db.WaitQueued(1)
	cancel(errMine)
	if err := <-waiting; err != errMine {
		t.Errorf("a write that was not taken: %v", err)
	}
	release()

	// Once taken the outcome is told whatever the context says.
	ctx, cancel = context.WithCancelCause(t.Context())
	err := db.Write(ctx, func(tx *sqldb.Tx) error {
		cancel(errMine)
		return insert(2)(tx)
	})
	if err != nil {
		t.Errorf("a write that was taken: %v", err)
	}
	wantKeys(t, db, 2)
}

// testing.T.FailNow inside a Write function ends the committer's goroutine; the database goes on.
func TestGoexit(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
			_ = insert(1)(tx)
			runtime.Goexit()
			return nil
		})
		if err == nil {
			t.Error("no error")
		}
		if err := db.Write(t.Context(), insert(2)); err != nil {
			t.Error(err)
		}
		wantKeys(t, db, 2)
	})
}

func TestClose(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		release := hold(t, db)
		errs := make(chan error, 10)
		for i := range 10 {
			go func() { errs <- db.Write(t.Context(), insert(int64(i))) }()
		}
		db.WaitQueued(10)
		go release()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if err := <-errs; err != nil {
				t.Errorf("a write before Close: %v", err)
			}
		}
		if err := db.Write(t.Context(), insert(99)); !errors.Is(err, sqldb.ErrClosed) {
			t.Errorf("a write after Close: %v", err)
		}
		if err := db.Read(t.Context(), func(*sqldb.Tx) error { return nil }); !errors.Is(err, sqldb.ErrClosed) {
			t.Errorf("a read after Close: %v", err)
		}
		wantKeys(t, open(), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	})
}
