package view

import (
	"context"
	"math"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// maxPage is the most events of one page.
const maxPage = 1000

// maxScan bounds how many events one request looks at for a filter that few of them pass.
const maxScan = 5000

// Page asks for a part of a room's timeline.
type Page struct {
	Audience Audience
	Room     id.RoomID
	// From and To are tokens; empty means the end that the direction starts from, and no end.
	From, To string
	Backward bool
	Limit    int
	Filter   *RoomEventFilter
	// Open says that there may be more behind the oldest event that is stored: a page that ends there still says where the next
	// one starts.
	Open bool
}

// Messages returns a page of the timeline as the body of the response.
//
// Spec: cs getRoomEvents
func (v *View) Messages(ctx context.Context, p Page) ([]byte, error) {
	a, err := v.access(ctx, p.Audience.User, p.Room)
	if err != nil {
		return nil, err
	}
	w, err := p.window()
	if err != nil {
		return nil, err
	}
	if p.Filter == nil {
		p.Filter = new(RoomEventFilter)
	}
	limit := min(max(p.Limit, 1), maxPage)
	if p.Filter.Limit != nil {
		limit = min(limit, max(1, *p.Filter.Limit))
	}
	start, err := v.start(ctx, p, a)
	if err != nil {
		return nil, err
	}
	events, end, more, err := v.scan(ctx, p, a, w, limit)
	if err != nil {
		return nil, err
	}
	out := canon.AppendString([]byte(`{"start":`), start)
	if more || p.Open && len(events) > 0 {
		out = canon.AppendString(append(out, `,"end":`...), end.String())
	}
	p.Audience.Bundle = true
	out, err = v.AppendEvents(ctx, append(out, `,"chunk":`...), p.Audience, events)
	if err != nil {
		return nil, err
	}
	if p.Filter.LazyLoadMembers && len(events) > 0 {
		members, err := v.senders(ctx, events)
		if err != nil {
			return nil, err
		}
		if out, err = v.AppendEvents(ctx, append(out, `,"state":`...), p.Audience, members); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// window bounds ord, both ends exclusive.
type window struct{ After, Before int64 }

// window is what lies between the page's tokens.
func (p Page) window() (window, error) {
	w := window{After: math.MinInt64, Before: math.MaxInt64}
	first, last := &w.After, &w.Before
	if p.Backward {
		first, last = last, first
	}
	for _, end := range []struct {
		token string
		bound *int64
	}{{p.From, first}, {p.To, last}} {
		if end.token == "" {
			continue
		}
		place, err := ParseToken(end.token)
		if err != nil {
			return w, err
		}
		// A token stands behind the event of its ord.
		*end.bound = int64(place)
		if end.bound == &w.Before {
			w.Before++
		}
	}
	return w, nil
}

// start is the token that the page starts from: what the client said, or the room's first or last place.
func (v *View) start(ctx context.Context, p Page, a access) (string, error) {
	switch {
	case p.From != "":
		return p.From, nil
	case !p.Backward:
		return Token(min(0, a.head.MinOrd-1)).String(), nil
	}
	newest, err := v.newest(ctx, a)
	return newest.String(), err
}

// newest is the token behind the newest event that the reader may see.
func (v *View) newest(ctx context.Context, a access) (Token, error) {
	e, ok, err := v.cfg.Graph.LastBefore(ctx, a.head.Room, a.end())
	if err != nil || !ok {
		return 0, err
	}
	return Token(e.Ord), nil
}

// scanPage is the least number of events read at once after the first reading didn't yield
// enough.
const scanPage = 200

// scan collects up to limit visible events that pass the filter. It returns the token behind
// which the next page starts, and whether there may be one.
func (v *View) scan(ctx context.Context, p Page, a access, w window, limit int) (found []*graph.Event, end Token, more bool, err error) {
	s, err := v.sieve(ctx, p, a)
	if err != nil {
		return nil, 0, false, err
	}
	if last := a.end(); w.Before > last {
		w.Before = last + 1
	}
	size := limit + 1
	for scanned := 0; scanned < maxScan; size = max(size, scanPage) {
		events, err := v.cfg.Graph.Timeline(ctx, a.head.Room, w.page(p.Backward, size))
		if err != nil {
			return nil, 0, false, err
		}
		related, err := v.RelatedBy(ctx, p.Filter, events)
		if err != nil {
			return nil, 0, false, err
		}
		for _, e := range events {
			if len(found) == limit {
				return found, end, true, nil
			}
			if related != nil && !related[e.PDU.ID()] {
				end = w.pass(e, p.Backward)
				continue
			}
			keep, err := s.keeps(ctx, e)
			if err != nil {
				return nil, 0, false, err
			}
			if keep {
				found = append(found, e)
			}
			end = w.pass(e, p.Backward)
		}
		if len(events) < size {
			return found, end, false, nil
		}
		scanned += len(events)
	}
	return found, end, true, nil
}

// page asks the graph for events in the window.
func (w window) page(backward bool, limit int) graph.Range {
	if w.Before == 0 {
		w.Before = 1 // no event is at 0, which the graph takes for no bound
	}
	return graph.Range{After: w.After, Before: w.Before, Backward: backward, Limit: limit}
}

// pass narrows the window to what comes after the event and returns the token there.
func (w *window) pass(e *graph.Event, backward bool) Token {
	if backward {
		w.Before = e.Ord
		return Token(e.Ord - 1)
	}
	w.After = e.Ord
	return Token(e.Ord)
}

// sieve lets those events of one room pass that a reader may see and wants to.
type sieve struct {
	onlooker *onlooker
	ignored  map[id.UserID]struct{}
	room     id.RoomID
	filter   *RoomEventFilter // nil lets everything pass
}

func (v *View) sieve(ctx context.Context, p Page, a access) (*sieve, error) {
	ignored, err := v.cfg.Ignored(ctx, p.Audience.User)
	return &sieve{onlooker: v.looking(a, a.head.Room), ignored: ignored, room: p.Room, filter: p.Filter}, err
}

func (s *sieve) keeps(ctx context.Context, e *graph.Event) (bool, error) {
	if ignores(s.ignored, e) || s.filter != nil && !(s.filter.MatchRoom(s.room) && s.filter.MatchEvent(e.PDU)) {
		return false, nil
	}
	return s.onlooker.sees(ctx, e)
}
