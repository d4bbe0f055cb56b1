package work

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
)

const (
	pollStream = 30 * time.Second // how long a follower trusts the silence of the bus
	saveCursor = 2 * time.Second  // how long a cursor that had no effect stays in memory
)

var (
	stmtCursor     = sqldb.SQL(`SELECT pos FROM cursors WHERE name = $1`)
	stmtNewCursor  = sqldb.SQL(`INSERT INTO cursors (name, pos) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`)
	stmtMoveCursor = sqldb.SQL(`UPDATE cursors SET pos = $1 WHERE name = $2 AND pos = $3`)
	stmtLastRun    = sqldb.SQL(`SELECT last FROM jobs WHERE name = $1`)
	stmtSaveRun    = sqldb.SQL(`INSERT INTO jobs (name, last) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET last = excluded.last`)
)

// Effect is what a batch changes in the database; it commits together with the cursor. It is a Write function: it may run
// several times.
type Effect func(tx *sqldb.Tx) error

// Follower handles the whole stream, each position once, on one node at a time.
type Follower struct {
	Name string

	// Batch handles positions after from and up to, at most, last, and returns how far it came. Everything up to last is
	// visible in the database. The cursor moves to the position returned, in one transaction with the Effect, which may be nil. On an
	// error Batch is called again later from the same position.
	Batch func(ctx context.Context, from, last sqldb.Pos) (to sqldb.Pos, effect Effect, err error)

	// Kinds are what the follower cares for: Batch is not called for positions that are known to hold entries of other
	// kinds only. Nil means everything.
	Kinds []bus.Kind

	// Gather is the least time from the begin of a batch to that of the next: a busy stream is handled in larger pieces, which cost
	// less each, while what happens after a quiet moment is handled at once.
	Gather time.Duration

	// FromNow has a follower that never ran begin at the current end of the stream instead of its beginning.
	FromNow bool
}

// Follow runs f for as long as the Runner runs.
func (r *Runner) Follow(f Follower) {
	r.Lead(f.Name, func(ctx context.Context, l *Lease) error {
		c := &cursor{r: r, l: l, f: f}
		if f.Kinds != nil {
			c.news = &news{kinds: f.Kinds}
			from, cancel := r.bus.Subscribe(c.news.hear)
			defer cancel()
			c.news.begin(from)
		}
		if err := c.load(ctx); err != nil {
			return err
		}
		err := c.run(ctx)
		// What was handled without effect is remembered even when we are told to stop.
		if c.pos > c.saved && !errors.Is(err, ErrLost) {
			bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.ttl)
			defer cancel()
			if save := c.save(bye, c.pos, nil); save != nil && !errors.Is(save, sqldb.ErrClosed) {
				r.log.Warn("cursor not saved", "task", f.Name, "error", save)
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	})
}

// cursor is a follower at work.
type cursor struct {
	r      *Runner
	l      *Lease
	f      Follower
	pos    sqldb.Pos // handled up to here
	saved  sqldb.Pos // in the database
	last   sqldb.Pos // the stream's end when we took over, which the bus may not know yet
	when   time.Time // saved was written or read
	began  time.Time // of the last batch
	behind bool      // the last batch did not come to the end
	news   *news     // nil for a follower of everything
}

// news is what the bus told of the kinds that a follower cares for.
type news struct {
	kinds []bus.Kind

	mu     sync.Mutex // guards what follows
	begun  bool
	told   sqldb.Pos // everything after the first position below is known up to here
	newest sqldb.Pos // the last position that holds, or may hold, one of the kinds
}

// begin says where the subscription began: what lies before is not known.
func (n *news) begin(from sqldb.Pos) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.begun = true
	n.told, n.newest = max(n.told, from), max(n.newest, from)
}

func (n *news) hear(r bus.Range) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = max(n.told, r.To)
	if r.Foreign {
		n.newest = max(n.newest, r.To)
	}
	for _, e := range r.Entries {
		if slices.Contains(n.kinds, e.Kind) {
			n.newest = max(n.newest, e.Pos)
		}
	}
}

// none reports that nothing of the kinds lies in (from, to].
func (n *news) none(from, to sqldb.Pos) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.begun && n.newest <= from && to <= n.told
}

func (c *cursor) load(ctx context.Context) error {
	err := c.r.db.Write(ctx, func(tx *sqldb.Tx) error {
		last, err := tx.Last()
		if err != nil {
			return err
		}
		c.last = last
		start := sqldb.Pos(0)
		if c.f.FromNow {
			start = last
		}
		tx.Queue(stmtNewCursor, c.f.Name, start)
		_, err = tx.Get(stmtCursor, []any{c.f.Name}, &c.pos)
		return err
	})
	c.saved, c.when = c.pos, time.Now()
	return wrap(err, "load the cursor of "+c.f.Name)
}

func (c *cursor) run(ctx context.Context) error {
	for {
		last, err := c.wait(ctx)
		if err != nil {
			return err
		}
		if last <= c.pos {
			continue
		}
		to, effect := last, Effect(nil)
		if c.news == nil || !c.news.none(c.pos, last) {
			if last, err = c.gather(ctx, last); err != nil {
				return err
			}
			if to, effect, err = c.f.Batch(ctx, c.pos, last); err != nil {
				return err
			}
			c.behind = to < last
		}
		if to <= c.pos || to > last {
			return fmt.Errorf("%s handled %d to %d and came to %d", c.f.Name, c.pos, last, to)
		}
		if effect != nil || time.Since(c.when) >= saveCursor {
			if err := c.save(ctx, to, effect); err != nil {
				return err
			}
		}
		c.pos = to
	}
}

// wait returns the end of the stream once it is past the cursor, or now and then.
func (c *cursor) wait(ctx context.Context) (sqldb.Pos, error) {
	if c.last > c.pos {
		return c.last, nil
	}
	timeout := pollStream
	if c.pos > c.saved {
		timeout = max(0, saveCursor-time.Since(c.when))
	}
	short, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	last, err := c.r.bus.Wait(short, c.pos)
	switch {
	case err == nil:
		return last, nil
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case c.pos > c.saved:
		return 0, c.save(ctx, c.pos, nil)
	}
	return c.r.db.Last(ctx) // hints may have been lost
}

// gather waits until it is time for the next batch, and returns the end of the stream by then.
func (c *cursor) gather(ctx context.Context, last sqldb.Pos) (sqldb.Pos, error) {
	if wait := c.f.Gather - time.Since(c.began); wait > 0 && !c.behind {
		if err := sleep(ctx, wait); err != nil {
			return 0, err
		}
		last = max(last, c.r.bus.Last())
	}
	c.began = time.Now()
	return last, nil
}

// save moves the cursor in the database, with the effect.
func (c *cursor) save(ctx context.Context, to sqldb.Pos, effect Effect) error {
	err := c.r.db.Write(ctx, func(tx *sqldb.Tx) error {
		if err := c.l.Check(tx); err != nil {
			return err
		}
		n, err := tx.Exec(stmtMoveCursor, to, c.f.Name, c.saved)
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("the cursor of %s was moved by somebody else: %w", c.f.Name, ErrLost)
		}
		if effect == nil {
			return nil
		}
		return effect(tx)
	})
	if err != nil {
		return fmt.Errorf("move the cursor of %s to %d: %w", c.f.Name, to, err)
	}
	c.saved, c.when = to, time.Now()
	return nil
}

// Cursor returns how far the follower of that name came, as saved; 0 if it never ran.
func (r *Runner) Cursor(ctx context.Context, name string) (pos sqldb.Pos, err error) {
	err = r.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		_, err = tx.Get(stmtCursor, []any{name}, &pos)
		return err
	})
	return pos, err
}

// Job is something to do once per period, by whichever node. Restarts do not change its rhythm.
type Job struct {
	Name   string
	Period time.Duration
	Run    func(ctx context.Context) error
}

// Schedule runs a job for as long as the Runner runs. An error is logged and the job waits for its next turn.
func (r *Runner) Schedule(j Job) {
	r.Lead(j.Name, func(ctx context.Context, l *Lease) error {
		var last int64 // milliseconds
		err := r.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			_, err = tx.Get(stmtLastRun, []any{j.Name}, &last)
			return err
		})
		if err != nil {
			return wrap(err, "load the last run of "+j.Name)
		}
		for {
			if err := sleep(ctx, time.Until(time.UnixMilli(last).Add(j.Period))); err != nil {
				return err
			}
			if err := contained(ctx, j.Run); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				r.log.Error("periodic job failed", "task", j.Name, "error", err)
			}
			last = time.Now().UnixMilli()
			err := r.db.Write(ctx, func(tx *sqldb.Tx) error {
				if err := l.Check(tx); err != nil {
					return err
				}
				tx.Queue(stmtSaveRun, j.Name, last)
				return nil
			})
			if err != nil {
				return wrap(err, "save the run of "+j.Name)
			}
		}
	})
}
