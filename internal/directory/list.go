package directory

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// list keeps the summaries of all published rooms and knows which of them may be out of date.
type list struct {
	// refresh is held by the one who brings the list up to date. It is taken before mu.
	refresh sync.Mutex

	mu     sync.Mutex // guards all below
	always bool       // nobody tells of changes: everything is always stale
	known  bool       // rooms are those that are published
	rooms  map[id.RoomID]*listed
	byNID  map[int64]*listed
	// sorted is what a listing shows, everything with the rooms that are on lists of networks only; replaced, never changed
	sorted, everything []*Summary
}

// listed is a published room.
type listed struct {
	stale   bool // something happened in the room since it was looked at
	own     bool // it is on the server's own list
	state   graph.StateNID
	nid     graph.RoomNID
	summary *Summary // nil for a room that can't be joined through us any more
}

func (l *list) reset(always bool) {
	l.always = always
	l.rooms, l.byNID = make(map[id.RoomID]*listed), make(map[int64]*listed)
}

// follow takes news from the bus.
func (l *list) follow(r bus.Range) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Foreign {
		l.forget()
	}
	for _, e := range r.Entries {
		switch e.Kind {
		case bus.DirectoryChange:
			l.known = false
		case bus.RoomEvent, bus.Membership:
			if room := l.byNID[e.Room]; room != nil {
				room.stale = true
				if ev, ok := e.Data.(*graph.Event); ok && len(ev.Pruned) > 0 {
					room.state = 0 // the same snapshot may say less now
				}
			}
		}
	}
}

// forget makes everything stale. Caller holds mu.
func (l *list) forget() {
	l.known = false
	for _, room := range l.rooms {
		room.stale, room.state = true, 0
	}
}

// takeStale returns the rooms to look at, marked as fresh: what happens from now on marks them again.
func (l *list) takeStale() (stale map[id.RoomID]graph.StateNID, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.always {
		l.forget()
	}
	stale = make(map[id.RoomID]graph.StateNID)
	for name, room := range l.rooms {
		if room.stale {
			stale[name] = room.state
			room.stale = false
		}
	}
	known, l.known = l.known, true
	return stale, known
}

// rooms returns the summaries of all published rooms, those with the most members first, with those that are published in networks only if they are
// wanted. The result is shared.
func (d *Directory) rooms(ctx context.Context, networks bool) ([]*Summary, error) {
	l := &d.list
	l.refresh.Lock()
	defer l.refresh.Unlock()
	stale, known := l.takeStale()
	if known && len(stale) == 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.shown(networks), nil
	}
	// Many wait for this; it doesn't end with the one request that happens to do it.
	err := d.bringUpToDate(context.WithoutCancel(ctx), stale, known)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.forget()
		return nil, err
	}
	l.sort()
	return l.shown(networks), nil
}

// shown is what a listing shows. Caller holds mu.
func (l *list) shown(networks bool) []*Summary {
	if networks {
		return l.everything
	}
	return l.sorted
}

// bringUpToDate looks at stale rooms, and at the list itself unless it is known.
func (d *Directory) bringUpToDate(ctx context.Context, stale map[id.RoomID]graph.StateNID, known bool) error {
	if !known {
		rooms, err := d.published(ctx)
		if err != nil {
			return err
		}
		for _, name := range d.list.keep(rooms) {
			stale[name] = 0
		}
	}
	for name, state := range stale {
		head, err := d.graph.Head(ctx, name)
		if mxerr.Is(err, mxerr.CodeNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if head.StateNID == state {
			continue
		}
		s, err := d.summary(ctx, head)
		if err != nil {
			return err
		}
		d.list.put(head, s)
	}
	return nil
}

// keep drops the rooms that are published no longer, and returns those that are not in the list yet, which it adds.
func (l *list) keep(published map[id.RoomID]bool) (fresh []id.RoomID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rooms := make(map[id.RoomID]*listed, len(published))
	for name, own := range published {
		room := l.rooms[name]
		if room == nil {
			room = &listed{}
			fresh = append(fresh, name)
		}
		room.own = own
		rooms[name] = room
	}
	l.rooms = rooms
	l.byNID = make(map[int64]*listed, len(rooms))
	for _, room := range rooms {
		if room.nid != 0 {
			l.byNID[int64(room.nid)] = room
		}
	}
	return fresh
}

func (l *list) put(head *graph.Head, s *Summary) {
	l.mu.Lock()
	defer l.mu.Unlock()
	room := l.rooms[head.ID]
	if room == nil {
		return
	}
	if room.nid == 0 {
		room.nid = head.Room
		l.byNID[int64(head.Room)] = room
		// Until now nobody knew which room to mark: what happened since the head was read may have been missed.
		room.stale = true
	}
	room.state, room.summary = head.StateNID, s
	if s.Joined == 0 {
		room.summary = nil
	}
}

// sort makes the list that is shown. Caller holds mu.
func (l *list) sort() {
	l.everything = make([]*Summary, 0, len(l.rooms))
	own := make(map[*Summary]bool, len(l.rooms))
	for _, room := range l.rooms {
		if room.summary != nil {
			l.everything = append(l.everything, room.summary)
			own[room.summary] = room.own
		}
	}
	slices.SortFunc(l.everything, func(a, b *Summary) int { return a.place().compare(b.place()) })
	l.sorted = make([]*Summary, 0, len(l.everything))
	for _, s := range l.everything {
		if own[s] {
			l.sorted = append(l.sorted, s)
		}
	}
}

// place is where a room stands in the list.
type place struct {
	joined int64
	room   id.RoomID
}

func (s *Summary) place() place { return place{s.Joined, s.RoomID} }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(q.joined, p.joined), strings.Compare(string(p.room), string(q.room)))
}
