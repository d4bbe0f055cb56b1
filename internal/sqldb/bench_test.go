package sqldb_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

// The row of a small event: 1 KB under an integer key, and two more B-trees.
var benchTables = sqldb.Migration{Slice: "bench", Version: 1, SQL: `
	CREATE TABLE bench (room BIGINT NOT NULL, nid BIGINT NOT NULL, pos BIGINT NOT NULL, event TEXT NOT NULL, body BLOB NOT NULL,
		PRIMARY KEY (room, nid)) WITHOUT ROWID;
	CREATE UNIQUE INDEX bench_event ON bench (event);
	CREATE INDEX bench_pos ON bench (room, pos);
`}

var (
	insertBench = sqldb.SQL("INSERT INTO bench (room, nid, pos, event, body) VALUES ($1, $2, $3, $4, $5)")
	readBench   = sqldb.SQL("SELECT body FROM bench WHERE room = $1 AND nid = $2")
)

func benchDB(b *testing.B, open sqldbtest.Open) *sqldb.DB {
	db := open()
	if err := db.Migrate(b.Context(), benchTables); err != nil {
		b.Fatal(err)
	}
	return db
}

func benchInsert(tx *sqldb.Tx, n, rooms int64) error {
	pos, err := tx.Pos()
	if err != nil {
		return err
	}
	tx.Queue(insertBench, n%rooms, n, pos, fmt.Sprintf("$%043d", n*7919%1000003*1000003+n), benchBody)
	return nil
}

var benchBody = []byte(strings.Repeat("0123456789abcdef", 64))

var benchCases = []struct {
	writers int
	rooms   int64
}{{1, 1}, {64, 1}, {64, 64}}

// BenchmarkWrite: each op is one durable Write of one row with a position.
func BenchmarkWrite(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		for _, c := range benchCases {
			b.Run(fmt.Sprintf("writers=%d/rooms=%d", c.writers, c.rooms), func(b *testing.B) {
				db := benchDB(b, open)
				defer db.Close()
				measure(b, db, c.writers, func(n int64) error {
					return db.Write(b.Context(), func(tx *sqldb.Tx) error { return benchInsert(tx, n, c.rooms) })
				})
			})
		}
	})
}

// BenchmarkBatcher is the same through a Batcher.
func BenchmarkBatcher(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		for _, c := range benchCases {
			b.Run(fmt.Sprintf("writers=%d/rooms=%d", c.writers, c.rooms), func(b *testing.B) {
				db := benchDB(b, open)
				defer db.Close()
				batch := sqldb.NewBatcher(db, "bench", func(tx *sqldb.Tx, items []int64) []error {
					for _, n := range items {
						if err := benchInsert(tx, n, c.rooms); err != nil {
							return nil
						}
					}
					return nil
				})
				measure(b, db, c.writers, func(n int64) error { return batch.Submit(n).Wait(b.Context()) })
			})
		}
	})
}

var benchKeys atomic.Int64 // the sub-benchmarks of one engine share a database

func measure(b *testing.B, db *sqldb.DB, writers int, write func(n int64) error) {
	todo := make(chan struct{}, b.N)
	for range b.N {
		todo <- struct{}{}
	}
	close(todo)
	before := db.Stats()
	b.ReportAllocs()
	b.ResetTimer()
	done := make(chan error, writers)
	for range writers {
		go func() {
			for range todo {
				if err := write(benchKeys.Add(1)); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	after := db.Stats()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(after.Items-before.Items)/float64(after.Commits-before.Commits), "rows/commit")
}

// BenchmarkRead: each op is one read transaction that fetches one row of 1 KB.
func BenchmarkRead(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		db := benchDB(b, open)
		first := benchKeys.Add(1000) - 1000
		err := db.Write(b.Context(), func(tx *sqldb.Tx) error {
			for n := first; n < first+1000; n++ {
				if err := benchInsert(tx, n, 64); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		n := first
		for b.Loop() {
			var body []byte
			err := db.Read(b.Context(), func(tx *sqldb.Tx) error {
				_, err := tx.Get(readBench, []any{n % 64, n}, &body)
				return err
			})
			if err != nil || len(body) != len(benchBody) {
				b.Fatal(err, len(body))
			}
			if n++; n == first+1000 {
				n = first
			}
		}
	})
}
