package fedclient

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

const (
	// maxKeySets bounds the servers whose keys are in memory, and maxStrange those of which it is remembered that they gave none.
	maxKeySets = 20_000
	maxStrange = 20_000
	// A server's keys are fetched at most once in keyRefresh; after a failure once in keyRetry, then in twice as long each time, up to
	// keyRetryMost. For a request that waits keyRefresh is the longest pause.
	keyRefresh   = time.Minute
	keyRetry     = time.Minute
	keyRetryMost = 10 * time.Minute
	// missedFor is how long a key that was not there is not looked for again; maxMissed bounds the IDs that are remembered.
	missedFor = 10 * time.Minute
	maxMissed = 64
	// keyFetchTimeout bounds one fetch.
	keyFetchTimeout = 15 * time.Second
	// patience is how long events wait for servers to give their keys before notaries are asked.
	patience = 10 * time.Second
)

// ring is the key ring: what is in memory of it.
type ring struct {
	notaries []id.ServerName

	mu   sync.Mutex // guards what follows, the values of sets excepted
	sets *otter.Cache[id.ServerName, *keySet]
	// strange holds the servers that never gave a key, of which anybody can name as many as he likes.
	strange *otter.Cache[id.ServerName, *keySet]
	closed  bool

	flights                           sync.WaitGroup
	forEvents, forKnown, forStrangers *pool
}

// keySet is what is known of one server's keys.
type keySet struct {
	mu     sync.Mutex // guards what follows
	loaded bool
	// keys is never changed, only replaced.
	keys     map[sign.KeyID]remoteKey
	failures int
	// asked is when the server was last asked, answered when it last answered; next is when it may be asked again.
	asked, answered, next time.Time
	// missed holds the keys that the server was asked for in vain, with the time.
	missed map[sign.KeyID]time.Time
	// notaryMissed is the same for notaries. After a question that one of them did not answer nothing is missed, but the next one waits.
	notaryMissed   map[sign.KeyID]time.Time
	notaryNext     time.Time
	notaryFailures int
	// hinted is when which hints were asked for the state of a room.
	hinted map[id.ServerName]time.Time
	// flights are the fetches under way, failed is when the last of them failed.
	flights []*flight
	failed  time.Time
}

// want asks for any one of a server's keys that counts at a time.
type want struct {
	server id.ServerName
	ids    []sign.KeyID
	// at is in milliseconds since the epoch.
	at int64
	// strict: valid_until_ts counts.
	strict bool
	// request: only keys in use that the server itself gave count.
	request bool
	// hearsay: keys that anybody told of count.
	hearsay bool
}

func newRing(notaries []id.ServerName) *ring {
	return &ring{
		notaries: notaries, sets: otter.Must(&otter.Options[id.ServerName, *keySet]{MaximumSize: maxKeySets}),
		strange:   otter.Must(&otter.Options[id.ServerName, *keySet]{MaximumSize: maxStrange}),
		forEvents: newPool(), forKnown: newPool(), forStrangers: newPool(),
	}
}

// set returns the set of a server, which may not be loaded yet.
func (r *ring) set(server id.ServerName) *keySet {
	if s, ok := r.sets.GetIfPresent(server); ok {
		return s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.sets.GetIfPresent(server); ok {
		return s
	}
	if s, ok := r.strange.GetIfPresent(server); ok {
		return s
	}
	s := &keySet{}
	// The name may be part of an event, which must not stay in memory for it.
	r.strange.Set(id.ServerName(strings.Clone(string(server))), s)
	return s
}

// known notes that keys of a server are at hand.
func (r *ring) known(server id.ServerName, s *keySet) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.sets.GetIfPresent(server); !ok {
		server = id.ServerName(strings.Clone(string(server)))
		r.sets.Set(server, s)
		r.strange.Invalidate(server)
	}
}

// Keys returns those of a server's keys that count for something signed at a time, in milliseconds since the epoch, by the rules of
// room version 5 and later. Keys that can't be had are absent; it is an error if none can be had. Hints are servers to ask if it doesn't answer.
//
// Spec: ss Retrieving server keys
func (c *Client) Keys(ctx context.Context, server id.ServerName, ids []sign.KeyID, at int64, hint ...id.ServerName) (map[sign.KeyID]ed25519.PublicKey, error) {
	if len(ids) > maxMissed {
		return nil, fmt.Errorf("keys of %s: %d are too many at once", server, len(ids))
	}
	wants := make([]want, len(ids))
	for i := range ids {
		wants[i] = want{server: server, ids: ids[i : i+1], at: at, strict: true}
	}
	if err := c.obtain(ctx, c.ring.eventsOf(append(hint[:len(hint):len(hint)], server), false), wants, hint); err != nil {
		return nil, err
	}
	keys := c.valid(want{server: server, ids: ids, at: at, strict: true})
	if len(keys) == 0 {
		return nil, fmt.Errorf("keys %s of %s: %w", ids, server, errNoKeys)
	}
	return keys, nil
}

// errNoKeys: neither the server nor a notary gives a key that counts.
var errNoKeys = errors.New("no key that counts can be had")

// VerifyJSON checks that a server signed an object, with a key that counts at a time, in milliseconds since the epoch, and that the
// server itself published. The error is a *Fault.
//
// Spec: appendices Checking for a Signature
func (c *Client) VerifyJSON(ctx context.Context, object []byte, server id.ServerName, at int64) error {
	object, err := canon.Canonicalize(nil, object, canon.Integral)
	if err == nil && object[0] != '{' {
		err = mxerr.BadJSON("only an object can be signed")
	}
	if err != nil {
		return &Fault{Kind: FaultMalformed, Signer: server, Err: err}
	}
	w := want{server: server, ids: firstIDs(sign.KeyIDs(object, string(server))), at: at, strict: true, request: true}
	if len(w.ids) == 0 {
		return &Fault{Kind: FaultSignature, Signer: server, Err: sign.ErrMissing}
	}
	if err := c.obtain(ctx, c.ring.eventsOf([]id.ServerName{server}, false), []want{w}, nil); err != nil {
		return &Fault{Kind: FaultKeys, Signer: server, Err: err}
	}
	keys := c.valid(w)
	if len(keys) == 0 {
		return c.noKeys(w, "")
	}
	for keyID, public := range keys {
		if err := sign.Verify(object, string(server), keyID, public); err != nil {
			return &Fault{Kind: FaultSignature, Signer: server, Err: err}
		}
	}
	return nil
}

// noKeys tells keys that the server itself doesn't know from keys that are out of reach.
func (c *Client) noKeys(w want, event id.EventID) *Fault {
	if c.ring.set(w.server).denies(w, time.Now()) {
		return &Fault{Kind: FaultSignature, Event: event, Signer: w.server, Err: fmt.Errorf("keys %s: the server has no such key for that time", w.ids)}
	}
	return &Fault{Kind: FaultKeys, Event: event, Signer: w.server, Err: fmt.Errorf("keys %s: %w", w.ids, errNoKeys)}
}

// valid returns the keys that fit a want, out of memory.
func (c *Client) valid(w want) map[sign.KeyID]ed25519.PublicKey {
	if c.ours.Is(w.server) {
		return c.ownValid(w)
	}
	s := c.ring.set(w.server)
	s.mu.Lock()
	defer s.mu.Unlock()
	var out map[sign.KeyID]ed25519.PublicKey
	for _, keyID := range w.ids {
		if k, ok := s.keys[keyID]; ok && w.fits(k) {
			if out == nil {
				out = make(map[sign.KeyID]ed25519.PublicKey, 1)
			}
			out[keyID] = k.public
		}
	}
	return out
}

// ownValid is valid for names of ours, which need no fetching. A key in use is always valid.
func (c *Client) ownValid(w want) map[sign.KeyID]ed25519.PublicKey {
	out := make(map[sign.KeyID]ed25519.PublicKey, 1)
	if key, ok := c.ours.Key(w.server); ok && slices.Contains(w.ids, key.ID) {
		out[key.ID] = key.Public()
	}
	for _, old := range c.ours.OldKeys(w.server) {
		if slices.Contains(w.ids, old.ID) && !w.request && w.at <= old.ExpiredTS {
			out[old.ID] = old.Public
		}
	}
	return out
}

func (w want) fits(k remoteKey) bool {
	if k.hearsay && !w.hearsay {
		return false
	}
	if w.request {
		if k.notary != "" || k.expired != 0 {
			return false
		}
		k.vouched = 0
	}
	return k.validAt(w.at, w.strict)
}

// satisfies reports whether a key in memory fits. The caller holds mu.
func (s *keySet) satisfies(w want) bool {
	for _, keyID := range w.ids {
		if k, ok := s.keys[keyID]; ok && w.fits(k) {
			return true
		}
	}
	return false
}

// hopeless reports whether no answer could make any key fit, because the time is beyond what a key can be valid for.
func (w want) hopeless(now time.Time) bool { return w.strict && w.at > now.Add(keyHorizon).UnixMilli() }

// worth reports whether asking could satisfy a want, by what was missed of late.
func (w want) worth(missed map[sign.KeyID]time.Time, now time.Time) bool {
	return !w.hopeless(now) && slices.ContainsFunc(w.ids, func(keyID sign.KeyID) bool {
		at, was := missed[keyID]
		return !was || now.Sub(at) >= missedFor
	})
}

// denies reports whether the server itself, which answers, has no key that fits.
func (s *keySet) denies(w want, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.hopeless(now) {
		return true
	}
	answers := s.failures == 0 && !s.answered.IsZero()
	return answers && !slices.ContainsFunc(w.ids, func(keyID sign.KeyID) bool {
		_, missed := s.missed[keyID]
		return !missed && s.keys[keyID].expired == 0
	})
}

// miss notes that a want stayed unsatisfied. The caller holds mu.
func miss(missed *map[sign.KeyID]time.Time, w want, now time.Time) {
	if *missed == nil || len(*missed)+len(w.ids) > maxMissed {
		*missed = make(map[sign.KeyID]time.Time)
	}
	for _, keyID := range w.ids {
		(*missed)[keyID] = now
	}
}

// firstIDs bounds the keys that are considered of one signer.
func firstIDs(ids []sign.KeyID) []sign.KeyID {
	const most = 16
	return ids[:min(len(ids), most)]
}
