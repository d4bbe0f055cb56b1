package media

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"myelin/internal/blob"
	"myelin/internal/fedclient"
	"myelin/internal/sqldb"
	"myelin/matrix/mxerr"
)

const (
	// Bounds of fetches under way: all of them, those from one server and those for one user. A server may take its time, and who runs one can give
	// it many names.
	maxFetches          = 128
	maxFetchesPerServer = 6
	maxFetchesPerUser   = 24
	// queueTime is how long a fetch waits for its turn. Those who wait are as many as may ask within that time.
	queueTime = 30 * time.Second
	// touchEvery is how exactly the last use of a copy is known.
	touchEvery = time.Hour
	// maxTouched bounds what is remembered of uses between two writes.
	maxTouched = 10_000
)

var (
	sqlFindCopy = sqldb.SQL(`SELECT hash, size, content_type, name, legacy, used FROM remote_media WHERE server = $1 AND media_id = $2`)

	sqlAddCopy = sqldb.SQL(`INSERT INTO remote_media (server, media_id, hash, size, content_type, name, at, used, legacy)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8) ON CONFLICT (server, media_id) DO NOTHING`)

	sqlTouch = sqldb.SQL(`UPDATE remote_media SET used = $3 WHERE server = $1 AND media_id = $2 AND used < $3`)
)

// ErrRemoteTooLarge is M_TOO_LARGE of a file of another server.
var ErrRemoteTooLarge = mxerr.TooLarge("The file is too large to be fetched from its server.")

// errTwice ends storing a copy that another node stored first.
var errTwice = errors.New("media: there is a copy already")

// remote finds the copy of a file of another server, or makes one.
func (m *Media) remote(ctx context.Context, w Want) (*row, error) {
	f, err := m.findCopy(ctx, w.URI)
	if err != nil {
		return nil, err
	}
	if f == nil {
		if !w.Remote || m.client == nil || w.Legacy && !m.legacy {
			return nil, errNoFile
		}
		if err := m.free(ctx, w.URI, nil); err != nil {
			return nil, err
		}
		if f, err = m.fetchOnce(ctx, w); err != nil {
			return nil, err
		}
	}
	if w.Legacy && !f.legacy {
		return nil, errNoFile
	}
	m.touched.note(use{uri: w.URI}, f.expires)
	return f, nil
}

// findCopy looks up a copy; nil where there is none. Its last use is in expires.
func (m *Media) findCopy(ctx context.Context, u URI) (found *row, err error) {
	err = m.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(sqlFindCopy, func(r *sqldb.Row) error {
			found = new(row)
			return found.scan(r, &found.expires)
		}, u.Server, u.ID)
	})
	return found, err
}

// fetchOnce fetches a file; those who want the same one meanwhile wait for it. It goes on when they leave: somebody
// will come back.
func (m *Media) fetchOnce(ctx context.Context, w Want) (*row, error) {
	return once(ctx, m, w.URI.String(), func() (*row, error) { return m.fetch(m.ctx, w) })
}

// once does something that several callers may want under the same name. Each leaves when its context ends; Close waits for the rest.
func once[T any](ctx context.Context, m *Media, name string, do func() (T, error)) (none T, err error) {
	running := m.flights.DoChan(name, func() (got any, err error) {
		// Here a panic would end the process, and what decodes images reads what strangers wrote.
		defer func() {
			if v := recover(); v != nil {
				got, err = none, fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
		}()
		return do()
	})
	done := make(chan singleflight.Result, 1)
	m.busy.Go(func() { done <- <-running })
	select {
	case r := <-done:
		if r.Err != nil {
			return none, r.Err
		}
		return r.Val.(T), nil
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// Spec: ss Content Repository
func (m *Media) fetch(ctx context.Context, w Want) (*row, error) {
	places := []place{{"server " + string(w.Server), maxFetchesPerServer}, {"for " + w.Who, maxFetchesPerUser}}
	short, cancel := context.WithTimeout(ctx, queueTime)
	err := m.fetches.enter(short, places...)
	cancel()
	if err != nil {
		return nil, fetchError(w.URI, err)
	}
	defer m.fetches.leave(places...)
	wait := min(max(w.Wait, time.Millisecond), maxWait)
	in, err := m.client.Download(ctx, fedclient.Call{Origin: w.Asker, Destination: w.Server}, w.ID, wait, m.limits.Remote)
	if err != nil {
		return nil, fetchError(w.URI, err)
	}
	defer in.Body.Close()
	c, err := m.receive(in.Body, m.limits.Remote)
	if err != nil {
		return nil, fetchError(w.URI, err)
	}
	f := &row{
		hash: c.Hash(), size: c.Size(), contentType: cleanType(in.ContentType), name: NameOf(in.Disposition), legacy: m.legacy,
		expires: time.Now().UnixMilli(),
	}
	err = m.keep(ctx, c, func(tx *sqldb.Tx) error {
		n, err := tx.Exec(sqlAddCopy, w.Server, w.ID, f.hash[:], f.size, f.contentType, f.name, f.expires, f.legacy)
		if err == nil && n == 0 {
			err = errTwice
		}
		return err
	})
	if errors.Is(err, errTwice) {
		return m.findCopy(ctx, w.URI)
	}
	if err != nil {
		return nil, fmt.Errorf("keep a copy of %s: %w", w.URI, err)
	}
	m.grew(f.size)
	return f, nil
}

// fetchError says to a client why a file can't be had from its server.
func fetchError(u URI, err error) error {
	if remote, ok := errors.AsType[*fedclient.RemoteError](err); ok {
		switch {
		case remote.Err.Code == mxerr.CodeTooLarge:
			return ErrRemoteTooLarge
		case remote.Err.Code == mxerr.CodeNotYetUploaded:
			return mxerr.New(mxerr.CodeNotYetUploaded, "The file has not been uploaded to %s yet.", u.Server)
		case remote.Status == http.StatusNotFound:
			return mxerr.NotFound("%s says that it has no such file.", u.Server)
		}
		return mxerr.New(mxerr.CodeConnectionFailed, "%s did not give the file away: it answered %d %s.", u.Server, remote.Status, remote.Err.Code)
	}
	switch {
	case errors.Is(err, fedclient.ErrTooLarge), errors.Is(err, blob.ErrTooLarge), mxerr.Is(err, mxerr.CodeTooLarge):
		return ErrRemoteTooLarge
	case errors.Is(err, fedclient.ErrNotPermitted):
		return mxerr.NotFound("This server does not speak with %s.", u.Server)
	case errors.Is(err, context.DeadlineExceeded):
		return mxerr.New(mxerr.CodeConnectionTimeout, "%s took too long to send the file.", u.Server)
	}
	if _, ok := errors.AsType[*fedclient.Unreachable](err); ok {
		return mxerr.New(mxerr.CodeConnectionFailed, "The file could not be had from %s.", u.Server)
	}
	return fmt.Errorf("fetch %s: %w", u, err)
}

// gate bounds what is under way: all of it, and of each of those who share it. Who waits leaves with its context.
type gate struct {
	most int

	mu     sync.Mutex // guards what follows
	all    int
	of     map[string]int
	change chan struct{} // closed when somebody leaves
}

// place is whose one is taken, and how many of those who bear the name may have one at the same time.
type place struct {
	name string
	most int
}

// enter takes a place that counts for all of those.
func (g *gate) enter(ctx context.Context, places ...place) error {
	for {
		g.mu.Lock()
		if g.of == nil {
			g.of, g.change = make(map[string]int), make(chan struct{})
		}
		full := func(s place) bool { return g.of[s.name] >= s.most }
		if g.all < g.most && !slices.ContainsFunc(places, full) {
			g.all++
			for _, s := range places {
				g.of[s.name]++
			}
			g.mu.Unlock()
			return nil
		}
		change := g.change
		g.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (g *gate) leave(places ...place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	for _, s := range places {
		if g.of[s.name]--; g.of[s.name] == 0 {
			delete(g.of, s.name)
		}
	}
	close(g.change)
	g.change = make(chan struct{})
}

// touched remembers what was asked for, until it is written. Losing it makes a copy look a little older than it is.
type touched struct {
	mu   sync.Mutex // guards uses
	uses map[use]bool
}

// use is a copy, or the thumbnails of an image.
type use struct {
	uri       URI
	thumbnail bool
	source    blob.Hash
}

// note takes what is asked for; at says when that was last written.
func (t *touched) note(u use, at int64) {
	if time.Since(time.UnixMilli(at)) < touchEvery {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uses == nil {
		t.uses = make(map[use]bool)
	}
	if len(t.uses) < maxTouched {
		t.uses[u] = true
	}
}

// take returns what was noted, and forgets it.
func (t *touched) take() map[use]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	uses := t.uses
	t.uses = nil
	return uses
}

// NoteUse writes down what was asked for since the last time.
func (m *Media) NoteUse(ctx context.Context) error {
	uses := m.touched.take()
	if len(uses) == 0 {
		return nil
	}
	now := time.Now().UnixMilli()
	return m.db.Write(ctx, func(tx *sqldb.Tx) error {
		for k := range uses {
			if k.thumbnail {
				tx.Queue(sqlTouchThumbnails, k.source[:], now)
			} else {
				tx.Queue(sqlTouch, k.uri.Server, k.uri.ID, now)
			}
		}
		return nil
	})
}
