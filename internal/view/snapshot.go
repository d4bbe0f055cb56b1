package view

import (
	"context"
	"math"
	"slices"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Snapshot is what a user may see of a room at once: its latest events and its state, or what
// they were when the user left.
//
// Spec: cs roomInitialSync
type Snapshot struct {
	// Membership is empty for who was never in the room, which is world readable.
	Membership graph.Membership
	// Start and End are the tokens around Chunk; Start is empty where nothing comes before it.
	Start, End string
	// Chunk and State are arrays of events as JSON, Chunk in the order of the room.
	Chunk, State []byte
}

// Snapshot returns the state of a room and at most limit of its latest events.
func (v *View) Snapshot(ctx context.Context, to Audience, room id.RoomID, limit int) (Snapshot, error) {
	a, err := v.access(ctx, to.User, room)
	if err != nil {
		return Snapshot{}, err
	}
	newest, err := v.newest(ctx, a)
	if err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{Membership: a.row.Membership, End: newest.String()}
	p := Page{Audience: to, Room: room, Backward: true}
	events, before, more, err := v.scan(ctx, p, a, window{math.MinInt64, math.MaxInt64}, min(max(limit, 1), maxPage))
	if err != nil {
		return Snapshot{}, err
	}
	if more {
		s.Start = before.String()
	}
	slices.Reverse(events)
	if s.Chunk, err = v.AppendEvents(ctx, nil, to, events); err != nil {
		return Snapshot{}, err
	}
	s.State, err = v.State(ctx, to, room)
	return s, err
}

// streamPage is the most events that one call of Stream looks at.
const streamPage = 500

// Stream returns what a user may see of the events at positions in (from, to], in that order: of one
// room, or, without one, of all that they are in. It returns how far it came, which is less than to if there is
// much.
//
// Spec: cs getEvents
// Spec: cs peekEvents
func (v *View) Stream(ctx context.Context, user id.UserID, room id.RoomID, from, to sqldb.Pos) ([]*graph.Event, sqldb.Pos, error) {
	events, rooms, err := v.streamOf(ctx, user, room, from, to)
	if err != nil || from >= to {
		return nil, from, err
	}
	end := to
	if len(events) == streamPage {
		end = events[streamPage-1].Pos
	}
	events, err = v.visibleOf(ctx, user, rooms, events)
	return events, end, err
}

// streamOf reads a page of the stream, and which rooms the user may look into.
func (v *View) streamOf(ctx context.Context, user id.UserID, room id.RoomID, from, to sqldb.Pos) ([]*graph.Event, map[graph.RoomNID]bool, error) {
	if room != "" {
		a, err := v.access(ctx, user, room)
		if err != nil || from >= to {
			return nil, nil, err
		}
		r := graph.Range{After: int64(from), Before: int64(to) + 1, Limit: streamPage}
		events, err := v.cfg.Graph.Timeline(ctx, a.head.Room, r)
		return events, map[graph.RoomNID]bool{a.head.Room: true}, err
	}
	if from >= to {
		return nil, nil, nil
	}
	rows, err := v.cfg.Graph.MembershipsOf(ctx, user, graph.Join)
	if err != nil {
		return nil, nil, err
	}
	rooms := make(map[graph.RoomNID]bool, len(rows))
	for _, m := range rows {
		rooms[m.Room] = true
	}
	events, err := v.cfg.Graph.EventsSince(ctx, from, to, streamPage)
	return events, rooms, err
}

// visibleOf returns those of the events that are of one of the rooms and that the user may see and wants to.
func (v *View) visibleOf(ctx context.Context, user id.UserID, rooms map[graph.RoomNID]bool, events []*graph.Event) ([]*graph.Event, error) {
	byRoom := make(map[graph.RoomNID][]*graph.Event)
	for _, e := range events {
		if rooms[e.Room] {
			byRoom[e.Room] = append(byRoom[e.Room], e)
		}
	}
	ignored, err := v.cfg.Ignored(ctx, user)
	if err != nil {
		return nil, err
	}
	var kept []*graph.Event
	for room, of := range byRoom {
		o, err := v.onlooker(ctx, user, room)
		if err != nil {
			return nil, err
		}
		for _, e := range of {
			seen, err := o.sees(ctx, e)
			if err != nil {
				return nil, err
			}
			if seen && !ignores(ignored, e) {
				kept = append(kept, e)
			}
		}
	}
	slices.SortFunc(kept, func(a, b *graph.Event) int { return int(min(1, max(-1, a.Pos-b.Pos))) })
	return kept, nil
}

// OneEvent returns an event of whatever room, M_NOT_FOUND where the user may not see it.
//
// Spec: cs getOneEvent
func (v *View) OneEvent(ctx context.Context, to Audience, eventID id.EventID) ([]byte, error) {
	notFound := mxerr.NotFound("there is no event %s that you may see", eventID)
	e, ok, err := v.cfg.Graph.Event(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notFound
	}
	room, _, err := v.cfg.Graph.RoomID(ctx, e.Room)
	if err != nil {
		return nil, err
	}
	raw, err := v.Event(ctx, to, room, eventID)
	if mxerr.Is(err, mxerr.CodeForbidden) {
		err = notFound
	}
	return raw, err
}
