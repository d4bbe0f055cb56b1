package room

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"myelin/internal/graph"
	"myelin/matrix/id"
)

// maxAttempts bounds how often a proposal is decided anew because another node was faster.
const maxAttempts = 50

// maxPause is the longest pause before another attempt. Two nodes that write to one room at
// once take turns by pausing for random times that grow with each defeat.
const maxPause = 64 * time.Millisecond

// lane orders the decisions about one room.
type lane struct {
	room id.RoomID

	// mu guards what follows. It is held while one proposal is decided and queued, never
	// while a commit is awaited.
	mu sync.Mutex
	// head is what the newest queued commit will produce; nil when it must be loaded.
	head *graph.Head
	// epoch counts how often head was dropped, so that of many callers whose commits fell
	// together only the first drops it.
	epoch int
	// pending holds the queued commits of client transactions, so that a repeated request
	// that arrives before the first is durable waits for that one.
	pending map[graph.TxnRef]*queued
}

// queued is a commit on its way to the disk.
type queued struct {
	ticket *graph.Ticket
	event  id.EventID
	epoch  int
}

func (r *Rooms) lane(room id.RoomID) *lane {
	l, _ := r.lanes.ComputeIfAbsent(room, func() (*lane, bool) {
		return &lane{room: room, pending: make(map[graph.TxnRef]*queued)}, false
	})
	return l
}

// step is the outcome of one decision in a lane.
type step struct {
	// commit is nil where the decision found that nothing needs to change.
	commit *graph.Commit
	// event is what the caller is told.
	event id.EventID
}

// advance runs decide on the newest head of the room and waits until its effect is durable.
// decide is called again on a fresh head when another writer of the room was faster, so it
// must have no effect of its own.
func (r *Rooms) advance(ctx context.Context, room id.RoomID, txn graph.TxnRef, decide func(*graph.Head) (step, error)) (id.EventID, error) {
	l := r.lane(room)
	for attempt := range maxAttempts {
		if err := pause(ctx, attempt); err != nil {
			return "", err
		}
		q, err := r.queue(ctx, l, txn, decide)
		if err != nil {
			return r.answered(ctx, txn, err)
		}
		if q.ticket == nil {
			return q.event, nil
		}
		// A queued commit can't be taken back, so its outcome is awaited even when the
		// caller has gone.
		err = q.ticket.Wait(context.WithoutCancel(ctx))
		if txn != (graph.TxnRef{}) {
			l.settle(txn, q)
		}
		switch {
		case err == nil:
			if txn != (graph.TxnRef{}) {
				r.sent.Set(txn, q.event)
			}
			return q.event, nil
		case errors.Is(err, graph.ErrTxn):
			l.forget(q.epoch)
			if known, ok, err := r.cfg.Graph.TxnEvent(ctx, txn); err != nil || ok {
				return known, err
			}
		case errors.Is(err, graph.ErrConflict):
			l.forget(q.epoch)
		default:
			l.forget(q.epoch)
			return "", fmt.Errorf("commit to %s: %w", room, err)
		}
	}
	return "", fmt.Errorf("commit to %s: lost against other writers %d times in a row", room, maxAttempts)
}

// answered returns the event of a client's transaction that was answered before, or else the
// reason why it can't be sent now: what was sent once stays sent, though the user may have lost
// the right to send it again.
func (r *Rooms) answered(ctx context.Context, txn graph.TxnRef, reason error) (id.EventID, error) {
	if txn == (graph.TxnRef{}) {
		return "", reason
	}
	known, ok, err := r.cfg.Graph.TxnEvent(ctx, txn)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", reason
	}
	return known, nil
}

// pause waits before an attempt; not at all before the first.
func pause(ctx context.Context, attempt int) error {
	if attempt == 0 {
		return nil
	}
	most := min(maxPause, time.Millisecond<<min(attempt, 10))
	timer := time.NewTimer(rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// queue decides on top of the lane's head and hands the commit to the committer.
func (r *Rooms) queue(ctx context.Context, l *lane, txn graph.TxnRef, decide func(*graph.Head) (step, error)) (*queued, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q, ok := l.pending[txn]; ok {
		return q, nil
	}
	if l.head == nil {
		head, err := r.cfg.Graph.Head(ctx, l.room)
		if err != nil {
			return nil, err
		}
		l.head = head
	}
	s, err := decide(l.head)
	if err != nil {
		return nil, err
	}
	if s.commit == nil {
		return &queued{event: s.event}, nil
	}
	q := &queued{ticket: r.cfg.Graph.Commit(s.commit), event: s.event, epoch: l.epoch}
	l.head = s.commit.Next
	if txn != (graph.TxnRef{}) {
		l.pending[txn] = q
	}
	return q, nil
}

// forget drops a head that was built on a commit that failed.
func (l *lane) forget(epoch int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch == epoch {
		l.head = nil
		l.epoch++
	}
}

// settle removes a client transaction that is durable, or that failed and may be tried again.
func (l *lane) settle(txn graph.TxnRef, q *queued) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending[txn] == q {
		delete(l.pending, txn)
	}
}
