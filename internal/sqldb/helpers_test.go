package sqldb_test

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

var things = sqldb.Migration{Slice: "things", Version: 1, SQL: `
	CREATE TABLE things (k BIGINT NOT NULL PRIMARY KEY, pos BIGINT NOT NULL DEFAULT 0, body TEXT NOT NULL DEFAULT '');
	CREATE INDEX things_pos ON things (pos);
	CREATE TABLE kinds (k BIGINT NOT NULL PRIMARY KEY, n BIGINT, t TEXT, b BLOB, f REAL);
`}

var (
	insertThing = sqldb.SQL("INSERT INTO things (k, pos, body) VALUES ($1, $2, $3)")
	countThing  = sqldb.SQL("SELECT COUNT(*) FROM things WHERE k = $1")
	listThings  = sqldb.SQL("SELECT k FROM things ORDER BY k")
	thingsAfter = sqldb.SQL("SELECT pos FROM things WHERE pos > $1 ORDER BY pos")
	someThings  = sqldb.SQL("SELECT k FROM things WHERE k = ANY($1) ORDER BY k")
	namedThings = sqldb.SQL("SELECT k FROM things WHERE body = ANY($1) ORDER BY k")
	putKind     = sqldb.SQL("INSERT INTO kinds (k, n, t, b, f) VALUES ($1, $2, $3, $4, $5)")
	getKind     = sqldb.SQL("SELECT n, t, b, f FROM kinds WHERE k = $1")
)

func openThings(t testing.TB, open sqldbtest.Open, configure ...func(*sqldb.Config)) *sqldb.DB {
	t.Helper()
	db := open(configure...)
	if err := db.Migrate(t.Context(), things); err != nil {
		t.Fatal(err)
	}
	return db
}

func insert(k int64) func(tx *sqldb.Tx) error {
	return func(tx *sqldb.Tx) error {
		_, err := tx.Exec(insertThing, k, 0, "")
		return err
	}
}

func keys(t testing.TB, db *sqldb.DB) (out []int64) {
	t.Helper()
	err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
		out = nil
		return tx.Query(listThings, func(r *sqldb.Row) error {
			var k int64
			err := r.Scan(&k)
			out = append(out, k)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantKeys(t testing.TB, db *sqldb.DB, want ...int64) {
	t.Helper()
	if got := keys(t, db); !slices.Equal(got, want) {
		t.Errorf("the table holds %v, not %v", got, want)
	}
}

// together keeps the committer busy until all of fns are queued, in order, so that they end up in one transaction, and
// returns their outcomes.
func together(t testing.TB, db *sqldb.DB, fns ...func(tx *sqldb.Tx) error) []error {
	t.Helper()
	hold := hold(t, db)
	out := make([]error, len(fns))
	var wg sync.WaitGroup
	for i, fn := range fns {
		queued := db.Queued()
		wg.Go(func() {
			defer func() {
				if p, ok := recover().(*sqldb.PanicError); ok {
					out[i] = p
				}
			}()
			out[i] = db.Write(t.Context(), fn)
		})
		db.WaitQueued(queued + 1)
	}
	hold()
	wg.Wait()
	return out
}

// hold blocks the committer inside a Write function until the function returned is called.
func hold(t testing.TB, db *sqldb.DB) (release func()) {
	t.Helper()
	in, out := make(chan struct{}), make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	go func() {
		done <- db.Write(t.Context(), func(tx *sqldb.Tx) error {
			once.Do(func() { close(in) })
			<-out
			return nil
		})
	}()
	<-in
	return func() {
		close(out)
		if err := <-done; err != nil {
			t.Errorf("the holding write: %v", err)
		}
	}
}

var errMine = errors.New("mine")
