package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
)

// foreignNews has the graph's caches forget what other nodes changed.
type foreignNews struct {
	graph *graph.Graph
	bus   *bus.Bus
	grown chan struct{} // holds one

	mu       sync.Mutex // guards from and to
	from, to sqldb.Pos  // what other nodes wrote lies in between; empty where both are equal
}

// newForeignNews makes one for a graph that was opened when the stream ended at from.
func newForeignNews(g *graph.Graph, b *bus.Bus, from sqldb.Pos) *foreignNews {
	return &foreignNews{graph: g, bus: b, grown: make(chan struct{}, 1), from: from, to: from}
}

// run follows the bus until ctx ends. After an error it is called again and goes on where it was.
func (f *foreignNews) run(ctx context.Context) error {
	_, cancel := f.bus.Subscribe(f.hear)
	defer cancel()
	for {
		f.mu.Lock()
		from, to := f.from, f.to
		f.mu.Unlock()
		if from < to {
			if err := f.graph.Refresh(ctx, from, to); err != nil {
				return fmt.Errorf("refresh the graph: %w", err)
			}
		}
		f.mu.Lock()
		f.from = to
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.grown:
		}
	}
}

// hear takes a range of the stream from the bus.
func (f *foreignNews) hear(r bus.Range) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !r.Foreign || r.To <= f.to:
		return
	case f.from == f.to:
		f.from = max(f.from, r.From)
	}
	f.to = r.To
	select {
	case f.grown <- struct{}{}:
	default:
	}
}

// transactionsKept is how long a client may repeat a request and get the first answer.
const transactionsKept = 14 * 24 * time.Hour

func (s *Server) forgetTransactions(ctx context.Context) error {
	n, err := s.graph.ReclaimTxns(ctx, time.Now().Add(-transactionsKept).UnixMilli())
	if n > 0 {
		s.log.Info("transactions forgotten", slog.Int("count", n))
	}
	return err
}

// reclaimStates visits all rooms. One that fails does not keep it from the others.
func (s *Server) reclaimStates(ctx context.Context) error {
	const page = 100
	var problems []error
	for after := graph.RoomNID(0); ; {
		rooms, err := s.graph.Rooms(ctx, after, page)
		if err != nil {
			return err
		}
		for _, r := range rooms {
			after = r
			if _, err := s.graph.ReclaimStates(ctx, r); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				problems = append(problems, fmt.Errorf("room %d: %w", r, err))
			}
		}
		if len(rooms) < page {
			return errors.Join(problems...)
		}
	}
}
