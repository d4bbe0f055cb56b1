package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// Template is a membership event that another server prepared and that we may complete and sign.
type Template struct {
	// RoomVersion is what the other server says; "1" where it doesn't say.
	RoomVersion string
	// Event is of the room, the user, the type and the membership that were asked for; nothing else of it was checked.
	Event json.RawMessage
}

// Joined is the answer to a join, its events apart.
type Joined struct {
	// Event is the join as the other server sends it to the room; nil where it didn't say.
	Event json.RawMessage
	// MembersOmitted: state lacks members, and Servers says who is in the room.
	MembersOmitted bool
	Servers        []id.ServerName
}

// Events takes events as they arrive, one at a time. The bytes are unchecked, at most 1 MiB, and the
// callee's to keep. An error of either ends the call, and the call returns it.
type Events struct {
	State     func(raw json.RawMessage) error
	AuthChain func(raw json.RawMessage) error
}

// MakeJoin asks for a template of a join. Versions are the room versions that we support.
//
// Spec: ss makeJoin
func (c *Client) MakeJoin(ctx context.Context, call Call, room id.RoomID, user id.UserID, versions []string) (Template, error) {
	return c.makeMembership(ctx, call, "makeJoin", "make_join", room, user, versions)
}

// MakeLeave asks for a template of a leave: of an invite we reject, a knock we take back, or a room.
//
// Spec: ss makeLeave
func (c *Client) MakeLeave(ctx context.Context, call Call, room id.RoomID, user id.UserID) (Template, error) {
	return c.makeMembership(ctx, call, "makeLeave", "make_leave", room, user, nil)
}

// MakeKnock asks for a template of a knock.
//
// Spec: ss makeKnock
func (c *Client) MakeKnock(ctx context.Context, call Call, room id.RoomID, user id.UserID, versions []string) (Template, error) {
	return c.makeMembership(ctx, call, "makeKnock", "make_knock", room, user, versions)
}

func (c *Client) makeMembership(ctx context.Context, call Call, op, path string, room id.RoomID, user id.UserID, versions []string) (Template, error) {
	var query url.Values
	if len(versions) > 0 {
		query = url.Values{"ver": versions}
	}
	var answer struct {
		RoomVersion string          `json:"room_version"`
		Event       json.RawMessage `json:"event"`
	}
	rq := request{op: op, method: http.MethodGet, path: segments(v1, path, string(room), string(user)), query: query, timeout: 45 * time.Second, limit: maxEventAnswer}
	if err := c.decode(ctx, call, rq, &answer); err != nil {
		return Template{}, err
	}
	if err := checkTemplate(answer.Event, room, user, path[len("make_"):]); err != nil {
		return Template{}, c.malformed(call, op, err)
	}
	if answer.RoomVersion == "" {
		answer.RoomVersion = "1"
	}
	return Template{answer.RoomVersion, answer.Event}, nil
}

// checkTemplate refuses a template for anything but what was asked for: we would sign it.
//
// Spec: ss Joining Rooms
func checkTemplate(event json.RawMessage, room id.RoomID, user id.UserID, membership string) error {
	if len(event) == 0 || event[0] != '{' {
		return errors.New("the template is not an object")
	}
	content, _ := canon.Get(event, "content")
	for _, f := range []struct {
		object    []byte
		key, want string
	}{
		{event, "type", "m.room.member"}, {event, "room_id", string(room)}, {event, "sender", string(user)},
		{event, "state_key", string(user)}, {content, "membership", membership},
	} {
		if got, ok := canon.GetText(f.object, f.key); !ok || got != f.want {
			return fmt.Errorf("the template has %s %.100q instead of %q", f.key, got, f.want)
		}
	}
	return nil
}

// SendJoin hands in a signed join. The events of the answer go to each as they arrive, before SendJoin returns; it is
// for the caller to judge them, and to throw them away where an error is returned.
//
// Spec: ss sendJoinV2
func (c *Client) SendJoin(ctx context.Context, call Call, room id.RoomID, event id.EventID, body []byte, omitMembers bool, each Events) (Joined, error) {
	rq := request{
		op: "sendJoinV2", method: http.MethodPut, path: segments(v2, "send_join", string(room), string(event)), body: body,
		timeout: 10 * time.Minute, limit: maxStateAnswer,
	}
	if omitMembers {
		rq.query = url.Values{"omit_members": {"true"}}
	}
	var joined Joined
	err := c.stream(ctx, call, rq, stateAnswer{
		arrays:  map[string]func(json.RawMessage) error{"state": each.State, "auth_chain": each.AuthChain},
		objects: map[string]any{"event": &joined.Event, "members_omitted": &joined.MembersOmitted, "servers_in_room": (*serverNames)(&joined.Servers)},
	})
	return joined, err
}

// SendLeave hands in a signed leave.
//
// Spec: ss sendLeaveV2
func (c *Client) SendLeave(ctx context.Context, call Call, room id.RoomID, event id.EventID, body []byte) error {
	rq := request{op: "sendLeaveV2", method: http.MethodPut, path: segments(v2, "send_leave", string(room), string(event)), body: body, timeout: 45 * time.Second, limit: maxSmallAnswer}
	err := c.decode(ctx, call, rq, nil)
	if !unknownEndpoint(err) {
		return err
	}
	// Servers from before version 2 of this operation, which answers with an array.
	rq.path = segments(v1, "send_leave", string(room), string(event))
	return c.decode(ctx, call, rq, nil)
}

// SendKnock hands in a signed knock and returns stripped state of the room.
//
// Spec: ss sendKnock
func (c *Client) SendKnock(ctx context.Context, call Call, room id.RoomID, event id.EventID, body []byte) ([]json.RawMessage, error) {
	rq := request{op: "sendKnock", method: http.MethodPut, path: segments(v1, "send_knock", string(room), string(event)), body: body, timeout: 45 * time.Second, limit: maxMediumAnswer}
	var answer struct {
		State []json.RawMessage `json:"knock_room_state"`
	}
	err := c.decode(ctx, call, rq, &answer)
	return answer.State, err
}

// Invitation is an invite on its way to the server of the invited user.
type Invitation struct {
	RoomVersion string
	Event       json.RawMessage
	// State describes the room to the invited user.
	State []json.RawMessage
}

// Invite has an invite signed by the invited user's server. It returns the event as that server gave it back, unchecked.
//
// Spec: ss sendInviteV2
func (c *Client) Invite(ctx context.Context, call Call, room id.RoomID, event id.EventID, invitation Invitation) (json.RawMessage, error) {
	if invitation.State == nil {
		invitation.State = []json.RawMessage{}
	}
	body, err := json.Marshal(map[string]any{"room_version": invitation.RoomVersion, "event": invitation.Event, "invite_room_state": invitation.State})
	if err != nil {
		return nil, fmt.Errorf("encode an invite: %w", err)
	}
	rq := request{op: "sendInviteV2", method: http.MethodPut, path: segments(v2, "invite", string(room), string(event)), body: body, timeout: 45 * time.Second, limit: maxEventAnswer}
	var answer struct {
		Event json.RawMessage `json:"event"`
	}
	err = c.decode(ctx, call, rq, &answer)
	old := invitation.RoomVersion == "1" || invitation.RoomVersion == "2"
	if remote, ok := errors.AsType[*RemoteError](err); ok && old && (remote.Status == http.StatusBadRequest || remote.Status == http.StatusNotFound) {
		return c.inviteV1(ctx, call, room, event, invitation)
	}
	if err == nil && len(answer.Event) == 0 {
		err = c.malformed(call, rq.op, errors.New("there is no event"))
	}
	return answer.Event, err
}

// inviteV1 is Invite for servers that don't know the operation's second version.
//
// Spec: ss sendInviteV1
func (c *Client) inviteV1(ctx context.Context, call Call, room id.RoomID, event id.EventID, invitation Invitation) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(invitation.Event, &fields); err != nil {
		return nil, fmt.Errorf("decode an invite of ours: %w", err)
	}
	state, err := json.Marshal(map[string]any{"invite_room_state": invitation.State})
	if err != nil {
		return nil, fmt.Errorf("encode an invite: %w", err)
	}
	fields["unsigned"] = state
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("encode an invite: %w", err)
	}
	rq := request{op: "sendInviteV1", method: http.MethodPut, path: segments(v1, "invite", string(room), string(event)), body: body, timeout: 45 * time.Second, limit: maxEventAnswer}
	var pair []json.RawMessage
	if err := c.decode(ctx, call, rq, &pair); err != nil {
		return nil, err
	}
	var answer struct {
		Event json.RawMessage `json:"event"`
	}
	if len(pair) != 2 || json.Unmarshal(pair[1], &answer) != nil || len(answer.Event) == 0 {
		return nil, c.malformed(call, rq.op, errors.New("there is no event"))
	}
	return answer.Event, nil
}

// ExchangeThirdPartyInvite asks the server that invited an e-mail address to invite the user it belongs to.
//
// Spec: ss exchangeThirdPartyInvite
func (c *Client) ExchangeThirdPartyInvite(ctx context.Context, call Call, room id.RoomID, event []byte) error {
	rq := request{op: "exchangeThirdPartyInvite", method: http.MethodPut, path: segments(v1, "exchange_third_party_invite", string(room)), body: event, timeout: 45 * time.Second, limit: maxSmallAnswer}
	return c.decode(ctx, call, rq, nil)
}
