package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/blob"
	"myelin/internal/blob/s3test"
	"myelin/internal/fedclient"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const alice = id.UserID("@alice:here.example")

// node is a store of files on a test database.
type node struct {
	*Media
	t      testing.TB
	ctx    context.Context
	folder string
	bucket *s3test.Server // nil where files stay in the folder
}

// each runs a test on both engines, with the files in a folder and in a bucket.
func each(t *testing.T, limits Limits, run func(n *node)) {
	t.Run("folder", func(t *testing.T) {
		sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) { run(start(t, open(), limits)) })
	})
	t.Run("bucket", func(t *testing.T) {
		sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) { run(startOn(t, open(), limits, s3test.Start(t))) })
	})
}

func start(t testing.TB, db *sqldb.DB, limits Limits) *node { return startOn(t, db, limits, nil) }

func startOn(t testing.TB, db *sqldb.DB, limits Limits, bucket *s3test.Server) *node {
	t.Helper()
	n := &node{t: t, ctx: t.Context(), folder: filepath.Join(t.TempDir(), "media"), bucket: bucket}
	files := blob.Config{DB: db, Folder: n.folder}
	if bucket != nil {
		files.Bucket = &blob.Bucket{
			Endpoint: bucket.URL, Name: s3test.Bucket, Region: "us-east-1", Lookup: "path", AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey,
		}
	}
	names, err := ours.Open(n.ctx, ours.Config{DB: db, Names: []id.ServerName{"here.example"}})
	n.ok(err)
	blobs, err := blob.Open(n.ctx, files)
	n.ok(err)
	client, err := fedclient.Open(n.ctx, fedclient.Config{DB: db, Ours: names, Deny: []string{"*"}})
	n.ok(err)
	t.Cleanup(client.Close)
	if limits.Upload == 0 {
		limits.Upload = 1 << 30
	}
	n.Media, err = Open(n.ctx, Config{DB: db, Ours: names, Blobs: blobs, Client: client, Limits: limits})
	n.ok(err)
	t.Cleanup(n.Close)
	return n
}

func (n *node) ok(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) refused(code mxerr.Code, err error) {
	n.t.Helper()
	if !mxerr.Is(err, code) {
		n.t.Errorf("got %v, want %s", err, code)
	}
}

// files counts what is in the folder and in the bucket.
func (n *node) files() (count int) {
	n.t.Helper()
	n.ok(filepath.WalkDir(n.folder, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			count++
		}
		return err
	}))
	if n.bucket != nil {
		count += len(n.bucket.Names())
	}
	return count
}

// copied puts a file of another server into the cache, last used some time ago.
func (n *node) copied(mediaID string, content []byte, ago time.Duration) URI {
	n.t.Helper()
	u := URI{"there.example", mediaID}
	c, err := n.receive(bytes.NewReader(content), 1<<30)
	n.ok(err)
	n.ok(n.blobs.Keep(n.ctx, c, func(tx *sqldb.Tx) error {
		h := c.Hash()
		_, err := tx.Exec(sqlAddCopy, u.Server, u.ID, h[:], c.Size(), "text/plain", "", time.Now().Add(-ago).UnixMilli(), false)
		return err
	}))
	return u
}

// has reports whether a file can be had.
func (n *node) has(u URI) bool {
	n.t.Helper()
	f, err := n.Download(n.ctx, Want{URI: u})
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return false
	}
	n.ok(err)
	f.Body.Close()
	return true
}

func text(size int) []byte {
	out := make([]byte, size)
	for i := range out {
		out[i] = byte('a' + rand.N(26))
	}
	return out
}

func TestStatementsArePrepared(t *testing.T) {
	each(t, Limits{}, func(n *node) { sqldbtest.PrepareAll(n.t, n.db) })
}

// TestPromisesEnd: an address that nobody uploaded to in time is gone, and is not counted any more.
func TestPromisesEnd(t *testing.T) {
	each(t, Limits{}, func(n *node) {
		u, _, err := n.Promise(n.ctx, alice)
		n.ok(err)
		n.refused(mxerr.CodeForbidden, n.Fulfil(n.ctx, u, Upload{User: "@bob:here.example", Body: strings.NewReader("x")}))
		expire := sqldb.SQL(`UPDATE media SET expires = 1 WHERE hash IS NULL`)
		n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
			_, err := tx.Exec(expire)
			return err
		}))
		for range 2 { // before and after it is forgotten
			n.refused(mxerr.CodeNotFound, n.Fulfil(n.ctx, u, Upload{User: alice, Body: strings.NewReader("x")}))
			_, err = n.Download(n.ctx, Want{URI: u, Wait: time.Hour})
			n.refused(mxerr.CodeNotFound, err)
			n.ok(n.ForgetPromises(n.ctx))
		}
		for range maxPromises {
			_, _, err := n.Promise(n.ctx, alice)
			n.ok(err)
		}
		_, _, err = n.Promise(n.ctx, alice)
		n.refused(mxerr.CodeLimitExceeded, err)
		n.ok(n.ForgetPromises(n.ctx))
		_, _, err = n.Promise(n.ctx, alice)
		n.refused(mxerr.CodeLimitExceeded, err)
		_, _, err = n.Promise(n.ctx, "@bob:here.example")
		n.ok(err)
	})
}

// TestRacingUploads: of two uploads to one address one wins, and the other one's bytes are gone.
func TestRacingUploads(t *testing.T) {
	each(t, Limits{}, func(n *node) {
		u, _, err := n.Promise(n.ctx, alice)
		n.ok(err)
		out, in := io.Pipe()
		slow := make(chan error, 1)
		go func() { slow <- n.Fulfil(n.ctx, u, Upload{User: alice, Body: out}) }()
		_, err = in.Write([]byte("slow")) // it passed the first check
		n.ok(err)
		n.ok(n.Fulfil(n.ctx, u, Upload{User: alice, Body: strings.NewReader("fast")}))
		n.ok(in.Close())
		n.refused(mxerr.CodeCannotOverwriteMedia, <-slow)
		f, err := n.Download(n.ctx, Want{URI: u})
		n.ok(err)
		defer f.Body.Close()
		if got, err := io.ReadAll(f.Body); string(got) != "fast" || n.files() != 1 {
			t.Errorf("%q %v, %d files", got, err, n.files())
		}
	})
}

// TestFailedUploads leave nothing.
func TestFailedUploads(t *testing.T) {
	each(t, Limits{Upload: 10}, func(n *node) {
		broken := errors.New("broken")
		for _, up := range []Upload{
			{User: alice, Body: strings.NewReader("more than ten bytes")},
			{User: alice, Body: io.MultiReader(strings.NewReader("x"), iotestErr{broken})},
			{User: alice, Name: strings.Repeat("x", maxName+1), Body: strings.NewReader("x")},
		} {
			if _, err := n.Upload(n.ctx, up); err == nil {
				t.Error("it was kept")
			}
		}
		if n.files() != 0 {
			t.Errorf("%d files are left", n.files())
		}
	})
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

// TestStoreAway: while the store of files is away nothing is taken and nothing is lost, and clients are told nothing of it but that.
func TestStoreAway(t *testing.T) {
	n := startOn(t, sqldbtest.SQLite(t), Limits{Thumbnails: 1 << 20}, s3test.Start(t))
	picture := encoded(t, quarters(300, 300), typePNG)
	u, err := n.Upload(n.ctx, Upload{User: alice, Body: bytes.NewReader(picture)})
	n.ok(err)
	away := func(err error) {
		t.Helper()
		if e, _ := mxerr.Of(err); !errors.Is(err, ErrAway) || e != ErrAway || strings.Contains(e.Text, "bucket") {
			t.Errorf("the error is %v", err)
		}
	}
	n.bucket.Refuse(http.StatusForbidden)
	_, err = n.Download(n.ctx, Want{URI: u})
	away(err)
	_, err = n.Thumbnail(n.ctx, Want{URI: u}, Size{Width: 32, Height: 32})
	away(err)
	_, err = n.Upload(n.ctx, Upload{User: alice, Body: strings.NewReader("new")})
	away(err)
	n.bucket.Refuse(0)
	if n.files() != 1 || !n.has(u) {
		t.Errorf("%d files", n.files())
	}
	n.bucket.Cut(100)
	f, err := n.Thumbnail(n.ctx, Want{URI: u}, Size{Width: 32, Height: 32})
	n.ok(err)
	n.ok(f.Body.Close())
}

// TestTrim: copies go by age and, the oldest first, by size; thumbnails by size, and with their image.
func TestTrim(t *testing.T) {
	each(t, Limits{RemoteCache: 10_000, RemoteAge: time.Hour, Thumbnails: 1 << 20}, func(n *node) {
		expired := n.copied("expired", text(10), 2*time.Hour)
		shared := text(4000)
		mine, err := n.Upload(n.ctx, Upload{User: alice, Body: bytes.NewReader(shared)})
		n.ok(err)
		oldest := n.copied("oldest", shared, 50*time.Minute)
		old := n.copied("old", text(4000), 40*time.Minute)
		n.copied("newer", text(4000), 30*time.Minute)
		newest := n.copied("newest", text(4000), time.Minute)
		n.ok(n.Trim(n.ctx))
		for u, want := range map[URI]bool{expired: false, oldest: false, old: false, newest: true, mine: true} {
			if n.has(u) != want {
				t.Errorf("%s: %v", u, !want)
			}
		}
		if n.files() != 3 {
			t.Errorf("%d files", n.files())
		}

		// What is asked for is old no more.
		kept := n.copied("kept", text(4000), 59*time.Minute)
		n.touched.note(use{uri: kept}, 0)
		n.ok(n.NoteUse(n.ctx))
		n.ok(n.Trim(n.ctx))
		if !n.has(kept) || !n.has(newest) || n.files() != 3 {
			t.Errorf("kept %v, newest %v, %d files", n.has(kept), n.has(newest), n.files())
		}

		// Thumbnails go with the last file that they show.
		picture := encoded(t, quarters(300, 300), typePNG)
		copied := n.copied("picture", picture, 0)
		thumbnail, err := n.Thumbnail(n.ctx, Want{URI: copied}, Size{Width: 32, Height: 32})
		n.ok(err)
		n.ok(thumbnail.Body.Close())
		if n.files() != 5 {
			t.Errorf("%d files with a thumbnail", n.files())
		}
		n.limits.RemoteCache = 0
		n.ok(n.Trim(n.ctx))
		if n.has(copied) || n.files() != 1 {
			t.Errorf("%d files after the picture went", n.files())
		}

		own, err := n.Upload(n.ctx, Upload{User: alice, Body: bytes.NewReader(picture)})
		n.ok(err)
		for i := range 3 {
			f, err := n.Thumbnail(n.ctx, Want{URI: own}, Size{Width: 32, Height: 32 - i, Crop: true})
			n.ok(err)
			n.ok(f.Body.Close())
		}
		n.limits.Thumbnails = 0
		n.ok(n.Trim(n.ctx))
		if n.files() != 2 {
			t.Errorf("%d files after the thumbnails went", n.files())
		}
	})
}

// TestTrimManyPages deletes more than one transaction does.
func TestTrimManyPages(t *testing.T) {
	n := start(t, sqldbtest.SQLite(t), Limits{RemoteCache: 10})
	for i := range 2*trimPage + 10 {
		n.copied(fmt.Sprint("m", i), []byte(fmt.Sprintf("%09d\n", i)), time.Hour-time.Duration(i))
	}
	n.ok(n.Trim(n.ctx))
	if n.files() != 1 || !n.has(URI{"there.example", fmt.Sprint("m", 2*trimPage+9)}) {
		t.Errorf("%d files", n.files())
	}
}

// TestOnce: who wants the same at the same time gets the same, who leaves does not end it for the others, and Close waits.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := new(Media)
		m.ctx, m.stop = context.WithCancel(t.Context())
		goOn := make(chan struct{})
		runs, results := 0, make(chan error, 3)
		want := func(ctx context.Context) {
			got, err := once(ctx, m, "x", func() (int, error) {
				runs++
				<-goOn
				return 7, nil
			})
			if err == nil && got != 7 {
				err = fmt.Errorf("got %d", got)
			}
			results <- err
		}
		ctx, cancel := context.WithCancel(t.Context())
		go want(ctx)
		synctest.Wait()
		go want(t.Context())
		go want(t.Context())
		synctest.Wait()
		cancel()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("who left: %v", err)
		}
		closed := make(chan struct{})
		go func() { m.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close did not wait")
		default:
		}
		close(goOn)
		if err := errors.Join(<-results, <-results); err != nil || runs != 1 {
			t.Errorf("who stayed: %v, %d runs", err, runs)
		}
		<-closed
		if _, err := once(t.Context(), m, "y", func() (int, error) { panic("a bug") }); err == nil || !strings.Contains(err.Error(), "a bug") {
			t.Errorf("a panic: %v", err)
		}
	})
}

// TestNotPermitted: a server that this one does not speak with has no files.
func TestNotPermitted(t *testing.T) {
	n := start(t, sqldbtest.SQLite(t), Limits{Remote: 1000})
	_, err := n.Download(n.ctx, Want{URI: URI{"there.example", "x"}, Asker: "here.example", Remote: true})
	n.refused(mxerr.CodeNotFound, err)
}

// TestGate: no server has more than its share of fetches, and who leaves lets the next one in.
func TestGate(t *testing.T) {
	g := gate{most: maxFetches}
	from := func(server, user string) []place {
		return []place{{"server " + server, maxFetchesPerServer}, {"for " + user, maxFetchesPerUser}}
	}
	enter := func(ctx context.Context, server, user string) error { return g.enter(ctx, from(server, user)...) }
	for range maxFetchesPerServer {
		if err := enter(t.Context(), "a.example", "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := enter(t.Context(), "b.example", "x"); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := enter(gone, "a.example", "y"); !errors.Is(err, context.Canceled) {
		t.Errorf("one too many: %v", err)
	}
	entered := make(chan error, 1)
	go func() { entered <- enter(t.Context(), "a.example", "y") }()
	g.leave(from("a.example", "x")...)
	if err := <-entered; err != nil {
		t.Error(err)
	}
	// However many names somebody's servers have, others get their files.
	for i := g.of["for x"]; i < maxFetchesPerUser; i++ {
		if err := enter(t.Context(), fmt.Sprintf("%d.example", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := enter(gone, "another.example", "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("one too many of a user: %v", err)
	}
	if err := enter(t.Context(), "another.example", "y"); err != nil {
		t.Error(err)
	}
}

// TestQueue: who waits for others, here for a server that takes its time, is told so after a while.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Media{fetches: gate{most: 0}, shrinkers: gate{most: 0}, ctx: t.Context()}
		begun := time.Now()
		if _, err := m.fetch(t.Context(), Want{URI: URI{"there.example", "x"}}); !mxerr.Is(err, mxerr.CodeConnectionTimeout) || time.Since(begun) != queueTime {
			t.Errorf("a file, after %s: %v", time.Since(begun), err)
		}
		begun = time.Now()
		if _, err := m.makeOnce(t.Context(), "x", blob.Hash{}, Size{Width: 32, Height: 32}); !mxerr.Is(err, mxerr.CodeLimitExceeded) || time.Since(begun) != queueTime {
			t.Errorf("a thumbnail, after %s: %v", time.Since(begun), err)
		}
	})
}

// TestStillAndMoving: who wants what moves gets it, also after somebody had a still one made.
func TestStillAndMoving(t *testing.T) {
	each(t, Limits{Thumbnails: 1 << 20}, func(n *node) {
		u, err := n.Upload(n.ctx, Upload{User: alice, Body: bytes.NewReader(encoded(n.t, quarters(20, 20), typeGIF))})
		n.ok(err)
		for range 2 {
			for animated, want := range map[bool]string{false: typePNG, true: typeGIF} {
				f, err := n.Thumbnail(n.ctx, Want{URI: u}, Size{Width: 96, Height: 96, Animated: animated})
				n.ok(err)
				f.Body.Close()
				if f.ContentType != want {
					n.t.Errorf("animated %v: %s", animated, f.ContentType)
				}
			}
		}
	})
}

// TestRoundedSizes: clients that want about the same size share a thumbnail, no smaller than any of them wants.
func TestRoundedSizes(t *testing.T) {
	for _, row := range [][4]int{{32, 32, 32, 32}, {33, 10, 96, 96}, {300, 200, 320, 240}, {240, 320, 320, 320}, {640, 480, 640, 480}, {800, 600, 800, 600}} {
		if got, ok := (Size{Width: row[0], Height: row[1]}).round(); !ok || got.Width != row[2] || got.Height != row[3] {
			t.Errorf("%v: %+v %v", row, got, ok)
		}
	}
	for _, row := range [][4]int{{32, 32, 32, 32}, {90, 45, 96, 48}, {48, 64, 72, 96}, {1, 32, 1, 32}} {
		if got, ok := (Size{Width: row[0], Height: row[1], Crop: true}).round(); !ok || got.Width != row[2] || got.Height != row[3] {
			t.Errorf("cropped %v: %+v %v", row, got, ok)
		}
	}
	for _, s := range []Size{{2000, 10, false, false}, {10, 2000, true, false}} {
		if got, ok := s.round(); ok {
			t.Errorf("%+v: %+v", s, got)
		}
	}
}
