package search

import (
	"context"
	"fmt"
	"math"
	"slices"

	"myelin/internal/graph"
	"myelin/internal/words"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxLooks bounds how many proposed events are looked at for one page.
const maxLooks = 1000

// result is an event that was found.
type result struct {
	event *graph.Event
	room  id.RoomID
	rank  float32
}

// page is what a search found.
type page struct {
	results []result
	count   int
	asOf    token // of this page
	// consumed is how many hits were looked at, those of former pages included; more says that there may be others.
	consumed int
	more     bool
	hits     []hit
}

// finding is a search under way.
type finding struct {
	s    *Search
	r    *Request
	look lookup
	// names and closed are the rooms by number: their IDs, and whether they are encrypted.
	names   map[graph.RoomNID]id.RoomID
	closed  map[graph.RoomNID]bool
	ignored map[id.UserID]struct{}
	shown   map[id.EventID]bool
	results []result
}

// find returns a page of results.
func (s *Search) find(ctx context.Context, r *Request) (*page, error) {
	f := &finding{
		s: s, r: r, names: make(map[graph.RoomNID]id.RoomID), closed: make(map[graph.RoomNID]bool), shown: make(map[id.EventID]bool),
		look: lookup{s: s, question: r.question, asOf: r.from.asOf},
	}
	var err error
	if f.ignored, err = s.ignored(ctx, r.Audience.User); err != nil {
		return nil, err
	}
	if err := f.scope(ctx); err != nil {
		return nil, err
	}
	if r.question.Empty() || len(f.look.rooms) == 0 {
		return &page{}, nil
	}
	if err := f.look.run(ctx); err != nil {
		return nil, err
	}
	p := &page{count: f.look.count(), asOf: token{asOf: f.look.asOf}, consumed: r.from.offset}
	if err := f.fill(ctx, p); err != nil {
		return nil, err
	}
	p.results = f.results
	p.more = p.more && p.consumed < maxOffset && f.look.asOf > 0
	return p, nil
}

// scope finds the rooms to search: all that the user is or was in, and that pass the filter.
func (f *finding) scope(ctx context.Context) error {
	rows, err := f.s.graph.MembershipsOf(ctx, f.r.Audience.User)
	if err != nil {
		return err
	}
	for _, m := range rows {
		if m.Forgotten || m.Event == 0 || !f.r.filter.MatchRoom(m.RoomID) || f.r.from.group == byRoom && string(m.RoomID) != f.r.from.value {
			continue
		}
		end := int64(math.MaxInt64)
		if m.Membership == graph.Leave || m.Membership == graph.Ban {
			// They saw nothing later than this; what they saw of what is earlier is for package view to say.
			end = int64(m.Since) + 1
		}
		f.names[m.Room] = m.RoomID
		f.look.rooms = append(f.look.rooms, scope{m.Room, end})
	}
	return nil
}

// fill looks at hits, the first ones first, until the page is full.
func (f *finding) fill(ctx context.Context, p *page) error {
	compare := compareRank
	if f.r.recent {
		compare = compareRecent
	}
	looks := 0
	for size := max(2*f.r.limit, 40); looks < maxLooks; size *= 2 {
		all := f.look.first(p.consumed+size, compare)
		p.hits = all
		ahead := all[min(p.consumed, len(all)):]
		for some := range slices.Chunk(ahead, max(f.r.limit, 20)) {
			n, full, err := f.take(ctx, some)
			if err != nil {
				return err
			}
			p.consumed += n
			looks += n
			if full {
				p.more = true
				return nil
			}
		}
		if len(ahead) < size {
			return nil
		}
	}
	p.more = true
	return nil
}

// take looks at hits and keeps those that are results. It returns how many it looked at, and whether the page is full.
func (f *finding) take(ctx context.Context, some []hit) (n int, full bool, err error) {
	byRoom := make(map[graph.RoomNID][]int64)
	for _, h := range some {
		byRoom[h.room] = append(byRoom[h.room], h.ord)
	}
	events := make(map[int64]map[graph.RoomNID]*graph.Event)
	for room, ords := range byRoom {
		found, err := f.judge(ctx, room, ords)
		if err != nil {
			return 0, false, err
		}
		for ord, e := range found {
			if events[ord] == nil {
				events[ord] = make(map[graph.RoomNID]*graph.Event)
			}
			events[ord][room] = e
		}
	}
	for i, h := range some {
		e := events[h.ord][h.room]
		if e == nil || f.shown[e.PDU.ID()] {
			continue
		}
		f.shown[e.PDU.ID()] = true
		f.results = append(f.results, result{e, f.names[h.room], h.score})
		if len(f.results) == f.r.limit {
			return i + 1, true, nil
		}
	}
	return len(some), false, nil
}

// judge looks at proposed events of one room. It returns, by the places that were proposed, those events that match, that the
// user may see and that they want to see.
func (f *finding) judge(ctx context.Context, room graph.RoomNID, ords []int64) (map[int64]*graph.Event, error) {
	if closed, err := f.isClosed(ctx, room); err != nil || closed {
		return nil, err
	}
	proposed, err := f.s.graph.EventsAt(ctx, room, ords)
	if err != nil {
		return nil, err
	}
	places := make(map[graph.EventNID]int64)
	var events []*graph.Event
	for _, e := range proposed {
		ord := e.Ord
		t, ok := textOf(e.PDU)
		if !ok || f.r.keys != nil && !slices.Contains(f.r.keys, t.key) || !f.r.question.Matches(words.Fold(t.text)) {
			continue
		}
		if t.edited != "" {
			if e, err = f.original(ctx, e, t.edited); err != nil {
				return nil, err
			}
			if e == nil {
				continue
			}
		}
		if !f.wanted(e) {
			continue
		}
		if _, twice := places[e.NID]; !twice {
			events = append(events, e)
		}
		places[e.NID] = ord
	}
	visible, err := f.s.view.Visible(ctx, f.r.Audience.User, events)
	if err != nil {
		return nil, err
	}
	// A copy without words is not what was asked for, and that it is found would tell of them.
	erased, err := f.s.view.Erased(ctx, f.r.Audience.User, events)
	if err != nil {
		return nil, err
	}
	found := make(map[int64]*graph.Event, len(events))
	for i, e := range events {
		if visible[i] && !erased[e.NID] {
			found[places[e.NID]] = e
		}
	}
	return found, nil
}

// wanted reports whether the request selects an event.
func (f *finding) wanted(e *graph.Event) bool {
	if _, ignored := f.ignored[e.PDU.Sender()]; ignored && !e.PDU.IsState() {
		return false
	}
	return f.r.filter.MatchEvent(e.PDU) && (f.r.from.group != bySender || string(e.PDU.Sender()) == f.r.from.value)
}

// isClosed reports whether nothing of a room is found: because it is encrypted, or because the user may not read it at all.
func (f *finding) isClosed(ctx context.Context, room graph.RoomNID) (bool, error) {
	if closed, known := f.closed[room]; known {
		return closed, nil
	}
	head, err := f.s.graph.HeadOf(ctx, room)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		f.closed[room] = true
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at room %d: %w", room, err)
	}
	_, encrypted := head.State.Get("m.room.encryption", "")
	err = f.s.view.MayRead(ctx, f.r.Audience.User, head.ID)
	refused := mxerr.Is(err, mxerr.CodeForbidden)
	if err != nil && !refused {
		return false, err
	}
	f.closed[room] = encrypted || refused
	return f.closed[room], nil
}

// original returns the event that an edit is of, nil where it is no valid edit.
//
// Spec: cs Validity of replacement events
func (f *finding) original(ctx context.Context, edit *graph.Event, of id.EventID) (*graph.Event, error) {
	e, ok, err := f.s.graph.Event(ctx, of)
	if err != nil {
		return nil, err
	}
	if !ok || e.Room != edit.Room || e.PDU.Sender() != edit.PDU.Sender() || e.PDU.Type() != edit.PDU.Type() || e.PDU.IsState() || e.Ord == 0 ||
		e.Flags&graph.Redacted != 0 || edit.Flags&(graph.Redacted|graph.Rejected|graph.SoftFailed) != 0 {
		return nil, nil
	}
	return e, nil
}
