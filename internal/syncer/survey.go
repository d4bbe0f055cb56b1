package syncer

import (
	"slices"

	"myelin/internal/account"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// listSet is a set of lists of one request, by their index.
type listSet [2]uint64

func (s *listSet) add(i int)     { s[i/64] |= 1 << (i % 64) }
func (s listSet) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// spot is a room that an answer has to look at: one in the window of a list, or subscribed to, or one that the client knows and in
// which something happened.
type spot struct {
	glance
	lists  listSet
	sub    *roomConfig
	direct bool
	// removed: somebody else took the user out of the room.
	removed bool
	active  sqldb.Pos
	bump    sqldb.Pos
}

// wantedBy reports whether a rule selects the room.
func (s *spot) wantedBy() bool { return s.sub != nil || s.lists != listSet{} }

// survey is what an answer has to look at.
type survey struct {
	to sqldb.Pos
	// complete: the hub knows all that happened after the client's position.
	complete bool
	epoch    int64
	shape    int64
	counts   []int
	shown    [][][]id.RoomID // for each list and each of its ranges, where shownRooms says so
	spots    []spot
	data     []account.Datum
	// rooms, joined and left are for those who ask whose keys changed: see Window.
	rooms        map[graph.RoomNID]struct{}
	joined, left []graph.RoomNID
}

// memo remembers that every room which the rules select had been told up to a ledger: then only what happened since needs a look.
type memo struct {
	ledger *ledger
	epoch  int64
	shape  int64
	rules  uint64
	counts []int
}

// maxShown bounds the rooms that are listed besides what is said of them.
const maxShown = 200

// shownRooms reports whether the rooms of a list are written out.
//
// MSC4186: the unstable form; the accepted one has no such field.
func (q *Sliding) shownRooms(l *list) bool {
	n := 0
	for _, r := range l.ranges {
		n += min(r.last-r.first+1, maxPlace)
	}
	return q.form == SlidingUnstable && n <= maxShown
}

// survey looks the user's rooms through. h.mu is held, and the shelf is there.
func (a *slide) survey(h *hub, f *feed) *survey {
	v := &survey{to: max(f.at, h.pos), epoch: f.epoch, shape: f.shape, counts: make([]int, len(a.q.lists))}
	v.complete = !a.first && a.from >= f.from && h.pos >= f.at
	v.shown = make([][][]id.RoomID, len(a.q.lists))
	for i := range a.q.lists {
		v.shown[i] = make([][]id.RoomID, len(a.q.lists[i].ranges))
	}
	if a.memoHolds(f, v) {
		a.surveyTouched(h, f, v)
	} else {
		a.surveyAll(h, f, v)
	}
	if v.complete {
		for _, d := range f.data {
			if d.Pos > a.from {
				v.data = append(v.data, d)
			}
		}
	}
	if a.q.ext.E2EE.on() {
		a.surveyEncounters(f, v)
	}
	return v
}

// memoHolds reports whether it is enough to look at the rooms in which something happened.
func (a *slide) memoHolds(f *feed, v *survey) bool {
	m := a.memo
	if m == nil || !v.complete || m.ledger != a.ledger || m.epoch != f.epoch || m.shape != f.shape || m.rules != a.q.rules {
		return false
	}
	for i := range a.q.lists {
		l := &a.q.lists[i]
		// A room that rises makes others slide into a range that doesn't begin at the top.
		if len(l.ranges) > 1 || len(l.ranges) == 1 && l.ranges[0].first > 0 {
			return false
		}
		for _, space := range l.filter.Spaces {
			if f.touchedSince(space, a.from) {
				return false
			}
		}
	}
	return true
}

// touchedSince reports whether something happened in a room.
func (f *feed) touchedSince(room id.RoomID, from sqldb.Pos) bool {
	for s := f.order.next; s != &f.order && s.touched > from; s = s.next {
		if s.row.RoomID == room {
			return true
		}
	}
	return false
}

// listed reports whether a room stands in lists at all.
//
// MSC4186: Lists
func (a *slide) listed(c *card) bool {
	r := &c.seat.row
	switch r.Membership {
	case graph.Join, graph.Knock:
		return true
	case graph.Invite:
		return !a.unwanted(c.inviter)
	case graph.Leave, graph.Ban:
		return c.removed && !r.Forgotten || a.ledger.get(r.Room).told[theEvents] != never
	}
	return false
}

// unwanted reports whether an invite by somebody is not listed. Where that takes what isn't loaded it asks for another survey.
//
// Spec: cs Invite permission
func (a *slide) unwanted(inviter id.UserID) bool {
	if a.ignores(inviter) {
		return true
	}
	if a.welcome == nil {
		a.again = true
		return false
	}
	return a.welcome.Judge(inviter) != account.InviteAllowed
}

func (a *slide) surveyAll(h *hub, f *feed, v *survey) {
	for c := f.shelf.top.below; c != &f.shelf.top; c = c.below {
		r := &c.seat.row
		var in listSet
		if a.listed(c) {
			for i := range a.q.lists {
				l := &a.q.lists[i]
				if !l.filter.selects(c, a.children[i]) {
					continue
				}
				for k, span := range l.ranges {
					if at := v.counts[i]; at >= span.first && at <= span.last {
						in.add(i)
						if a.q.shownRooms(l) {
							v.shown[i][k] = append(v.shown[i][k], r.RoomID)
						}
					}
				}
				v.counts[i]++
			}
		}
		var sub *roomConfig
		if len(a.q.subs) > 0 {
			sub = a.q.subs[r.RoomID]
		}
		if in == (listSet{}) && sub == nil {
			if a.first || v.complete && c.seat.touched <= a.from || a.ledger.get(r.Room) == (mark{}) {
				continue
			}
		}
		v.spots = append(v.spots, a.spot(h, c, in, v))
	}
}

// surveyTouched does the same for the rooms in which something happened since the memo was made.
func (a *slide) surveyTouched(h *hub, f *feed, v *survey) {
	copy(v.counts, a.memo.counts)
	touched := make(map[*card]listSet)
	var order []*card
	for s := f.order.next; s != &f.order && s.touched > a.from; s = s.next {
		touched[s.card] = listSet{}
		order = append(order, s.card)
	}
	for i := range a.q.lists {
		l := &a.q.lists[i]
		if len(l.ranges) == 0 {
			continue
		}
		last, show := l.ranges[0].last, a.q.shownRooms(l)
		if last+1 >= v.counts[i] && !show {
			for c, in := range touched {
				if a.listed(c) && l.filter.selects(c, a.children[i]) {
					in.add(i)
					touched[c] = in
				}
			}
			continue
		}
		n := 0
		for c := f.shelf.top.below; c != &f.shelf.top && n <= last; c = c.below {
			if !a.listed(c) || !l.filter.selects(c, a.children[i]) {
				continue
			}
			if n++; show {
				v.shown[i][0] = append(v.shown[i][0], c.seat.row.RoomID)
			}
			if c.seat.touched > a.from {
				in := touched[c]
				in.add(i)
				touched[c] = in
			}
		}
	}
	for _, c := range order {
		s := a.spot(h, c, touched[c], v)
		if s.wantedBy() || a.ledger.get(s.row.Room) != (mark{}) {
			v.spots = append(v.spots, s)
		}
	}
}

func (a *slide) spot(h *hub, c *card, in listSet, v *survey) spot {
	s := spot{glance: glance{row: c.seat.row}, lists: in, direct: c.direct, removed: c.removed, active: c.seat.active, bump: c.bump}
	if len(a.q.subs) > 0 {
		s.sub = a.q.subs[s.row.RoomID]
	}
	switch {
	case !v.complete:
	case c.seat.touched <= a.from:
		s.complete = true // nothing happened
	case s.row.Membership == graph.Join:
		if t := h.rooms[s.row.Room]; t != nil {
			s.items, s.complete = t.since(a.from)
		}
	}
	return s
}

// surveyEncounters notes where the user is, came to and left.
func (a *slide) surveyEncounters(f *feed, v *survey) {
	v.rooms = make(map[graph.RoomNID]struct{})
	for s := f.order.next; s != &f.order; s = s.next {
		if v.complete && s.touched <= a.from {
			break
		}
		switch r := &s.row; {
		case r.Membership == graph.Join:
			v.rooms[r.Room] = struct{}{}
			if !a.first && r.Since > a.from {
				v.joined = append(v.joined, r.Room)
			}
		case !a.first && r.Since > a.from && r.Prev == graph.Join:
			v.left = append(v.left, r.Room)
		}
	}
}

// happened reports whether there may be something to say of the room but for extensions.
func (a *slide) happened(s *spot) bool {
	switch {
	case s.row.Pos > a.from:
		return true
	case !a.seen.complete:
		return s.active > a.from
	case !s.complete:
		return true
	}
	return slices.ContainsFunc(s.items, func(it item) bool { return it.event != nil })
}
