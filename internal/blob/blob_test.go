package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

func each(t *testing.T, run func(t *testing.T, s *Store)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		s, err := Open(t.Context(), Config{DB: open(), Folder: filepath.Join(t.TempDir(), "media")})
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
	})
}

func none(*sqldb.Tx) error { return nil }

// keep stores a text and returns its hash.
func keep(t testing.TB, s *Store, text string) Hash {
	t.Helper()
	c, err := s.Create(1 << 20)
	if err == nil {
		_, err = c.Write([]byte(text))
	}
	if err == nil {
		err = s.Keep(t.Context(), c, none)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.Hash()
}

func drop(t testing.TB, s *Store, hashes ...Hash) {
	t.Helper()
	if err := s.Drop(t.Context(), func(*sqldb.Tx) ([]Hash, error) { return hashes, nil }); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, s *Store, h Hash) (string, error) {
	t.Helper()
	f, err := s.Open(context.WithoutCancel(t.Context()), h)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	return string(text), err
}

// files counts what is in the folder.
func files(t testing.TB, s *Store) (n int) {
	t.Helper()
	err := filepath.WalkDir(s.folder, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestReferencesAreCounted(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		sqldbtest.PrepareAll(t, s.db)
		h := keep(t, s, "hello")
		if again := keep(t, s, "hello"); again != h || files(t, s) != 1 {
			t.Errorf("the same content twice: %d files", files(t, s))
		}
		other := keep(t, s, "other")
		drop(t, s, h)
		if text, err := read(t, s, h); text != "hello" {
			t.Errorf("after one of two references went: %q %v", text, err)
		}
		if err := s.db.Write(t.Context(), func(tx *sqldb.Tx) error { return s.Refer(tx, h) }); err != nil {
			t.Fatal(err)
		}
		drop(t, s, h, h)
		if _, err := read(t, s, h); !errors.Is(err, ErrMissing) || files(t, s) != 1 {
			t.Errorf("after the last one went: %v, %d files", err, files(t, s))
		}
		if text, err := read(t, s, other); text != "other" {
			t.Errorf("the other one: %q %v", text, err)
		}
		if err := s.db.Write(t.Context(), func(tx *sqldb.Tx) error { return s.Refer(tx, h) }); !errors.Is(err, ErrMissing) {
			t.Errorf("a reference to what is gone: %v", err)
		}
		keep(t, s, "hello")
		if text, err := read(t, s, h); text != "hello" {
			t.Errorf("it came back: %q %v", text, err)
		}
	})
}

func TestWhatFailsLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		c, err := s.Create(4)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("12345")); !errors.Is(err, ErrTooLarge) {
			t.Errorf("five bytes of four: %v", err)
		}
		c.Discard()
		c.Discard()
		if err := s.Keep(t.Context(), c, none); err == nil {
			t.Error("a discarded content was kept")
		}
		refused := errors.New("refused")
		c, err = s.Create(4)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Keep(t.Context(), c, func(*sqldb.Tx) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("the error is %v", err)
		}
		if n := files(t, s); n != 0 {
			t.Errorf("%d files are left", n)
		}
		if _, err := s.Open(t.Context(), c.Hash()); !errors.Is(err, ErrMissing) {
			t.Errorf("it is there: %v", err)
		}
	})
}

func TestSweepDeletesWhatCrashesLeave(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		kept := keep(t, s, "kept")
		young, old := newFile(kept), newFile(kept)
		unfinished := incoming + "/123"
		foreign := "notes/file"
		long := time.Now().Add(-2 * orphanAge)
		for _, file := range []string{young, old, unfinished, foreign} {
			if err := os.MkdirAll(filepath.Dir(s.path(file)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.path(file), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		entries, err := filepath.Glob(filepath.Join(s.folder, "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range entries {
			if name == s.path(young) {
				continue
			}
			if err := os.Chtimes(name, long, long); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]bool{young: true, old: false, unfinished: false, foreign: true} {
			if _, err := os.Stat(s.path(file)); (err == nil) != want {
				t.Errorf("%s: %v", file, err)
			}
		}
		if text, err := read(t, s, kept); text != "kept" {
			t.Errorf("what is referred to: %q %v", text, err)
		}
	})
}

// TestComingAndGoing has writers and deleters of one content at once: whoever has a reference can read.
func TestComingAndGoing(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 10 {
					h := keep(t, s, "shared")
					if text, err := read(t, s, h); text != "shared" {
						t.Errorf("with a reference: %q %v", text, err)
					}
					drop(t, s, h)
				}
			})
		}
		all.Wait()
		if n := files(t, s); n != 0 {
			t.Errorf("%d files are left", n)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	s, err := Open(b.Context(), Config{DB: sqldbtest.SQLite(b), Folder: filepath.Join(b.TempDir(), "media")})
	if err != nil {
		b.Fatal(err)
	}
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	b.SetBytes(100 << 20)
	for b.Loop() {
		c, err := s.Create(1 << 30)
		if err != nil {
			b.Fatal(err)
		}
		for range 1600 {
			if _, err := c.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Keep(b.Context(), c, none); err != nil {
			b.Fatal(err)
		}
	}
}
