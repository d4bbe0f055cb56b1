package fedroom

import (
	"context"
	"slices"
	"time"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

const (
	// nearTime bounds how long a user waits for the event at a time of the past.
	nearTime = 20 * time.Second
	// nearServers is how many servers are asked for it.
	nearServers = 3
	// nearGaps is how many gaps of a room are looked at.
	nearGaps = 1000
)

// TimestampToEvent asks other servers for the event that is nearest to a time in milliseconds, looking forwards or backwards, and takes it into the
// room's past. It returns the event's ID and its time; no ID where nobody knows one, where nothing is missing near that time, and where this
// server isn't in the room.
//
// Spec: ss getEventByTimestamp
func (f *Federated) TimestampToEvent(ctx context.Context, name id.RoomID, ts int64, backward bool) (id.EventID, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, nearTime)
	defer cancel()
	head, member, err := f.head(ctx, name)
	if err != nil || head == nil {
		return "", 0, err
	}
	if near, err := f.nearGap(ctx, head.Room, ts); err != nil || !near {
		return "", 0, err
	}
	servers, err := f.servers(ctx, head.Room)
	if err != nil {
		return "", 0, err
	}
	p := placeOf(head, member)
	p.urgent = true
	for _, server := range servers[:min(len(servers), nearServers)] {
		found, _, err := f.cfg.Client.TimestampToEvent(ctx, p.call(server), name, ts, !backward)
		if err == nil {
			var e *event.PDU
			if e, err = f.obtain(ctx, p, server, found); err == nil {
				return e.ID(), e.OriginServerTS(), nil
			}
		}
		if !outside(err) && ctx.Err() == nil {
			return "", 0, err
		}
		f.cfg.Log.DebugContext(ctx, "no event near a time from a server", "room", name, "origin", server, "err", err)
		if ctx.Err() != nil {
			break
		}
	}
	return "", 0, nil
}

// nearGap reports whether the event that is nearest to a time, on either side, may be one that is missing here. What is missing comes before
// what refers to it. So it can be nearest only if the first known event after that time is one that refers to something missing, or if
// nothing is known from before.
//
// Spec: ss getEventByTimestamp
func (f *Federated) nearGap(ctx context.Context, room graph.RoomNID, ts int64) (bool, error) {
	gaps, err := f.cfg.Graph.Gaps(ctx, room, nearGaps)
	if err != nil || len(gaps) == 0 {
		return false, err
	}
	after, err := f.cfg.Graph.EventsNearTime(ctx, room, ts, false, 1)
	if err != nil || len(after) == 0 {
		return false, err
	}
	if slices.ContainsFunc(gaps, func(g graph.Gap) bool { return g.Child == after[0].NID }) {
		return true, nil
	}
	before, err := f.cfg.Graph.EventsNearTime(ctx, room, ts, true, 1)
	return len(before) == 0, err
}

// obtain returns an event of the room's graph, and fetches it if it isn't part of that yet.
func (f *Federated) obtain(ctx context.Context, p place, server id.ServerName, name id.EventID) (*event.PDU, error) {
	stored, ok, err := f.cfg.Graph.Event(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case ok && stored.Flags&(graph.Outlier|graph.Rejected) == 0 && stored.PDU.RoomID() == p.room:
		return stored.PDU, nil
	}
	raw, err := f.cfg.Client.Event(ctx, p.call(server), name)
	if err != nil {
		return nil, err
	}
	e, err := f.cfg.Client.CheckPDU(ctx, p.version, raw, server)
	if err != nil {
		return nil, err
	}
	if e.ID() != name || e.RoomID() != p.room {
		return nil, misfitf("it gives another event than the one asked for")
	}
	n, err := f.past(ctx, p, server, []*event.PDU{e})
	if err == nil && n == 0 {
		err = misfitf("the event can have no place in the room")
	}
	return e, err
}
