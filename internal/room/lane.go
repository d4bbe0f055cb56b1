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

	// mu guards what follows. It is held while one proposal is decided and queued. A commit is
	// awaited under it only for a decision that needs more than a head shows (errUnsettled).
	mu sync.Mutex
	// head is what the newest queued commit will produce; nil when it must be loaded.
	head *graph.Head
	// last is the newest queued commit, nil where what the head shows is durable.
	last *queued
	// epoch counts how often head was dropped, so that of many callers whose commits fell
	// together only the first drops it.
	epoch int
	// pending holds the queued commits of client transactions, so that a repeated request
	// that arrives before the first is durable waits for that one.
	pending map[graph.TxnRef]*queued
}

// queued is the outcome of a decision, which holds once the ticket is durable: that of the
// decision's own commit or, where it changes nothing or failed, of the commit that the head
// it was made on came from.
type queued struct {
	ticket *graph.Ticket // nil where the outcome holds already
	event  id.EventID
	err    error
	epoch  int
}

// errUnsettled is returned by a decision that needs events or states which may be on their way
// to the disk. It is then made again on a durable head.
var errUnsettled = errors.New("room: the decision needs a durable head")

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

// decision makes a step on top of a head. It may be made several times, so it must have no
// effect of its own. With settled false the head is not durable yet, and the graph knows of what the head
// shows only the state events.
type decision func(head *graph.Head, settled bool) (step, error)

// advance makes the decision on the newest head of the room and waits until its effect is
// durable. It is made again on a fresh head when another writer of the room was faster.
func (r *Rooms) advance(ctx context.Context, room id.RoomID, txn graph.TxnRef, decide decision) (id.EventID, error) {
	l := r.lane(room)
	for attempt := range maxAttempts {
		if err := pause(ctx, attempt); err != nil {
			return "", err
		}
		q, err := r.queue(ctx, l, txn, decide)
		if err != nil {
			return "", err
		}
		if q.ticket != nil {
			// A queued commit can't be taken back, so its outcome is awaited even when the
			// caller has gone.
			err = q.ticket.Wait(context.WithoutCancel(ctx))
			l.settle(txn, q, err)
		}
		switch {
		case err == nil && q.err != nil:
			return r.answered(ctx, txn, q.err)
		case err == nil:
			if txn != (graph.TxnRef{}) {
				r.sent.Set(txn, q.event)
			}
			return q.event, nil
		case errors.Is(err, graph.ErrTxn):
			if known, err := r.answered(ctx, txn, nil); err != nil || known != "" {
				return known, err
			}
		case errors.Is(err, graph.ErrAnnotated):
			return r.answered(ctx, txn, alreadyAnnotated())
		case !errors.Is(err, graph.ErrConflict):
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
func (r *Rooms) queue(ctx context.Context, l *lane, txn graph.TxnRef, decide decision) (*queued, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q, ok := l.pending[txn]; ok {
		return q, nil
	}
	s, err := r.decide(ctx, l, decide)
	if errors.Is(err, errUnsettled) {
		l.land()
		s, err = r.decide(ctx, l, decide)
	}
	if err != nil || s.commit == nil {
		q := &queued{event: s.event, err: err, epoch: l.epoch}
		if l.last != nil {
			q.ticket = l.last.ticket
		}
		return q, nil
	}
	q := &queued{ticket: r.cfg.Graph.Commit(s.commit), event: s.event, epoch: l.epoch}
	l.head, l.last = s.commit.Next, q
	if txn != (graph.TxnRef{}) {
		l.pending[txn] = q
	}
	return q, nil
}

// decide makes the decision on the lane's head. It is called with mu held.
func (r *Rooms) decide(ctx context.Context, l *lane, decide decision) (step, error) {
	if l.last != nil {
		select {
		case <-l.last.ticket.Done():
			l.land()
		default:
		}
	}
	if l.head == nil {
		head, err := r.cfg.Graph.Head(ctx, l.room)
		if err != nil {
			return step{}, err
		}
		l.head = head
	}
	return decide(l.head, l.last == nil)
}

// land waits for the newest queued commit. It is called with mu held.
func (l *lane) land() {
	if q := l.last; q != nil {
		l.done(q, q.ticket.Wait(context.Background()))
	}
}

// done notes the outcome of a commit. It is called with mu held.
func (l *lane) done(q *queued, err error) {
	switch {
	case err != nil && l.epoch == q.epoch:
		// What was built on the failed commit will fail as well.
		l.head, l.last = nil, nil
		l.epoch++
	case err == nil && l.last == q:
		l.last = nil
	}
}

// settle notes the outcome of what q waited for, and lets go of a client transaction that is
// durable, or that failed and may be tried again.
func (l *lane) settle(txn graph.TxnRef, q *queued, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done(q, err)
	if l.pending[txn] == q {
		delete(l.pending, txn)
	}
}
