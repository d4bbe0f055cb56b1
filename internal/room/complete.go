package room

import (
	"context"
	"fmt"
	"math"
	"slices"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

const (
	// completePiece is how many events are read at once.
	completePiece = 500
	// maxLacking bounds the joins before which the state is asked for.
	maxLacking = 20
	// maxTorn bounds the events that are looked at for such joins: anybody in the room can make many that follow what isn't here.
	maxTorn = 20 * completePiece
)

// Lacking returns the joins of ours in a room without all its members before which the state is not known, and which do not follow what is
// here, so that it must be asked for: first the join by which the room was joined, then that of an earlier stay that ended before, and those of users who
// came through other servers before the members were known. Of many it returns the newest.
func (r *Rooms) Lacking(ctx context.Context, p graph.PartialRoom) ([]id.EventID, error) {
	start, err := r.firstThin(ctx, p)
	if err != nil {
		return nil, err
	}
	lacking := []id.EventID{p.Join}
	if start.PDU.ID() == p.Since && start.Flags&graph.Thin != 0 && p.Since != p.Join {
		lacking = append(lacking, p.Since)
	}
	var found []id.EventID
	before := int64(math.MaxInt64)
	for seen := 0; seen < maxTorn && len(found) < maxLacking; {
		events, err := r.cfg.Graph.TornWithin(ctx, p.Room, start.Ord, before, completePiece)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			before = e.Ord
			if x := e.PDU.ID(); x != p.Join && x != p.Since && len(found) < maxLacking && r.entrance(e.PDU) {
				found = append(found, x)
			}
		}
		if seen += len(events); len(events) < completePiece {
			break
		}
	}
	slices.Reverse(found)
	return append(lacking, found...), nil
}

// entrance reports whether an event is a join of a user of ours.
func (r *Rooms) entrance(p *event.PDU) bool {
	return p.Type() == "m.room.member" && p.Key().StateKey == string(p.Sender()) && r.cfg.Ours.Is(p.Sender().Domain()) &&
		p.Membership() == string(graph.Join)
}

// firstThin returns the join from which on states may lack members.
func (r *Rooms) firstThin(ctx context.Context, p graph.PartialRoom) (*graph.Event, error) {
	first := p.Join
	if p.Since != "" {
		first = p.Since
	}
	start, ok, err := r.cfg.Graph.Event(ctx, first)
	if err == nil && !ok {
		err = fmt.Errorf("the join %s of %s is not stored", first, p.RoomID)
	}
	return start, err
}

// thinSince calls fn for the events of a room, in their order, before which the state lacks members.
func (r *Rooms) thinSince(ctx context.Context, p graph.PartialRoom, fn func(*graph.Event) error) error {
	start, err := r.firstThin(ctx, p)
	if err != nil {
		return err
	}
	for from := start.Ord; ; {
		events, err := r.cfg.Graph.ThinSince(ctx, p.Room, from, completePiece)
		if err != nil {
			return err
		}
		for _, e := range events {
			from = e.Ord + 1
			if err := fn(e); err != nil {
				return err
			}
		}
		if len(events) < completePiece {
			return nil
		}
	}
}

// Complete gives a room that was joined without its members the whole state before that join, and before others that [Rooms.Lacking] names: IDs of stored
// events. What came since is judged again by the states that follow from it. A join other than the first whose state is not given stays as
// it is, and so does what is known of what follows it. With nil states the room, which everybody of ours has left, is only no longer taken for one
// whose members are to come.
//
// Spec: ss sendJoinV2
func (r *Rooms) Complete(ctx context.Context, room id.RoomID, states map[id.EventID][]id.EventID) error {
	_, err := r.advance(ctx, room, graph.TxnRef{}, func(head *graph.Head, settled bool) (step, error) {
		switch {
		case !settled:
			return step{}, errUnsettled
		case !head.Partial:
			return step{}, nil
		case states == nil:
			// Somebody may have joined again in this moment.
			if present, err := r.present(ctx, head); present || err != nil {
				return step{}, err
			}
			return step{commit: &graph.Commit{Prev: head, Next: head.Whole(head.State, nil), Whole: true}}, nil
		}
		c := completion{
			rooms: r, head: head, given: make(map[id.EventID]*graph.State), thin: make(map[id.EventID]bool),
			after: make(map[graph.EventNID]*graph.State), states: make(map[id.EventID]*graph.State), judged: make(map[graph.EventNID]*graph.Event),
		}
		commit, err := c.commit(ctx, states)
		return step{commit: commit}, err
	})
	return err
}

// completion judges again what came into a room since it was joined.
type completion struct {
	rooms *Rooms
	head  *graph.Head
	room  graph.PartialRoom
	// given are the states before joins as other servers told them.
	given map[id.EventID]*graph.State
	// thin are events before which the state still lacks members.
	thin map[id.EventID]bool
	// after and states hold the states after the events since the join, by number and by ID.
	after  map[graph.EventNID]*graph.State
	states map[id.EventID]*graph.State
	// judged are the events so far, with their new flags.
	judged   map[graph.EventNID]*graph.Event
	rejudged []graph.Rejudged
}

func (c *completion) commit(ctx context.Context, given map[id.EventID][]id.EventID) (*graph.Commit, error) {
	partial, err := c.rooms.cfg.Graph.Partial(ctx, c.head.Room-1, 1)
	if err != nil {
		return nil, err
	}
	if len(partial) == 0 || partial[0].Room != c.head.Room {
		return nil, fmt.Errorf("the room %s is partial and does not say since when", c.head.ID)
	}
	c.room = partial[0]
	if given[c.room.Join] == nil {
		// Another stay has begun since these states were asked for.
		return nil, fmt.Errorf("the state before the join of %s is not given", c.head.ID)
	}
	for e, ids := range given {
		if c.given[e], err = c.rooms.stateOf(ctx, c.head, ids, false); err != nil {
			return nil, err
		}
	}
	err = c.rooms.thinSince(ctx, c.room, func(e *graph.Event) error {
		if err := c.judge(ctx, e); err != nil {
			return fmt.Errorf("judge %s again: %w", e.PDU.ID(), err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	states, err := c.rooms.branches(ctx, c.head, c.head.Extremities, c.after)
	if err != nil {
		return nil, err
	}
	now, err := c.rooms.resolveJudged(ctx, c.head, states, c.judged)
	if err != nil {
		return nil, err
	}
	commit := &graph.Commit{Prev: c.head, Next: c.head.Whole(now, c.rejudged), Whole: true}
	for _, j := range c.rejudged {
		commit.Rejudged = append(commit.Rejudged, j.Event)
	}
	return commit, nil
}

// judge finds the state before an event and judges it by that. An event whose ancestors are not here keeps the state that another server told.
func (c *completion) judge(ctx context.Context, stored *graph.Event) error {
	e := *stored
	before, err := c.before(ctx, &e)
	if err != nil {
		return err
	}
	if e.PDU.ID() != c.room.Join {
		auth, err := c.rooms.cfg.Graph.EventsByID(ctx, e.PDU.AuthEvents())
		if err != nil {
			return err
		}
		cited := make([]*graph.Event, 0, len(auth))
		for _, a := range auth {
			cited = append(cited, a)
		}
		view := *c.head
		view.Partial = c.thin[e.PDU.ID()]
		j := judgement{rooms: c.rooms, head: &view, settled: true, pdu: e.PDU}
		rejection, err := j.allowed(ctx, cited, before)
		if err != nil {
			return err
		}
		e.Flags &^= graph.Rejected
		if rejection != nil {
			e.Flags |= graph.Rejected
		}
	}
	if !c.thin[e.PDU.ID()] {
		e.Flags &^= graph.Thin
	}
	next := before
	if e.Flags&graph.Rejected == 0 {
		next = after(&e, before)
	}
	c.after[e.NID], c.states[e.PDU.ID()] = next, next
	c.judged[e.NID] = &e
	c.rejudged = append(c.rejudged, graph.Rejudged{Event: &e, Before: before})
	return nil
}

// before returns the state before an event, and notes whether it lacks members.
func (c *completion) before(ctx context.Context, e *graph.Event) (*graph.State, error) {
	if whole := c.given[e.PDU.ID()]; whole != nil {
		return whole, nil
	}
	var states []*graph.State
	var older []id.EventID
	for _, x := range e.PDU.PrevEvents() {
		if s := c.states[x]; s != nil {
			states = append(states, s)
		} else {
			older = append(older, x)
		}
		if c.thin[x] {
			c.thin[e.PDU.ID()] = true
		}
	}
	stored, err := c.rooms.cfg.Graph.EventsByID(ctx, older)
	if err != nil {
		return nil, err
	}
	var events []*graph.Event
	for _, x := range older {
		s := stored[x]
		if s == nil || s.Flags&graph.Outlier != 0 {
			c.thin[e.PDU.ID()] = c.rooms.entrance(e.PDU)
			return c.rooms.cfg.Graph.StateBefore(ctx, e)
		}
		if s.Flags&graph.Thin != 0 {
			c.thin[e.PDU.ID()] = true
		}
		events = append(events, s)
	}
	more, err := c.rooms.statesAfter(ctx, events)
	if err != nil {
		return nil, err
	}
	return c.rooms.resolveJudged(ctx, c.head, append(states, more...), c.judged)
}
