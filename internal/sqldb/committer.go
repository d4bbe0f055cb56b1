package sqldb

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

const (
	maxItems = 512     // items in one transaction
	maxBytes = 8 << 20 // bytes of items that tell their size, in one transaction

	maxRetries  = 10               // of a transaction that lost a conflict with another node
	writeLimit  = time.Minute      // for one attempt of a transaction
	outageLimit = 10 * time.Second // how long one batch is tried again
)

// committer is the one goroutine that writes.
type committer struct {
	db        *DB
	committed func(Commit)
	notify    string

	mu     sync.Mutex // guards queue, closed
	wake   sync.Cond  // on mu: queue grew or closed was set
	queue  []*item
	closed bool

	sess    session // the writing connection; only the loop uses it
	current []*item // taken and not yet answered; only the loop uses it
	stopped chan struct{}
}

func newCommitter(db *DB, c Config) *committer {
	cm := &committer{db: db, committed: c.Committed, notify: c.Notify, stopped: make(chan struct{})}
	if db.dialect != PostgreSQL {
		cm.notify = ""
	}
	cm.wake.L = &cm.mu
	return cm
}

func (c *committer) submit(it *item) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		if it.ticket.take() {
			it.ticket.resolve(ErrClosed)
		}
		return
	}
	c.queue = append(c.queue, it)
	if len(c.queue) == 1 {
		c.wake.Signal()
	}
	c.mu.Unlock()
}

// close lets the loop commit what is queued and waits for its end.
func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.wake.Signal()
	c.mu.Unlock()
	<-c.stopped
}

// take waits for items and takes as many as fit into one transaction; none when closed and drained.
func (c *committer) take() []*item {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.queue) == 0 && !c.closed {
			c.wake.Wait()
		}
		n, bytes := 0, 0
		var taken []*item
		for n < len(c.queue) && len(taken) < maxItems && (bytes < maxBytes || len(taken) == 0) {
			it := c.queue[n]
			n++
			if it.ticket.take() {
				taken = append(taken, it)
				bytes += it.size
			}
		}
		clear(c.queue[:n])
		if c.queue = c.queue[n:]; len(c.queue) == 0 {
			c.queue = nil
		}
		if len(taken) > 0 || c.closed && len(c.queue) == 0 {
			return taken
		}
	}
}

// loop runs until close. If a Write function ends its goroutine (runtime.Goexit: testing's FailNow does that) the loop is that
// goroutine: what it held fails and a new loop goes on.
func (c *committer) loop() {
	ended := false
	defer func() {
		if ended {
			if c.sess != nil {
				c.sess.close()
			}
			close(c.stopped)
			return
		}
		if c.sess != nil {
			c.sess.close() // rolls back
			c.sess = nil
		}
		c.answer(errors.New("sqldb: a Write function ended the committer's goroutine"))
		go c.loop()
	}()
	for {
		c.current = c.take()
		if len(c.current) == 0 {
			ended = true
			return
		}
		c.answer(c.commit(units(c.current)))
	}
}

// answer resolves the tickets of the current batch: by err if the whole transaction failed, else each by its own outcome.
func (c *committer) answer(err error) {
	items := c.current
	c.current = nil
	for _, it := range items {
		if err != nil {
			it.err = err
		}
		it.ticket.resolve(it.err)
	}
}

// unit is a Write function or all items of one Batcher.
type unit []*item

func units(items []*item) []unit {
	var out []unit
	at := make(map[*group]int)
	for _, it := range items {
		if it.group == nil {
			out = append(out, unit{it})
			continue
		}
		i, ok := at[it.group]
		if !ok {
			i = len(out)
			at[it.group] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], it)
	}
	return out
}

// commit tries until the units are committed, each with its own outcome, or the transaction has failed for good.
func (c *committer) commit(us []unit) error {
	start := time.Now()
	careful := false
	deadline := start.Add(outageLimit)
	for attempt := 0; ; attempt++ {
		a := &attemptTx{c: c, careful: careful}
		err := a.run(us)
		if unknown, ok := errors.AsType[*unknownOutcome](err); ok {
			err = c.ask(unknown, time.Now().Add(outageLimit))
		}
		switch {
		case err == nil:
			c.done(a, us, time.Since(start))
			return nil
		case errors.Is(err, errCareful):
			careful = true
			continue
		case again(err, attempt) && (attempt == 0 || time.Now().Before(deadline)):
			c.db.metrics.retries.Add(1)
			c.db.log.Warn("database transaction is tried again", "attempt", attempt+1, "error", err)
			time.Sleep(min(time.Second, 5*time.Millisecond<<min(attempt, 10)))
			continue
		}
		c.db.metrics.failures.Add(1)
		c.db.log.Error("database transaction failed", "items", len(c.current), "error", err)
		return fmt.Errorf("commit: %w", err)
	}
}

// again reports whether another attempt may help.
func again(err error, attempt int) bool {
	return errors.Is(err, errDisconnected) || retryable(err) && attempt < maxRetries
}

// ask finds out whether a transaction whose COMMIT got no answer took place. nil: it did; errDisconnected: it did not.
func (c *committer) ask(u *unknownOutcome, deadline time.Time) error {
	c.db.log.Warn("the connection to the database broke during a commit: asking for its outcome", "error", u.err)
	for wait := 5 * time.Millisecond; u.xid != "" && time.Now().Before(deadline); wait = min(2*wait, time.Second) {
		var status *string
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		err := c.connect(ctx)
		if err == nil {
			_, err = c.sess.run(ctx, stmtXactStatus, []any{u.xid}, func(r *Row) error { return r.Scan(&status) })
		}
		cancel()
		switch {
		case err != nil:
		case status == nil:
			return u // too long ago for the server to know
		case *status == "committed":
			return nil
		case *status == "aborted":
			return fmt.Errorf("%w: %w", errDisconnected, u.err)
		}
		time.Sleep(wait) // the server is away, or still runs the transaction
	}
	return u
}

// done counts and publishes a transaction that is on disk.
func (c *committer) done(a *attemptTx, us []unit, took time.Duration) {
	n := 0
	for _, u := range us {
		n += len(u)
	}
	m := c.db.metrics
	m.commits.Add(1)
	m.items.Add(int64(n))
	m.commitItems.Observe(float64(n))
	m.commitSeconds.Observe(took.Seconds())
	st := a.state
	if c.committed != nil && (st.pos > st.first || len(st.entries) > 0) {
		// The transaction is on disk, so its writers are told so whatever happens to the listener.
		err := protect(func() error {
			c.committed(Commit{From: st.first, To: st.pos, Entries: st.entries})
			return nil
		})
		if err != nil {
			c.db.log.Error("Config.Committed failed", "error", err)
		}
	}
}

// connect makes sure there is a writing connection.
func (c *committer) connect(ctx context.Context) error {
	if c.sess != nil && !c.sess.broken() {
		return nil
	}
	if c.sess != nil {
		c.sess.close()
		c.sess = nil
	}
	sess, err := c.db.engine.writer(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisconnected, err)
	}
	c.sess = sess
	return nil
}

// protect calls fn and turns a panic into a *PanicError.
func protect(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return fn()
}
