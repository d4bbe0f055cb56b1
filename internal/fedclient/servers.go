package fedclient

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"myelin/matrix/id"
)

const (
	// maxServers bounds the servers something is remembered of.
	maxServers = 20_000
	// maxAtOnce bounds the requests to one server that are under way.
	maxAtOnce = 16
	// A server that failed is left alone for firstBackoff, then for twice as long each time, up to maxBackoff.
	firstBackoff = 5 * time.Second
	maxBackoff   = time.Hour
)

// servers remembers how other servers did of late.
type servers struct {
	mu   sync.Mutex // guards list
	list map[id.ServerName]*destination
}

// destination is what is known of one server.
type destination struct {
	// slots holds one element for each request under way.
	slots chan struct{}

	mu       sync.Mutex // guards what follows
	failures int
	failedAt time.Time // of the last failure that counted
	retryAt  time.Time
}

func (s *servers) init() { s.list = make(map[id.ServerName]*destination) }

func (s *servers) of(name id.ServerName) *destination {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.list[name]
	if d == nil {
		if len(s.list) >= maxServers {
			s.forget()
		}
		d = &destination{slots: make(chan struct{}, maxAtOnce)}
		s.list[name] = d
	}
	return d
}

// known is of for those who don't want to make an entry.
func (s *servers) known(name id.ServerName) *destination {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list[name]
}

// forget makes room by dropping any few servers that nothing is under way with: all that is lost is that they failed.
func (s *servers) forget() {
	seen := 0
	for name, d := range s.list {
		if len(d.slots) == 0 {
			delete(s.list, name)
		}
		if seen++; seen == 64 {
			return
		}
	}
}

// enter waits for a free slot, unless the request goes beside the others. It fails at once with an *Unreachable while the server is
// left alone.
func (d *destination) enter(ctx context.Context, call Call, beside bool) error {
	if !call.Urgent {
		d.mu.Lock()
		retryAt := d.retryAt
		d.mu.Unlock()
		if time.Now().Before(retryAt) {
			return &Unreachable{Server: call.Destination, RetryAt: retryAt}
		}
	}
	if beside {
		return ctx.Err()
	}
	select {
	case d.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *destination) leave(beside bool) {
	if !beside {
		<-d.slots
	}
}

// failed counts a failure of a request that began at a time: of several at once only the first counts. It returns when the
// next one may go out.
func (d *destination) failed(began time.Time) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); !began.Before(d.failedAt) || d.failures == 0 {
		d.failures++
		d.failedAt = now
		d.retryAt = now.Add(backoff(d.failures, firstBackoff, maxBackoff))
	}
	return d.retryAt
}

// pause leaves the server alone because it asked for it.
func (d *destination) pause(wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if until := time.Now().Add(min(wait, maxBackoff)); until.After(d.retryAt) {
		d.retryAt = until
	}
}

// well forgets all failures.
func (d *destination) well() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures, d.retryAt = 0, time.Time{}
}

// backoff is first, doubled with each failure after the first, at most most, and up to a quarter less, as the moment will have it: so that
// who failed together doesn't try again together, and a simulation repeats itself.
func backoff(failures int, first, most time.Duration) time.Duration {
	wait := most
	if failures < 30 {
		wait = min(first<<(failures-1), most)
	}
	chance := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(failures)))
	return wait - time.Duration(chance.Int64N(int64(wait/4)+1))
}

// Heard says that an authenticated request of a server came in: it is back, whatever failed before.
// Authenticate calls it on its own.
func (c *Client) Heard(server id.ServerName) {
	if d := c.servers.known(server); d != nil {
		d.well()
	}
	if c.heard != nil {
		c.heard(server)
	}
}
