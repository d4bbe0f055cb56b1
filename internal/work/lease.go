package work

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
)

// Migrations are the tables of this package.
func Migrations() []sqldb.Migration {
	return []sqldb.Migration{{Slice: "work", Version: 1, SQL: `
		CREATE TABLE nodes (node TEXT NOT NULL PRIMARY KEY, expires BIGINT NOT NULL);
		CREATE TABLE leases (name TEXT NOT NULL PRIMARY KEY, node TEXT NOT NULL, token BIGINT NOT NULL);
		CREATE TABLE cursors (name TEXT NOT NULL PRIMARY KEY, pos BIGINT NOT NULL);
		CREATE TABLE jobs (name TEXT NOT NULL PRIMARY KEY, last BIGINT NOT NULL);
	`}}
}

var (
	stmtBeat = sqldb.SQL(`INSERT INTO nodes (node, expires) VALUES ($1, $2)
		ON CONFLICT (node) DO UPDATE SET expires = excluded.expires`)
	stmtForgetNodes = sqldb.SQL(`DELETE FROM nodes WHERE expires < $1`)
	stmtAlive       = sqldb.SQL(`SELECT 1 FROM nodes WHERE expires > $1 LIMIT 1`)
	stmtForgetNode  = sqldb.SQL(`DELETE FROM nodes WHERE node = $1`)
	stmtTaken       = sqldb.SQL(`SELECT 1 FROM leases JOIN nodes ON nodes.node = leases.node
		WHERE leases.name = $1 AND nodes.expires > $2 AND leases.node <> $3`)
	stmtTake = sqldb.SQL(`INSERT INTO leases (name, node, token) VALUES ($1, $2, 1)
		ON CONFLICT (name) DO UPDATE SET node = excluded.node, token = leases.token + 1
		WHERE leases.node = excluded.node OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.node = leases.node AND nodes.expires > $3)
		RETURNING token`)
	stmtGiveUp = sqldb.SQL(`UPDATE leases SET node = '' WHERE name = $1 AND node = $2 AND token = $3`)
	stmtHeld   = sqldb.SQL(`SELECT 1 FROM leases WHERE name = $1 AND node = $2 AND token = $3 FOR UPDATE`)
)

// DefaultTTL is how long a node that shows no sign of life counts as alive, unless Config says otherwise.
const DefaultTTL = 15 * time.Second

// Alive reports whether any node works on the database, as far as its sign of life tells.
func Alive(ctx context.Context, db *sqldb.DB) (alive bool, err error) {
	err = db.Read(ctx, func(tx *sqldb.Tx) error {
		var one int
		alive, err = tx.Get(stmtAlive, []any{time.Now().UnixMilli()}, &one)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for living nodes: %w", err)
	}
	return alive, nil
}

// ErrLost says that a lease is not held any more.
var ErrLost = errors.New("work: the lease is lost")

// Config configures a Runner.
type Config struct {
	DB  *sqldb.DB // with Migrations applied
	Bus *bus.Bus  // wakes followers
	Log *slog.Logger

	// Node names this node. A restart under the same name takes the leases of the process before it back at once; two
	// processes that live must not share it. Empty: random.
	Node string

	// TTL is how long a node that shows no sign of life keeps its leases. 0 means DefaultTTL.
	TTL time.Duration
}

// Runner is a Group whose tasks may also need to run on one node at a time.
type Runner struct {
	*Group
	db   *sqldb.DB
	bus  *bus.Bus
	log  *slog.Logger
	node string
	ttl  time.Duration

	mu      sync.Mutex        // guards held, expires
	held    map[*Lease]func() // ends the lease's context
	expires time.Time         // of the heartbeat written last
}

// Lease is the right to be the only one. It ends with its context.
type Lease struct {
	r     *Runner
	name  string
	token int64
}

// New makes a Runner and starts its heartbeat, which writes only while leases are held.
func New(c Config) *Runner {
	if c.Node == "" {
		c.Node = rand.Text()
	}
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	g := NewGroup(c.Log)
	r := &Runner{Group: g, db: c.DB, bus: c.Bus, log: g.log, node: c.Node, ttl: c.TTL, held: make(map[*Lease]func())}
	r.Go("heartbeat", r.beat)
	return r
}

// Stop ends all tasks, waits for them, and leaves the leases to other nodes.
func (r *Runner) Stop() {
	r.Group.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), r.ttl)
	defer cancel()
	err := r.db.Write(ctx, func(tx *sqldb.Tx) error {
		tx.Queue(stmtForgetNode, r.node)
		return nil
	})
	if err != nil && !errors.Is(err, sqldb.ErrClosed) {
		r.log.Warn("the node's heartbeat stays until it expires", "error", err)
	}
}

// beat renews the node's sign of life. When that failed for too long, others may hold our leases: they end.
func (r *Runner) beat(ctx context.Context) error {
	for sleep(ctx, r.ttl/3) == nil {
		r.mu.Lock()
		n, expired := len(r.held), time.Now().After(r.expires)
		if expired {
			for _, end := range r.held {
				end()
			}
		}
		r.mu.Unlock()
		if n == 0 || expired {
			continue // who takes a lease renews as well
		}
		now := time.Now()
		err := r.write(ctx, func(tx *sqldb.Tx) error { r.renew(tx, now); return nil })
		if err != nil {
			r.log.Warn("heartbeat failed", "error", err)
			continue
		}
		r.renewed(now)
	}
	return nil
}

// write bounds how long a heartbeat or a lease waits for the database: what comes later than the TTL is of no use.
func (r *Runner) write(ctx context.Context, fn func(tx *sqldb.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.ttl)
	defer cancel()
	return r.db.Write(ctx, fn)
}

func (r *Runner) renew(tx *sqldb.Tx, now time.Time) {
	tx.Queue(stmtBeat, r.node, now.Add(r.ttl).UnixMilli())
	tx.Queue(stmtForgetNodes, now.Add(-24*time.Hour).UnixMilli())
}

func (r *Runner) renewed(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := now.Add(r.ttl); e.After(r.expires) {
		r.expires = e
	}
}

// Lead runs fn on one node at a time, again and again: it waits for the lease, calls fn with a context that ends when the
// lease is lost, and gives the lease up when fn returns. Errors and panics are treated as by Go; when fn returns nil while it has the
// lease, Lead ends on this node.
func (r *Runner) Lead(name string, fn func(ctx context.Context, l *Lease) error) {
	r.Go(name, func(ctx context.Context) error {
		for {
			l, err := r.acquire(ctx, name)
			if err != nil {
				return err
			}
			err = r.hold(ctx, l, fn)
			if !errors.Is(err, ErrLost) {
				return err
			}
			r.log.Warn("lease lost", "lease", name)
		}
	})
}

// acquire waits until the lease is ours.
func (r *Runner) acquire(ctx context.Context, name string) (*Lease, error) {
	for {
		l, err := r.try(ctx, name)
		if l != nil || err != nil {
			return l, err
		}
		if err := sleep(ctx, jitter(r.ttl/3)); err != nil {
			return nil, err
		}
	}
}

// try takes the lease if it is free. It reads first, so that waiting nodes do not write.
func (r *Runner) try(ctx context.Context, name string) (*Lease, error) {
	taken := false
	err := r.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		taken, err = tx.Get(stmtTaken, []any{name, time.Now().UnixMilli(), r.node}, nil)
		return err
	})
	if err != nil || taken {
		return nil, wrap(err, "look at the lease "+name)
	}
	l := &Lease{r: r, name: name}
	var found bool
	now := time.Now()
	err = r.write(ctx, func(tx *sqldb.Tx) (err error) {
		r.renew(tx, now)
		found, err = tx.Get(stmtTake, []any{name, r.node, now.UnixMilli()}, &l.token)
		return err
	})
	if err != nil || !found {
		return nil, wrap(err, "take the lease "+name)
	}
	r.renewed(now)
	return l, nil
}

// hold calls fn while the lease lasts.
func (r *Runner) hold(ctx context.Context, l *Lease, fn func(ctx context.Context, l *Lease) error) error {
	held, end := context.WithCancelCause(ctx)
	defer end(nil)
	r.mu.Lock()
	r.held[l] = func() { end(ErrLost) }
	r.mu.Unlock()
	err := contained(held, func(ctx context.Context) error { return fn(ctx, l) })
	if err != nil && errors.Is(context.Cause(held), ErrLost) {
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	r.mu.Lock()
	delete(r.held, l)
	r.mu.Unlock()
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.ttl)
	defer cancel()
	up := r.db.Write(bye, func(tx *sqldb.Tx) error {
		tx.Queue(stmtGiveUp, l.name, r.node, l.token)
		return nil
	})
	if up != nil && !errors.Is(up, sqldb.ErrClosed) {
		r.log.Warn("lease could not be given up and will expire", "lease", l.name, "error", up)
	}
	return err
}

// Check fails with ErrLost unless the lease is still ours; nobody can take it until tx ends.
func (l *Lease) Check(tx *sqldb.Tx) error {
	held, err := tx.Get(stmtHeld, []any{l.name, l.r.node, l.token}, nil)
	if err == nil && !held {
		err = fmt.Errorf("%s: %w", l.name, ErrLost)
	}
	return err
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
