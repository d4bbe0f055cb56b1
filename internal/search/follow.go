package search

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/work"
)

const (
	batchEvents = 1000 // events read for one segment
	// settle is how long to wait for more when there is little: a segment of many events costs hardly more than one of few.
	settle     = time.Second
	settleFrom = 300 // positions
	// maxLag is how many positions without anything to index may pass until that is noted. It must leave room for events below maxTail.
	maxLag = 256
)

// batch indexes events after a position. See work.Follower.
func (s *Search) batch(ctx context.Context, from, last sqldb.Pos) (sqldb.Pos, work.Effect, error) {
	if last-from < settleFrom {
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return 0, nil, context.Cause(ctx)
		}
	}
	events, err := s.graph.EventsSince(ctx, from, last, batchEvents)
	if err != nil {
		return 0, nil, err
	}
	to := last
	if len(events) == batchEvents {
		to = events[len(events)-1].Pos
	}
	s.progress.report(s.log, to, last)
	d := newDraft()
	for _, e := range events {
		if t, ok := textOf(e.PDU); ok {
			d.add(e.Room, e.Ord, t.text)
		}
	}
	gone, err := s.redacted(ctx, events)
	if err != nil {
		return 0, nil, err
	}
	if d.docs == 0 && len(gone) == 0 && to-sqldb.Pos(s.behind.Load()) < maxLag {
		return to, nil, nil
	}
	store, err := s.storing(ctx, d)
	if err != nil {
		return 0, nil, err
	}
	return to, func(tx *sqldb.Tx) error {
		store(tx)
		markErased(tx, gone)
		tx.Queue(setIndexedTo, to)
		s.behind.Store(int64(to))
		return nil
	}, nil
}

// storing prepares a draft and returns what writes it.
func (s *Search) storing(ctx context.Context, d *draft) (func(*sqldb.Tx), error) {
	if d.docs == 0 {
		return func(*sqldb.Tx) {}, nil
	}
	f, err := d.finish()
	if err != nil {
		return nil, err
	}
	nid, err := s.segNIDs.Next(ctx)
	if err != nil {
		return nil, fmt.Errorf("number a segment: %w", err)
	}
	return func(tx *sqldb.Tx) {
		f.store(tx, nid)
		select {
		case s.grown <- struct{}{}:
		default:
		}
	}, nil
}

// progress tells an operator how a long catching-up goes on. It belongs to the follower alone.
type progress struct {
	told time.Time
	busy bool
}

const (
	progressFrom   = 20000 // positions that are left
	progressPeriod = 10 * time.Second
)

func (p *progress) report(log *slog.Logger, at, last sqldb.Pos) {
	switch {
	case last-at >= progressFrom && time.Since(p.told) >= progressPeriod:
		log.Info("messages are being indexed for search", slog.Int64("pos", int64(at)), slog.Int64("of", int64(last)))
		p.told, p.busy = time.Now(), true
	case last == at && p.busy:
		log.Info("all messages are indexed for search", slog.Int64("pos", int64(at)))
		p.busy = false
	}
}

const (
	olderRooms  = 500
	olderEvents = 1000
)

// older indexes what was backfilled since the last time.
func (s *Search) older(ctx context.Context) error {
	for after := graph.RoomNID(0); ; {
		rooms, err := s.graph.Backfilled(ctx, after, olderRooms)
		if err != nil {
			return err
		}
		if len(rooms) == 0 {
			return nil
		}
		nids := make([]int64, len(rooms))
		for i, r := range rooms {
			nids[i] = int64(r.Room)
		}
		low := make(map[graph.RoomNID]int64)
		err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
			return tx.Query(lowOf, func(r *sqldb.Row) error {
				var room graph.RoomNID
				var ord int64
				err := r.Scan(&room, &ord)
				low[room] = ord
				return err
			}, nids)
		})
		if err != nil {
			return fmt.Errorf("read how far back rooms are indexed: %w", err)
		}
		for _, r := range rooms {
			after = r.Room
			for at := low[r.Room]; at > r.MinOrd; {
				if at, err = s.olderIn(ctx, r, at); err != nil {
					return fmt.Errorf("index the history of room %d: %w", r.Room, err)
				}
			}
		}
	}
}

// olderIn indexes some of a room's events before a place and returns how far back it came.
func (s *Search) olderIn(ctx context.Context, r graph.Backfill, before int64) (int64, error) {
	// No event is at 0, which the graph takes for no bound.
	events, err := s.graph.Timeline(ctx, r.Room, graph.Range{After: graph.Beginning, Before: min(before, 0) + btoi(before == 0), Backward: true, Limit: olderEvents})
	if err != nil {
		return 0, err
	}
	to := r.MinOrd
	if len(events) == olderEvents {
		to = events[len(events)-1].Ord
	}
	d := newDraft()
	for _, e := range events {
		if t, ok := textOf(e.PDU); ok {
			d.add(e.Room, e.Ord, t.text)
		}
	}
	store, err := s.storing(ctx, d)
	if err != nil {
		return 0, err
	}
	gone, err := s.redacted(ctx, events)
	if err != nil {
		return 0, err
	}
	return to, s.db.Write(ctx, func(tx *sqldb.Tx) error {
		store(tx)
		markErased(tx, gone)
		tx.Queue(setLow, r.Room, to)
		return nil
	})
}

func btoi(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
