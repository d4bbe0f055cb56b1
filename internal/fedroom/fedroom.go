package fedroom

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"myelin/internal/account"
	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Config is everything a Federated needs. All fields without "optional" must be set.
type Config struct {
	DB       *sqldb.DB
	Ours     *ours.Set
	Client   *fedclient.Client
	Accounts *account.Accounts
	Graph    *graph.Graph
	Rooms    *room.Rooms
	// MayInvite returns an error of code M_INVITE_BLOCKED or M_FORBIDDEN where a local user
	// doesn't want to be invited by this sender. Optional.
	MayInvite func(ctx context.Context, sender, invitee id.UserID) error
	// KeyValid asks an identity server, by the URL that came with a key of its, whether the key is still good. sender invited whom it is about.
	// Optional.
	KeyValid func(ctx context.Context, sender id.UserID, validity, key string) bool
	Log      *slog.Logger          // nil discards
	Metrics  prometheus.Registerer // nil keeps the collectors private
}

// Federated is what a room needs of other servers. It is safe for concurrent use.
type Federated struct {
	cfg     Config
	metrics *metrics

	// life ends with Close.
	life    context.Context
	end     context.CancelFunc
	mu      sync.Mutex // guards closed, and that no flight begins after it is set
	closed  bool
	running sync.WaitGroup // flights

	entrances, backfills singleflight.Group
	// tired holds rooms for which nobody had history, until when they are left alone. (Entries that expire by themselves would take a
	// goroutine that nobody ends.)
	tired *otter.Cache[graph.RoomNID, time.Time]
	// acls holds parsed access control lists by their event.
	acls *otter.Cache[graph.EventNID, *acl]
	// residents holds a member of ours who was in the room last time.
	residents *otter.Cache[graph.RoomNID, resident]
	// intakes is what the intakes may hold together, in bytes.
	intakes *semaphore.Weighted
	// stock bounds what waits.
	stock stock
	// wake tells the repair of new events that wait.
	wake chan struct{}
	// joined tells of a room that was joined with a part of its state.
	joined chan struct{}
}

// Open prepares the tables. Nothing is repaired before Start.
func Open(ctx context.Context, c Config) (*Federated, error) {
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("open fedroom: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Federated{
		cfg:       c,
		metrics:   newMetrics(c.Metrics),
		acls:      otter.Must(&otter.Options[graph.EventNID, *acl]{MaximumSize: 1000}),
		residents: otter.Must(&otter.Options[graph.RoomNID, resident]{MaximumSize: 20_000}),
		tired:     otter.Must(&otter.Options[graph.RoomNID, time.Time]{MaximumSize: 10_000}),
		intakes:   semaphore.NewWeighted(maxIntakesBytes),
		wake:      make(chan struct{}, 1),
		joined:    make(chan struct{}, 1),
	}
	f.life, f.end = context.WithCancel(context.Background())
	return f, nil
}

// Close ends what is under way for users and waits for it. What runs in the background ends with the Runner of Start.
func (f *Federated) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.end()
	f.running.Wait()
}

// Start begins to repair rooms and to complete joins in the background, until w stops.
func (f *Federated) Start(w *work.Runner) {
	w.Lead("repair rooms", f.repairAll)
	w.Lead("complete joins", f.completeAll)
}

// flight does what several callers may want at once a single time. It goes on when they have gone, because another
// server may have acted on it already, and ends with Close.
func flight[T any](ctx context.Context, f *Federated, g *singleflight.Group, key string, fn func(context.Context) (T, error)) (T, error) {
	var none T
	done := g.DoChan(key, func() (_ any, err error) {
		if !f.begin() {
			return nil, errClosed
		}
		defer f.running.Done()
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("fedroom: panic: %v", p)
			}
		}()
		detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(f.life, cancel)()
		return fn(detached)
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return none, r.Err
		}
		return r.Val.(T), nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// begin counts a flight, unless the time for them is over.
func (f *Federated) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.running.Add(1)
	}
	return !f.closed
}

var (
	errClosed = errors.New("fedroom: closed")
	errNobody = errors.New("there is no other server to ask")
)

// head returns the newest head of a room that this server is in, with a member of ours. Without an error, a nil head means that
// nobody of ours is in the room, whether or not it is known from earlier.
func (f *Federated) head(ctx context.Context, room id.RoomID) (*graph.Head, id.UserID, error) {
	head, err := f.cfg.Graph.Head(ctx, room)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	last, ok := f.residents.GetIfPresent(head.Room)
	switch {
	case ok && last.user == "" && last.state == head.StateNID:
		return nil, "", nil
	case ok && last.user != "" && head.State.Membership(last.user) == graph.Join:
		return head, last.user, nil
	}
	users, err := f.cfg.Graph.LocalMembers(ctx, head.Room, f.cfg.Ours.Is, 1)
	if err != nil {
		return nil, "", err
	}
	if len(users) == 0 {
		f.residents.Set(head.Room, resident{state: head.StateNID})
		return nil, "", nil
	}
	f.residents.Set(head.Room, resident{user: users[0]})
	return head, users[0], nil
}

// resident is a joined member of ours, or, without a user, that there is none by this state.
type resident struct {
	user  id.UserID
	state graph.StateNID
}

// servers lists the other servers in a room that we may speak with, those named first before the others.
func (f *Federated) servers(ctx context.Context, room graph.RoomNID, first ...id.ServerName) ([]id.ServerName, error) {
	all, err := f.cfg.Graph.Servers(ctx, room)
	if err != nil {
		return nil, err
	}
	return f.permitted(append(first, all...)), nil
}

// permitted returns each of the servers once that is neither ours nor forbidden.
func (f *Federated) permitted(servers []id.ServerName) []id.ServerName {
	seen := make(map[id.ServerName]bool, len(servers))
	var out []id.ServerName
	for _, s := range servers {
		if s == "" || seen[s] || f.cfg.Ours.Is(s) || !f.cfg.Client.Permitted(s) {
			continue
		}
		seen[s] = true
		out = append(out, s)
	}
	return out
}
