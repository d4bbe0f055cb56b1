package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// baseline appends rows to a table of a fresh SQLite database and returns how many a second are durable: in WAL
// mode with synchronous=FULL, one integer key, no further index. The folder decides which disk is measured.
func baseline(ctx context.Context, folder string, row, perCommit int, duration time.Duration) (rate float64, err error) {
	dir, err := os.MkdirTemp(folder, "myelin-bench-")
	if err != nil {
		return 0, fmt.Errorf("make a folder for the baseline: %w", err)
	}
	defer os.RemoveAll(dir)
	db, err := sqlite.OpenConn(filepath.Join(dir, "baseline.db"), sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		return 0, fmt.Errorf("open the baseline's database: %w", err)
	}
	defer db.Close()
	for _, s := range []string{"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE event (pos INTEGER PRIMARY KEY, body BLOB NOT NULL)"} {
		if err := sqlitex.ExecuteTransient(db, s, nil); err != nil {
			return 0, fmt.Errorf("prepare the baseline's database: %w", err)
		}
	}
	insert, err := db.Prepare("INSERT INTO event (body) VALUES (?1)")
	if err != nil {
		return 0, err
	}
	body := make([]byte, row)
	started := time.Now()
	for n := 0; ; {
		if took := time.Since(started); took >= duration || ctx.Err() != nil {
			return float64(n) / took.Seconds(), ctx.Err()
		}
		if err := appendRows(db, insert, body, n, perCommit); err != nil {
			return 0, fmt.Errorf("append to the baseline's database: %w", err)
		}
		n += perCommit
	}
}

func appendRows(db *sqlite.Conn, insert *sqlite.Stmt, body []byte, from, rows int) (err error) {
	end, err := sqlitex.ImmediateTransaction(db)
	if err != nil {
		return err
	}
	defer end(&err)
	for i := range rows {
		body[0], body[1], body[2] = byte(from+i), byte((from+i)>>8), byte((from+i)>>16)
		insert.BindBytes(1, body)
		if _, err := insert.Step(); err != nil {
			return err
		}
		if err := insert.Reset(); err != nil {
			return err
		}
	}
	return nil
}

// measureBaseline reports both rates of appending.
func measureBaseline(ctx context.Context, o options) (metrics, error) {
	var m metrics
	for _, perCommit := range []int{1, 64} {
		rate, err := baseline(ctx, o.folder, o.row, perCommit, min(o.duration, 3*time.Second))
		if err != nil {
			return nil, err
		}
		m.add(baselineName(perCommit), rate, "rows/s")
	}
	return m, nil
}

func baselineName(perCommit int) string {
	return fmt.Sprintf("baseline append, %d per commit", perCommit)
}
