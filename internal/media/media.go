package media

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"myelin/internal/blob"
	"myelin/internal/fedclient"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Config is what Open needs.
type Config struct {
	DB     *sqldb.DB
	Ours   *ours.Set
	Blobs  *blob.Store
	Client *fedclient.Client // nil: there are no other servers
	Log    *slog.Logger      // nil discards
	Limits Limits
	// Web asks for pages and images of the web, and connects to no private address. nil: there are no previews.
	Web http.RoundTripper
	// Agent is what this server calls itself there.
	Agent string
	// Legacy says that the old endpoints are open: what is stored now can be had through them.
	Legacy bool
}

// Limits are in bytes, except where they say otherwise.
type Limits struct {
	// Upload and Remote are the largest files that users may upload and that are fetched from other servers.
	Upload, Remote int64
	// RemoteCache and Thumbnails are how much space copies and thumbnails may take.
	RemoteCache, Thumbnails int64
	// Previews is how much space previews of pages may take, with their images.
	Previews int64
	// PerUser is how much all files of a user may take; 0 means any amount.
	PerUser int64
	// RemoteAge is how long a copy is kept that nobody asks for; 0 means for ever.
	RemoteAge time.Duration
}

// Media keeps files. All methods may be called from any goroutine.
type Media struct {
	db     *sqldb.DB
	ours   *ours.Set
	blobs  *blob.Store
	client *fedclient.Client
	log    *slog.Logger
	limits Limits
	legacy bool
	web    http.RoundTripper
	agent  string

	arrivals arrivals
	touched  touched
	flights  singleflight.Group
	// fetches are those from other servers, by server and by user; previewers those of pages, by the user who wants to see them.
	fetches, previewers gate
	// shrinkers are those who have thumbnails made.
	shrinkers gate
	// failures are pages of which there was no preview a moment ago, by the hash of their URL.
	failures *otter.Cache[[32]byte, failure]
	// decoding is how many bytes images may take at once.
	decoding *semaphore.Weighted
	// stored is how many bytes of copies and thumbnails came since they were last counted, and full is told when that is much.
	stored atomic.Int64
	full   chan struct{}
	// ctx ends with Close: it carries what several callers wait for.
	ctx  context.Context
	stop context.CancelFunc
	busy sync.WaitGroup // what runs under ctx
}

// Open prepares the tables.
func Open(ctx context.Context, c Config) (*Media, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("prepare the tables of media: %w", err)
	}
	m := &Media{
		db: c.DB, ours: c.Ours, blobs: c.Blobs, client: c.Client, log: c.Log, limits: c.Limits, legacy: c.Legacy, web: c.Web, agent: c.Agent,
		fetches: gate{most: maxFetches}, previewers: gate{most: maxPreviews}, shrinkers: gate{most: maxShrinkers},
		failures: otter.Must(&otter.Options[[32]byte, failure]{MaximumSize: maxFailures}),
		decoding: semaphore.NewWeighted(maxDecoding), full: make(chan struct{}, 1),
	}
	m.ctx, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	return m, nil
}

// Close ends what is under way.
func (m *Media) Close() {
	m.stop()
	m.busy.Wait()
}

// MaxUpload is the largest file that a user may upload, in bytes.
func (m *Media) MaxUpload() int64 { return m.limits.Upload }

// File is a file to serve. Body must be closed.
type File struct {
	ContentType string
	// Name is what the file is called; may be empty.
	Name string
	Size int64
	Body blob.Body
}

// Want says which file is wanted, by whom.
type Want struct {
	URI
	// Who wants it: a user or a server; empty where nobody says who he is.
	Who string
	// Asker is the name of ours in which other servers are asked.
	Asker id.ServerName
	// Wait is how long to wait for a file that was not uploaded yet.
	Wait time.Duration
	// Stop ends the waiting; may be nil.
	Stop <-chan struct{}
	// Remote allows to ask another server.
	Remote bool
	// Legacy requests come without authentication.
	Legacy bool
}

// Bounds of waiting for an upload. Spec: cs getContentAuthed
const (
	defaultWait = 20 * time.Second
	maxWait     = time.Minute
	// pollArrivals is how soon a waiting request sees what came to another node.
	pollArrivals = 2 * time.Second
)

// ParseWait reads how long a request waits for a file that is yet to be uploaded, in milliseconds.
//
// Spec: cs getContentAuthed
func ParseWait(text string) (time.Duration, error) {
	if text == "" {
		return defaultWait, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 {
		return 0, mxerr.InvalidParam("The query parameter \"timeout_ms\" must be a number of milliseconds.")
	}
	return time.Duration(min(ms, maxWait.Milliseconds())) * time.Millisecond, nil
}

var errNoFile = mxerr.NotFound("There is no such file.")

var sqlFind = sqldb.SQL(`SELECT hash, size, content_type, name, legacy, user_id, expires FROM media WHERE server = $1 AND media_id = $2`)

// Download opens a file: M_NOT_FOUND where there is none, M_NOT_YET_UPLOADED where it did not come in time.
//
// Spec: cs getContentAuthed
func (m *Media) Download(ctx context.Context, w Want) (*File, error) {
	f, err := m.locate(ctx, w)
	if err != nil {
		return nil, err
	}
	return m.open(ctx, f)
}

// locate finds a file, or gets it. What is in quarantine is nowhere.
func (m *Media) locate(ctx context.Context, w Want) (f *row, err error) {
	if m.ours.Is(w.Server) {
		f, err = m.await(ctx, w)
	} else {
		f, err = m.remote(ctx, w)
	}
	if err != nil {
		return nil, err
	}
	if err := m.free(ctx, w.URI, f.hash[:]); err != nil {
		return nil, err
	}
	return f, nil
}

// ErrAway says that files can't be stored or read at this time. It comes together with the reason, which clients need not know.
var ErrAway = mxerr.New(mxerr.CodeUnknown, "The files of this server can't be reached at the moment. Try again later.")

// told turns an error of the store into one that clients are told.
func told(err error) error {
	switch {
	case errors.Is(err, blob.ErrMissing):
		return errNoFile
	case errors.Is(err, blob.ErrAway):
		return fmt.Errorf("%w (%w)", ErrAway, err)
	}
	return err
}

// keep stores a content together with its row.
func (m *Media) keep(ctx context.Context, c *blob.Content, record func(*sqldb.Tx) error) error {
	return told(m.blobs.Keep(ctx, c, record))
}

func (m *Media) open(ctx context.Context, f *row) (*File, error) {
	body, err := m.blobs.Open(ctx, f.hash)
	if err != nil {
		return nil, told(err)
	}
	return &File{ContentType: f.contentType, Name: f.name, Size: f.size, Body: body}, nil
}

// find looks up a file of ours; nil where there is none.
func (m *Media) find(ctx context.Context, u URI) (found *row, err error) {
	err = m.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err = findTx(tx, u)
		return err
	})
	return found, err
}

func findTx(tx *sqldb.Tx, u URI) (found *row, err error) {
	err = tx.Query(sqlFind, func(r *sqldb.Row) error {
		found = new(row)
		return found.scan(r, &found.user, &found.expires)
	}, u.Server, u.ID)
	return found, err
}

// await finds a file of ours, and waits for one that is promised.
func (m *Media) await(ctx context.Context, w Want) (*row, error) {
	wait := min(max(w.Wait, 0), maxWait)
	deadline := time.Now().Add(wait)
	for {
		arrived, leave := m.arrivals.hear(w.URI)
		f, err := m.find(ctx, w.URI)
		now := time.Now()
		switch {
		case err != nil:
		case f == nil, w.Legacy && !f.promised && !f.legacy, w.Legacy && f.promised && !m.legacy, f.promised && f.expires <= now.UnixMilli():
			err = errNoFile
		case !f.promised:
			leave()
			return f, nil
		case !now.Before(deadline):
			err = mxerr.New(mxerr.CodeNotYetUploaded, "The file has not been uploaded yet.")
		}
		if err == nil {
			deadline, err = pause(ctx, arrived, w.Stop, deadline)
		}
		leave()
		if err != nil {
			return nil, err
		}
	}
}

// pause waits until there may be something new. It returns until when to go on.
func pause(ctx context.Context, arrived, stop <-chan struct{}, deadline time.Time) (time.Time, error) {
	timer := time.NewTimer(min(pollArrivals, time.Until(deadline)))
	defer timer.Stop()
	select {
	case <-arrived:
	case <-timer.C:
	case <-stop:
		return time.Now(), nil
	case <-ctx.Done():
		return deadline, context.Cause(ctx)
	}
	return deadline, nil
}

// arrivals wakes those who wait for an upload. It only saves them time: they look into the database.
type arrivals struct {
	mu      sync.Mutex // guards waiting
	waiting map[URI]*arrival
}

type arrival struct {
	done    chan struct{}
	hearers int
}

// hear returns a channel that is closed when a file comes, and a function for the end of listening.
func (a *arrivals) hear(u URI) (<-chan struct{}, func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		a.waiting = make(map[URI]*arrival)
	}
	w := a.waiting[u]
	if w == nil {
		w = &arrival{done: make(chan struct{})}
		a.waiting[u] = w
	}
	w.hearers++
	return w.done, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if w.hearers--; w.hearers == 0 && a.waiting[u] == w {
			delete(a.waiting, u)
		}
	}
}

func (a *arrivals) tell(u URI) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.waiting[u]; w != nil {
		close(w.done)
		delete(a.waiting, u)
	}
}
