package push

import (
	"context"
	"fmt"
	"time"

	"myelin/internal/ephemeral"
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
	for _, room := range rooms {
		t, err := p.tally(ctx, user, at, room)
		if err != nil {
			return nil, fmt.Errorf("count what %s has not read: %w", user, err)
		}
		if t == nil {
			continue
		}
		if c, ok := t.counts(); ok {
			out[room] = c
		}
	}
	return out, nil
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

// tally counts one room; nil if the user is not joined to it.
func (p *Push) tally(ctx context.Context, user id.UserID, at sqldb.Pos, room graph.RoomNID) (*tally, error) {
	known, events, ticket := p.memory.look(user, room, at)
	if known != nil && len(events) == 0 {
		return known, nil
	}
	if known != nil {
		t := known.clone()
		ok, err := p.advance(ctx, t, user, events)
		if err != nil {
			return nil, err
		}
		if ok {
			t.at = events[len(events)-1].Pos
			p.memory.keep(ticket, t)
			return t, nil
		}
	}
	t, err := p.recount(ctx, user, room, at)
	if t != nil && err == nil {
		p.memory.keep(ticket, t)
	}
	return t, err
}

// recount reads a tally from the database, and judges what the follower has not come to.
func (p *Push) recount(ctx context.Context, user id.UserID, room graph.RoomNID, at sqldb.Pos) (*tally, error) {
	row, ok, err := p.cfg.Graph.MembershipOf(ctx, user, room)
	if err != nil || !ok || row.Membership != graph.Join {
		return nil, err
	}
	giveUp := time.Now().Add(patience)
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		var t *tally
		var done, last sqldb.Pos
		err := p.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			if _, err = tx.Get(sqlDone, nil, &done); err != nil {
				return err
			}
			if last, err = tx.Last(); err != nil {
				return err
			}
			t, err = stored(tx, user, room, int64(row.Since))
			return err
		})
		if err != nil {
			return nil, err
		}
		// What is not in the rows is judged here, if it is little and nothing in it undoes what is.
		t.at = last
		events, err := p.tail(ctx, room, done, last)
		if err != nil {
			return nil, err
		}
		late := time.Now().After(giveUp)
		if len(events) <= maxTail || late {
			ok, err := p.advance(ctx, t, user, events)
			if err != nil || ok || late {
				return t, err
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// tail returns the events of a room at positions in (from, to], of which maxTail are enough.
func (p *Push) tail(ctx context.Context, room graph.RoomNID, from, to sqldb.Pos) ([]*graph.Event, error) {
	if from >= to {
		return nil, nil
	}
	return p.cfg.Graph.Timeline(ctx, room, graph.Range{After: int64(from), Before: int64(to) + 1, Limit: maxTail + 1})
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
		m, err := p.match(ctx, v, user)
		if err != nil {
			return false, err
		}
		if m != nil {
			t.add(v.thread, 1, number(m.Highlight))
		}
	}
	return true, nil
}

// stored counts what the rows say.
func stored(tx *sqldb.Tx, user id.UserID, room graph.RoomNID, since int64) (*tally, error) {
	t := &tally{floors: floors{general: since}, unread: make(map[string]Count)}
	reads, err := ephemeral.ReadsOf(tx, user, room)
	if err != nil {
		return nil, err
	}
	for thread, ord := range reads {
		switch thread {
		case "":
			t.floors.general = max(t.floors.general, ord)
		case "main":
			t.floors.raise("", ord)
		default:
			t.floors.raise(thread, ord)
		}
	}
	err = tx.Query(sqlOwn, func(r *sqldb.Row) error {
		var thread string
		var ord int64
		err := r.Scan(&thread, &ord)
		t.floors.raise(thread, ord)
		return err
	}, user, room, since)
	if err != nil {
		return nil, fmt.Errorf("load own messages: %w", err)
	}
	if err := t.shared(tx, user, room); err != nil {
		return nil, err
	}
	err = tx.Query(sqlMarksSince, func(r *sqldb.Row) error {
		var thread string
		var ord, n, h int64
		err := r.Scan(&ord, &thread, &n, &h)
		if ord > t.floors.of(thread) {
			t.add(thread, n, h)
		}
		return err
	}, user, room, t.floors.general, maxMarks)
	if err != nil {
		return nil, fmt.Errorf("load marks: %w", err)
	}
	return t, nil
}

// thread is a row of push_threads.
type thread struct {
	name       string
	last, n, h int64
}

// shared adds what push_events says, for as long as the user's base was that.
func (t *tally) shared(tx *sqldb.Tx, user id.UserID, room graph.RoomNID) error {
	var threads []thread
	err := tx.Query(sqlThreadsSince, func(r *sqldb.Row) error {
		var h thread
		err := r.Scan(&h.name, &h.last, &h.n, &h.h)
		threads = append(threads, h)
		return err
	}, room, t.floors.general, maxThreads)
	if err != nil || len(threads) == 0 {
		return wrap(err, "load threads")
	}
	heard, err := basesOf(tx, user, room)
	if err != nil {
		return err
	}
	for _, h := range threads {
		floor := t.floors.of(h.name)
		for _, s := range heard {
			if from, to := max(floor, s.from), min(h.last, s.to); from < to {
				if err := t.between(tx, room, h, from, to); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// stretch is the places in (from, to].
type stretch struct{ from, to int64 }

const end = 1<<63 - 1

// basesOf returns where a user's base is to be notified of what stands in push_events.
func basesOf(tx *sqldb.Tx, user id.UserID, room graph.RoomNID) ([]stretch, error) {
	heard, silent := []stretch{{0, end}}, false
	err := tx.Query(sqlBases, func(r *sqldb.Row) error {
		var ord int64
		var now bool
		if err := r.Scan(&ord, &now); err != nil {
			return err
		}
		switch {
		case now && !silent:
			heard[len(heard)-1].to = ord - 1
		case !now && silent:
			heard = append(heard, stretch{ord - 1, end})
		}
		silent = now
		return nil
	}, room, user)
	return heard, wrap(err, "load bases")
}

// between adds the events of a thread in (from, to].
func (t *tally) between(tx *sqldb.Tx, room graph.RoomNID, h thread, from, to int64) error {
	upper := h
	if to < h.last {
		upper.n, upper.h = 0, 0
		if _, err := tx.Get(sqlUpTo, []any{room, h.name, to}, &upper.n, &upper.h); err != nil {
			return wrap(err, "load a count")
		}
	}
	var lower, gone thread
	if _, err := tx.Get(sqlUpTo, []any{room, h.name, from}, &lower.n, &lower.h); err != nil {
		return wrap(err, "load a count")
	}
	if _, err := tx.Get(sqlRedactedIn, []any{room, h.name, from, to}, &gone.n, &gone.h); err != nil {
		return wrap(err, "count what was redacted")
	}
	t.add(h.name, upper.n-lower.n-gone.n, upper.h-lower.h-gone.h)
	return nil
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
