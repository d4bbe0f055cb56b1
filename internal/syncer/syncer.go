package syncer

import (
	"context"
	"time"

	"github.com/maypok86/otter/v2"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/push"
	"myelin/internal/sqldb"
	"myelin/internal/thread"
	"myelin/internal/view"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Config is what a Syncer needs. Fields marked optional may be nil.
type Config struct {
	Bus      *bus.Bus
	Graph    *graph.Graph
	View     *view.View
	Accounts *account.Accounts

	// Ephemeral has receipts, typing and presence. Optional.
	Ephemeral *ephemeral.Ephemeral
	// DB holds the connections of sliding sync, and what Ephemeral has.
	DB *sqldb.DB
	// Sections are further parts of answers.
	Sections []Section
	// Encryption has what sliding sync tells about keys, and messages to devices. Optional.
	Encryption *e2ee.Encryption
	// Threads has the threads that users follow. Optional.
	Threads *thread.Threads
	// Push counts what is unread. It must hear of the bus before the Syncer does. Optional.
	Push *push.Push
}

// Section makes top-level fields of an answer, such as to_device.
type Section func(ctx context.Context, w Window) ([]Field, error)

// Window is the part of the stream that an answer covers: the positions after From, up to To.
type Window struct {
	User     id.UserID
	Device   id.DeviceID
	From, To sqldb.Pos
	// FromQueue is where the queue of the device begins: up to there, which may be before From, it got what waits for it alone.
	FromQueue sqldb.Pos
	// Joined and Left are rooms that the user entered and left in the window.
	Joined, Left []graph.RoomNID
	// Rooms are the rooms that the user is in, all of them or those in which something happened in the window.
	Rooms map[graph.RoomNID]struct{}
}

// Field is a field of an answer.
type Field struct {
	Name string
	JSON []byte
	// News ends the waiting of a long poll; a Field without it rides along.
	News bool
	// UpTo says that of what waits for the device alone the answer has no more than up to there; 0 means all of the window.
	UpTo sqldb.Pos
}

// MaxTimeout bounds how long a request waits for news.
const MaxTimeout = 2 * time.Minute

// StateMode says where answers put changes of state.
type StateMode uint8

// The modes of the specification.
//
// MSC4222: the unstable name of state_after; it goes once no client of note asks for it.
const (
	StateBefore        StateMode = iota // "state": up to the start of the timeline
	StateAfter                          // "state_after": up to its end
	StateAfterUnstable                  // the same as "org.matrix.msc4222.state_after"
)

func (m StateMode) field() string {
	return [...]string{"state", "state_after", "org.matrix.msc4222.state_after"}[m]
}

// Request is a call of /sync.
type Request struct {
	User   id.UserID
	Device id.DeviceID
	// Since is nil for a first sync.
	Since     *Token
	Filter    *view.Filter // nil selects everything
	FullState bool
	Mode      StateMode
	// Timeout is how long to wait for news; not more than MaxTimeout.
	Timeout time.Duration
	// Presence is what the user is shown as while the request lasts.
	Presence ephemeral.State
	// Draining ends the waiting early. May be nil.
	Draining <-chan struct{}
}

// Syncer answers /sync. It is safe for concurrent use.
type Syncer struct {
	cfg     Config
	hub     *hub
	lazy    *lazyMemory
	filters *otter.Cache[filterKey, *view.Filter]
	conns   *otter.Cache[connKey, *connection]
	cancel  func()
}

// New returns a Syncer that listens to the bus until Close.
func New(c Config) *Syncer {
	s := &Syncer{cfg: c, hub: newHub(c.Graph), lazy: newLazyMemory(),
		filters: otter.Must(&otter.Options[filterKey, *view.Filter]{MaximumSize: cachedFilters}), conns: newConnections()}
	s.cancel = s.hub.follow(c.Bus)
	return s
}

// Close stops listening to the bus.
func (s *Syncer) Close() { s.cancel() }

// Sync returns the answer to a request as JSON. It waits for news as the request says, and returns M_INVALID_PARAM for a since that
// this server can't have given out.
//
// Spec: cs sync
func (s *Syncer) Sync(ctx context.Context, q Request) ([]byte, error) {
	if s.cfg.Ephemeral != nil {
		defer s.cfg.Ephemeral.Poll(q.User, q.Device, q.Presence)()
	}
	if q.Filter == nil {
		q.Filter = new(view.Filter)
	}
	w := s.hub.watch(q.User, q.Device)
	defer w.stop()
	wait := newPatience(q)
	defer wait.stop()
	for {
		if !wait.over {
			wait.pause(ctx, w)
		}
		w.drain()
		snap, err := s.hub.snapshot(ctx, q.User, q.Since, q.FullState)
		if err != nil {
			return nil, err
		}
		a := newAnswer(s, q, snap)
		body, news, err := a.build(ctx)
		if err != nil {
			return nil, err
		}
		if news || wait.over || a.next.Sticky != (graph.StickyPlace{}) { // the rest of what sticks waits for the next request
			w.answered()
			return body, nil
		}
		// There was nothing for this client up to here: what comes is compared with here.
		q.Since = &a.next
		if err := wait.forNews(ctx, w); err != nil {
			return nil, err
		}
	}
}

const (
	cachedFilters = 20_000
	// maxCachedFilter bounds the bytes of a filter written out in a request that is remembered.
	maxCachedFilter = 1024
)

// filterKey names a stored filter, which never changes, or, without a user, is one written out.
type filterKey struct {
	user id.UserID
	name string
}

// Filter returns the filter that a client names: by its ID, or by writing it out. Nothing is a filter that selects everything. It
// returns M_INVALID_PARAM for an ID that the user has not.
//
// Spec: cs sync
func (s *Syncer) Filter(ctx context.Context, user id.UserID, param string) (*view.Filter, error) {
	if param == "" {
		return new(view.Filter), nil
	}
	key := filterKey{user, param}
	if param[0] == '{' {
		key.user = "" // it says the same for everybody
	}
	if f, ok := s.filters.GetIfPresent(key); ok {
		return f, nil
	}
	if param[0] == '{' {
		f, err := view.ParseFilter([]byte(param))
		if err == nil && len(param) <= maxCachedFilter {
			s.filters.Set(key, f)
		}
		return f, err
	}
	raw, err := s.cfg.Accounts.Filter(ctx, user, param)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return nil, mxerr.InvalidParam("you have no filter %.40q", param)
	}
	if err != nil {
		return nil, err
	}
	f, err := view.ParseFilter(raw)
	if err == nil {
		s.filters.Set(key, f)
	}
	return f, err
}

// patience is how long a request waits.
type patience struct {
	timer    *time.Timer
	draining <-chan struct{}
	over     bool
}

func newPatience(q Request) *patience {
	timeout := min(q.Timeout, MaxTimeout)
	p := &patience{draining: q.Draining, over: timeout <= 0 || q.Since == nil || q.FullState}
	if !p.over {
		p.timer = time.NewTimer(timeout)
	}
	return p
}

func (p *patience) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// forNews waits until something happened to the user, or for the end of the request's time.
func (p *patience) forNews(ctx context.Context, w *waiter) error {
	select {
	case <-w.news:
	case <-p.timer.C:
		p.over = true
	case <-p.draining:
		p.over = true
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// pause waits until the device may have its next answer.
func (p *patience) pause(ctx context.Context, w *waiter) {
	d := time.Until(w.due())
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.draining:
		p.over = true
	case <-ctx.Done():
	}
}

var errFuture = mxerr.InvalidParam("the since token is from the future")
