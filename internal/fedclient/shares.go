package fedclient

import (
	"context"
	"net/netip"

	"myelin/matrix/id"
)

// Fetching the keys of a server that doesn't answer takes a while, and anybody can make us do it: by signing a request with the name of
// another server, by asking us as a notary, or by sending events of users that never were. So fetches belong to a pool by what they are for, and
// within it to a share by who caused them. Whoever has used up the fetches of a share, or of the strangers' pool, waits alone: for
// what others need keys is fetched besides, even the keys of the same server.
const (
	// maxFetches bounds the fetches at once in each pool, and maxFetchesEach those of one share; somebody who lets us into a room is
	// given most of a pool.
	maxFetches     = 64
	maxFetchesEach = 16
	maxFetchesJoin = 48
	// maxFlights bounds the fetches under way and waiting in a pool, maxFlightsEach those of one share.
	maxFlights       = 4096
	maxFlightsEach   = 1024
	maxFlightsAsking = 64 // of one address
	// maxRivals is how many fetches in one pool may be for the same server.
	maxRivals = 4
)

// pool bounds fetches for one purpose. Its fields but slots are guarded by ring.mu.
type pool struct {
	slots  chan struct{}
	queued int
	shares map[string]*share
}

// share is the part of a pool that one party may use. ring.mu guards users.
type share struct {
	slots chan struct{}
	users int
}

func newPool() *pool {
	return &pool{slots: make(chan struct{}, maxFetches), shares: make(map[string]*share)}
}

// account says for whom and for what keys are wanted.
type account struct {
	pool *pool
	// who uses up a share; one of "" and "who" for requests is an address.
	who          string
	each, queued int
	// known is the pool for servers whose keys were had before; nil for the same.
	known *pool
}

// eventsOf is the account of a server that sent events, or was asked for them.
func (r *ring) eventsOf(from []id.ServerName, joining bool) account {
	a := account{pool: r.forEvents, each: maxFetchesEach, queued: maxFlightsEach}
	if len(from) > 0 {
		a.who = from[0].Host()
	}
	if joining {
		a.who, a.each, a.queued = "join "+a.who, maxFetchesJoin, maxFlights
	}
	return a
}

// requestsFrom is the account of whoever sends requests from an address.
func (r *ring) requestsFrom(addr netip.Addr) account {
	a := account{pool: r.forStrangers, known: r.forKnown, each: maxFetchesEach, queued: maxFlightsAsking}
	addr = addr.Unmap()
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	if prefix, err := addr.Prefix(bits); err == nil {
		a.who = prefix.String()
	}
	return a
}

// of is the pool for fetching the keys of a server.
func (a account) of(s *keySet) *pool {
	if a.known != nil && len(s.keys) > 0 {
		return a.known
	}
	return a.pool
}

// flight is a fetch that is under way or waits for its turn.
type flight struct {
	pool *pool
	who  string
	done chan struct{}
}

// flightFor returns the fetch that somebody waits for instead of causing one more, nil where there is none. The caller holds s.mu.
func (s *keySet) flightFor(p *pool, who string) *flight {
	var other *flight
	rivals := 0
	for _, f := range s.flights {
		if f.pool != p {
			continue
		}
		if f.who == who {
			return f
		}
		other = f
		rivals++
	}
	if rivals < maxRivals {
		return nil
	}
	return other
}

// start runs a fetch in the background, once it is its turn. It returns false where there are too many or the client is closed.
func (r *ring) start(ctx context.Context, p *pool, a account, run func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := p.shares[a.who]
	if own == nil {
		own = &share{slots: make(chan struct{}, a.each)}
	}
	if r.closed || p.queued >= maxFlights || own.users >= a.queued {
		return false
	}
	p.shares[a.who] = own
	p.queued++
	own.users++
	r.flights.Go(func() {
		turn(ctx, own.slots, func() { turn(ctx, p.slots, run) })
		r.mu.Lock()
		defer r.mu.Unlock()
		p.queued--
		if own.users--; own.users == 0 {
			delete(p.shares, a.who)
		}
	})
	return true
}

// turn runs something while it holds a slot. At the end of the context it runs at once, to fail.
func turn(ctx context.Context, slots chan struct{}, run func()) {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
	}
	run()
}
