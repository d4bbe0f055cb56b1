package sqldbtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"myelin/internal/sqldb"
)

// Open opens the test's database and closes it at the test's end. Called again it opens the same database once more: another
// node, or, after Close, a restart.
type Open func(...func(*sqldb.Config)) *sqldb.DB

// Each runs a subtest on each engine, each with an empty database.
func Each(t *testing.T, run func(t *testing.T, open Open)) {
	t.Helper()
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) { run(t, opener(t, URL(t, d))) })
	}
}

// EachBench is Each for benchmarks; the databases fsync.
func EachBench(b *testing.B, run func(b *testing.B, open Open)) {
	b.Helper()
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		b.Run(d.String(), func(b *testing.B) { run(b, opener(b, URL(b, d))) })
	}
}

// SQLite opens an empty SQLite database, for tests whose subject is not SQL.
func SQLite(tb testing.TB, configure ...func(*sqldb.Config)) *sqldb.DB {
	tb.Helper()
	return opener(tb, URL(tb, sqldb.SQLite))(configure...)
}

func opener(tb testing.TB, url string) Open {
	return func(configure ...func(*sqldb.Config)) *sqldb.DB {
		tb.Helper()
		c := sqldb.Config{URL: url}
		for _, f := range configure {
			f(&c)
		}
		db, err := sqldb.Open(context.WithoutCancel(tb.Context()), c)
		if err != nil {
			tb.Fatalf("open the test database: %v", err)
		}
		tb.Cleanup(func() {
			if err := db.Close(); err != nil {
				tb.Errorf("close the test database: %v", err)
			}
		})
		return db
	}
}

// URL makes an empty database that lives until the test ends and returns its URL for sqldb.Config.
func URL(tb testing.TB, d sqldb.Dialect) string {
	tb.Helper()
	if d == sqldb.SQLite {
		return "sqlite:" + filepath.Join(tb.TempDir(), "myelin.db")
	}
	_, bench := tb.(*testing.B)
	server, err := postgres(bench)
	if err != nil {
		if os.Getenv("MYELIN_REQUIRE") == "all" {
			tb.Fatalf("no PostgreSQL: %v", err)
		}
		tb.Skipf("no PostgreSQL: %v", err)
	}
	name, err := server.claim()
	if err != nil {
		tb.Fatalf("get a test database: %v", err)
	}
	tb.Cleanup(func() {
		if err := server.giveBack(name); err != nil {
			tb.Logf("give the test database back: %v", err)
		}
	})
	return server.with(name)
}

// PrepareAll prepares every registered statement of the test binary in the database; call it after all migrations.
func PrepareAll(tb testing.TB, db *sqldb.DB) {
	tb.Helper()
	if err := db.Prepare(tb.Context(), sqldb.Statements()...); err != nil {
		tb.Error(err)
	}
}
