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
	c.Audience.Bundle = true
	a, err := v.access(ctx, c.Audience.User, c.Room)
	if err != nil {
		return nil, err
	}
	e, err := v.event(ctx, a, c.Audience.User, c.Event)
	if err != nil {
		return nil, err
	}
	if c.Filter == nil {
		c.Filter = new(RoomEventFilter)
	}
	limit := min(max(c.Limit, 0), maxPage)
	p := Page{Audience: c.Audience, Room: c.Room, Filter: c.Filter, Backward: true}
	before, start, err := v.neighbours(ctx, p, a, window{math.MinInt64, e.Ord}, limit/2, Token(e.Ord-1))
	if err != nil {
		return nil, err
	}
	p.Backward = false
	after, end, err := v.neighbours(ctx, p, a, window{e.Ord, math.MaxInt64}, limit-limit/2, Token(e.Ord))
	if err != nil {
		return nil, err
	}
	return v.appendContext(ctx, c, e, before, after, start, end)
}

// neighbours is scan for a limit that may be 0. It returns from where nothing was looked at.
func (v *View) neighbours(ctx context.Context, p Page, a access, w window, limit int, from Token) ([]*graph.Event, Token, error) {
	if limit == 0 {
		return nil, from, nil
	}
	events, end, _, err := v.scan(ctx, p, a, w, limit)
	if len(events) == 0 {
		end = from
	}
	return events, end, err
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
	return slices.DeleteFunc(events, func(e *graph.Event) bool { return !c.Filter.MatchEvent(e.PDU) }), nil
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
	to.Bundle = true
	return v.AppendEvent(ctx, nil, to, e)
}

// nearBatches are how many events NearTime looks at, at first and then where the reader may see
// none of those: what lies further than the last of these in a region that they may not see isn't found.
var nearBatches = []int{1, 50, 2000}

// NearTime returns the ID and the time of the visible event nearest to ts, in milliseconds.
//
// Spec: cs getEventByTimestamp
func (v *View) NearTime(ctx context.Context, user id.UserID, room id.RoomID, ts int64, backward bool) (id.EventID, int64, error) {
	a, err := v.access(ctx, user, room)
	if err != nil {
		return "", 0, err
	}
	o := v.looking(a, a.head.Room)
	for _, limit := range nearBatches {
		events, err := v.cfg.Graph.EventsNearTime(ctx, a.head.Room, ts, backward, limit)
		if err != nil {
			return "", 0, err
		}
		for _, e := range events {
			seen, err := o.sees(ctx, e)
			if err != nil {
				return "", 0, err
			}
			if seen {
				return e.PDU.ID(), e.PDU.OriginServerTS(), nil
			}
		}
		if len(events) < limit {
			break
		}
	}
	return "", 0, mxerr.NotFound("there is no event that you may see on that side of the time")
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
