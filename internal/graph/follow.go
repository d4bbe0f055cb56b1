package graph

import (
	"context"
	"fmt"
	"sync"
	"time"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
)

// refreshStep is how many positions are read at once.
const refreshStep = 500

// Refresh makes the caches forget what another node changed by the commits of the positions after from, up to to: redactions'
// targets, events that joined their room's graph, and the heads of rooms.
func (g *Graph) Refresh(ctx context.Context, from, to sqldb.Pos) error {
	for ; from < to; from += refreshStep {
		if err := g.refresh(ctx, from, min(to, from+refreshStep)); err != nil {
			return fmt.Errorf("refresh events from position %d: %w", from, err)
		}
	}
	return nil
}

func (g *Graph) refresh(ctx context.Context, from, to sqldb.Pos) error {
	found, err := g.query(ctx, liveEvents, from+1, to)
	if err != nil {
		return err
	}
	var changed []EventNID
	var targets []string
	for _, e := range found {
		if target, ok := e.PDU.Redacts(); ok {
			targets = append(targets, string(target))
		}
		changed = append(changed, e.NID)
		g.forgetHead(e.Room)
	}
	if len(targets) > 0 {
		err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
			return tx.Query(storedIDs, func(r *sqldb.Row) error {
				var nid EventNID
				err := r.Scan(nil, &nid)
				changed = append(changed, nid)
				return err
			}, targets)
		})
	}
	if err == nil {
		err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
			ended, err := tx.Get(partialEnded, []any{from, to}, nil)
			if ended {
				g.forgetEvents()
			}
			return err
		})
	}
	g.replaced(changed...)
	return err
}

// follower collects what other nodes wrote and Refresh has not seen yet.
type follower struct {
	g    *Graph
	wake chan struct{}

	mu       sync.Mutex // guards from, to
	from, to sqldb.Pos
}

// Follow subscribes to the bus at once, keeps the newest events that it tells of in memory, and returns a function that, until its context ends, runs Refresh for what other nodes wrote.
// A server calls Follow once, before it answers requests.
func (g *Graph) Follow(b *bus.Bus) (run func(context.Context) error) {
	f := &follower{g: g, wake: make(chan struct{}, 1)}
	from, cancel := b.Subscribe(f.hear)
	g.tail.begin(from)
	return func(ctx context.Context) error {
		err := f.run(ctx)
		cancel() // not after a panic: a supervisor then calls run again
		return err
	}
}

func (f *follower) hear(r bus.Range) {
	f.g.tail.hear(r)
	if !r.Foreign {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.from == f.to {
		f.from = r.From
	}
	f.to = r.To
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *follower) take() (from, to sqldb.Pos) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from, to = f.from, f.to
	f.from = f.to
	return from, to
}

func (f *follower) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		for from, to := f.take(); ctx.Err() == nil; {
			err := f.g.Refresh(ctx, from, to)
			if err == nil {
				break
			}
			// Nothing that is in memory can be trusted until the database has been read.
			f.g.forgetEvents()
			f.g.log.Warn("reading what other nodes wrote failed", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// forgetEvents empties the cache of events.
func (g *Graph) forgetEvents() {
	g.tail.forget()
	g.fill.Lock()
	defer g.fill.Unlock()
	g.changes++
	g.events.InvalidateAll()
}
