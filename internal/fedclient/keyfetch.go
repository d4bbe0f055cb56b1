package fedclient

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

// obtain tries to have keys in memory that satisfy the wants. Whether it did is for the caller to see: the error is that of a
// caller who gave up, of the database, or M_LIMIT_EXCEEDED where a request asks for too many at once. Servers that don't answer are not waited for any longer than patience where somebody else can be asked.
func (c *Client) obtain(ctx context.Context, a account, wants []want, hints []id.ServerName) error {
	byServer := make(map[id.ServerName][]want)
	for _, w := range wants {
		if w.server != "" && !c.ours.Is(w.server) {
			byServer[w.server] = append(byServer[w.server], w)
		}
	}
	began := time.Now()
	var flights []<-chan struct{}
	for server, of := range byServer {
		s := c.ring.set(server)
		if err := c.load(ctx, server, s); err != nil {
			return err
		}
		if byServer[server] = s.lacking(of); len(byServer[server]) == 0 {
			delete(byServer, server)
			continue
		}
		flight, err := c.startFetch(a, server, s, byServer[server])
		if err != nil {
			return err
		}
		if flight != nil {
			flights = append(flights, flight)
		}
	}
	if len(byServer) == 0 {
		return nil
	}
	others := len(hints)+len(c.ring.notaries) > 0
	if err := wait(ctx, flights, others); err != nil {
		return err
	}
	for server, of := range byServer {
		if byServer[server] = c.ring.set(server).missing(of, began); len(byServer[server]) == 0 {
			delete(byServer, server)
		}
	}
	if len(byServer) == 0 || !others {
		return nil
	}
	return c.askNotaries(ctx, byServer, hints)
}

// wait waits for fetches, but no longer than patience where there are others to ask.
func wait(ctx context.Context, flights []<-chan struct{}, others bool) error {
	var enough <-chan time.Time
	if others && len(flights) > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		enough = timer.C
	}
	for _, flight := range flights {
		select {
		case <-flight:
		case <-enough:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// load reads a server's keys from the database, once.
func (c *Client) load(ctx context.Context, server id.ServerName, s *keySet) error {
	s.mu.Lock()
	loaded := s.loaded
	s.mu.Unlock()
	if loaded {
		return nil
	}
	keys, err := c.storedKeys(ctx, server)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded {
		s.keys, s.loaded = keys, true
		if len(keys) > 0 {
			c.ring.known(server, s)
		}
	}
	return nil
}

// lacking returns the wants that no key in memory satisfies.
func (s *keySet) lacking(wants []want) []want {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []want
	for _, w := range wants {
		if !s.satisfies(w) {
			out = append(out, w)
		}
	}
	return out
}

// missing is lacking after a fetch. If the server answered since a time, its lack of a key is noted.
func (s *keySet) missing(wants []want, since time.Time) []want {
	out := s.lacking(wants)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.answered.Before(since) && !s.answered.IsZero() {
		for _, w := range out {
			miss(&s.missed, w, time.Now())
		}
	}
	return out
}

// startFetch starts asking a server for its keys, or joins those who do already. It returns nil where it is not worth it or too early, and for
// events also where too many fetches wait already: they will come again. A request is told so: M_LIMIT_EXCEEDED.
func (c *Client) startFetch(a account, server id.ServerName, s *keySet, wants []want) (<-chan struct{}, error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := a.of(s)
	if f := s.flightFor(p, a.who); f != nil {
		return f.done, nil
	}
	worth, request := false, false
	for _, w := range wants {
		if w.worth(s.missed, now) {
			worth, request = true, request || w.request
		}
	}
	next := s.next
	if waiting := s.asked.Add(keyRefresh); request && waiting.Before(next) {
		next = waiting
	}
	if !worth || now.Before(next) || !c.Permitted(server) {
		return nil, nil
	}
	f := &flight{pool: p, who: a.who, done: make(chan struct{})}
	if !c.ring.start(c.ctx, p, a, func() { c.refresh(server, s, f) }) {
		if a.pool == c.ring.forStrangers && c.ctx.Err() == nil {
			return nil, mxerr.LimitExceeded(keyFetchTimeout)
		}
		return nil, nil
	}
	if len(s.flights) == 0 {
		s.asked = now
	}
	s.flights = append(s.flights, f)
	return f.done, nil
}

// close waits for the fetches under way, whose context has ended.
func (r *ring) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.flights.Wait()
}

// refresh asks a server for its keys and ends the flight.
func (c *Client) refresh(server id.ServerName, s *keySet, f *flight) {
	began := time.Now()
	held, _, err := c.fetchDirect(c.ctx, server)
	outcome := "ok"
	if err != nil {
		outcome = "failed"
		c.log.Debug("the keys of a server can't be had", "origin", server, "err", err)
	}
	c.metrics.keys.WithLabelValues("server", outcome).Inc()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	s.flights = slices.DeleteFunc(s.flights, func(other *flight) bool { return other == f })
	if err != nil {
		if !s.answered.Before(began) && !s.answered.IsZero() || !s.failed.Before(began) && !s.failed.IsZero() {
			return // another fetch, at the same time, has found out as much or more
		}
		s.failed = now
		s.failures++
		s.next = now.Add(backoff(s.failures, keyRetry, keyRetryMost))
		return
	}
	c.renewed(server, s, held, now)
}

// renewed notes what a server has just said of its keys. The caller holds s.mu.
func (c *Client) renewed(server id.ServerName, s *keySet, held map[sign.KeyID]remoteKey, now time.Time) {
	s.keys, s.loaded, s.failures = held, true, 0
	s.answered, s.next = now, now.Add(keyRefresh)
	c.ring.known(server, s)
}

// Published asks a server for its keys, whatever is known of them, and returns the object that it signed.
//
// Spec: ss getServerKey
func (c *Client) Published(ctx context.Context, server id.ServerName) (json.RawMessage, error) {
	held, object, err := c.fetchDirect(ctx, server)
	if err != nil {
		return nil, err
	}
	s := c.ring.set(server)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.renewed(server, s, held, time.Now())
	return object, nil
}

// fetchDirect gets a server's keys from itself, keeps them, and returns all that count from now on, and the object that the server signed.
//
// Spec: ss getServerKey
func (c *Client) fetchDirect(ctx context.Context, server id.ServerName) (map[sign.KeyID]remoteKey, json.RawMessage, error) {
	rq := request{op: "getServerKey", method: http.MethodGet, path: "/_matrix/key/v2/server", unsigned: true, beside: true, timeout: keyFetchTimeout, limit: maxKeyObject}
	a, err := c.send(ctx, Call{Destination: server, Urgent: true}, rq)
	if err != nil {
		return nil, nil, err
	}
	defer a.Close()
	raw, err := io.ReadAll(a.body)
	if err != nil {
		return nil, nil, c.broken(Call{Destination: server}, rq.op, err)
	}
	now := time.Now()
	got, err := parseServerKeys(raw, server, now)
	if err != nil {
		return nil, nil, fmt.Errorf("keys of %s: %w", server, err)
	}
	held, err := c.storeDirect(ctx, got, now)
	return held, raw, err
}
