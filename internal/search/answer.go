package search

import (
	"context"
	"strconv"

	"myelin/internal/view"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// Find answers a request with the body of the response.
//
// Spec: cs search
func (s *Search) Find(ctx context.Context, r *Request) ([]byte, error) {
	p, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	out := strconv.AppendInt([]byte(`{"search_categories":{"room_events":{"count":`), int64(p.count), 10)
	out = append(out, `,"highlights":[`...)
	for i, w := range r.question.Shown {
		if i > 0 {
			out = append(out, ',')
		}
		out = canon.AppendString(out, w)
	}
	out = append(out, `],"results":[`...)
	for i, found := range p.results {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = s.appendResult(ctx, out, r, found); err != nil {
			return nil, err
		}
	}
	out = append(out, ']')
	if p.more {
		next := r.from
		next.asOf, next.offset = p.asOf.asOf, p.consumed
		out = canon.AppendString(append(out, `,"next_batch":`...), next.String())
	}
	if r.state {
		if out, err = s.appendStates(ctx, out, r, p); err != nil {
			return nil, err
		}
	}
	if len(r.groups) > 0 {
		out = appendGroups(out, r, p)
	}
	return append(out, `}}}`...), nil
}

func (s *Search) appendResult(ctx context.Context, out []byte, r *Request, found result) ([]byte, error) {
	out = strconv.AppendFloat(append(out, `{"rank":`...), float64(found.rank), 'f', -1, 32)
	to := r.Audience
	to.Bundle = true
	out, err := s.view.AppendEvent(ctx, append(out, `,"result":`...), to, found.event)
	if err != nil {
		return nil, err
	}
	if r.context != nil {
		out, err = s.view.AppendAround(ctx, append(out, `,"context":`...), view.Neighbourhood{
			Audience: r.Audience, Room: found.room, Event: found.event, Profiles: r.context.Profiles,
			Before: bounded(r.context.Before), After: bounded(r.context.After),
		})
		if err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// appendStates appends the state of each room that has results.
func (s *Search) appendStates(ctx context.Context, out []byte, r *Request, p *page) ([]byte, error) {
	out = append(out, `,"state":{`...)
	done := make(map[id.RoomID]bool)
	for _, found := range p.results {
		if done[found.room] {
			continue
		}
		state, err := s.view.State(ctx, r.Audience, found.room)
		if err != nil {
			return nil, err
		}
		if len(done) > 0 {
			out = append(out, ',')
		}
		done[found.room] = true
		out = append(append(canon.AppendString(out, string(found.room)), ':'), state...)
	}
	return append(out, '}'), nil
}

// group is the results of a page that belong together.
type group struct {
	value  string
	events []id.EventID
	// offset is where the next page of this group begins.
	offset int
}

// appendGroups appends the page's results by room or by sender. The groups are in the order of their first results.
func appendGroups(out []byte, r *Request, p *page) []byte {
	out = append(out, `,"groups":{`...)
	for i, by := range r.groups {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(canon.AppendString(out, by), `:{`...)
		for order, g := range p.groups(by, r) {
			if order > 0 {
				out = append(out, ',')
			}
			out = append(canon.AppendString(out, g.value), `:{"order":`...)
			out = append(strconv.AppendInt(out, int64(order+1), 10), `,"results":[`...)
			for j, e := range g.events {
				if j > 0 {
					out = append(out, ',')
				}
				out = canon.AppendString(out, string(e))
			}
			out = append(out, ']')
			if p.more && (r.from.group == "" || r.from.group == by) {
				next := token{p.asOf.asOf, g.offset, by, g.value}
				out = canon.AppendString(append(out, `,"next_batch":`...), next.String())
			}
			out = append(out, '}')
		}
		out = append(out, '}')
	}
	return append(out, '}')
}

func (p *page) groups(by string, r *Request) []*group {
	var all []*group
	byValue := make(map[string]*group)
	for _, found := range p.results {
		value := string(found.room)
		if by == bySender {
			value = string(found.event.PDU.Sender())
		}
		g := byValue[value]
		if g == nil {
			g = &group{value: value, offset: p.consumed}
			if by == byRoom && r.from.group != byRoom {
				// Pages of one room count its hits only.
				g.offset = 0
				for _, h := range p.hits[:min(p.consumed, len(p.hits))] {
					if h.room == found.event.Room {
						g.offset++
					}
				}
			}
			byValue[value] = g
			all = append(all, g)
		}
		g.events = append(g.events, found.event.PDU.ID())
	}
	return all
}
