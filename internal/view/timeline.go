package view

import (
	"context"
	"math"
	"slices"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
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
}

// Messages returns a page of the timeline as the body of the response.
//
// Spec: cs getRoomEvents
func (v *View) Messages(ctx context.Context, p Page) ([]byte, error) {
	a, err := v.access(ctx, p.Audience.User, p.Room)
	if err != nil {
		return nil, err
	}
	w := window{After: math.MinInt64, Before: math.MaxInt64}
	start, err := p.bounds(&w)
	if err != nil {
		return nil, err
	}
	limit := min(max(p.Limit, 1), maxPage)
	if p.Filter.Limit != nil {
		limit = min(limit, max(1, *p.Filter.Limit))
	}
	if p.From == "" && p.Backward {
		if start, err = v.newest(ctx, a); err != nil {
			return nil, err
		}
	}
	events, end, more, err := v.scan(ctx, p, a, w, limit)
	if err != nil {
		return nil, err
	}
	out := append([]byte(`{"start":`), canon.AppendString(nil, start.String())...)
	if more {
		out = canon.AppendString(append(out, `,"end":`...), end.String())
	}
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

// bounds turns the tokens into a window and returns where the page starts.
func (p Page) bounds(w *window) (Token, error) {
	start := Token(0)
	if p.Backward {
		start = math.MaxInt64
	}
	if p.From != "" {
		from, err := ParseToken(p.From)
		if err != nil {
			return 0, err
		}
		start = from
		if p.Backward {
			w.Before = int64(from) + 1
		} else {
			w.After = int64(from)
		}
	}
	if p.To != "" {
		to, err := ParseToken(p.To)
		if err != nil {
			return 0, err
		}
		if p.Backward {
			w.After = int64(to)
		} else {
			w.Before = int64(to) + 1
		}
	}
	return start, nil
}

// newest is the token behind the newest event that the reader may see.
func (v *View) newest(ctx context.Context, a access) (Token, error) {
	last, err := v.last(ctx, a)
	if err != nil {
		return 0, err
	}
	if last != nil {
		return Token(last.Ord), nil
	}
	e, ok, err := v.cfg.Graph.LastBefore(ctx, a.head.Room, math.MaxInt64)
	if err != nil || !ok {
		return 0, err
	}
	return Token(e.Ord), nil
}

// scan collects up to limit visible events that pass the filter. It returns the token behind
// which the next page starts, and whether there may be one.
func (v *View) scan(ctx context.Context, p Page, a access, w window, limit int) (found []*graph.Event, end Token, more bool, err error) {
	last, err := v.last(ctx, a)
	if err != nil {
		return nil, 0, false, err
	}
	if last != nil {
		w.Before = min(w.Before, last.Ord+1)
	}
	for scanned := 0; scanned < maxScan; {
		r := graph.Range{After: w.After, Before: w.Before, Backward: p.Backward, Limit: limit + 1}
		events, err := v.cfg.Graph.Timeline(ctx, a.head.Room, r)
		if err != nil {
			return nil, 0, false, err
		}
		more = len(events) == r.Limit
		keep, err := v.readable(ctx, p, events)
		if err != nil {
			return nil, 0, false, err
		}
		for i, e := range events {
			if len(found) == limit {
				return found, end, true, nil
			}
			if keep[i] {
				found = append(found, e)
			}
			end = Token(e.Ord)
			if p.Backward {
				end--
				w.Before = e.Ord
			} else {
				w.After = e.Ord
			}
		}
		if !more {
			break
		}
		scanned += len(events)
	}
	return found, end, more, nil
}

// readable reports which events the reader may see and wants to.
func (v *View) readable(ctx context.Context, p Page, events []*graph.Event) ([]bool, error) {
	keep, err := v.Visible(ctx, p.Audience.User, events)
	if err != nil {
		return nil, err
	}
	ignored, err := v.cfg.Ignored(ctx, p.Audience.User)
	if err != nil {
		return nil, err
	}
	for i, e := range events {
		if _, ok := ignored[e.PDU.Sender()]; ok && !e.PDU.IsState() {
			keep[i] = false
		}
		keep[i] = keep[i] && (p.Filter == nil || p.Filter.MatchRoom(p.Room) && p.Filter.MatchEvent(e.PDU))
	}
	return keep, nil
}

// senders returns the member events of those who sent the events, as of the newest of them.
//
// Spec: cs Lazy-loading room members
func (v *View) senders(ctx context.Context, events []*graph.Event) ([]*graph.Event, error) {
	newest := slices.MaxFunc(events, func(a, b *graph.Event) int { return int(min(1, max(-1, a.Ord-b.Ord))) })
	state, err := v.cfg.Graph.StateAfter(ctx, newest)
	if err != nil {
		return nil, err
	}
	seen := make(map[id.UserID]bool)
	var nids []graph.EventNID
	for _, e := range events {
		if seen[e.PDU.Sender()] {
			continue
		}
		seen[e.PDU.Sender()] = true
		if nid, ok := state.Get("m.room.member", string(e.PDU.Sender())); ok {
			nids = append(nids, nid)
		}
	}
	return v.cfg.Graph.Events(ctx, newest.Room, nids)
}

// EventContext is a request for what happened around an event.
type EventContext struct {
	Audience Audience
	Room     id.RoomID
	Event    id.EventID
	Limit    int
	Filter   *RoomEventFilter
}

// Context returns an event with its neighbours and the state after the last of them.
//
// Spec: cs getEventContext
func (v *View) Context(ctx context.Context, c EventContext) ([]byte, error) {
	a, err := v.access(ctx, c.Audience.User, c.Room)
	if err != nil {
		return nil, err
	}
	e, err := v.event(ctx, a, c.Audience.User, c.Event)
	if err != nil {
		return nil, err
	}
	limit := min(max(c.Limit, 0), maxPage)
	p := Page{Audience: c.Audience, Room: c.Room, Filter: c.Filter, Backward: true}
	before, start, after, end := []*graph.Event(nil), Token(e.Ord-1), []*graph.Event(nil), Token(e.Ord)
	if n := limit / 2; n > 0 {
		var t Token
		if before, t, _, err = v.scan(ctx, p, a, window{math.MinInt64, e.Ord}, n); err != nil {
			return nil, err
		}
		if len(before) > 0 {
			start = t
		}
	}
	if n := limit - limit/2; n > 0 && limit > 0 {
		var t Token
		p.Backward = false
		if after, t, _, err = v.scan(ctx, p, a, window{e.Ord, math.MaxInt64}, n); err != nil {
			return nil, err
		}
		if len(after) > 0 {
			end = t
		}
	}
	return v.appendContext(ctx, c, e, before, after, start, end)
}

func (v *View) appendContext(ctx context.Context, c EventContext, e *graph.Event, before, after []*graph.Event, start, end Token) ([]byte, error) {
	shown := append(append(slices.Clone(before), e), after...)
	last := e
	if len(after) > 0 {
		last = after[len(after)-1]
	}
	state, err := v.stateForContext(ctx, c, last, shown)
	if err != nil {
		return nil, err
	}
	out := canon.AppendString([]byte(`{"start":`), start.String())
	out = canon.AppendString(append(out, `,"end":`...), end.String())
	parts := []struct {
		name   string
		events []*graph.Event
	}{{"events_before", before}, {"events_after", after}, {"state", state}}
	for _, part := range parts {
		out = append(append(append(out, `,"`...), part.name...), `":`...)
		if out, err = v.AppendEvents(ctx, out, c.Audience, part.events); err != nil {
			return nil, err
		}
	}
	if out, err = v.AppendEvent(ctx, append(out, `,"event":`...), c.Audience, e); err != nil {
		return nil, err
	}
	return append(out, '}'), nil
}

// stateForContext is the state after the last event; with lazy loading only the members who
// sent something of it.
func (v *View) stateForContext(ctx context.Context, c EventContext, last *graph.Event, shown []*graph.Event) ([]*graph.Event, error) {
	state, err := v.cfg.Graph.StateAfter(ctx, last)
	if err != nil {
		return nil, err
	}
	var nids []graph.EventNID
	for key, nid := range state.All() {
		if c.Filter.LazyLoadMembers && key.Type == "m.room.member" {
			continue
		}
		nids = append(nids, nid)
	}
	events, err := v.cfg.Graph.Events(ctx, last.Room, nids)
	if err != nil {
		return nil, err
	}
	if c.Filter.LazyLoadMembers {
		members, err := v.senders(ctx, shown)
		if err != nil {
			return nil, err
		}
		events = append(events, members...)
	}
	return slices.DeleteFunc(events, func(e *graph.Event) bool { return !c.Filter.MatchType(e.PDU.Type()) }), nil
}

// event loads one event that the user may see, or M_NOT_FOUND.
func (v *View) event(ctx context.Context, a access, user id.UserID, eventID id.EventID) (*graph.Event, error) {
	notFound := mxerr.NotFound("there is no event %s that you may see in this room", eventID)
	e, ok, err := v.cfg.Graph.Event(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if !ok || e.Room != a.head.Room {
		return nil, notFound
	}
	visible, err := v.Visible(ctx, user, []*graph.Event{e})
	if err != nil {
		return nil, err
	}
	if !visible[0] {
		return nil, notFound
	}
	return e, nil
}

// Event returns one event.
//
// Spec: cs getOneRoomEvent
func (v *View) Event(ctx context.Context, to Audience, room id.RoomID, eventID id.EventID) ([]byte, error) {
	a, err := v.access(ctx, to.User, room)
	if err != nil {
		return nil, err
	}
	e, err := v.event(ctx, a, to.User, eventID)
	if err != nil {
		return nil, err
	}
	return v.AppendEvent(ctx, nil, to, e)
}

// NearTime returns the ID and the time of the visible event nearest to ts, in milliseconds.
//
// Spec: cs getEventByTimestamp
func (v *View) NearTime(ctx context.Context, user id.UserID, room id.RoomID, ts int64, backward bool) (id.EventID, int64, error) {
	a, err := v.access(ctx, user, room)
	if err != nil {
		return "", 0, err
	}
	e, ok, err := v.cfg.Graph.EventNearTime(ctx, a.head.Room, ts, backward)
	if err != nil {
		return "", 0, err
	}
	if ok {
		visible, err := v.Visible(ctx, user, []*graph.Event{e})
		if err != nil {
			return "", 0, err
		}
		ok = visible[0]
	}
	if !ok {
		return "", 0, mxerr.NotFound("there is no event on that side of the time")
	}
	return e.PDU.ID(), e.PDU.OriginServerTS(), nil
}
