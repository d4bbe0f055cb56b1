package fedclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

const (
	// maxHints bounds the hints that are asked, maxNotaryBatch the servers that a notary is asked for at once.
	maxHints       = 3
	maxNotaryBatch = 100
	notaryTimeout  = 30 * time.Second
)

// askNotaries asks others for keys that their servers don't give: the configured notaries for all of them, hints only for those of
// servers that don't answer.
//
// Spec: ss Querying Keys Through Another Server
func (c *Client) askNotaries(ctx context.Context, wants map[id.ServerName][]want, hints []id.ServerName) error {
	now := time.Now()
	open, unheard := make(map[id.ServerName][]want, len(wants)), make(map[id.ServerName][]want)
	for server, of := range wants {
		s := c.ring.set(server)
		if may := s.notaryMay(of, now); len(may) > 0 {
			open[server] = may
		} else if may = s.hintMay(of, hints, now); len(may) > 0 {
			unheard[server] = may
		}
	}
	for _, hint := range hints[:min(len(hints), maxHints)] {
		if len(unheard) == 0 || c.ours.Is(hint) || !c.Permitted(hint) {
			continue
		}
		if _, err := c.askNotary(ctx, hint, false, unheard); err != nil {
			return err
		}
	}
	if len(open) == 0 {
		return nil
	}
	asked, answered := 0, true
	for i, notary := range slices.Concat(c.ring.notaries, hints) {
		trusted := i < len(c.ring.notaries)
		if c.ours.Is(notary) || !c.Permitted(notary) || !trusted && asked == maxHints {
			continue
		}
		if !trusted {
			asked++
		}
		ok, err := c.askNotary(ctx, notary, trusted, open)
		if err != nil {
			return err
		}
		answered = answered && ok
	}
	for server, of := range open {
		s := c.ring.set(server)
		s.notariesDone(s.lacking(of), answered, now)
	}
	return ctx.Err()
}

// notariesDone notes what notaries were asked for in vain. Where not all of them answered, one that didn't may know the keys.
func (s *keySet) notariesDone(lacking []want, answered bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answered || len(lacking) == 0 {
		s.notaryFailures = 0
		for _, w := range lacking {
			miss(&s.notaryMissed, w, now)
		}
		return
	}
	s.notaryFailures++
	s.notaryNext = now.Add(backoff(s.notaryFailures, keyRetry, keyRetryMost))
}

// notaryMay returns the wants for which it is worth and time to ask notaries, and notes that this happens.
func (s *keySet) notaryMay(wants []want, now time.Time) []want {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.notaryNext) {
		return nil
	}
	var out []want
	for _, w := range wants {
		if !w.request && w.worth(s.notaryMissed, now) {
			out = append(out, w)
		}
	}
	if len(out) > 0 {
		s.notaryNext = now.Add(keyRefresh)
	}
	return out
}

// hintMay returns the wants for the state of a room for which one of the hints, which lets us in, was not asked of late, and notes that it is: that others
// didn't know the keys a moment ago says nothing about it, and what it can't prove is left out of the room for good.
func (s *keySet) hintMay(wants []want, hints []id.ServerName, now time.Time) []want {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []want
	for _, w := range wants {
		if w.hearsay && !w.hopeless(now) {
			out = append(out, w)
		}
	}
	if len(out) == 0 {
		return nil
	}
	fresh := false
	for _, hint := range hints[:min(len(hints), maxHints)] {
		if now.Sub(s.hinted[hint]) < keyRefresh {
			continue
		}
		fresh = true
		if s.hinted == nil || len(s.hinted) >= maxMissed {
			s.hinted = make(map[id.ServerName]time.Time)
		}
		s.hinted[hint] = now
	}
	if !fresh {
		return nil
	}
	return out
}

// silent reports whether the server doesn't answer: not whether nobody has asked it yet, which anybody might bring about.
func (s *keySet) silent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	unanswered := len(s.flights) > 0 && s.answered.IsZero() && time.Since(s.asked) >= patience
	return s.failures > 0 || unanswered
}

// askNotary asks one notary for what is still lacking. It reports whether the notary answered, or there was nothing to ask.
func (c *Client) askNotary(ctx context.Context, notary id.ServerName, trusted bool, open map[id.ServerName][]want) (bool, error) {
	var servers []id.ServerName
	for server, of := range open {
		s := c.ring.set(server)
		if server != notary && (trusted || s.silent()) && len(s.lacking(of)) > 0 {
			servers = append(servers, server)
		}
	}
	for batch := range slices.Chunk(servers, maxNotaryBatch) {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		outcome := "ok"
		if err := c.queryNotary(ctx, notary, batch, open); err != nil {
			outcome = "failed"
			c.log.Debug("a notary gives no keys", "origin", notary, "err", err)
		}
		c.metrics.keys.WithLabelValues("notary", outcome).Inc()
		if outcome != "ok" {
			return false, nil
		}
	}
	return true, nil
}

// criteria is what a notary is asked of a key.
type criteria struct {
	MinValid int64 `json:"minimum_valid_until_ts"`
}

// queryNotary asks a notary about some servers and keeps what it can prove. The error is that of the request as a whole.
//
// Spec: ss bulkPerspectivesKeyQuery
func (c *Client) queryNotary(ctx context.Context, notary id.ServerName, servers []id.ServerName, wants map[id.ServerName][]want) error {
	query := make(map[id.ServerName]map[sign.KeyID]criteria, len(servers))
	for _, server := range servers {
		keys := make(map[sign.KeyID]criteria)
		for _, w := range wants[server] {
			for _, keyID := range w.ids {
				if len(keys) < maxMissed {
					keys[keyID] = criteria{max(keys[keyID].MinValid, w.at)}
				}
			}
		}
		query[server] = keys
	}
	body, err := json.Marshal(map[string]any{"server_keys": query})
	if err != nil {
		return fmt.Errorf("encode a query for keys: %w", err)
	}
	rq := request{op: "bulkPerspectivesKeyQuery", method: http.MethodPost, path: "/_matrix/key/v2/query", body: body, unsigned: true, beside: true, timeout: notaryTimeout, limit: maxLargeAnswer}
	var answer struct {
		Keys []json.RawMessage `json:"server_keys"`
	}
	if err := c.decode(ctx, Call{Destination: notary}, rq, &answer); err != nil {
		return err
	}
	// A notary may give several objects for a server, of different times.
	for _, raw := range answer.Keys[:min(len(answer.Keys), 8*len(servers))] {
		if err := c.takeNotarised(ctx, notary, raw, query); err != nil {
			c.log.Debug("a notary gives keys that prove nothing", "origin", notary, "err", err)
		}
	}
	return nil
}

// takeNotarised checks an object that a notary gave and keeps its keys. It needs the server's signature and the notary's.
func (c *Client) takeNotarised(ctx context.Context, notary id.ServerName, raw json.RawMessage, asked map[id.ServerName]map[sign.KeyID]criteria) error {
	text, _ := canon.GetText(raw, "server_name")
	server := id.ServerName(text)
	if _, ok := asked[server]; !ok {
		return fmt.Errorf("%s gives keys of %.300q, which it was not asked for", notary, text)
	}
	got, err := parseServerKeys(raw, server, time.Now())
	if err != nil {
		return fmt.Errorf("keys of %s from %s: %w", server, notary, err)
	}
	if err := c.VerifyJSON(ctx, raw, notary, time.Now().UnixMilli()); err != nil {
		return fmt.Errorf("keys of %s from %s: %w", server, notary, err)
	}
	held, err := c.storeNotary(ctx, got, notary)
	if err != nil {
		return err
	}
	s := c.ring.set(server)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.loaded = held, true
	c.ring.known(server, s)
	return nil
}

// Notarise returns the object of a server's keys as that server signed it last, valid until a time where possible, in milliseconds
// since the epoch. What is held is used for half of its life; when the server does not answer, for as long as there is nothing better.
// The error is M_NOT_FOUND where there is nothing, and M_LIMIT_EXCEEDED where too much is being fetched for whoever asks from the address.
//
// Spec: ss perspectivesKeyQuery
func (c *Client) Notarise(ctx context.Context, server id.ServerName, minValid int64, from netip.Addr) (json.RawMessage, error) {
	if c.ours.Is(server) {
		return c.OwnKeys(server)
	}
	set, found, err := c.storedSet(ctx, server)
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixMilli()
	half := set.fetched + min(set.validUntil-set.fetched, keyHorizon.Milliseconds())/2
	if found && now < half && set.validUntil >= minValid {
		return set.object, nil
	}
	s := c.ring.set(server)
	if err := c.load(ctx, server, s); err != nil {
		return nil, err
	}
	// Any key will do: what is wanted is a fresh answer.
	flight, err := c.startFetch(c.ring.requestsFrom(from), server, s, []want{{server: server, ids: []sign.KeyID{"ed25519:"}, request: true}})
	if err != nil && !found {
		return nil, err
	}
	if flight != nil {
		if err := wait(ctx, []<-chan struct{}{flight}, false); err != nil && !found {
			return nil, err
		}
		if set, found, err = c.storedSet(ctx, server); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, mxerr.NotFound("The keys of %s can't be had.", server)
	}
	return set.object, nil
}
