package view

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxDepth is how many relations are followed from an event to those that relate to it.
	maxDepth = 3
	// maxDescendants is the most events that are found so.
	maxDescendants = 5000
	// maxRelated is the most events of one page of related events.
	maxRelated = 500
)

// Relations asks for the events that relate to another one.
type Relations struct {
	Audience Audience
	Room     id.RoomID
	Event    id.EventID
	// RelType and Type select those with a type of relation, and of a type; empty for all.
	RelType, Type string
	// From and To are tokens as for Page.
	From, To string
	Backward bool
	Limit    int
	// Recurse asks as well for what relates to those that are found.
	Recurse bool
}

// Relations returns a page of the events that relate to an event as the body of the response, M_NOT_FOUND where the user may not
// see that event.
//
// Spec: cs getRelatingEvents
// Spec: cs getRelatingEventsWithRelType
// Spec: cs getRelatingEventsWithRelTypeAndEventType
func (v *View) Relations(ctx context.Context, q Relations) ([]byte, error) {
	p := Page{Audience: q.Audience, Room: q.Room, From: q.From, To: q.To, Backward: q.Backward}
	w, err := p.window()
	if err != nil {
		return nil, err
	}
	a, err := v.access(ctx, q.Audience.User, q.Room)
	if err != nil {
		return nil, err
	}
	if _, err := v.event(ctx, a, q.Audience.User, q.Event); err != nil {
		return nil, err
	}
	if last := a.end(); w.Before > last {
		w.Before = last + 1
	}
	s, err := v.sieve(ctx, p, a)
	if err != nil {
		return nil, err
	}
	find := s.children
	if q.Recurse {
		find = s.descendants
	}
	q.Limit = min(max(q.Limit, 1), maxRelated)
	events, next, err := find(ctx, v, a.head.Room, q, w)
	if err != nil {
		return nil, err
	}
	q.Audience.Bundle = true
	out, err := v.AppendEvents(ctx, []byte(`{"chunk":`), q.Audience, events)
	if err != nil {
		return nil, err
	}
	if next != nil {
		out = canon.AppendString(append(out, `,"next_batch":`...), next.String())
	}
	if q.From != "" {
		out = canon.AppendString(append(out, `,"prev_batch":`...), q.From)
	}
	if q.Recurse {
		out = strconv.AppendInt(append(out, `,"recursion_depth":`...), maxDepth, 10)
	}
	return append(out, '}'), nil
}

// selects reports whether a related event is asked for.
func (q *Relations) selects(c graph.Child) bool {
	return (q.RelType == "" || c.RelType == q.RelType) && (q.Type == "" || c.Type == q.Type)
}

// behind is the token behind an event.
func behind(ord int64, backward bool) *Token {
	t := Token(ord)
	if backward {
		t--
	}
	return &t
}

// children collects a page of the events that relate to one directly. It returns the token behind which the next page starts, nil at the end.
func (s *sieve) children(ctx context.Context, v *View, room graph.RoomNID, q Relations, w window) (found []*graph.Event, next *Token, err error) {
	r := w.page(q.Backward, q.Limit+1)
	for scanned := 0; scanned < maxScan; r.Limit = max(r.Limit, scanPage) {
		page, more, err := v.cfg.Graph.Children(ctx, room, q.Event, q.RelType, r)
		if err != nil {
			return nil, nil, err
		}
		scanned += r.Limit
		page = slices.DeleteFunc(page, func(c graph.Child) bool { return !q.selects(c) })
		if found, err = s.fill(ctx, v, room, q, page, found); err != nil {
			return nil, nil, err
		}
		if len(found) > q.Limit || more == 0 {
			found, next = q.cut(found)
			return found, next, nil
		}
		if next = behind(more, q.Backward); q.Backward {
			r.Before = more
		} else {
			r.After = more
		}
	}
	return found, next, nil
}

// cut ends a page: where more was found than is asked for there is a next one.
func (q *Relations) cut(found []*graph.Event) ([]*graph.Event, *Token) {
	if len(found) <= q.Limit {
		return found, nil
	}
	return found[:q.Limit], behind(found[q.Limit-1].Ord, q.Backward)
}

// fill appends those of the children that the reader may see and wants to, up to one more than is asked for.
func (s *sieve) fill(ctx context.Context, v *View, room graph.RoomNID, q Relations, page []graph.Child, found []*graph.Event) ([]*graph.Event, error) {
	nids := make([]graph.EventNID, len(page))
	for i, c := range page {
		nids[i] = c.Event
	}
	events, err := v.cfg.Graph.Events(ctx, room, nids)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if len(found) > q.Limit {
			break
		}
		keep, err := s.keeps(ctx, e)
		if err != nil {
			return nil, err
		}
		if keep {
			found = append(found, e)
		}
	}
	return found, nil
}

// descendants is children for those too that relate to the event by others, over as many relations as maxDepth. Of more than
// maxDescendants some are left out.
//
// Deviates: cs Relationships API
func (s *sieve) descendants(ctx context.Context, v *View, room graph.RoomNID, q Relations, w window) ([]*graph.Event, *Token, error) {
	seen := map[id.EventID]bool{q.Event: true}
	parents := []id.EventID{q.Event}
	var all []graph.Child
	for depth := 0; depth < maxDepth && len(parents) > 0 && len(all) < maxDescendants; depth++ {
		children, err := v.cfg.Graph.ChildrenOfAny(ctx, room, parents, maxDescendants-len(all))
		if err != nil {
			return nil, nil, err
		}
		parents = nil
		for _, c := range children {
			if !seen[c.ID] && q.selects(c) {
				seen[c.ID] = true
				parents = append(parents, c.ID)
				all = append(all, c)
			}
		}
	}
	all = slices.DeleteFunc(all, func(c graph.Child) bool { return c.Ord <= w.After || c.Ord >= w.Before })
	slices.SortFunc(all, func(a, b graph.Child) int { return cmp.Compare(a.Ord, b.Ord) })
	if q.Backward {
		slices.Reverse(all)
	}
	var found []*graph.Event
	for page := range slices.Chunk(all, q.Limit+1) {
		var err error
		if found, err = s.fill(ctx, v, room, q, page, found); err != nil {
			return nil, nil, err
		}
		if len(found) > q.Limit {
			break
		}
	}
	found, next := q.cut(found)
	return found, next, nil
}

// Threads asks for the threads of a room.
type Threads struct {
	Audience Audience
	Room     id.RoomID
	// Participated selects those that the user has a part in.
	Participated bool
	From         string
	Limit        int
}

// maxThreads is the most threads of one page.
const maxThreads = 100

// Threads returns a page of the roots of a room's threads, those with the latest activity first, as the body of the response.
//
// Spec: cs getThreadRoots
func (v *View) Threads(ctx context.Context, q Threads) ([]byte, error) {
	a, err := v.access(ctx, q.Audience.User, q.Room)
	if err != nil {
		return nil, err
	}
	before := int64(math.MaxInt64)
	if q.From != "" {
		place, err := ParseToken(q.From)
		if err != nil {
			return nil, err
		}
		before = int64(place) + 1
	}
	s, err := v.sieve(ctx, Page{Audience: q.Audience, Room: q.Room}, a)
	if err != nil {
		return nil, err
	}
	user := id.UserID("")
	if q.Participated {
		user = q.Audience.User
	}
	limit := min(max(q.Limit, 1), maxThreads)
	var roots []*graph.Event
	inside := make(bundles)
	q.Audience.Bundle = true
	next, more := int64(0), true
	for scanned := 0; more && len(roots) < limit && scanned < maxScan; {
		page, err := v.cfg.Graph.Threads(ctx, a.head.Room, user, before, limit+1)
		if err != nil {
			return nil, err
		}
		scanned += limit + 1
		more = len(page) > limit
		found, made, err := s.roots(ctx, v, q.Audience, page)
		if err != nil {
			return nil, err
		}
		for _, t := range page {
			if len(roots) == limit {
				more = true
				break
			}
			before, next = t.Ord, t.Ord
			if e := found[t.Root]; e != nil {
				roots = append(roots, e)
				inside[t.Root] = made[t.Root]
			}
		}
	}
	out, err := v.appendEventsWith(ctx, []byte(`{"chunk":`), q.Audience, roots, inside)
	if err != nil {
		return nil, err
	}
	if more {
		out = canon.AppendString(append(out, `,"next_batch":`...), behind(next, true).String())
	}
	return append(out, '}'), nil
}

// roots loads those roots of threads that the reader may see, and of whose threads they may see something.
func (s *sieve) roots(ctx context.Context, v *View, to Audience, threads []graph.Thread) (map[id.EventID]*graph.Event, bundles, error) {
	ids := make([]id.EventID, len(threads))
	for i, t := range threads {
		ids[i] = t.Root
	}
	found, err := v.cfg.Graph.EventsByID(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	var shown []*graph.Event
	for root, e := range found {
		keep := false
		if _, related := e.PDU.Relation(); e.Room == s.onlooker.room && !related {
			if keep, err = s.keeps(ctx, e); err != nil {
				return nil, nil, err
			}
		}
		if keep {
			shown = append(shown, e)
		} else {
			delete(found, root)
		}
	}
	made, err := v.bundles(ctx, to, shown, false)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range shown {
		if !made[e.PDU.ID()].thread && !e.PDU.IsState() {
			delete(found, e.PDU.ID())
		}
	}
	return found, made, nil
}

// InThread returns the root of a thread, M_NOT_FOUND where the user may not see it, and whether a cause that they may see is in the thread.
func (v *View) InThread(ctx context.Context, user id.UserID, room id.RoomID, root, cause id.EventID) (*graph.Event, *graph.Event, error) {
	a, err := v.access(ctx, user, room)
	if mxerr.Is(err, mxerr.CodeForbidden) {
		return nil, nil, mxerr.NotFound("there is no event %s that you may see in this room", root)
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := v.event(ctx, a, user, root)
	if err != nil || cause == "" {
		return r, nil, err
	}
	c, err := v.event(ctx, a, user, cause)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return r, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if of, err := v.cfg.Graph.ThreadOf(ctx, c); err != nil || of != root {
		return r, nil, err
	}
	return r, c, nil
}
