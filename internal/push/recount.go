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

const (
	// roomsAtOnce bounds the rooms that are counted in one transaction.
	roomsAtOnce = 250
	// fewRooms are those whose newest events are looked up room by room.
	fewRooms = 4
)

// recount reads tallies from the database, and judges what the follower has not come to. Rooms that the user is not joined to are absent.
func (p *Push) recount(ctx context.Context, user id.UserID, rooms []graph.RoomNID) (map[graph.RoomNID]*tally, error) {
	members, err := p.cfg.Graph.MembershipsAmong(ctx, user, rooms)
	if err != nil {
		return nil, err
	}
	since := make(map[graph.RoomNID]int64, len(rooms)) // of those that are yet to be counted
	for _, m := range members {
		if m.Membership == graph.Join {
			since[m.Room] = int64(m.Since)
		}
	}
	out := make(map[graph.RoomNID]*tally, len(since))
	giveUp := time.Now().Add(patience)
	for pause := 2 * time.Millisecond; len(since) > 0; pause = min(2*pause, 100*time.Millisecond) {
		if out, err = p.attempt(ctx, user, since, out, time.Now().After(giveUp)); err != nil || len(since) == 0 {
			return out, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// attempt counts the rooms in since and takes those from it that came out: all of them, if it is late.
func (p *Push) attempt(ctx context.Context, user id.UserID, since map[graph.RoomNID]int64, out map[graph.RoomNID]*tally, late bool) (map[graph.RoomNID]*tally, error) {
	var s *storage
	var done, last sqldb.Pos
	err := p.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if _, err = tx.Get(sqlDone, nil, &done); err != nil {
			return err
		}
		if last, err = tx.Last(); err != nil {
			return err
		}
		s = &storage{tx: tx, user: user, tallies: make(map[graph.RoomNID]*tally, len(since))}
		return s.load(since)
	})
	if err != nil {
		return nil, err
	}
	// What is not in the rows is judged here, if it is little and nothing in it undoes what is.
	tails, err := p.tails(ctx, s.rooms, done, last)
	if err != nil {
		return nil, err
	}
	for room, t := range s.tallies {
		t.at = last
		if len(tails[room]) > maxTail && !late {
			continue
		}
		ok, err := p.advance(ctx, t, user, tails[room])
		if err != nil {
			return nil, err
		}
		if ok || late {
			out[room] = t
			delete(since, room)
		}
	}
	return out, nil
}

// tails returns the events of rooms at positions in (from, to], of which maxTail are enough in each.
func (p *Push) tails(ctx context.Context, rooms []graph.RoomNID, from, to sqldb.Pos) (map[graph.RoomNID][]*graph.Event, error) {
	if from >= to {
		return nil, nil
	}
	tails := make(map[graph.RoomNID][]*graph.Event)
	if len(rooms) > fewRooms {
		events, err := p.cfg.Graph.EventsSince(ctx, from, to, maxBatch+1)
		if err != nil {
			return nil, err
		}
		if len(events) <= maxBatch {
			for _, e := range events {
				tails[e.Room] = append(tails[e.Room], e)
			}
			return tails, nil
		}
	}
	for _, room := range rooms {
		events, err := p.cfg.Graph.Timeline(ctx, room, graph.Range{After: int64(from), Before: int64(to) + 1, Limit: maxTail + 1})
		if err != nil {
			return nil, err
		}
		tails[room] = events
	}
	return tails, nil
}

// storage counts what the rows say, of many rooms in a few round trips.
type storage struct {
	tx      *sqldb.Tx
	user    id.UserID
	rooms   []graph.RoomNID
	tallies map[graph.RoomNID]*tally

	threads []thread
	pieces  []piece
}

// thread is a row of push_threads.
type thread struct {
	room       graph.RoomNID
	name       string
	last, n, h int64
}

// stretch is the places in (from, to].
type stretch struct{ from, to int64 }

const end = 1<<63 - 1

// piece is a part of a thread that counts.
type piece struct {
	*thread
	stretch
}

func (s *storage) load(since map[graph.RoomNID]int64) error {
	for room, ord := range since {
		s.rooms = append(s.rooms, room)
		s.tallies[room] = &tally{floors: floors{general: ord}, unread: make(map[string]Count)}
	}
	if err := s.floors(since); err != nil {
		return err
	}
	if err := s.shared(); err != nil {
		return err
	}
	err := s.tx.Each(sqlMarksSince, len(s.rooms), func(i int) []any {
		return []any{s.user, s.rooms[i], s.tallies[s.rooms[i]].floors.general, maxMarks}
	}, func(i int, r *sqldb.Row) error {
		var thread string
		var ord, n, h int64
		err := r.Scan(&ord, &thread, &n, &h)
		if t := s.tallies[s.rooms[i]]; ord > t.floors.of(thread) {
			t.add(thread, n, h)
		}
		return err
	})
	return wrap(err, "load marks")
}

// floors loads how far the user has read.
func (s *storage) floors(since map[graph.RoomNID]int64) error {
	err := ephemeral.ReadsAmong(s.tx, s.user, s.rooms, func(room graph.RoomNID, thread string, ord int64) {
		f := &s.tallies[room].floors
		switch thread {
		case "":
			f.general = max(f.general, ord)
		case "main":
			f.raise("", ord)
		default:
			f.raise(thread, ord)
		}
	})
	if err != nil {
		return err
	}
	err = s.tx.Query(sqlOwn, func(r *sqldb.Row) error {
		var room graph.RoomNID
		var thread string
		var ord int64
		err := r.Scan(&room, &thread, &ord)
		if t := s.tallies[room]; t != nil && ord > since[room] {
			t.floors.raise(thread, ord)
		}
		return err
	}, s.user, s.rooms)
	return wrap(err, "load own messages")
}

// shared adds what push_events says, for as long as the user's base was that.
func (s *storage) shared() error {
	var busy []graph.RoomNID
	err := s.tx.Each(sqlThreadsSince, len(s.rooms), func(i int) []any {
		return []any{s.rooms[i], s.tallies[s.rooms[i]].floors.general, maxThreads}
	}, func(i int, r *sqldb.Row) error {
		h := thread{room: s.rooms[i]}
		err := r.Scan(&h.name, &h.last, &h.n, &h.h)
		if len(busy) == 0 || busy[len(busy)-1] != h.room {
			busy = append(busy, h.room)
		}
		s.threads = append(s.threads, h)
		return err
	})
	if err != nil || len(busy) == 0 {
		return wrap(err, "load threads")
	}
	heard, err := s.bases(busy)
	if err != nil {
		return err
	}
	for i := range s.threads {
		h := &s.threads[i]
		floor := s.tallies[h.room].floors.of(h.name)
		always := []stretch{{0, end}}
		for _, b := range orElse(heard[h.room], always) {
			if from, to := max(floor, b.from), min(h.last, b.to); from < to {
				s.pieces = append(s.pieces, piece{h, stretch{from, to}})
			}
		}
	}
	return s.count()
}

func orElse(of, other []stretch) []stretch {
	if len(of) == 0 {
		return other
	}
	return of
}

// bases returns where the user's base is to be notified of what stands in push_events, for the rooms in which that is not everywhere.
func (s *storage) bases(rooms []graph.RoomNID) (map[graph.RoomNID][]stretch, error) {
	heard := make(map[graph.RoomNID][]stretch)
	silent := make(map[graph.RoomNID]bool)
	err := s.tx.Query(sqlBases, func(r *sqldb.Row) error {
		var room graph.RoomNID
		var ord int64
		var now bool
		if err := r.Scan(&room, &ord, &now); err != nil {
			return err
		}
		h := heard[room]
		if h == nil {
			h = []stretch{{0, end}}
		}
		switch {
		case now && !silent[room]:
			h[len(h)-1].to = ord - 1
		case !now && silent[room]:
			h = append(h, stretch{ord - 1, end})
		}
		heard[room], silent[room] = h, now
		return nil
	}, rooms, s.user)
	return heard, wrap(err, "load bases")
}

// count adds the events of the pieces: the difference between the running numbers at the ends, without what was redacted.
func (s *storage) count() error {
	type ends struct{ n, h, lowerN, lowerH, goneN, goneH int64 }
	sums := make([]ends, len(s.pieces))
	var cut []int // the pieces that end before their thread
	for i, p := range s.pieces {
		if sums[i].n, sums[i].h = p.n, p.h; p.to < p.last {
			sums[i].n, sums[i].h = 0, 0
			cut = append(cut, i)
		}
	}
	err := s.tx.Each(sqlUpTo, len(cut), func(i int) []any {
		p := s.pieces[cut[i]]
		return []any{p.room, p.name, p.to}
	}, func(i int, r *sqldb.Row) error { return r.Scan(&sums[cut[i]].n, &sums[cut[i]].h) })
	if err != nil {
		return wrap(err, "load counts")
	}
	err = s.tx.Each(sqlUpTo, len(s.pieces), func(i int) []any {
		p := s.pieces[i]
		return []any{p.room, p.name, p.from}
	}, func(i int, r *sqldb.Row) error { return r.Scan(&sums[i].lowerN, &sums[i].lowerH) })
	if err != nil {
		return wrap(err, "load counts")
	}
	err = s.tx.Each(sqlRedactedIn, len(s.pieces), func(i int) []any {
		p := s.pieces[i]
		return []any{p.room, p.name, p.from, p.to}
	}, func(i int, r *sqldb.Row) error { return r.Scan(&sums[i].goneN, &sums[i].goneH) })
	if err != nil {
		return fmt.Errorf("count what was redacted: %w", err)
	}
	for i, p := range s.pieces {
		c := &sums[i]
		s.tallies[p.room].add(p.name, c.n-c.lowerN-c.goneN, c.h-c.lowerH-c.goneH)
	}
	return nil
}
