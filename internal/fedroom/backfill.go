package fedroom

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// backfillTime bounds how long a user waits for history.
	backfillTime = 30 * time.Second
	// backfillAtOnce is the most events that are asked for at a time, backfillLeast the least: the way is long for a handful.
	backfillAtOnce = 100
	backfillLeast  = 20
	// maxGapsAsked is how many gaps are worked on at a time, maxStates for how many events the state is fetched.
	maxGapsAsked = 20
	maxStates    = 5
	// tiredFor is how long a room is left alone for which nobody had history.
	tiredFor = time.Minute
)

// Backfill fetches about limit events from before what is known of a room, and returns how many came: none where nothing is missing, or where
// nobody had any a moment ago. Those who ask for the same room at once share what comes.
//
// Spec: ss backfillRoom
func (f *Federated) Backfill(ctx context.Context, name id.RoomID, limit int) (int, error) {
	head, member, err := f.head(ctx, name)
	if err != nil || head == nil {
		return 0, err
	}
	if until, ok := f.tired.GetIfPresent(head.Room); ok && time.Now().Before(until) {
		return 0, nil
	}
	return flight(ctx, f, &f.backfills, string(name), func(ctx context.Context) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, backfillTime)
		defer cancel()
		n, err := f.backfill(ctx, head, member, limit)
		if n == 0 {
			f.tired.Set(head.Room, time.Now().Add(tiredFor))
		}
		return n, err
	})
}

func (f *Federated) backfill(ctx context.Context, head *graph.Head, member id.UserID, limit int) (int, error) {
	gaps, err := f.cfg.Graph.Gaps(ctx, head.Room, maxGapsAsked)
	if err != nil || len(gaps) == 0 {
		return 0, err
	}
	from := make([]id.EventID, 0, len(gaps))
	nids := make([]graph.EventNID, 0, len(gaps))
	for _, g := range gaps {
		if !slices.Contains(from, g.Missing) {
			from = append(from, g.Missing)
		}
		if !slices.Contains(nids, g.Child) {
			nids = append(nids, g.Child)
		}
	}
	// Who sent what follows the gap has probably what is in it.
	children, err := f.cfg.Graph.Events(ctx, head.Room, nids)
	if err != nil {
		return 0, err
	}
	var first []id.ServerName
	for _, c := range children {
		first = append(first, c.PDU.Sender().Domain())
	}
	servers, err := f.servers(ctx, head.Room, first...)
	if err != nil {
		return 0, err
	}
	p := placeOf(head, member)
	p.urgent = true
	limit = min(max(limit, backfillLeast), backfillAtOnce)
	for _, server := range servers[:min(len(servers), serversAsked)] {
		n, err := f.backfillFrom(ctx, p, server, from, limit)
		if n > 0 {
			return n, nil
		}
		if err != nil && !outside(err) {
			return 0, err
		}
		f.cfg.Log.DebugContext(ctx, "no history from a server", "room", head.ID, "origin", server, "err", err)
		if ctx.Err() != nil {
			return 0, nil
		}
	}
	return 0, nil
}

// backfillFrom asks one server.
func (f *Federated) backfillFrom(ctx context.Context, p place, server id.ServerName, from []id.EventID, limit int) (int, error) {
	raws, err := f.cfg.Client.Backfill(ctx, p.call(server), p.room, from, limit)
	if err != nil {
		return 0, err
	}
	in := f.intake(p.room, p.version, server)
	defer in.close()
	for _, raw := range raws {
		if err := in.add(ctx, raw, false); err != nil {
			return 0, err
		}
	}
	if err := in.flush(ctx); err != nil {
		return 0, err
	}
	return f.past(ctx, p, server, reachable(in.byID, from))
}

// reachable returns those of the events that are in a gap, or come before one that is.
func reachable(byID map[id.EventID]*event.PDU, from []id.EventID) []*event.PDU {
	var out []*event.PDU
	seen := make(map[id.EventID]bool)
	for queue := slices.Clone(from); len(queue) > 0; queue = queue[1:] {
		p := byID[queue[0]]
		if p == nil || seen[p.ID()] {
			continue
		}
		seen[p.ID()] = true
		out = append(out, p)
		queue = append(queue, p.PrevEvents()...)
	}
	return out
}

// past puts events into the room's past. Behind the oldest of them the state comes from the server. It returns how many the room took.
func (f *Federated) past(ctx context.Context, p place, server id.ServerName, pdus []*event.PDU) (int, error) {
	if err := f.authorise(ctx, p, server, pdus); err != nil {
		return 0, err
	}
	oldest, err := f.oldest(ctx, pdus)
	if err != nil {
		return 0, err
	}
	before := make(map[id.EventID][]id.EventID, len(oldest))
	for i, e := range oldest {
		if i == maxStates {
			break
		}
		if len(e.PrevEvents()) == 0 {
			before[e.ID()] = []id.EventID{} // the room begins with it
			continue
		}
		state, err := f.stateAt(ctx, p, server, e.ID())
		if err != nil {
			return 0, fmt.Errorf("state before %s: %w", e.ID(), err)
		}
		before[e.ID()] = state
	}
	past := make([]room.Past, 0, len(pdus))
	for _, e := range parentsFirst(pdus) {
		past = append(past, room.Past{PDU: e, Before: before[e.ID()]})
	}
	n := 0
	for i, r := range f.cfg.Rooms.Backfill(ctx, p.room, past) {
		_, missing := errors.AsType[*room.Missing](r.Err)
		_, wrong := mxerr.Of(r.Err)
		switch {
		case r.Err == nil:
			n++
		case missing || wrong:
			f.cfg.Log.InfoContext(ctx, "history that could not be taken", "room", p.room, "event", past[i].PDU.ID(), "origin", server, "err", r.Err)
		default:
			return n, r.Err
		}
	}
	return n, nil
}

// authorise fetches auth events that are neither stored nor among the events.
func (f *Federated) authorise(ctx context.Context, p place, server id.ServerName, pdus []*event.PDU) error {
	here := make(map[id.EventID]bool, len(pdus))
	for _, e := range pdus {
		here[e.ID()] = true
	}
	var needed []id.EventID
	for _, e := range pdus {
		for _, a := range e.AuthEvents() {
			if !here[a] {
				needed = append(needed, a)
			}
		}
	}
	missing, err := f.absent(ctx, needed)
	if err != nil || len(missing) == 0 {
		return err
	}
	for _, e := range pdus {
		if !slices.ContainsFunc(e.AuthEvents(), func(a id.EventID) bool { return slices.Contains(missing, a) }) {
			continue
		}
		if err := f.authOf(ctx, p, server, e); err != nil {
			return err
		}
		if missing, err = f.absent(ctx, missing); err != nil || len(missing) == 0 {
			return err
		}
	}
	return nil
}

// oldest returns those of the events that follow something which is neither among them nor part of the room's graph here.
func (f *Federated) oldest(ctx context.Context, pdus []*event.PDU) ([]*event.PDU, error) {
	here := make(map[id.EventID]bool, len(pdus))
	var prev []id.EventID
	for _, e := range pdus {
		here[e.ID()] = true
		prev = append(prev, e.PrevEvents()...)
	}
	for part := range slices.Chunk(prev, storedAtOnce) {
		stored, err := f.cfg.Graph.EventsByID(ctx, part)
		if err != nil {
			return nil, err
		}
		for _, e := range stored {
			if e.Flags&graph.Outlier == 0 {
				here[e.PDU.ID()] = true
			}
		}
	}
	var out []*event.PDU
	for _, e := range pdus {
		known := func(x id.EventID) bool { return here[x] }
		if len(e.PrevEvents()) == 0 || slices.ContainsFunc(e.PrevEvents(), func(x id.EventID) bool { return !known(x) }) {
			out = append(out, e)
		}
	}
	return out, nil
}
