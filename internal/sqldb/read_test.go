package sqldb_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

type (
	number int64
	word   string
	blob   []byte
	flag   bool
)

func TestValues(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		put := func(k int64, n, s, b, f any) {
			t.Helper()
			if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(putKind, k, n, s, b, f); return err }); err != nil {
				t.Fatal(err)
			}
		}
		get := func(k int64, dest ...any) error {
			return db.Read(t.Context(), func(tx *sqldb.Tx) error {
				found, err := tx.Get(getKind, []any{k}, dest...)
				if err == nil && !found {
					err = errors.New("not found")
				}
				return err
			})
		}
		body := []byte("\x00\xff")
		put(1, number(math.MinInt64), word("größe"), blob(body), 1.5)
		var n number
		var s word
		var b blob
		var f float64
		if err := get(1, &n, &s, &b, &f); err != nil || n != math.MinInt64 || s != "größe" || string(b) != "\x00\xff" || f != 1.5 {
			t.Errorf("got %d %q %q %v, %v", n, s, b, f, err)
		}
		put(2, nil, (*word)(nil), []byte(nil), nil)
		var pn *number
		var ps *string
		raw := json.RawMessage("x")
		var nf sql.Null[float64]
		if err := get(2, &pn, &ps, &raw, &nf); err != nil || pn != nil || ps != nil || raw != nil || nf.Valid {
			t.Errorf("got %v %v %q %v, %v", pn, ps, raw, nf, err)
		}
		if err := get(2, &n, nil, nil, nil); err == nil {
			t.Error("NULL fits into a number")
		}
		put(3, flag(true), new(word), []byte{}, sql.Null[float64]{})
		var yes flag
		bytes := []byte("x")
		var ns sql.Null[string]
		if err := get(3, &yes, &ns, &bytes, nil); err != nil || !bool(yes) || !ns.Valid || ns.V != "" || bytes == nil || len(bytes) != 0 {
			t.Errorf("got %v %v %v, %v", yes, ns, bytes, err)
		}
		if err := get(3, &pn, nil, nil, nil); err != nil || pn == nil || *pn != 1 {
			t.Errorf("got %v, %v", pn, err)
		}
		var small int8
		put(4, 1<<20, "", nil, nil)
		for _, dest := range []any{&small, &s, new(chan int), 7} {
			if err := get(4, dest, nil, nil, nil); err == nil {
				t.Errorf("a large number fits into %T", dest)
			}
		}
		if err := get(4, &n, nil, nil); err == nil {
			t.Error("four columns fit into three variables")
		}
		for _, arg := range []any{make(chan int), []float64{1}, uint64(1)} {
			if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(putKind, 5, arg, nil, nil, nil); return err }); err == nil {
				t.Errorf("a %T was taken", arg)
			}
		}
		if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(putKind, 5); return err }); err == nil {
			t.Error("too few arguments were taken")
		}
	})
}

func TestArrays(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		odd := "<&>\"'\\ \u2028 ü"
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
			for k := range 5 {
				tx.Queue(insertThing, k, 0, []string{"a", "b", odd, "", "a"}[k])
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		find := func(s *sqldb.Stmt, arg any) (out []number) {
			err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
				return tx.Query(s, func(r *sqldb.Row) error {
					var k number
					err := r.Scan(&k)
					out = append(out, k)
					return err
				}, arg)
			})
			if err != nil {
				t.Errorf("%#v: %v", arg, err)
			}
			return out
		}
		for _, c := range []struct {
			stmt *sqldb.Stmt
			arg  any
			want []number
		}{
			{someThings, []int64{3, 1, 99, 1}, []number{1, 3}},
			{someThings, []number{0, 4}, []number{0, 4}},
			{someThings, []int64{}, nil},
			{someThings, []int64(nil), nil},
			{namedThings, []string{"a", odd}, []number{0, 2, 4}},
			{namedThings, []word{"", "zzz"}, []number{3}},
			{namedThings, []string(nil), nil},
		} {
			if got := find(c.stmt, c.arg); !slices.Equal(got, c.want) {
				t.Errorf("%#v: got %v, want %v", c.arg, got, c.want)
			}
		}
	})
}

func TestEach(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		const n = 600 // more than go out together
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
			for k := range n {
				tx.Queue(insertThing, 2*k, 0, "")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wanted := func(i int) []any { return []any{i} }
		err = db.Read(t.Context(), func(tx *sqldb.Tx) error {
			next := 0
			err := tx.Each(countThing, n, wanted, func(i int, r *sqldb.Row) error {
				var found int
				if err := r.Scan(&found); err != nil {
					return err
				}
				if i != next || found != 1-i%2 {
					t.Errorf("the result after %d is %d: %d rows", next-1, i, found)
				}
				next++
				return nil
			})
			if next != n {
				t.Errorf("%d of %d results", next, n)
			}
			if err := tx.Each(countThing, 0, wanted, nil); err != nil {
				t.Error(err)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		odd := errors.New("odd")
		err = db.Read(t.Context(), func(tx *sqldb.Tx) error {
			seen := 0
			err := tx.Each(countThing, n, wanted, func(i int, r *sqldb.Row) error {
				if seen++; i == 3 {
					return odd
				}
				return nil
			})
			if err != odd || seen != 4 {
				t.Errorf("%d results, then %v", seen, err)
			}
			var found int
			_, err = tx.Get(countThing, []any{2}, &found)
			if found != 1 {
				t.Error("the transaction does not go on")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestReadIsOneSnapshot(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		count := func(tx *sqldb.Tx) (n int) {
			if _, err := tx.Get(countThing, []any{1}, &n); err != nil {
				t.Error(err)
			}
			return n
		}
		err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
			before := count(tx)
			if err := db.Write(t.Context(), insert(1)); err != nil {
				t.Error(err)
			}
			if after := count(tx); before != 0 || after != 0 {
				t.Errorf("saw %d, then %d", before, after)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Read(t.Context(), func(tx *sqldb.Tx) error { return insert(2)(tx) }); err == nil {
			t.Error("a read wrote")
		}
		if err := db.Read(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Pos(); return err }); err == nil {
			t.Error("a read took a position")
		}
		wantKeys(t, db, 1)
	})
}

func TestMisuse(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		for k := range 3 {
			if err := db.Write(t.Context(), insert(int64(k))); err != nil {
				t.Fatal(err)
			}
		}
		var kept *sqldb.Tx
		rows := 0
		err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
			kept = tx
			var inner error
			err := tx.Query(listThings, func(r *sqldb.Row) error {
				rows++
				_, inner = tx.Get(countThing, []any{1}, nil)
				return errMine
			})
			if inner == nil {
				t.Error("a statement ran inside a row callback")
			}
			if err != errMine {
				t.Errorf("the row callback's error became %v", err)
			}
			var n int
			if found, err := tx.Get(countThing, []any{1}, &n); !found || err != nil || n != 1 {
				t.Errorf("after a stopped query: %v %d %v", found, n, err)
			}
			return nil
		})
		if err != nil || rows != 1 {
			t.Errorf("%d rows, %v", rows, err)
		}
		if _, err := kept.Exec(listThings); err == nil {
			t.Error("a transaction works after its end")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := db.Read(ctx, func(tx *sqldb.Tx) error { _, err := tx.Exec(listThings); return err }); !errors.Is(err, context.Canceled) {
			t.Errorf("a read with an ended context: %v", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = db.Read(t.Context(), func(tx *sqldb.Tx) error { _, _ = tx.Exec(listThings); panic("x") })
		}()
		wantKeys(t, db, 0, 1, 2) // the connection is usable
	})
}

func TestMigrate(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := openThings(t, open)
		two := sqldb.Migration{Slice: "things", Version: 2, SQL: "ALTER TABLE things ADD COLUMN more TEXT NOT NULL DEFAULT 'x'; CREATE TABLE extra (a BIGINT)"}
		for range 2 {
			if err := db.Migrate(t.Context(), things, two); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Migrate(t.Context(), things); err == nil || !strings.Contains(err.Error(), "newer version of Myelin") {
			t.Errorf("an older program: %v", err)
		}
		if err := db.Migrate(t.Context(), two); err == nil {
			t.Error("a first step was missing")
		}
		broken := sqldb.Migration{Slice: "things", Version: 3, SQL: "CREATE TABLE half (a BIGINT); CREATE TABLE half (a BIGINT)"}
		if err := db.Migrate(t.Context(), things, two, broken); err == nil {
			t.Error("a broken step succeeded")
		}
		broken.SQL = "CREATE TABLE half (a BIGINT)"
		if err := db.Migrate(t.Context(), things, two, broken); err != nil {
			t.Errorf("the broken step left something behind: %v", err)
		}
		if err := db.Migrate(t.Context(), benchTables); err != nil {
			t.Fatal(err)
		}
		sqldbtest.PrepareAll(t, db)
		// Two nodes that start at once.
		errs := make(chan error, 2)
		for range 2 {
			other := open()
			go func() {
				errs <- other.Migrate(t.Context(), sqldb.Migration{Slice: "more", Version: 1, SQL: "CREATE TABLE more (a BIGINT)"})
			}()
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	tryOpen := func(name string) error {
		db, err := sqldb.Open(t.Context(), sqldb.Config{URL: "sqlite:" + filepath.Join(dir, name)})
		if err == nil {
			err = db.Close()
		}
		return err
	}
	foreign := func(name string, script string) {
		conn, err := sqlite.OpenConn(filepath.Join(dir, name))
		if err == nil {
			err = sqlitex.ExecuteScript(conn, script, nil)
		}
		if err = errors.Join(err, conn.Close()); err != nil {
			t.Fatal(err)
		}
	}
	foreign("other.db", "CREATE TABLE x (a)")
	foreign("newer.db", "PRAGMA application_id = 1299801452; PRAGMA user_version = 2")
	if err := os.WriteFile(filepath.Join(dir, "garbage.db"), []byte(strings.Repeat("garbage ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"other.db": "of another program", "newer.db": "newer version of Myelin", "garbage.db": "is not an SQLite database", "fresh.db": "",
	} {
		switch err := tryOpen(name); {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := tryOpen("fresh.db"); err != nil {
		t.Errorf("our own file: %v", err)
	}
	for _, url := range []string{"", "mysql://x", "sqlite:", "postgres://%"} {
		if _, err := sqldb.Open(t.Context(), sqldb.Config{URL: url}); err == nil {
			t.Errorf("%q was opened", url)
		}
	}
}

func TestStats(t *testing.T) {
	reg := prometheus.NewRegistry()
	db := openThings(t, func(c ...func(*sqldb.Config)) *sqldb.DB {
		return sqldbtest.SQLite(t, func(c *sqldb.Config) { c.Metrics = reg })
	})
	before := db.Stats()
	keys(t, db)
	_ = db.Write(t.Context(), insert(1))
	after := db.Stats()
	if got := (sqldb.Stats{Reads: after.Reads - before.Reads, Commits: after.Commits - before.Commits, Items: after.Items - before.Items,
		Statements: after.Statements - before.Statements}); !reflect.DeepEqual(got, sqldb.Stats{Reads: 1, Commits: 1, Items: 1, Statements: 2}) {
		t.Errorf("counted %+v", got)
	}
	if families, err := reg.Gather(); err != nil || len(families) != 8 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
}
