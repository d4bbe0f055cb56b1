package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"myelin/internal/graph"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Bounds of a tour and of each of its pages.
const (
	defaultRooms = 50
	maxRooms     = 100
	// maxDepth is how far below its beginning a tour goes.
	maxDepth = 20
	// maxSteps bounds the rooms that a whole tour looks at or has before it.
	maxSteps = 3000
	// maxLooks bounds the rooms that are looked at for one page, whether or not they end up on it, pageBytes what their children say.
	maxLooks  = 500
	pageBytes = 4 << 20
	// maxQuestions bounds how often other servers are asked for one page, atOnce how many are asked at the same time. After
	// askingTime no other question is put.
	maxQuestions = 24
	atOnce       = 8
	askingTime   = 15 * time.Second
)

// Tour asks for a part of what can be found from a space downwards.
type Tour struct {
	Space         id.RoomID
	SuggestedOnly bool
	// Depth is how far down to go; negative for as far as the server does.
	Depth int64
	// Limit is the most rooms to return; 0 for what fits well.
	Limit int64
	// From is the token of a former page, empty for the first one.
	From string
}

// TourRoom is a room on a tour.
//
// Spec: cs getSpaceHierarchy
type TourRoom struct {
	SpaceRoom
	// ChildrenState are stripped m.space.child events with their time.
	ChildrenState []json.RawMessage `json:"children_state"`
}

// TourPage is a part of a tour.
//
// Spec: cs getSpaceHierarchy
type TourPage struct {
	Rooms []TourRoom `json:"rooms"`
	Next  string     `json:"next_batch,omitempty"`
}

// Tour goes through a space and its children, depth first and each room once, and returns the next ones that the user could read or
// join. It returns M_FORBIDDEN where that isn't so for the space itself.
//
// Spec: cs getSpaceHierarchy
func (d *Directory) Tour(ctx context.Context, who Seeker, t Tour) (*TourPage, error) {
	if t.Limit < 0 {
		return nil, mxerr.InvalidParam("\"limit\" must be greater than zero.")
	}
	limit := int(min(cmp.Or(t.Limit, defaultRooms), maxRooms))
	way, err := d.way(ctx, who.User, t)
	if err != nil {
		return nil, err
	}
	l := &leg{d: d, who: who, way: way, heard: make(map[id.RoomID]*told), since: time.Now()}
	if err := l.walk(ctx, limit); err != nil {
		return nil, err
	}
	page := &TourPage{Rooms: l.rooms}
	if len(page.Rooms) == 0 {
		page.Rooms = []TourRoom{}
	}
	if way.rest(); len(way.Ahead) > 0 {
		page.Next, err = d.keepWay(ctx, who.User, way)
	}
	return page, err
}

// way is what a tour has before it and behind it.
type way struct {
	Space         id.RoomID `json:"space"`
	SuggestedOnly bool      `json:"suggested_only"`
	Depth         int       `json:"depth"`
	// Ahead are the rooms to look at, the next one last.
	Ahead []step `json:"ahead"`
	// Passed are the rooms that were looked at.
	Passed []id.RoomID `json:"passed"`

	passed map[id.RoomID]bool
}

// step is a room on the way.
type step struct {
	Room  id.RoomID       `json:"room"`
	Depth int             `json:"depth"`
	Via   []id.ServerName `json:"via,omitempty"`
	// Parent is the space that led here, if another server told of it: then it may have described this room as well.
	Parent id.RoomID `json:"parent,omitempty"`
}

// rest drops the steps to rooms that were looked at on another way.
func (w *way) rest() {
	w.Ahead = slices.DeleteFunc(w.Ahead, func(s step) bool { return w.passed[s.Room] })
}

// next returns the step that comes next.
func (w *way) next() (step, bool) {
	for len(w.Ahead) > 0 {
		if s := w.Ahead[len(w.Ahead)-1]; !w.passed[s.Room] {
			return s, true
		}
		w.Ahead = w.Ahead[:len(w.Ahead)-1]
	}
	return step{}, false
}

// pass goes on after a step, to the children that it led to.
func (w *way) pass(s step, children []child, told bool) {
	w.Ahead = w.Ahead[:len(w.Ahead)-1]
	w.passed[s.Room] = true
	w.Passed = append(w.Passed, s.Room)
	if s.Depth >= w.Depth {
		return
	}
	children = children[:max(0, min(len(children), maxSteps-len(w.Passed)-len(w.Ahead)))]
	for _, c := range slices.Backward(children) {
		if w.passed[c.room] {
			continue
		}
		next := step{Room: c.room, Depth: s.Depth + 1, Via: c.via()}
		if told {
			next.Parent = s.Room
		}
		w.Ahead = append(w.Ahead, next)
	}
}

// leg is the part of a tour that makes one page.
type leg struct {
	d   *Directory
	who Seeker
	way *way

	rooms []TourRoom
	bytes int // of the children of these
	looks int
	// heard is what other servers said on this leg, nil for nothing.
	heard map[id.RoomID]*told
	asked int
	since time.Time
}

// walk collects rooms until the page is full, the tour ends, or enough was done for one page.
func (l *leg) walk(ctx context.Context, limit int) error {
	for len(l.rooms) < limit && l.looks < maxLooks && l.bytes < pageBytes {
		s, ok := l.way.next()
		if !ok {
			return nil
		}
		head, err := l.d.resident(ctx, s.Room)
		if err != nil {
			return err
		}
		var room SpaceRoom
		var children []child
		found := head != nil
		if found {
			if room, err = l.d.spaceRoom(ctx, head); err == nil {
				children, err = l.d.children(ctx, head, room.RoomType, l.way.SuggestedOnly, maxSteps)
			}
		} else {
			if spent, err := l.inquire(ctx, s, limit); err != nil || spent {
				return err
			}
			room, children, found = l.described(s)
		}
		if err == nil && found {
			found, err = l.d.mayFind(ctx, l.who.User, head, room)
		}
		if err != nil {
			return err
		}
		l.looks++
		if !found {
			if s.Depth == 0 {
				return mxerr.Forbidden("The room %s is not known here, or closed to you.", s.Room)
			}
			l.way.pass(s, nil, false)
			continue
		}
		l.way.pass(s, children, head == nil)
		out := TourRoom{room, strippedChildren(children)}
		for _, c := range out.ChildrenState {
			l.bytes += len(c)
		}
		l.rooms = append(l.rooms, out)
	}
	return nil
}

// described returns what other servers say of a room: one that was asked for it, or else the one that told of the space above.
func (l *leg) described(s step) (SpaceRoom, []child, bool) {
	if t := l.heard[s.Room]; t != nil {
		return t.room, t.children, true
	}
	if p := l.parent(s); p != nil && !p.closed[s.Room] {
		if room, ok := p.known[s.Room]; ok {
			return room, nil, true
		}
	}
	return SpaceRoom{}, nil, false
}

// parent returns what another server said of the space above.
func (l *leg) parent(s step) *told {
	switch t := l.heard[s.Parent]; {
	case s.Parent == "":
		return nil
	case t != nil:
		return t
	}
	return l.d.hearsay.get(question{l.who.User.Domain(), s.Parent, l.way.SuggestedOnly})
}

// open reports whether another server must be asked for a room before it is known what can be said of it.
func (l *leg) open(s step) bool {
	if _, asked := l.heard[s.Room]; asked || l.who.Ask == nil {
		return false
	}
	if t := l.d.hearsay.get(question{l.who.User.Domain(), s.Room, l.way.SuggestedOnly}); t != nil {
		l.heard[s.Room] = t
		return false
	}
	p := l.parent(s)
	if p == nil {
		return true
	}
	room, known := p.known[s.Room]
	// Of spaces it takes their children too.
	return !p.closed[s.Room] && (!known || room.RoomType == spaceType)
}

// inquire has other servers asked for a room, and with it for those that follow, as far as the page reaches. It reports that enough was asked for one
// page if so.
func (l *leg) inquire(ctx context.Context, s step, limit int) (spent bool, err error) {
	if !l.open(s) {
		return false, nil
	}
	if l.asked >= maxQuestions || time.Since(l.since) >= askingTime {
		return true, nil
	}
	batch := []step{s}
	reach := min(limit-len(l.rooms), len(l.way.Ahead), 2*atOnce)
	for _, next := range slices.Backward(l.way.Ahead[len(l.way.Ahead)-reach : len(l.way.Ahead)-1]) {
		if len(batch) == min(atOnce, maxQuestions-l.asked) || l.way.passed[next.Room] || !l.open(next) || slices.ContainsFunc(batch, func(b step) bool { return b.Room == next.Room }) {
			continue
		}
		head, err := l.d.resident(ctx, next.Room)
		if err != nil {
			return false, err
		}
		if head == nil {
			batch = append(batch, next)
		}
	}
	l.asked += len(batch)
	answers := make([]*told, len(batch))
	g, asking := errgroup.WithContext(ctx)
	for i, b := range batch {
		g.Go(func() (err error) {
			answers[i], err = l.d.ask(asking, l.who, b.Room, b.Via, l.way.SuggestedOnly)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	for i, b := range batch {
		l.heard[b.Room] = answers[i]
	}
	return false, nil
}

// mayFind reports whether a room may be shown to a user: one that they could read, join or knock at. The head is nil for a room that
// only others know.
//
// Spec: cs getSpaceHierarchy
func (d *Directory) mayFind(ctx context.Context, user id.UserID, head *graph.Head, room SpaceRoom) (bool, error) {
	if room.WorldReadable {
		return true, nil
	}
	version, known := roomver.Get(room.RoomVersion)
	open := isOpen(room.JoinRule, version)
	if user == "" {
		return open, nil
	}
	membership, err := d.membership(ctx, user, head, room.RoomID)
	if err != nil {
		return false, err
	}
	switch membership {
	case graph.Join, graph.Invite:
		return true, nil
	case graph.Ban:
		return false, nil
	}
	if room.JoinRule != restricted || known && !version.Restricted {
		return open, nil
	}
	for _, allowed := range room.AllowedRoomIDs {
		if m, err := d.membership(ctx, user, nil, allowed); err != nil || m == graph.Join {
			return err == nil, err
		}
	}
	return false, nil
}

// membership is that of a user of ours in a room, "leave" where nothing is known of it. The head may be nil.
func (d *Directory) membership(ctx context.Context, user id.UserID, head *graph.Head, room id.RoomID) (graph.Membership, error) {
	if head != nil {
		return cmp.Or(head.State.Membership(user), graph.Leave), nil
	}
	nid, known, err := d.graph.RoomNID(ctx, room)
	if err != nil || !known {
		return graph.Leave, err
	}
	row, _, err := d.graph.MembershipOf(ctx, user, nid)
	return cmp.Or(row.Membership, graph.Leave), err
}
