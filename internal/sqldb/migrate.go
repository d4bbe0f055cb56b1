package sqldb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Migration is one step of a slice's schema. SQL holds statements in the shared dialect, separated by semicolons.
type Migration struct {
	Slice   string
	Version int // 1, 2, … without gaps within the slice
	SQL     string
}

var ownMigrations = []Migration{{Slice: "sqldb", Version: 1, SQL: `
	CREATE TABLE stream (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), pos BIGINT NOT NULL);
	INSERT INTO stream (one, pos) VALUES (1, 0);
	CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, next BIGINT NOT NULL);
`}}

var (
	// Two nodes that start at once must not migrate at once; SQLite's writer is alone anyway. The number is arbitrary.
	stmtMigrationLock = Escape("migration lock", "SELECT 1", "SELECT pg_advisory_xact_lock(7021866214131215)")
	// The table is made outside of any migration, before the statements on it can be prepared.
	migrationsTable = `CREATE TABLE IF NOT EXISTS migrations (
		slice TEXT NOT NULL, version BIGINT NOT NULL, applied BIGINT NOT NULL, PRIMARY KEY (slice, version))`
	stmtMigrated = SQL("SELECT COALESCE(MAX(version), 0) FROM migrations WHERE slice = $1")
	stmtMigrate  = SQL("INSERT INTO migrations (slice, version, applied) VALUES ($1, $2, $3)")
)

// Migrate brings the named slices forward, all in one transaction, and records each step. It refuses a database in which a
// slice is further than the last step given.
func (db *DB) Migrate(ctx context.Context, steps ...Migration) error {
	bySlice := make(map[string][]Migration)
	var order []string
	for _, s := range steps {
		if bySlice[s.Slice] == nil {
			order = append(order, s.Slice)
		}
		bySlice[s.Slice] = append(bySlice[s.Slice], s)
		if s.Version != len(bySlice[s.Slice]) {
			return fmt.Errorf("migrate: step %d of slice %s stands at place %d", s.Version, s.Slice, len(bySlice[s.Slice]))
		}
	}
	err := db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(stmtMigrationLock); err != nil {
			return err
		}
		if _, err := tx.Exec(transient(migrationsTable, rewriteDDL(migrationsTable))); err != nil {
			return err
		}
		for _, slice := range order {
			if err := migrateSlice(tx, slice, bySlice[slice]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

func migrateSlice(tx *Tx, slice string, steps []Migration) error {
	var at int
	if _, err := tx.Get(stmtMigrated, []any{slice}, &at); err != nil {
		return err
	}
	if at > len(steps) {
		return fmt.Errorf("this database was written by a newer version of Myelin (%s is at step %d, this version knows %d): "+
			"run that version or a later one", slice, at, len(steps))
	}
	for _, step := range slices.Clone(steps)[at:] {
		for _, text := range splitStatements(step.SQL) {
			if _, err := tx.Exec(transient(sqliteDDL(text), rewriteDDL(text))); err != nil {
				return fmt.Errorf("%s step %d: %w", slice, step.Version, err)
			}
		}
		if _, err := tx.Exec(stmtMigrate, slice, step.Version, time.Now().UnixMilli()); err != nil {
			return err
		}
	}
	return nil
}

// sqliteDDL leaves the text alone, placeholders aside: the shared dialect of migrations is SQLite's.
func sqliteDDL(text string) string { return strings.TrimSpace(text) }
