package syncer

import (
	"slices"
	"time"

	"myelin/internal/account"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	// tailLength is how many things the hub keeps of each room.
	tailLength = 128
	// dataLength is how many changes of account data the hub keeps of each user.
	dataLength = 32
)

// feed is what the hub knows of a user who syncs. hub.mu guards it.
type feed struct {
	user    id.UserID
	waiters map[*waiter]struct{}
	answers map[id.DeviceID]time.Time // when each device had its last answer
	used    time.Time

	loading chan struct{} // closed when whoever loads is done; nil when nobody does
	loaded  bool
	// What follows is known while loaded.
	at    sqldb.Pos // the memberships were read there; since then they follow the bus
	from  sqldb.Pos // what happened after here is known
	seats map[graph.RoomNID]*seat
	order seat // anchor of a ring: the seat that was touched last comes first
	data  []account.Datum
	// epoch counts how often the feed was loaded, shape what makes rooms enter or leave lists of sliding sync.
	epoch, shape int64
	shelf        *shelf // nil until somebody asks for a list of rooms
	// early are own member events that came while the memberships were read.
	early []*graph.Event
	stale bool // something came while loading that makes what is read worthless
}

// seat is a user's relation to a room.
type seat struct {
	row        graph.MemberRow
	touched    sqldb.Pos
	active     sqldb.Pos // of the newest event that came while the feed was loaded, or on its shelf; 0 for none
	prev, next *seat
	card       *card // what the shelf knows; nil without one
}

// item is one thing that happened in a room; one of the pointers is set.
type item struct {
	pos     sqldb.Pos
	event   *graph.Event
	receipt *ephemeral.Receipt
	typing  *ephemeral.Typing
}

// tail is what happened lately in a room that a feed listens to. hub.mu guards it.
type tail struct {
	start sqldb.Pos // items are all that happened after here
	items []item
	seats map[*feed]*seat // who listens
}

func (t *tail) push(it item) {
	if len(t.items) >= tailLength {
		cut := tailLength / 4
		t.start = t.items[cut-1].pos
		t.items = slices.Clone(t.items[cut:]) // answers may hold the old ones
	}
	t.items = append(t.items, it)
	if it.event == nil {
		return
	}
	for _, nid := range it.event.Pruned {
		t.drop(nid)
	}
}

// drop forgets an event whose content is not what it was, with everything before.
func (t *tail) drop(nid graph.EventNID) {
	for i, it := range t.items {
		if it.event != nil && it.event.NID == nid {
			t.start = it.pos
			t.items = slices.Clone(t.items[i+1:])
			return
		}
	}
}

// since returns the items after a position, if all are known.
func (t *tail) since(pos sqldb.Pos) ([]item, bool) {
	if pos < t.start {
		return nil, false
	}
	i := len(t.items)
	for i > 0 && t.items[i-1].pos > pos {
		i--
	}
	return t.items[i:len(t.items):len(t.items)], true
}

func (t *tail) wakeAll() {
	for f := range t.seats {
		f.wake()
	}
}

// load takes what was read of the database, or gives up.
func (f *feed) load(h *hub, rows []graph.MemberRow, at sqldb.Pos, ok bool) {
	close(f.loading)
	f.loading = nil
	early, stale := f.early, f.stale
	f.early, f.stale = nil, false
	if !ok || stale {
		return
	}
	f.loaded, f.at, f.from = true, at, max(at, h.pos)
	f.epoch++
	f.seats = make(map[graph.RoomNID]*seat, len(rows))
	f.order.prev, f.order.next = &f.order, &f.order
	for _, row := range rows {
		s := &seat{row: row}
		f.seats[row.Room] = s
		f.insert(s)
		if row.Membership == graph.Join {
			h.listen(f, s, f.from)
		}
	}
	for _, e := range early {
		f.member(h, e)
	}
}

// unload forgets everything but who waits.
func (f *feed) unload(h *hub) {
	f.stale = f.loading != nil
	if !f.loaded {
		return
	}
	for room := range f.seats {
		h.ignore(f, room)
	}
	f.loaded, f.seats, f.data, f.shelf = false, nil, nil, nil
	f.order = seat{}
}

// member follows a member event of the user, as the table of memberships does.
func (f *feed) member(h *hub, e *graph.Event) {
	if f.loading != nil {
		f.early = append(f.early, e)
	}
	if !f.loaded || e.Pos <= f.at || e.Change == nil {
		return
	}
	s := f.seats[e.Room]
	if s == nil {
		s = &seat{row: graph.MemberRow{User: f.user, Room: e.Room, RoomID: e.PDU.RoomID()}}
		f.seats[e.Room] = s
		f.insert(s)
	}
	old := s.row.Membership
	r := &s.row
	if now := e.Change.New; now != old {
		r.Since, r.Prev, r.Membership = e.Pos, old, now
		r.Forgotten = false
	} else if now != graph.Leave && now != graph.Ban {
		r.Forgotten = false
	}
	r.Event, r.Pos, r.Stripped = e.NID, e.Pos, nil
	f.moved(s, e, old)
	switch {
	case r.Membership == graph.Join && old != graph.Join:
		h.listen(f, s, e.Pos-1)
	case r.Membership != graph.Join && old == graph.Join:
		h.ignore(f, e.Room)
	}
	f.touch(s, e.Pos)
	f.wake()
}

func (f *feed) insert(s *seat) {
	s.prev, s.next = &f.order, f.order.next
	s.prev.next, s.next.prev = s, s
}

// touch notes that something happened in the room.
func (f *feed) touch(s *seat, pos sqldb.Pos) {
	s.touched = max(s.touched, pos)
	if f.order.next == s {
		return
	}
	s.prev.next, s.next.prev = s.next, s.prev
	f.insert(s)
}

func (f *feed) addDatum(d account.Datum) {
	if !f.loaded {
		return
	}
	f.sorted(d)
	if len(f.data) >= dataLength {
		// What is gone must not be missed: who asks from before reads the database.
		f.from = max(f.from, f.data[0].Pos)
		f.data = slices.Clone(f.data[1:])
	}
	f.data = append(f.data, d)
}

// glance collects what happened after a position. usable is false where the caller needs all rooms.
func (f *feed) glance(h *hub, from sqldb.Pos, usable bool) *snapshot {
	snap := &snapshot{to: max(f.at, h.pos)}
	snap.complete = usable && from >= f.from && h.pos >= f.at
	if !snap.complete {
		snap.rooms = make([]glance, 0, len(f.seats))
		for s := f.order.next; s != &f.order; s = s.next {
			snap.rooms = append(snap.rooms, glance{row: s.row})
		}
		return snap
	}
	for s := f.order.next; s != &f.order && s.touched > from; s = s.next {
		g := glance{row: s.row}
		if t := h.rooms[s.row.Room]; t != nil && s.row.Membership == graph.Join {
			g.items, g.complete = t.since(from)
		}
		snap.rooms = append(snap.rooms, g)
	}
	snap.hasData = true
	for _, d := range f.data {
		if d.Pos > from {
			snap.data = append(snap.data, d)
			f.glanceAt(snap, d.Room)
		}
	}
	return snap
}

// glanceAt makes sure that a room whose account data changed is in the snapshot.
func (f *feed) glanceAt(snap *snapshot, room id.RoomID) {
	if room == "" || slices.ContainsFunc(snap.rooms, func(g glance) bool { return g.row.RoomID == room }) {
		return
	}
	for _, s := range f.seats {
		if s.row.RoomID == room {
			// Nothing else happened in the room, or it would be there.
			snap.rooms = append(snap.rooms, glance{row: s.row, complete: true})
			return
		}
	}
}

// waiter is a request that may wait for news.
type waiter struct {
	hub    *hub
	feed   *feed
	device id.DeviceID
	news   chan struct{} // holds one signal at most
}

// watch has a request hear of the user's news until stop.
func (h *hub) watch(user id.UserID, device id.DeviceID) *waiter {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &waiter{hub: h, feed: h.feedOf(user), device: device, news: make(chan struct{}, 1)}
	w.feed.waiters[w] = struct{}{}
	return w
}

func (w *waiter) stop() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	delete(w.feed.waiters, w)
}

// answered notes the time of the device's last answer.
func (w *waiter) answered() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if len(w.feed.answers) > maxDevices {
		clear(w.feed.answers)
	}
	w.feed.answers[w.device] = time.Now()
}

// maxDevices bounds the devices of a feed whose last answers are remembered.
const maxDevices = 100

// due returns when the device may have its next answer.
func (w *waiter) due() time.Time {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	last := w.feed.answers[w.device]
	if last.IsZero() {
		return last
	}
	return last.Add(w.hub.pace.pause())
}

// drain takes back a signal: what it tells of will be looked at anyway.
func (w *waiter) drain() {
	select {
	case <-w.news:
	default:
	}
}

func (f *feed) wake() {
	for w := range f.waiters {
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}
