package view

import (
	"context"
	"math"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// Neighbourhood asks for what happened around an event, as search results show it.
type Neighbourhood struct {
	Audience Audience
	Room     id.RoomID
	Event    *graph.Event
	// Before and After are the most events to show on each side.
	Before, After int
	// Profiles adds the names and pictures that the senders had.
	Profiles bool
}

// AppendAround appends the context of a search result as JSON. The user must be able to see the event.
//
// Spec: cs search
func (v *View) AppendAround(ctx context.Context, dst []byte, n Neighbourhood) ([]byte, error) {
	a, err := v.access(ctx, n.Audience.User, n.Room)
	if err != nil {
		return nil, err
	}
	e := n.Event
	p := Page{Audience: n.Audience, Room: n.Room, Backward: true}
	before, start, err := v.neighbours(ctx, p, a, window{math.MinInt64, e.Ord}, n.Before, Token(e.Ord-1))
	if err != nil {
		return nil, err
	}
	p.Backward = false
	after, end, err := v.neighbours(ctx, p, a, window{e.Ord, math.MaxInt64}, n.After, Token(e.Ord))
	if err != nil {
		return nil, err
	}
	dst = canon.AppendString(append(dst, `{"start":`...), start.String())
	dst = canon.AppendString(append(dst, `,"end":`...), end.String())
	if dst, err = v.AppendEvents(ctx, append(dst, `,"events_before":`...), n.Audience, before); err != nil {
		return nil, err
	}
	if dst, err = v.AppendEvents(ctx, append(dst, `,"events_after":`...), n.Audience, after); err != nil {
		return nil, err
	}
	if n.Profiles {
		shown := append(append([]*graph.Event{e}, before...), after...)
		if dst, err = v.appendProfiles(ctx, append(dst, `,"profile_info":`...), shown); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

// appendProfiles appends what the senders of events were called then.
func (v *View) appendProfiles(ctx context.Context, dst []byte, shown []*graph.Event) ([]byte, error) {
	members, err := v.senders(ctx, shown)
	if err != nil {
		return nil, err
	}
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(canon.AppendString(dst, m.PDU.Key().StateKey), ':', '{')
		first := true
		for _, field := range []string{"displayname", "avatar_url"} {
			value := gjson.GetBytes(m.PDU.Content(), field)
			if value.Type != gjson.String {
				continue
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = canon.AppendString(append(canon.AppendString(dst, field), ':'), value.Str)
		}
		dst = append(dst, '}')
	}
	return append(dst, '}'), nil
}
