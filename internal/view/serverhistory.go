package view

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"strings"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// MaxServerEvents is the most events that another server gets in one answer about a room's history.
const MaxServerEvents = 100

// MissingQuery asks for the events between some that a server has and some that it was told of.
type MissingQuery struct {
	// Latest are the events whose ancestors are asked for; Earliest are known already, and so are their ancestors.
	Latest, Earliest []id.EventID
	// MinDepth leaves out events of a smaller depth.
	MinDepth int64
	// Limit is the most events to return, at most MaxServerEvents.
	Limit int
}

// Backfill returns events of the room and those before them, at most limit of them, the deepest first. What the server may not
// see is pruned. It returns M_NOT_FOUND if none of the events is here, and M_FORBIDDEN for a server that is neither in
// the room nor sees one of them.
//
// Spec: ss backfillRoom
func (s *Server) Backfill(ctx context.Context, from []id.EventID, limit int) ([]*event.PDU, error) {
	start, err := s.stored(ctx, from)
	if err != nil {
		return nil, err
	}
	if len(start) == 0 {
		return nil, mxerr.NotFound("None of these events is known here.")
	}
	if err := s.mayStartFrom(ctx, start); err != nil {
		return nil, err
	}
	limit = min(limit, MaxServerEvents)
	seen := make(map[id.EventID]bool)
	queue := deepest{}
	for _, e := range start {
		if !seen[e.PDU.ID()] {
			seen[e.PDU.ID()] = true
			queue = append(queue, e)
		}
	}
	heap.Init(&queue)
	pdus := []*event.PDU{}
	for len(queue) > 0 && len(pdus) < limit {
		e := heap.Pop(&queue).(*graph.Event)
		pdu, err := s.show(ctx, e)
		if err != nil {
			return nil, err
		}
		pdus = append(pdus, pdu)
		before, err := s.stored(ctx, unseen(seen, e.PDU.PrevEvents()))
		if err != nil {
			return nil, err
		}
		for _, p := range before {
			heap.Push(&queue, p)
		}
	}
	return pdus, nil
}

// Missing walks back from the latest events, breadth first, and returns what it met, the shallowest first. What the server may not see is pruned.
//
// Spec: ss getMissingPreviousEvents
func (s *Server) Missing(ctx context.Context, q MissingQuery) ([]*event.PDU, error) {
	level, err := s.stored(ctx, q.Latest)
	if err != nil {
		return nil, err
	}
	if err := s.mayStartFrom(ctx, level); err != nil {
		return nil, err
	}
	limit := min(q.Limit, MaxServerEvents)
	seen := make(map[id.EventID]bool)
	unseen(seen, q.Latest)
	unseen(seen, q.Earliest)
	var met []*graph.Event
	for len(level) > 0 && len(met) < limit {
		var names []id.EventID
		for _, e := range level {
			names = append(names, unseen(seen, e.PDU.PrevEvents())...)
		}
		// A level has as many events as others made it have.
		if level, err = s.stored(ctx, names[:min(len(names), limit-len(met))]); err != nil {
			return nil, err
		}
		level = slices.DeleteFunc(level, func(e *graph.Event) bool { return e.PDU.Depth() < q.MinDepth })
		met = append(met, level...)
	}
	slices.SortStableFunc(met, func(a, b *graph.Event) int { return cmp.Compare(a.PDU.Depth(), b.PDU.Depth()) })
	pdus := make([]*event.PDU, len(met))
	for i, e := range met {
		if pdus[i], err = s.show(ctx, e); err != nil {
			return nil, err
		}
	}
	return pdus, nil
}

// stored returns those of the events that have a place in the room, in the order of their names.
func (s *Server) stored(ctx context.Context, names []id.EventID) ([]*graph.Event, error) {
	if len(names) == 0 {
		return nil, nil
	}
	found, err := s.view.cfg.Graph.EventsByID(ctx, names)
	if err != nil {
		return nil, err
	}
	events := make([]*graph.Event, 0, len(found))
	for _, name := range names {
		if e := found[name]; e != nil && e.Room == s.Head.Room && e.Flags&graph.Outlier == 0 {
			events = append(events, e)
		}
	}
	return events, nil
}

// unseen returns the names that were not seen before, and notes that they were.
func unseen(seen map[id.EventID]bool, names []id.EventID) (fresh []id.EventID) {
	for _, name := range names {
		if seen[name] {
			continue
		}
		name = id.EventID(strings.Clone(string(name))) // lest it keep the whole event in memory
		seen[name] = true
		fresh = append(fresh, name)
	}
	return fresh
}

// deepest is a heap of events, the deepest first, and of those the newest here.
type deepest []*graph.Event

func (h deepest) Len() int { return len(h) }

func (h deepest) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[j].PDU.Depth(), h[i].PDU.Depth()), cmp.Compare(h[j].Ord, h[i].Ord)) < 0
}

func (h deepest) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

func (h *deepest) Push(e any) { *h = append(*h, e.(*graph.Event)) }

func (h *deepest) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}

// NearTime returns the event closest to a time in milliseconds, at or after it, or at or before it if backward is set: one that
// the server may see. It returns M_NOT_FOUND where there is none, and M_FORBIDDEN for servers that are not in the room.
//
// Spec: ss getEventByTimestamp
func (s *Server) NearTime(ctx context.Context, ts int64, backward bool) (id.EventID, int64, error) {
	if !s.InRoom {
		return "", 0, errNotInRoom
	}
	events, err := s.view.cfg.Graph.EventsNearTime(ctx, s.Head.Room, ts, backward, MaxServerEvents)
	if err != nil {
		return "", 0, err
	}
	for _, e := range events {
		sees, err := s.Sees(ctx, e)
		if err != nil {
			return "", 0, err
		}
		if sees {
			return e.PDU.ID(), e.PDU.OriginServerTS(), nil
		}
	}
	return "", 0, mxerr.NotFound("There is no event on that side of the time.")
}
