package push

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Count is how much a user has not read somewhere.
type Count struct {
	Notifications, Highlights int
}

// Counts are what a user has not read in a room. Immutable.
type Counts struct {
	// Main counts the main timeline alone, Threads by the IDs of the threads' roots; none of them is zero.
	Main    Count
	Threads map[id.EventID]Count
}

// Total adds up the main timeline and all threads: what a client gets that doesn't ask for threads apart.
func (c Counts) Total() Count {
	sum := c.Main
	for _, t := range c.Threads {
		sum.Notifications += t.Notifications
		sum.Highlights += t.Highlights
	}
	return sum
}

const (
	// maxThreads bounds the threads of a room that are counted, those with the newest events first; maxMarks the marks.
	maxThreads = 1000
	maxMarks   = 10_000
	// maxTail is how many events of a room are judged on reading, because the follower has not come to them yet.
	maxTail = 200
	// patience is how long an answer waits for the follower where more than that is missing.
	patience = 3 * time.Second
)

// Counts returns what a user has not read in rooms, with all that happened at positions up to at, and possibly later. Rooms in which that is
// nothing, or that the user is not joined to, are absent.
//
// Spec: cs Receiving notifications
func (p *Push) Counts(ctx context.Context, user id.UserID, at sqldb.Pos, rooms ...graph.RoomNID) (map[graph.RoomNID]Counts, error) {
	out := make(map[graph.RoomNID]Counts)
	err := p.tallies(ctx, user, at, rooms, func(room graph.RoomNID, t *tally) {
		if c, some := t.counts(); some {
			out[room] = c
		}
	})
	return out, wrap(err, "count what is unread")
}

// tallies tells of the tallies of those of the rooms that a user is joined to.
func (p *Push) tallies(ctx context.Context, user id.UserID, at sqldb.Pos, rooms []graph.RoomNID, each func(graph.RoomNID, *tally)) error {
	unknown := make(map[graph.RoomNID]ticket)
	for _, room := range rooms {
		t, ticket, err := p.remembered(ctx, user, at, room)
		switch {
		case err != nil:
			return err
		case t == nil:
			unknown[room] = ticket
		default:
			each(room, t)
		}
	}
	for part := range slices.Chunk(slices.Collect(maps.Keys(unknown)), roomsAtOnce) {
		tallies, err := p.recount(ctx, user, part)
		if err != nil {
			return err
		}
		for room, t := range tallies {
			p.memory.keep(unknown[room], t)
			each(room, t)
		}
	}
	return nil
}

// tally is a count in the making: by thread, "" for the main timeline. One that is in memory is not changed any more.
type tally struct {
	at     sqldb.Pos // everything up to here is counted
	floors floors
	unread map[string]Count
}

// floors are the places up to which a user has read.
type floors struct {
	general int64 // in all threads, by an unthreaded receipt or because the user was not in the room before
	threads map[string]int64
}

func (f *floors) of(thread string) int64 { return max(f.general, f.threads[thread]) }

func (f *floors) raise(thread string, ord int64) {
	if f.threads == nil {
		f.threads = make(map[string]int64)
	}
	f.threads[thread] = max(f.threads[thread], ord)
}

func (t *tally) counts() (c Counts, some bool) {
	for thread, n := range t.unread {
		switch {
		case n == Count{}:
			continue
		case thread == "":
			c.Main = n
		default:
			if c.Threads == nil {
				c.Threads = make(map[id.EventID]Count)
			}
			c.Threads[id.EventID(thread)] = n
		}
		some = true
	}
	return c, some
}

func (t *tally) add(thread string, n, h int64) {
	if n == 0 && h == 0 {
		return
	}
	c := t.unread[thread]
	c.Notifications += int(n)
	c.Highlights += int(h)
	t.unread[thread] = c
}

// clone returns a copy that may be changed.
func (t *tally) clone() *tally {
	c := &tally{at: t.at, floors: floors{general: t.floors.general}, unread: make(map[string]Count, len(t.unread))}
	for thread, n := range t.unread {
		c.unread[thread] = n
	}
	for thread, ord := range t.floors.threads {
		c.floors.raise(thread, ord)
	}
	return c
}

// remembered returns a room's tally, if what is in memory suffices for it; nil otherwise, with the ticket for a new one.
func (p *Push) remembered(ctx context.Context, user id.UserID, at sqldb.Pos, room graph.RoomNID) (*tally, ticket, error) {
	known, events, ticket := p.memory.look(user, room, at)
	if known == nil || len(events) == 0 {
		return known, ticket, nil
	}
	t := known.clone()
	ok, err := p.advance(ctx, t, user, events)
	if err != nil || !ok {
		return nil, ticket, err
	}
	t.at = events[len(events)-1].Pos
	p.memory.keep(ticket, t)
	return t, ticket, nil
}

// advance takes events into a tally. It reports false if one of them takes back what was counted.
func (p *Push) advance(ctx context.Context, t *tally, user id.UserID, events []*graph.Event) (bool, error) {
	for _, e := range events {
		if _, redacts := e.PDU.Redacts(); redacts {
			return false, nil
		}
		if key, ok := e.PDU.StateKey(); ok && e.PDU.Type() == memberType && key == string(user) && e.PDU.Sender() != user {
			return false, nil
		}
		v, err := p.judge(ctx, e)
		if err != nil {
			return false, err
		}
		if v.read && e.PDU.Sender() == user {
			t.floors.raise(v.thread, e.Ord)
			delete(t.unread, v.thread)
			continue
		}
		if e.Ord <= t.floors.of(v.thread) {
			continue
		}
		m, err := p.match(ctx, &hearing{verdict: v}, user)
		if err != nil {
			return false, err
		}
		if m != nil {
			t.add(v.thread, 1, number(m.Highlight))
		}
	}
	return true, nil
}

// Settle waits until what happened so far is counted, for a moment at most: so that what changes next, a user's rules or whom they ignore, holds for
// what comes and not for what was said before.
func (p *Push) Settle(ctx context.Context) error {
	giveUp := time.Now().Add(patience)
	last, err := p.db.Last(ctx)
	for pause := time.Millisecond; err == nil && time.Now().Before(giveUp); pause = min(2*pause, 100*time.Millisecond) {
		var done sqldb.Pos
		err = p.db.Read(ctx, func(tx *sqldb.Tx) error {
			_, err := tx.Get(sqlDone, nil, &done)
			return err
		})
		if err != nil || done >= last {
			break
		}
		var missing []*graph.Event
		if missing, err = p.cfg.Graph.EventsSince(ctx, done, last, 1); err != nil || len(missing) == 0 {
			break
		}
		err = sleep(ctx, pause)
	}
	return wrap(err, "wait for counts")
}

func wrap(err error, doing string) error {
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
