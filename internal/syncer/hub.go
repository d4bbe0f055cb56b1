package syncer

import (
	"context"
	"sync"
	"time"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	// idleFeed is how long a feed is kept after its user's last request.
	idleFeed = 10 * time.Minute
	// sweepFeeds is how often idle feeds are looked for.
	sweepFeeds = time.Minute
)

// hub knows what happened lately.
type hub struct {
	graph *graph.Graph

	mu    sync.Mutex // guards all below, and all that hangs on it
	pos   sqldb.Pos  // everything up to here has been seen
	feeds map[id.UserID]*feed
	rooms map[graph.RoomNID]*tail
	swept time.Time
	pace  pace
}

func newHub(g *graph.Graph) *hub {
	return &hub{graph: g, feeds: make(map[id.UserID]*feed), rooms: make(map[graph.RoomNID]*tail), swept: time.Now()}
}

// follow connects the hub to the bus.
func (h *hub) follow(b *bus.Bus) (cancel func()) {
	h.mu.Lock()
	defer h.mu.Unlock() // what comes before pos is known waits
	var from sqldb.Pos
	from, cancel = b.Subscribe(func(r bus.Range) { h.take(r) })
	h.pos = max(h.pos, from)
	return cancel
}

// take is called by the bus, in the order of the stream.
func (h *hub) take(r bus.Range) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Foreign {
		h.forget(r.To)
		return
	}
	h.pace.look(time.Now())
	for _, e := range r.Entries {
		h.entry(e)
	}
	h.pos = max(h.pos, r.To)
}

// forget empties the hub: what happened up to a position is only in the database.
func (h *hub) forget(to sqldb.Pos) {
	h.pos = max(h.pos, to)
	for _, f := range h.feeds {
		f.unload(h)
		f.wake()
	}
	clear(h.rooms)
}

func (h *hub) entry(e bus.Entry) {
	room := graph.RoomNID(e.Room)
	switch data := e.Data.(type) {
	case *graph.Event:
		if own := h.feeds[e.User]; own != nil {
			own.member(h, data)
		}
		h.tell(room, item{pos: e.Pos, event: data})
		return
	case *ephemeral.Receipt:
		h.tell(room, item{pos: e.Pos, receipt: data})
		return
	case *ephemeral.Typing:
		h.tell(room, item{pos: e.Pos, typing: data})
		return
	case e2ee.ListChange:
		h.wakeAll(data.Rooms)
	case *ephemeral.Presence:
		h.wakeAll(data.Rooms) // of a user of another server, who has no feed
	}
	own := h.feeds[e.User]
	switch e.Kind {
	case bus.Presence:
		// Those who share a room with the user may want to know.
		if own != nil && own.loaded {
			for room := range own.seats {
				if t := h.rooms[room]; t != nil {
					t.wakeAll()
				}
			}
		}
	case bus.Membership:
		// The entry doesn't say by which event, so the row has to be read.
		if own != nil {
			own.unload(h)
		}
	case bus.AccountData:
		if d, ok := e.Data.(*account.Datum); ok && own != nil {
			own.addDatum(*d)
		}
	}
	if own != nil {
		own.wake()
	}
}

// wakeAll wakes all who are in rooms.
func (h *hub) wakeAll(rooms []graph.RoomNID) {
	for _, room := range rooms {
		if t := h.rooms[room]; t != nil {
			t.wakeAll()
		}
	}
}

// tell notes something that happened in a room and wakes those who are in it.
func (h *hub) tell(room graph.RoomNID, it item) {
	t := h.rooms[room]
	if t == nil {
		return
	}
	t.push(it)
	for f, s := range t.seats {
		f.touch(s, it.pos)
		if it.event != nil {
			f.rise(s, it.event)
		}
		f.wake()
	}
}

// listen has the feed hear of a room from after a position on.
func (h *hub) listen(f *feed, s *seat, after sqldb.Pos) {
	t := h.rooms[s.row.Room]
	if t == nil {
		t = &tail{start: max(h.pos, after), seats: make(map[*feed]*seat)}
		h.rooms[s.row.Room] = t
	}
	t.seats[f] = s
}

func (h *hub) ignore(f *feed, room graph.RoomNID) {
	t := h.rooms[room]
	if t == nil {
		return
	}
	if delete(t.seats, f); len(t.seats) == 0 {
		delete(h.rooms, room)
	}
}

// feedOf returns the user's feed, making one if there is none. Caller holds mu.
func (h *hub) feedOf(user id.UserID) *feed {
	now := time.Now()
	if now.Sub(h.swept) > sweepFeeds {
		h.swept = now
		for user, f := range h.feeds {
			if len(f.waiters) == 0 && f.loading == nil && now.Sub(f.used) > idleFeed {
				f.unload(h)
				delete(h.feeds, user)
			}
		}
	}
	f := h.feeds[user]
	if f == nil {
		f = &feed{user: user, waiters: make(map[*waiter]struct{}), answers: make(map[id.DeviceID]time.Time)}
		h.feeds[user] = f
	}
	f.used = now
	return f
}

// snapshot is what the hub knows for one answer.
type snapshot struct {
	to sqldb.Pos
	// complete: rooms and data are all that happened after since. Otherwise rooms are all of the user's.
	complete bool
	rooms    []glance
	data     []account.Datum
	// hasData: data is all account data that changed after since.
	hasData bool
}

// glance is one room of a snapshot.
type glance struct {
	row graph.MemberRow
	// complete: items are all that happened in the room after since.
	complete bool
	items    []item
}

// snapshot returns what happened to a user after since. With all it has all of the user's rooms.
func (h *hub) snapshot(ctx context.Context, user id.UserID, since *Token, all bool) (*snapshot, error) {
	from := sqldb.Pos(-1) // a first sync is covered by nothing
	if since != nil {
		from = since.Pos
	}
	var snap *snapshot
	err := h.with(ctx, user, from, func(f *feed) {
		snap = f.glance(h, from, !all && since != nil && since.Confirm == 0 && since.Sticky == (graph.StickyPlace{}))
	})
	return snap, err
}

// with calls fn with the user's feed, loaded, once the stream has come to a position. h.mu is held meanwhile.
func (h *hub) with(ctx context.Context, user id.UserID, from sqldb.Pos, fn func(f *feed)) error {
	retried := false
	for {
		h.mu.Lock()
		f := h.feedOf(user)
		switch {
		case f.loaded && max(f.at, h.pos) >= from:
			fn(f)
			h.mu.Unlock()
			return nil
		case f.loaded && retried:
			h.mu.Unlock()
			return errFuture
		case f.loading != nil:
			loading := f.loading
			h.mu.Unlock()
			select {
			case <-loading:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		f.unload(h)
		f.loading = make(chan struct{})
		h.mu.Unlock()
		retried = true
		rows, at, err := h.graph.MembershipsNow(ctx, user)
		h.mu.Lock()
		f.load(h, rows, at, err == nil)
		h.mu.Unlock()
		if err != nil {
			return err
		}
	}
}
