package fedapi

import (
	"context"
	"sync"
	"time"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxWaiting is how many requests of one server may wait for their turn.
const maxWaiting = 16

// turns lets each server do something a few times at once. Who comes when too many wait already is told to come back later.
type turns struct {
	atOnce int

	mu sync.Mutex // guards of
	of map[id.ServerName]*turn
}

// turn is the share of one server.
type turn struct {
	slots chan struct{}
	users int // requests that have a slot or wait for one; turns.mu guards it
}

func newTurns(atOnce int) *turns { return &turns{atOnce: atOnce, of: make(map[id.ServerName]*turn)} }

// take waits for a turn, and returns what ends it.
func (t *turns) take(ctx context.Context, server id.ServerName) (done func(), err error) {
	t.mu.Lock()
	own := t.of[server]
	if own == nil {
		own = &turn{slots: make(chan struct{}, t.atOnce)}
		t.of[server] = own
	}
	if own.users >= t.atOnce+maxWaiting {
		t.mu.Unlock()
		return nil, mxerr.LimitExceeded(time.Second)
	}
	own.users++
	t.mu.Unlock()
	select {
	case own.slots <- struct{}{}:
		return func() {
			<-own.slots
			t.leave(server, own)
		}, nil
	case <-ctx.Done():
		t.leave(server, own)
		return nil, ctx.Err()
	}
}

func (t *turns) leave(server id.ServerName, own *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(t.of, server)
	}
}
