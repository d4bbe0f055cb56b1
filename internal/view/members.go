package view

import (
	"context"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// MembersQuery asks for the members of a room.
type MembersQuery struct {
	Audience Audience
	Room     id.RoomID
	// At is a token; empty means now.
	At string
	// Membership and NotMembership select; empty means all. With both, one suffices.
	Membership, NotMembership graph.Membership
}

func (q *MembersQuery) selects(m graph.Membership) bool {
	switch {
	case q.Membership == "" && q.NotMembership == "":
		return true
	case q.Membership != "" && m == q.Membership:
		return true
	}
	return q.NotMembership != "" && m != q.NotMembership
}

// Members returns the member events of a room as the body of the response.
//
// Spec: cs getMembersByRoom
func (v *View) Members(ctx context.Context, q MembersQuery) ([]byte, error) {
	a, err := v.access(ctx, q.Audience.User, q.Room)
	if err != nil {
		return nil, err
	}
	state, err := v.stateAtToken(ctx, a, q.At)
	if err != nil {
		return nil, err
	}
	var nids []graph.EventNID
	for m := range state.Members() {
		if q.selects(m.Membership) {
			nids = append(nids, m.Event)
		}
	}
	events, err := v.cfg.Graph.Events(ctx, a.head.Room, nids)
	if err != nil {
		return nil, err
	}
	out, err := v.AppendEvents(ctx, []byte(`{"chunk":`), q.Audience, events)
	if err != nil {
		return nil, err
	}
	return append(out, '}'), nil
}

// stateAtToken returns the state after the last event at or before the token, as far as the
// reader may see. Members may look back further than their join: their first sync gives them such tokens.
func (v *View) stateAtToken(ctx context.Context, a access, at string) (*graph.State, error) {
	if at == "" {
		return v.state(ctx, a)
	}
	token, err := ParseToken(at)
	if err != nil {
		return nil, err
	}
	e, ok, err := v.cfg.Graph.LastBefore(ctx, a.head.Room, min(int64(token), a.end()))
	if err != nil {
		return nil, err
	}
	if !ok {
		if e, err = v.beginning(ctx, a); err != nil {
			return nil, err
		}
	}
	if a.peeking {
		seen, err := v.looking(a, a.head.Room).sees(ctx, e)
		if err != nil {
			return nil, err
		}
		if !seen {
			return nil, mxerr.Forbidden("you may not see who was in this room then")
		}
	}
	return v.stateAt(ctx, e)
}

// beginning is the second event of a room, its creator's join, or of what we have of the room. It stands for all
// tokens from before: a client that has the whole timeline has such a one, and a room that nobody is in yet is of no use to it.
func (v *View) beginning(ctx context.Context, a access) (*graph.Event, error) {
	events, err := v.cfg.Graph.Timeline(ctx, a.head.Room, graph.Range{After: graph.Beginning, Before: graph.End, Limit: 2})
	if err != nil {
		return nil, err
	}
	if len(events) == 0 {
		return nil, mxerr.InvalidParam("the room has no history before that token")
	}
	return events[len(events)-1], nil
}

// JoinedMember is what joined_members says of a user.
type JoinedMember struct {
	DisplayName *string `json:"display_name,omitempty"`
	AvatarURL   *string `json:"avatar_url,omitempty"`
}

// JoinedMembers returns who is in a room. The caller must be in it.
//
// Spec: cs getJoinedMembersByRoom
func (v *View) JoinedMembers(ctx context.Context, user id.UserID, room id.RoomID) (map[id.UserID]JoinedMember, error) {
	a, err := v.access(ctx, user, room)
	if err != nil {
		return nil, err
	}
	if a.row.Membership != graph.Join {
		return nil, mxerr.Forbidden("you are not in this room")
	}
	var nids []graph.EventNID
	for m := range a.head.State.Members(graph.Join) {
		nids = append(nids, m.Event)
	}
	events, err := v.cfg.Graph.Events(ctx, a.head.Room, nids)
	if err != nil {
		return nil, err
	}
	members := make(map[id.UserID]JoinedMember, len(events))
	for _, e := range events {
		content := gjson.ParseBytes(e.PDU.Content())
		members[id.UserID(e.PDU.Key().StateKey)] = JoinedMember{
			DisplayName: stringAt(content, "displayname"), AvatarURL: stringAt(content, "avatar_url"),
		}
	}
	return members, nil
}

func stringAt(content gjson.Result, field string) *string {
	if v := content.Get(field); v.Type == gjson.String {
		return &v.Str
	}
	return nil
}

// State returns all state events that the user may see, as a JSON array.
//
// Spec: cs getRoomState
func (v *View) State(ctx context.Context, to Audience, room id.RoomID) ([]byte, error) {
	a, err := v.access(ctx, to.User, room)
	if err != nil {
		return nil, err
	}
	state, err := v.state(ctx, a)
	if err != nil {
		return nil, err
	}
	nids := make([]graph.EventNID, 0, state.Len())
	for _, nid := range state.All() {
		nids = append(nids, nid)
	}
	events, err := v.cfg.Graph.Events(ctx, a.head.Room, nids)
	if err != nil {
		return nil, err
	}
	return v.AppendEvents(ctx, nil, to, events)
}

// StateEntry returns one state event, or only its content.
//
// Spec: cs getRoomStateWithKey
func (v *View) StateEntry(ctx context.Context, to Audience, room id.RoomID, typ, stateKey string, whole bool) ([]byte, error) {
	a, err := v.access(ctx, to.User, room)
	if err != nil {
		return nil, err
	}
	state, err := v.state(ctx, a)
	if err != nil {
		return nil, err
	}
	nid, ok := state.Get(typ, stateKey)
	if !ok {
		return nil, mxerr.NotFound("the room has no such state event")
	}
	events, err := v.cfg.Graph.Events(ctx, a.head.Room, []graph.EventNID{nid})
	if err != nil {
		return nil, err
	}
	if !whole {
		return events[0].PDU.Content(), nil
	}
	return v.AppendEvent(ctx, nil, to, events[0])
}
