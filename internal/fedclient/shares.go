package fedclient

import (
	"context"
	"net/netip"
	"slices"

	"myelin/matrix/id"
)

// Fetching the keys of a server that doesn't answer takes a while, and anybody can make us do it: by signing a request with the name of
// another server, by asking us as a notary, or by sending events of users that never were. So fetches belong to a pool by what they are for, and
// within it to a share by who caused them. Whoever has used up the fetches of a share, or of the strangers' pool, waits alone: for
// what others need keys is fetched besides, even the keys of the same server. Of those who wait, who has the fewest fetches under way is next: so a party
// with many names, each of which has a share, delays others by about one fetch.
const (
	// maxFetches bounds the fetches at once in each pool, and maxFetchesEach those of one share; somebody who lets us into a room is
	// given most of a pool.
	maxFetches     = 64
	maxFetchesEach = 16
	maxFetchesJoin = 48
	// maxFlights bounds the fetches under way and waiting in a pool, maxFlightsEach those of one share. Where others have used that up a
	// share may still have maxFlightsFew, in a pool that never has more than maxFlightsMost.
	maxFlights       = 4096
	maxFlightsMost   = 2 * maxFlights
	maxFlightsFew    = 4
	maxFlightsEach   = 1024
	maxFlightsAsking = 64 // of one address
	// maxRivals is how many fetches in one pool may be for the same server.
	maxRivals = 4
)

// pool bounds fetches for one purpose. ring.mu guards it.
type pool struct {
	// running counts the fetches under way, queued those and the waiting ones.
	running, queued int
	shares          map[string]*share
}

// share is the part of a pool that one party may use.
type share struct {
	each, running, queued int
	// waiting are those whose turn it is not yet, in their order.
	waiting []*turn
}

// turn is closed when it has come.
type turn struct {
	come  chan struct{}
	began bool
}

func newPool() *pool { return &pool{shares: make(map[string]*share)} }

// next lets fetches begin, as many as may.
func (p *pool) next() {
	for p.running < maxFetches {
		var least *share
		for _, s := range p.shares {
			if len(s.waiting) > 0 && s.running < s.each && (least == nil || s.running < least.running) {
				least = s
			}
		}
		if least == nil {
			return
		}
		t := least.waiting[0]
		least.waiting = least.waiting[1:]
		t.began = true
		least.running++
		p.running++
		close(t.come)
	}
}

// full reports whether a share may have no more fetches waiting.
func (p *pool) full(s *share, most int) bool {
	return s.queued >= most || p.queued >= maxFlightsMost || p.queued >= maxFlights && s.queued >= maxFlightsFew
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
		own = &share{each: a.each}
	}
	if r.closed || p.full(own, a.queued) {
		return false
	}
	p.shares[a.who] = own
	p.queued++
	own.queued++
	t := &turn{come: make(chan struct{})}
	own.waiting = append(own.waiting, t)
	p.next()
	r.flights.Go(func() {
		select {
		case <-t.come:
		case <-ctx.Done(): // it runs at once, to fail
		}
		run()
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.began {
			own.running--
			p.running--
		} else {
			own.waiting = slices.DeleteFunc(own.waiting, func(other *turn) bool { return other == t })
		}
		p.queued--
		if own.queued--; own.queued == 0 {
			delete(p.shares, a.who)
		}
		p.next()
	})
	return true
}
