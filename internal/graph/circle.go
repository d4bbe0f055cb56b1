package graph

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/maypok86/otter/v2"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	// maxPairs bounds the pairs of users of whom it is remembered whether they share a room. One takes about 200 bytes.
	maxPairs = 100_000
	// maxCircle bounds the memberships that are read for a circle, maxCircles the users in all circles together. One takes about 60 bytes.
	maxCircle  = 50_000
	maxCircles = 400_000
	// maxMissed bounds the users of whom it is counted how often somebody asked in vain.
	maxMissed = 10_000
)

// Circles remembers who shares rooms with whom, for those who ask again and again. Where many ask about one user, all whom that user shares rooms with
// are read at once: telling thousands of a change of one user then costs one look at the database. What it remembers is current because it hears
// of every change of a membership: it has to subscribe to the bus before those who ask.
type Circles struct {
	graph       *Graph
	seed        maphash.Seed
	unsubscribe func()

	pairs   *otter.Cache[pair, sharing]
	circles *otter.Cache[id.UserID, *circle]

	mu sync.Mutex // guards all below
	// clock counts the changes of memberships that were heard of; moved is what it was at the last one of a user, by a hash of the user. Users who
	// have one in common cost a look at the database, nothing else. every is for changes of which it isn't known whose they were.
	clock   uint64
	every   uint64
	moved   [1 << 14]uint64
	missed  map[id.UserID]int
	loading map[id.UserID]bool
}

// pair is an ordered pair of users.
type pair struct{ a, b id.UserID }

// sharing is whether a pair shares a room, as of a time of the clock.
type sharing struct {
	yes bool
	at  uint64
}

// circle is whom a user shares rooms with, as of a time of the clock. Immutable.
type circle struct {
	at     uint64
	read   int                    // rows of the database, of which a hundred cost about as much as asking for a pair
	others map[id.UserID]struct{} // nil where there are too many
}

// OpenCircles returns an empty memory that listens to the bus until Close.
func OpenCircles(g *Graph, b *bus.Bus) *Circles {
	c := &Circles{
		graph: g, seed: maphash.MakeSeed(), missed: make(map[id.UserID]int), loading: make(map[id.UserID]bool),
		pairs: otter.Must(&otter.Options[pair, sharing]{MaximumSize: maxPairs}),
		circles: otter.Must(&otter.Options[id.UserID, *circle]{
			MaximumWeight: maxCircles, Weigher: func(_ id.UserID, c *circle) uint32 { return uint32(10 + len(c.others)) },
		}),
	}
	_, c.unsubscribe = b.Subscribe(c.hear)
	return c
}

// Close leaves the bus.
func (c *Circles) Close() { c.unsubscribe() }

// hear takes a piece of the stream.
func (c *Circles) hear(r bus.Range) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Foreign {
		c.clock++
		c.every = c.clock
	}
	for _, e := range r.Entries {
		switch e.Kind {
		case bus.RoomEvent:
			if ev, ok := e.Data.(*Event); ok && ev.Change != nil && ev.Change.Old != ev.Change.New {
				c.move(ev.Change.User)
			}
		case bus.Membership:
			c.move(e.User)
		}
	}
}

// move notes that a user entered or left a room. Caller holds mu.
func (c *Circles) move(user id.UserID) {
	c.clock++
	c.moved[c.slot(user)] = c.clock
}

func (c *Circles) slot(user id.UserID) uint64 {
	return maphash.String(c.seed, string(user)) % uint64(len(c.moved))
}

// Share reports whether two users are in a room together. A user shares with themselves.
func (c *Circles) Share(ctx context.Context, a, b id.UserID) (bool, error) {
	if a == b {
		return true, nil
	}
	c.mu.Lock()
	now, changed := c.clock, max(c.every, c.moved[c.slot(a)], c.moved[c.slot(b)])
	c.mu.Unlock()
	p := pair{min(a, b), max(a, b)}
	if known, ok := c.pairs.GetIfPresent(p); ok && known.at >= changed {
		return known.yes, nil
	}
	for _, u := range []pair{{a, b}, {b, a}} {
		if known, ok := c.circles.GetIfPresent(u.a); ok && known.at >= changed && known.others != nil {
			_, yes := known.others[u.b]
			return yes, nil
		}
	}
	for _, u := range []pair{{a, b}, {b, a}} {
		if !c.worthwhile(u.a) {
			continue
		}
		if known, err := c.load(ctx, u.a, now); err != nil {
			return false, err
		} else if known.others != nil {
			_, yes := known.others[u.b]
			return yes, nil
		}
	}
	found := sharing{at: now}
	err := c.graph.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found.yes, err = ShareSince(tx, a, b, everAfter)
		return err
	})
	if err == nil {
		c.pairs.Set(p, found)
	}
	return found.yes, err
}

// Gather makes questions about a user and many others cheap, if that is possible: it reports false where the user shares rooms with too many.
func (c *Circles) Gather(ctx context.Context, user id.UserID) (bool, error) {
	c.mu.Lock()
	now, changed := c.clock, max(c.every, c.moved[c.slot(user)])
	c.mu.Unlock()
	known, ok := c.circles.GetIfPresent(user)
	if !ok || known.at < changed {
		var err error
		if known, err = c.load(ctx, user, now); err != nil {
			return false, err
		}
	}
	return known.others != nil, nil
}

// everAfter is after all positions.
const everAfter = sqldb.Pos(1) << 62

// worthwhile counts that somebody asked about a user in vain, and reports whether that happened so often that a circle costs less. If so the caller must
// load it.
func (c *Circles) worthwhile(user id.UserID) bool {
	enough := 8
	if known, ok := c.circles.GetIfPresent(user); ok {
		if enough += known.read / 100; known.others == nil {
			enough += maxCircle / 20
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.missed) >= maxMissed {
		clear(c.missed)
	}
	if c.missed[user]++; c.missed[user] < enough || c.loading[user] {
		return false
	}
	c.loading[user] = true
	return true
}

// load reads a circle. What it reads is at least as new as now.
func (c *Circles) load(ctx context.Context, user id.UserID, now uint64) (*circle, error) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.loading, user)
		delete(c.missed, user)
	}()
	var met []id.UserID
	err := c.graph.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		met, err = usersOf(tx, metBy, user, maxCircle)
		return err
	})
	if err != nil {
		return nil, wrap(err, "load whom a user shares rooms with")
	}
	found := &circle{at: now, read: len(met)}
	if len(met) < maxCircle {
		slices.Sort(met) // most meet in several rooms
		met = slices.Compact(met)
		found.others = make(map[id.UserID]struct{}, len(met))
		for _, u := range met {
			found.others[u] = struct{}{}
		}
	}
	c.circles.Set(user, found)
	return found, nil
}
