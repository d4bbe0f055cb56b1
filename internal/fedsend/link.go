package fedsend

import (
	"cmp"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	// maxQueue bounds the events that wait in memory for a server that answers, maxFailing for one that fails. What is beyond
	// is caught up with.
	maxQueue   = 10_000
	maxFailing = 1_000
	// longOutage is after what failing a server is caught up with by the newest events first.
	longOutage = time.Hour

	// A server that failed is tried again after firstPause, then after twice as long each time, up to an hour, or an
	// eighth of the time that it has been failing, up to a day.
	firstPause = 5 * time.Second
	lastPause  = time.Hour
	rarest     = 24 * time.Hour
	// heardPause is how soon after an attempt a server is tried again that was heard of since.
	heardPause = 10 * time.Second
)

// route is the way from one of our names to another server.
type route struct{ origin, server id.ServerName }

// entry is an event that waits to be sent.
type entry struct {
	room graph.RoomNID
	nid  graph.EventNID
	pos  sqldb.Pos
}

// mark says that a server may lack events of a room at positions after one of them, up to another.
type mark struct{ after, last sqldb.Pos }

// link is what waits on one route, and how the last attempts to send it went. leader.mu guards all of it. A route with nothing
// to say and nothing to remember has no link.
type link struct {
	route
	// queue are events in the order of the stream. Those before head are in flight, and those before marked are covered by marks.
	queue        []entry
	head, marked int
	edus         edus
	// post: something may wait in the database besides events. After a transaction with both was refused, apart, they go by turns.
	post, apart, turn bool
	mostLetters       int // EDUs of that kind in the next transaction
	// owes: something that sticks may be owed to the server, as the database says. It is looked for from owedAt on; refusals counts how often the server would not
	// have it.
	owes     bool
	owedAt   time.Time
	refusals int
	// behind: the queue doesn't hold all; marks do, since a time. long: for so long that the newest events will do.
	behind      bool
	behindSince time.Time
	long        bool
	marks       map[graph.RoomNID]mark
	// flight is the transaction that is on its way, or whose outcome isn't known and which is therefore repeated as it is.
	flight *flight
	most   int // PDUs in the next transaction
	flying bool
	heard  bool // a request of the server came since the flight began
	ready  bool // in leader.ready or leader.retry

	failures     int
	failingSince time.Time // zero while all is well
	tried        time.Time // the last attempt
	retryAt      time.Time
	timer        *time.Timer
	reason       string

	// What the database doesn't know yet.
	touched map[graph.RoomNID]struct{} // marks
	changed bool                       // how the last attempts went
	stored  bool                       // has a row of destinations
}

func newLink(r route) *link { return &link{route: r, most: maxPDUs, mostLetters: maxLetters} }

// waiting reports whether there is something to send, now or later.
func (k *link) waiting() bool { return k.owes || k.urgent() }

// urgent reports whether there is something to send now.
func (k *link) urgent() bool {
	return k.flight != nil || len(k.queue) > 0 || len(k.marks) > 0 && k.behind || !k.edus.empty() || k.post || k.owes && !time.Now().Before(k.owedAt)
}

// forgettable reports whether nothing is lost when the link is dropped.
func (k *link) forgettable() bool {
	return !k.waiting() && !k.flying && !k.ready && k.failingSince.IsZero() && len(k.marks) == 0 && len(k.touched) == 0 && !k.changed && !k.stored
}

// add has an event sent.
func (k *link) add(e entry) {
	if k.behind {
		k.mark(e)
		return
	}
	most := maxQueue
	if !k.failingSince.IsZero() {
		most = maxFailing
	}
	if k.queue = append(k.queue, e); len(k.queue) > most {
		k.fallBehind()
	}
}

// mark notes that an event is missing on the other side.
func (k *link) mark(e entry) {
	m, known := k.marks[e.room]
	if known && m.after < e.pos {
		m.last = max(m.last, e.pos)
		k.marks[e.room] = m
		return
	}
	if k.marks == nil {
		k.marks = make(map[graph.RoomNID]mark)
	}
	k.marks[e.room] = mark{after: e.pos - 1, last: max(m.last, e.pos)}
	k.touch(e.room)
}

func (k *link) touch(room graph.RoomNID) {
	if k.touched == nil {
		k.touched = make(map[graph.RoomNID]struct{})
	}
	k.touched[room] = struct{}{}
}

// fallBehind turns the queue into marks, but for what is in flight.
func (k *link) fallBehind() {
	for _, e := range k.queue[k.head:] {
		k.mark(e)
	}
	k.queue = slices.Clone(k.queue[:k.head])
	k.marked = min(k.marked, k.head)
	k.lag()
}

// lag notes that marks say what is to be sent.
func (k *link) lag() {
	if !k.behind && len(k.marks) > 0 {
		k.behind, k.behindSince = true, time.Now()
	}
}

// outlast gives up sending every single event once the other side was away, or too slow, for long.
func (k *link) outlast() {
	if !k.failingSince.IsZero() && time.Since(k.failingSince) > longOutage {
		k.fallBehind()
		k.long = k.behind
	}
	k.long = k.long || k.behind && time.Since(k.behindSince) > longOutage
}

// came notes that the other side has everything of a room up to a position.
func (k *link) came(room graph.RoomNID, pos sqldb.Pos) {
	m, known := k.marks[room]
	if !known || pos <= m.after && m.last > m.after {
		return
	}
	k.touch(room)
	if m.after = max(m.after, pos); m.after >= m.last {
		delete(k.marks, room)
		return
	}
	k.marks[room] = m
}

// landed takes note of a success.
func (k *link) landed(f *flight) {
	for _, e := range k.queue[:f.queued] {
		k.came(e.room, e.pos)
	}
	if k.queue = k.queue[f.queued:]; len(k.queue) == 0 {
		k.queue = nil
	}
	k.marked = max(0, k.marked-f.queued)
	k.head, k.flight = 0, nil
	for _, r := range f.rooms {
		k.came(r.room, r.upTo)
	}
	if len(k.marks) == 0 {
		k.behind, k.long = false, false
	}
	k.most = min(2*k.most, maxPDUs)
	k.owes = k.owes || f.more || f.again
	if k.refusals++; !f.again {
		k.refusals = 0
	} else {
		k.owedAt = time.Now().Add(owePause << k.refusals)
	}
	if k.post = k.post || f.rest; f.post {
		k.mostLetters, k.apart = min(2*k.mostLetters, maxLetters), false
	}
}

// well forgets all failures.
func (k *link) well() {
	if !k.failingSince.IsZero() {
		k.changed = true
	}
	k.failures, k.failingSince, k.retryAt, k.reason = 0, time.Time{}, time.Time{}, ""
}

// failed counts a failure; the other side may have asked for a longer pause.
func (k *link) failed(reason string, asked time.Duration) {
	now := time.Now()
	if k.failingSince.IsZero() {
		k.failingSince = now
	}
	k.failures++
	k.reason, k.changed = reason, true
	wait := pause(k.failures, now.Sub(k.failingSince), k.chance(now))
	k.retryAt = now.Add(max(wait, min(asked, rarest)))
}

// hurry ends a long pause, since the server was heard of. It reports whether it did.
func (k *link) hurry() bool {
	soon := k.tried.Add(heardPause)
	if !k.retryAt.After(soon) {
		return false
	}
	k.failures, k.retryAt = 0, soon
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
	return true
}

// pause is how long to leave a server alone, a quarter more or less by chance, so that servers which failed together aren't tried together.
func pause(failures int, failing time.Duration, chance *rand.Rand) time.Duration {
	most := min(max(failing/8, lastPause), rarest)
	wait := most
	if failures < 20 {
		wait = min(firstPause<<max(0, failures-1), most)
	}
	return wait*3/4 + time.Duration(chance.Int64N(int64(wait/2)+1))
}

// chance yields numbers that differ between routes and from one moment to the next, and are the same when a simulation repeats itself.
func (k *link) chance(now time.Time) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(string(k.origin) + " " + string(k.server))) // never fails
	return rand.New(rand.NewPCG(uint64(now.UnixNano()), h.Sum64()))
}

// drop gives up a transaction whose repetition makes no sense any more. Its events wait as before.
func (k *link) drop() {
	if k.flight == nil {
		return
	}
	k.edus.putBack(k.flight.edus)
	k.post, k.owes = k.post || k.flight.post, k.owes || k.flight.owes
	k.head, k.flight = 0, nil
}

// missed returns the rooms that the other side may lack events of, the one with the newest events first.
func (k *link) missed() []missed {
	list := make([]missed, 0, len(k.marks))
	for room, m := range k.marks {
		list = append(list, missed{room: room, mark: m})
	}
	slices.SortFunc(list, func(a, b missed) int {
		return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(a.room, b.room))
	})
	return list
}
