package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"myelin/internal/blob/s3test"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

// shelves are the kinds of stores; each gets a fresh one of them on a database.
var shelves = map[string]func(t testing.TB, db *sqldb.DB) *tested{
	"folder": func(t testing.TB, db *sqldb.DB) *tested { return open(t, db, nil) },
	"bucket": func(t testing.TB, db *sqldb.DB) *tested { return open(t, db, s3test.Start(t)) },
}

// tested is a store and what is behind it.
type tested struct {
	*Store
	remote *s3test.Server // nil where it is a folder
}

func open(t testing.TB, db *sqldb.DB, remote *s3test.Server) *tested {
	t.Helper()
	c := Config{DB: db, Folder: filepath.Join(t.TempDir(), "media")}
	if remote != nil {
		c.Bucket = bucketOf(remote)
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return &tested{s, remote}
}

func bucketOf(remote *s3test.Server) *Bucket {
	return &Bucket{
		Endpoint: remote.URL, Name: s3test.Bucket, Prefix: "some/where/", Region: "us-east-1", Lookup: "path",
		AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey,
	}
}

func each(t *testing.T, run func(t *testing.T, s *tested)) {
	for name, shelf := range shelves {
		t.Run(name, func(t *testing.T) {
			sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) { run(t, shelf(t, open())) })
		})
	}
}

func none(*sqldb.Tx) error { return nil }

// keep stores a text and returns its hash.
func keep(t testing.TB, s *tested, text string) Hash {
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

func drop(t testing.TB, s *tested, hashes ...Hash) {
	t.Helper()
	if err := s.Drop(t.Context(), func(*sqldb.Tx) ([]Hash, error) { return hashes, nil }); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, s *tested, h Hash) (string, error) {
	t.Helper()
	f, err := s.Open(context.WithoutCancel(t.Context()), h)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	return string(text), err
}

// files counts what is in the folder and in the bucket, but for its mark.
func files(t testing.TB, s *tested) (n int) {
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
	if s.remote != nil {
		for _, name := range s.remote.Names() {
			if path.Base(name) != markName {
				n++
			}
		}
	}
	return n
}

func TestReferencesAreCounted(t *testing.T) {
	each(t, func(t *testing.T, s *tested) {
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
	each(t, func(t *testing.T, s *tested) {
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
	each(t, func(t *testing.T, s *tested) {
		kept := keep(t, s, "kept")
		young, old := newFile(kept), newFile(kept)
		unfinished := incoming + "/123"
		foreign := "notes/file"
		long := time.Now().Add(-2 * orphanAge)
		here := &folder{root: s.folder}
		put := func(file string) {
			if s.remote != nil && file != unfinished {
				s.remote.Put("some/where/"+file, "x")
				return
			}
			if err := os.MkdirAll(filepath.Dir(here.path(file)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(here.path(file), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if s.remote != nil {
			s.remote.Late(2 * orphanAge)
		}
		second := keep(t, s, "kept as well")
		for _, file := range []string{old, unfinished, foreign} {
			put(file)
		}
		entries, err := filepath.Glob(filepath.Join(s.folder, "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range entries {
			if err := os.Chtimes(name, long, long); err != nil {
				t.Fatal(err)
			}
		}
		if s.remote != nil {
			s.remote.Late(0)
		}
		put(young)
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]bool{young: true, old: false, unfinished: false, foreign: true} {
			_, err := os.Stat(here.path(file))
			if there := err == nil || s.remote != nil && slices.Contains(s.remote.Names(), "some/where/"+file); there != want {
				t.Errorf("%s: %v", file, err)
			}
		}
		for h, want := range map[Hash]string{kept: "kept", second: "kept as well"} {
			if text, err := read(t, s, h); text != want {
				t.Errorf("what is referred to: %q %v", text, err)
			}
		}
	})
}

// TestKnownContentIsNotSentAgain: what is there costs a reference and no more, and what is gone comes back.
func TestKnownContentIsNotSentAgain(t *testing.T) {
	s := shelves["bucket"](t, sqldbtest.SQLite(t))
	keep(t, s, "hello")
	before := s.remote.Requests.Load()
	h := keep(t, s, "hello")
	if n := s.remote.Requests.Load() - before; n != 0 {
		t.Errorf("the same content again: %d requests", n)
	}
	drop(t, s, h, h)
	keep(t, s, "hello")
	if text, err := read(t, s, h); text != "hello" {
		t.Errorf("it came back: %q %v", text, err)
	}
}

// TestLargeContent goes in parts, and is read from any place.
func TestLargeContent(t *testing.T) {
	each(t, func(t *testing.T, s *tested) {
		chunk := make([]byte, 1<<20)
		const chunks = 2*partSize>>20 + 3
		c, err := s.Create(1 << 30)
		if err != nil {
			t.Fatal(err)
		}
		for i := range chunks {
			for j := range chunk {
				chunk[j] = byte(i + j>>3)
			}
			if _, err := c.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Keep(t.Context(), c, none); err != nil {
			t.Fatal(err)
		}
		f, err := s.Store.Open(t.Context(), c.Hash())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		sum := sha256.New()
		if n, err := io.Copy(sum, f); n != chunks<<20 || err != nil || Hash(sum.Sum(nil)) != c.Hash() {
			t.Errorf("%d bytes, %v", n, err)
		}
		for _, at := range []int64{5 << 20, 0, chunks<<20 - 2, 17<<20 + 9} {
			if _, err := f.Seek(at, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 2)
			if _, err := io.ReadFull(f, b); err != nil || b[0] != byte(at>>20+at&(1<<20-1)>>3) {
				t.Errorf("at %d: %d %v", at, b, err)
			}
		}
		if _, err := f.Seek(-1, io.SeekStart); err == nil {
			t.Error("there is something before the beginning")
		}
	})
}

// TestComingAndGoing has writers and deleters of one content at once: whoever has a reference can read.
func TestComingAndGoing(t *testing.T) {
	each(t, func(t *testing.T, s *tested) {
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
	s := shelves["folder"](b, sqldbtest.SQLite(b))
	chunk := bytes.Repeat([]byte("x"), 128<<10)
	b.SetBytes(256 << 20)
	for b.Loop() {
		c, err := s.Create(1 << 30)
		if err != nil {
			b.Fatal(err)
		}
		for range 2048 {
			if _, err := c.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Keep(b.Context(), c, none); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		drop(b, s, c.Hash()) // the same content again would not be written
		b.StartTimer()
	}
}
