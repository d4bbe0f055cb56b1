package blob

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"myelin/internal/blob/s3test"
	"myelin/internal/sqldb/sqldbtest"
)

// away checks an error of a store that can't be used: it says so, and it says no secret.
func away(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrAway) || strings.Contains(err.Error(), s3test.SecretKey) {
		t.Errorf("the error is %v", err)
	}
}

// TestBucketAway: nothing is lost and nothing is left while the store is away, and it works when it is back.
func TestBucketAway(t *testing.T) {
	s := shelves["bucket"](t, sqldbtest.SQLite(t))
	h := keep(t, s, "kept")
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusForbidden} {
		s.remote.Refuse(status)
		_, err := read(t, s, h)
		away(t, err)
		c, err := s.Create(10)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("new")); err != nil {
			t.Fatal(err)
		}
		away(t, s.Keep(t.Context(), c, none))
		away(t, s.Check(t.Context()))
		away(t, s.Sweep(t.Context()))
		s.remote.Refuse(0)
		if n := files(t, s); n != 1 {
			t.Errorf("%d files", n)
		}
	}
	if text, err := read(t, s, h); text != "kept" {
		t.Errorf("it is back: %q %v", text, err)
	}
	keep(t, s, "new")
	if err := s.Check(t.Context()); err != nil || files(t, s) != 2 {
		t.Errorf("%v, %d files", err, files(t, s))
	}

	// Deleting does not wait for the store: what it leaves is swept.
	s.remote.Refuse(http.StatusServiceUnavailable)
	drop(t, s, h)
	s.remote.Refuse(0)
	if _, err := read(t, s, h); !errors.Is(err, ErrMissing) {
		t.Errorf("what was dropped: %v", err)
	}
}

// TestNobodyThere: the endpoint leads nowhere.
func TestNobodyThere(t *testing.T) {
	c := bucketOf(s3test.Start(t))
	c.Endpoint = "http://127.0.0.1:1"
	s, err := Open(t.Context(), Config{DB: sqldbtest.SQLite(t), Folder: t.TempDir(), Bucket: c})
	if err != nil {
		t.Fatal(err)
	}
	away(t, s.Check(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Check(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrAway) {
		t.Errorf("who leaves gets %v", err)
	}
}

// TestWrongSettings: what the check says of keys and buckets that are not there.
func TestWrongSettings(t *testing.T) {
	remote := s3test.Start(t)
	for want, change := range map[string]func(*Bucket){
		"Access Key": func(c *Bucket) { c.AccessKey = "another" },
		"no bucket":  func(c *Bucket) { c.Name = "nowhere" },
	} {
		c := bucketOf(remote)
		change(c)
		s, err := Open(t.Context(), Config{DB: sqldbtest.SQLite(t), Folder: t.TempDir(), Bucket: c})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Check(t.Context())
		away(t, err)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q says nothing of %q", err, want)
		}
	}
}

// TestBucketOfAnother: two databases don't share a prefix, since each would delete what the other has. Nodes with one database do.
func TestBucketOfAnother(t *testing.T) {
	remote, db := s3test.Start(t), sqldbtest.SQLite(t)
	s, node := open(t, db, remote), open(t, db, remote)
	h := keep(t, s, "text")
	if err := errors.Join(s.Check(t.Context()), node.Check(t.Context()), node.Sweep(t.Context())); err != nil {
		t.Fatal(err)
	}
	if text, err := read(t, node, h); text != "text" {
		t.Errorf("another node reads %q %v", text, err)
	}
	other := open(t, sqldbtest.SQLite(t), remote)
	for _, err := range []error{other.Check(t.Context()), other.Sweep(t.Context())} {
		if err == nil || errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "another database") {
			t.Errorf("the other database: %v", err)
		}
	}
}

// TestBrokenConnections: a content is read on over another connection, and not for ever.
func TestBrokenConnections(t *testing.T) {
	s := shelves["bucket"](t, sqldbtest.SQLite(t))
	text := strings.Repeat("0123456789", 100_000)
	h := keep(t, s, text)
	s.remote.Cut(300_000)
	if got, err := read(t, s, h); got != text {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	f, err := s.Store.Open(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(10, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	s.remote.Refuse(http.StatusServiceUnavailable)
	_, err = io.ReadAll(f)
	away(t, err)
}

// TestUnfinishedParts: what was sent in parts and not to its end is swept.
func TestUnfinishedParts(t *testing.T) {
	s := shelves["bucket"](t, sqldbtest.SQLite(t))
	b := s.shelf.(*bucket)
	begin := func() string {
		name := b.Prefix + newFile(Hash{1})
		if _, err := b.core.NewMultipartUpload(t.Context(), b.Name, name, sending); err != nil {
			t.Fatal(err)
		}
		return name
	}
	s.remote.Late(2 * orphanAge)
	begin()
	s.remote.Late(0)
	young := begin()
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left []string
	for upload := range b.core.Client.ListIncompleteUploads(t.Context(), b.Name, b.Prefix, true) {
		if upload.Err != nil {
			t.Fatal(upload.Err)
		}
		left = append(left, upload.Key)
	}
	if len(left) != 1 || left[0] != young {
		t.Errorf("left are %q, want %q", left, young)
	}
}

// TestSlowStore: a store that takes requests and never answers holds nobody for longer than they wait.
func TestSlowStore(t *testing.T) {
	s := shelves["bucket"](t, sqldbtest.SQLite(t))
	h := keep(t, s, "text")
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	go func() {
		<-s.remote.Hang()
		cancel()
	}()
	if _, err := s.Store.Open(ctx, h); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}
