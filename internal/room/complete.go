package room

import (
	"context"
	"fmt"

	"myelin/internal/graph"
	"myelin/matrix/id"
)

// completePiece is how many events are read at once.
const completePiece = 500

// Complete gives a room that was joined without its members the whole state before the join: IDs of stored events. What came since is judged again by
// the states that follow from it. With a nil state the room is only no longer taken for one whose members are to come, as
// after everybody of ours has left.
//
// Spec: ss sendJoinV2
func (r *Rooms) Complete(ctx context.Context, room id.RoomID, state []id.EventID) error {
	_, err := r.advance(ctx, room, graph.TxnRef{}, func(head *graph.Head, settled bool) (step, error) {
		switch {
		case !settled:
			return step{}, errUnsettled
		case !head.Partial:
			return step{}, nil
		case state == nil:
			return step{commit: &graph.Commit{Prev: head, Next: head.Whole(head.State, nil), Whole: true}}, nil
		}
		c := completion{rooms: r, head: head, after: make(map[graph.EventNID]*graph.State), states: make(map[id.EventID]*graph.State)}
		commit, err := c.commit(ctx, state)
		return step{commit: commit}, err
	})
	return err
}

// completion judges again what came into a room since it was joined.
type completion struct {
	rooms *Rooms
	head  *graph.Head
	// after and states hold the states after the events since the join, by number and by ID.
	after  map[graph.EventNID]*graph.State
	states map[id.EventID]*graph.State
	// fresh are the events so far, with their new flags.
	fresh    []*graph.Event
	rejudged []graph.Rejudged
}

func (c *completion) commit(ctx context.Context, state []id.EventID) (*graph.Commit, error) {
	join, err := c.join(ctx)
	if err != nil {
		return nil, err
	}
	whole, err := c.rooms.stateOf(ctx, c.head, state, false)
	if err != nil {
		return nil, err
	}
	for from := join.Ord; ; {
		events, err := c.rooms.cfg.Graph.PlacedSince(ctx, c.head.Room, from, completePiece)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if err := c.judge(ctx, e, join, whole); err != nil {
				return nil, fmt.Errorf("judge %s again: %w", e.PDU.ID(), err)
			}
			from = e.Ord + 1
		}
		if len(events) < completePiece {
			break
		}
	}
	states, err := c.rooms.branches(ctx, c.head, c.head.Extremities, c.after)
	if err != nil {
		return nil, err
	}
	now, err := c.rooms.resolve(ctx, c.head, states, c.fresh...)
	if err != nil {
		return nil, err
	}
	commit := &graph.Commit{Prev: c.head, Next: c.head.Whole(now, c.rejudged), Whole: true}
	for _, j := range c.rejudged {
		commit.Rejudged = append(commit.Rejudged, j.Event)
	}
	return commit, nil
}

// join returns the event by which the room was joined.
func (c *completion) join(ctx context.Context) (*graph.Event, error) {
	partial, err := c.rooms.cfg.Graph.Partial(ctx, c.head.Room-1, 1)
	if err != nil {
		return nil, err
	}
	if len(partial) == 0 || partial[0].Room != c.head.Room {
		return nil, fmt.Errorf("the room %s is partial and does not say since when", c.head.ID)
	}
	e, ok, err := c.rooms.cfg.Graph.Event(ctx, partial[0].Join)
	if err == nil && !ok {
		err = fmt.Errorf("the join of %s is not stored", c.head.ID)
	}
	return e, err
}

// judge finds the state before an event and judges it by that. An event whose ancestors are not here keeps the state that another server told.
func (c *completion) judge(ctx context.Context, stored, join *graph.Event, whole *graph.State) error {
	e := *stored
	before, err := c.before(ctx, &e, join, whole)
	if err != nil {
		return err
	}
	if e.NID != join.NID {
		auth, err := c.rooms.cfg.Graph.EventsByID(ctx, e.PDU.AuthEvents())
		if err != nil {
			return err
		}
		cited := make([]*graph.Event, 0, len(auth))
		for _, a := range auth {
			cited = append(cited, a)
		}
		view := *c.head
		view.Partial = false
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
	e.Flags &^= graph.Thin
	next := before
	if e.Flags&graph.Rejected == 0 {
		next = after(&e, before)
	}
	c.after[e.NID], c.states[e.PDU.ID()] = next, next
	c.fresh = append(c.fresh, &e)
	c.rejudged = append(c.rejudged, graph.Rejudged{Event: &e, Before: before})
	return nil
}

func (c *completion) before(ctx context.Context, e, join *graph.Event, whole *graph.State) (*graph.State, error) {
	if e.NID == join.NID {
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
	}
	stored, err := c.rooms.cfg.Graph.EventsByID(ctx, older)
	if err != nil {
		return nil, err
	}
	var events []*graph.Event
	for _, x := range older {
		s := stored[x]
		if s == nil || s.Flags&graph.Outlier != 0 {
			return c.rooms.cfg.Graph.StateBefore(ctx, e)
		}
		events = append(events, s)
	}
	more, err := c.rooms.statesAfter(ctx, events)
	if err != nil {
		return nil, err
	}
	return c.rooms.resolve(ctx, c.head, append(states, more...), c.fresh...)
}
