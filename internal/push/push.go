package push

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/pushrule"
)

// Config is what a Push needs.
type Config struct {
	DB       *sqldb.DB // with Migrations applied
	Bus      *bus.Bus
	Ours     *ours.Set
	Graph    *graph.Graph
	Accounts *account.Accounts
	View     *view.View
	// Gateways reaches push gateways. It must refuse private addresses and follow no redirects.
	Gateways http.RoundTripper
	Log      *slog.Logger // nil discards
}

// Push counts what users have not read, and tells their devices. It is safe for concurrent use.
type Push struct {
	cfg Config
	db  *sqldb.DB
	log *slog.Logger

	// standard are the rules of everybody who changed none; stranger is a user whom no event names.
	standard *pushrule.Compiled
	stranger id.UserID

	verdicts    *otter.Cache[graph.EventNID, *verdict]
	rules       rulesCache
	memory      memory
	pusherIDs   *sqldb.IDs
	unsubscribe func()

	wake chan struct{} // holds one signal at most: something is due
}

const (
	cachedVerdicts = 20_000
	cachedRules    = 50_000
)

// Open returns a Push that listens to the bus until Close. Subscribe others who call Counts after this.
func Open(ctx context.Context, c Config) (*Push, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.DB.Migrate(ctx, Migrations...); err != nil {
		return nil, fmt.Errorf("open push: %w", err)
	}
	stranger := id.UserID(rand.Text())
	p := &Push{
		cfg: c, db: c.DB, log: c.Log,
		stranger:  stranger,
		standard:  pushrule.Compile(stranger, pushrule.Default(stranger)),
		verdicts:  otter.Must(&otter.Options[graph.EventNID, *verdict]{MaximumSize: cachedVerdicts}),
		pusherIDs: c.DB.IDs("pusher"),
		wake:      make(chan struct{}, 1),
	}
	last, err := c.DB.Last(ctx)
	if err != nil {
		return nil, fmt.Errorf("open push: %w", err)
	}
	p.rules.open(last)
	p.memory.open()
	p.memory.begin(p.subscribe())
	return p, nil
}

// subscribe has the bus tell of what happens.
func (p *Push) subscribe() sqldb.Pos {
	p.memory.mu.Lock() // what comes before the beginning is known waits
	defer p.memory.mu.Unlock()
	from, cancel := p.cfg.Bus.Subscribe(p.hear)
	p.unsubscribe = cancel
	return from
}

// hear is called by the bus.
func (p *Push) hear(r bus.Range) {
	p.rules.hear(r)
	p.memory.hear(r)
	for _, e := range r.Entries {
		if e.Kind == bus.PushDue {
			signal(p.wake)
		}
	}
}

// Close leaves the bus. What Start began must be stopped before.
func (p *Push) Close() { p.unsubscribe() }

// Start runs what follows the stream, and what tells gateways.
func (p *Push) Start(w *work.Runner) {
	f := &follower{p: p}
	w.Follow(work.Follower{
		Name: "count what is unread",
		Batch: func(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
			return f.batch(ctx, from, last)
		},
		Kinds:  []bus.Kind{bus.RoomEvent, bus.Membership, bus.AccountData, bus.Receipt, bus.PushDue},
		Gather: 50 * time.Millisecond, // long beside a commit, short beside the way to a phone
	})
	w.Schedule(work.Job{Name: "forget old notifications", Period: 24 * time.Hour, Run: p.Prune})
	w.Lead("tell push gateways", func(ctx context.Context, _ *work.Lease) error { return p.deliver(ctx) })
}

// signal wakes the loop that waits at c.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// rulesCache holds users' rules ready for evaluation.
type rulesCache struct {
	cache *otter.Cache[id.UserID, *pushrule.Compiled]

	mu      sync.Mutex // guards all below
	epoch   int64      // counts drops
	checked sqldb.Pos  // changes up to here have been dropped
	doubt   sqldb.Pos  // another node wrote up to here
}

func (c *rulesCache) open(last sqldb.Pos) {
	c.cache = otter.Must(&otter.Options[id.UserID, *pushrule.Compiled]{MaximumSize: cachedRules})
	c.checked = last
}

func (c *rulesCache) hear(r bus.Range) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Foreign {
		c.doubt = max(c.doubt, r.To)
		return
	}
	for _, e := range r.Entries {
		if d, ok := e.Data.(*account.Datum); ok && e.Kind == bus.AccountData && d.Type == account.TypePushRules {
			c.epoch++
			c.cache.Invalidate(e.User)
		}
	}
	if c.doubt <= c.checked {
		c.checked = max(c.checked, r.To)
	}
}

// rulesOf returns a user's rules as they are now.
func (p *Push) rulesOf(ctx context.Context, user id.UserID) (*pushrule.Compiled, error) {
	c := &p.rules
	c.mu.Lock()
	from, to, epoch := c.checked, c.doubt, c.epoch
	c.mu.Unlock()
	if from < to {
		changed, err := p.cfg.Accounts.RulesChanged(ctx, from, to)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		for _, u := range changed {
			c.cache.Invalidate(u)
		}
		c.epoch++
		epoch, c.checked = c.epoch, max(c.checked, to)
		c.mu.Unlock()
	}
	if compiled, ok := c.cache.GetIfPresent(user); ok {
		return compiled, nil
	}
	rules, err := p.cfg.Accounts.PushRules(ctx, user)
	if err != nil {
		return nil, err
	}
	compiled := p.standard
	if rules.Stored(user) != nil {
		compiled = pushrule.Compile(user, rules)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch {
		c.cache.Set(user, compiled)
	}
	return compiled, nil
}
