package sqldb_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

// A reader that has seen position p never later finds something new at or below p: sixteen writers on one and on two nodes,
// and a follower that reads as fast as it can.
func TestPositionsBecomeVisibleInOrder(t *testing.T) {
	const writers, each = 16, 60
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		for _, nodes := range []int{1, 2} {
			t.Run(map[int]string{1: "one node", 2: "two nodes"}[nodes], func(t *testing.T) {
				dbs := []*sqldb.DB{openThings(t, open)}
				clearThings(t, dbs[0])
				if nodes == 2 {
					dbs = append(dbs, openThings(t, open))
				}
				before, err := dbs[0].Last(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				var wrote atomic.Int64
				for w := range writers {
					wg.Go(func() {
						for i := range each {
							n, err := writeSome(t.Context(), dbs[w%nodes], int64(1_000_000*nodes+w*1000+i*10))
							if err != nil {
								t.Errorf("writer %d: %v", w, err)
								return
							}
							wrote.Add(n)
						}
					})
				}
				ended := make(chan struct{})
				go func() { wg.Wait(); close(ended) }()
				seen, missed := follow(t, dbs[len(dbs)-1], before, ended)
				if missed != 0 || seen != wrote.Load() {
					t.Errorf("%d rows written, %d seen in order, %d appeared behind the follower", wrote.Load(), seen, missed)
				}
				last, _ := dbs[0].Last(t.Context())
				if want := before + sqldb.Pos(wrote.Load()); last != want {
					t.Errorf("the last position is %d, not %d", last, want)
				}
			})
		}
	})
}

// writeSome writes one to three rows with positions; every fifth time it rolls back after taking positions.
func writeSome(ctx context.Context, db *sqldb.DB, k int64) (int64, error) {
	n := int64(1 + rand.N(3))
	fail := rand.N(5) == 0
	err := db.Write(ctx, func(tx *sqldb.Tx) error {
		for i := range n {
			pos, err := tx.Pos()
			if err != nil {
				return err
			}
			runtime.Gosched()
			tx.Queue(insertThing, k+i, pos, "")
		}
		if fail {
			return errMine
		}
		return nil
	})
	if err == errMine {
		return 0, nil
	}
	return n, err
}

// follow reads what is new until the writers ended, counting the rows seen and those that appeared at or below what had been
// seen before.
func follow(t *testing.T, db *sqldb.DB, from sqldb.Pos, ended <-chan struct{}) (seen, missed int64) {
	at, last := from, false
	for {
		var total int64
		err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
			next, err := tx.Last()
			if err != nil {
				return err
			}
			total = 0
			err = tx.Query(thingsAfter, func(r *sqldb.Row) error { total++; return r.Scan(nil) }, from)
			at = next
			return err
		})
		if err != nil {
			t.Error(err)
			return
		}
		// Positions have no gaps, so up to position p there are exactly p rows; fewer means that some come later.
		missed += int64(at-from) - total
		seen = total
		if last {
			return seen, missed
		}
		select {
		case <-ended:
			last = true
		default:
		}
	}
}

func TestIDs(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		dbs := []*sqldb.DB{open(), open()}
		var mu sync.Mutex
		got := make(map[int64]bool)
		run := func(dbs []*sqldb.DB) {
			var wg sync.WaitGroup
			for w := range 8 {
				wg.Go(func() {
					last := int64(0)
					for i := range 300 {
						n := 1 + i%3
						first, err := dbs[w%len(dbs)].IDs("events").NextN(t.Context(), n)
						if err != nil {
							t.Error(err)
							return
						}
						if first <= last {
							t.Errorf("%d after %d", first, last)
						}
						last = first
						mu.Lock()
						for id := first; id < first+int64(n); id++ {
							if got[id] || id < 1 {
								t.Errorf("%d was given twice", id)
							}
							got[id] = true
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
		}
		run(dbs)
		dbs[0].Close()
		dbs[1].Close()
		run([]*sqldb.DB{open()})
		if id, err := open().IDs("others").Next(t.Context()); id != 1 || err != nil {
			t.Errorf("another name begins with %d, %v", id, err)
		}
	})
}
