package sqldb

import (
	"path/filepath"
	"sync/atomic"
	"testing"

	"modernc.org/libc"
)

// Commits are synced by us, the database's file and its log alike; SQLite's own sync is for new files only.
func TestDataSync(t *testing.T) {
	db, err := Open(t.Context(), Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "a folder?", "100%#.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	write := func() {
		t.Helper()
		if err := db.Write(t.Context(), func(tx *Tx) error { _, err := tx.Pos(); return err }); err != nil {
			t.Fatal(err)
		}
	}
	write()
	var plain atomic.Int64
	was := plainSync.Load()
	counting := func(tls *libc.TLS, file uintptr, flags int32) int32 {
		plain.Add(1)
		return (*was)(tls, file, flags)
	}
	plainSync.Store(&counting)
	defer plainSync.Store(was)
	write()
	if n := plain.Load(); n != 0 {
		t.Errorf("a commit was synced by SQLite's own function %d times", n)
	}
	if n := len(dataSync.methods); n != 2 {
		t.Errorf("%d kinds of files have our sync, 2 expected: with locks and without", n)
	}
}
