package push

import (
	"sync"
	"time"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	// maxPeople bounds the users whose tallies are remembered, maxRecent the events of a room.
	maxPeople = 20_000
	maxRecent = 128
	// idle is how long a user or a room is remembered that nobody asks for.
	idle       = 10 * time.Minute
	sweepEvery = time.Minute
)

// memory has tallies of users who sync, and the events since, so that counting what is new reads no database. It holds nothing that the database
// doesn't: what might be wrong is dropped.
type memory struct {
	mu     sync.Mutex // guards all below
	begun  bool
	pos    sqldb.Pos // everything up to here was heard of
	people map[id.UserID]*person
	rooms  map[graph.RoomNID]*recent
	swept  time.Time
}

// person is one user's tallies.
type person struct {
	tallies map[graph.RoomNID]*tally
	epoch   int64 // counts what was dropped
	used    time.Time
}

// recent are the last events of a room: all that are after a position.
type recent struct {
	after  sqldb.Pos
	events []*graph.Event
	used   time.Time
}

// ticket lets what was counted be kept, unless something was dropped since.
type ticket struct {
	user  id.UserID
	room  graph.RoomNID
	epoch int64
	of    *person
}

func (m *memory) open() {
	m.people = make(map[id.UserID]*person)
	m.rooms = make(map[graph.RoomNID]*recent)
}

func (m *memory) begin(from sqldb.Pos) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pos, m.begun = max(m.pos, from), true
}

// hear takes news from the bus.
func (m *memory) hear(r bus.Range) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pos = max(m.pos, r.To)
	if r.Foreign {
		clear(m.people)
		clear(m.rooms)
		return
	}
	for _, e := range r.Entries {
		switch e.Kind {
		case bus.RoomEvent:
			if ev, ok := e.Data.(*graph.Event); ok {
				m.event(ev)
			}
			if e.User != "" {
				m.drop(e.User, graph.RoomNID(e.Room))
			}
		case bus.Receipt, bus.Membership:
			m.drop(e.User, graph.RoomNID(e.Room))
		}
	}
}

func (m *memory) event(e *graph.Event) {
	room := m.rooms[e.Room]
	if room == nil || e.Flags&(graph.Outlier|graph.Rejected|graph.SoftFailed) != 0 || e.Pos == 0 {
		return
	}
	if len(room.events) >= maxRecent {
		room.after = room.events[maxRecent/2-1].Pos
		room.events = append([]*graph.Event(nil), room.events[maxRecent/2:]...)
	}
	room.events = append(room.events, e)
}

// drop forgets a tally. Caller holds mu.
func (m *memory) drop(user id.UserID, room graph.RoomNID) {
	if p := m.people[user]; p != nil {
		p.epoch++
		delete(p.tallies, room)
	}
}

// look returns a tally, if there is one, with the events that it lacks.
func (m *memory) look(user id.UserID, room graph.RoomNID, at sqldb.Pos) (*tally, []*graph.Event, ticket) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.sweep(now)
	p := m.people[user]
	if p == nil {
		p = &person{tallies: make(map[graph.RoomNID]*tally)}
		m.people[user] = p
	}
	p.used = now
	r := m.rooms[room]
	if r == nil {
		r = &recent{after: m.pos}
		m.rooms[room] = r
	}
	r.used = now
	k := ticket{user, room, p.epoch, p}
	t := p.tallies[room]
	if t == nil || t.at < r.after || m.pos < at {
		return nil, nil, k
	}
	var news []*graph.Event
	for i, e := range r.events {
		if e.Pos > t.at {
			news = r.events[i:len(r.events):len(r.events)]
			break
		}
	}
	return t, news, k
}

// keep remembers a tally.
func (m *memory) keep(k ticket, t *tally) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.people[k.user]; m.begun && p == k.of && p.epoch == k.epoch {
		if old := p.tallies[k.room]; old == nil || old.at < t.at {
			p.tallies[k.room] = t
		}
	}
}

// sweep forgets who and what nobody asks for. Caller holds mu.
func (m *memory) sweep(now time.Time) {
	if now.Sub(m.swept) < sweepEvery && len(m.people) < maxPeople {
		return
	}
	m.swept = now
	for user, p := range m.people {
		if now.Sub(p.used) > idle {
			delete(m.people, user)
		}
	}
	for room, r := range m.rooms {
		if now.Sub(r.used) > idle {
			delete(m.rooms, room)
		}
	}
	if len(m.people) >= maxPeople {
		clear(m.people)
	}
}
