package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// membershipRoutes is the chapter on the membership of rooms.
//
// Spec: cs Room membership
func (a *API) membershipRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "GET", Path: v3 + "/joined_rooms", Op: "getJoinedRooms", Auth: web.Guest, Handle: a.joinedRooms},
		{Method: "POST", Path: v3 + "/rooms/{roomId}/invite", Op: "inviteUser", Rate: web.RateSend, NotSuspended: true, Handle: a.invite},
		{Method: "POST", Path: v3 + "/join/{roomIdOrAlias}", Op: "joinRoom", Auth: web.Guest, Rate: web.RateSend, EmptyBody: true, NotSuspended: true, Handle: a.joinRoom},
		{Method: "POST", Path: v3 + "/rooms/{roomId}/join", Op: "joinRoomById", Auth: web.Guest, Rate: web.RateSend, EmptyBody: true, NotSuspended: true, Handle: a.joinRoomByID},
		{Method: "POST", Path: v3 + "/knock/{roomIdOrAlias}", Op: "knockRoom", Rate: web.RateSend, EmptyBody: true, NotSuspended: true, Handle: a.knock},
		{Method: "POST", Path: v3 + "/rooms/{roomId}/leave", Op: "leaveRoom", Auth: web.Guest, Rate: web.RateSend, EmptyBody: true, Handle: a.leave},
		{Method: "POST", Path: v3 + "/rooms/{roomId}/forget", Op: "forgetRoom", Auth: web.Guest, EmptyBody: true, Handle: a.forget},
		{Method: "POST", Path: v3 + "/rooms/{roomId}/kick", Op: "kick", Rate: web.RateSend, NotSuspended: true, Handle: a.kick},
		{Method: "POST", Path: v3 + "/rooms/{roomId}/ban", Op: "ban", Rate: web.RateSend, NotSuspended: true, Handle: a.ban},
		{Method: "POST", Path: v3 + "/rooms/{roomId}/unban", Op: "unban", Rate: web.RateSend, NotSuspended: true, Handle: a.unban},
	}
}

// Spec: cs getJoinedRooms
func (a *API) joinedRooms(ctx context.Context, r *web.Request) (*web.Response, error) {
	rows, err := a.Graph.MembershipsOf(ctx, r.Caller.User, graph.Join)
	if err != nil {
		return nil, err
	}
	rooms := make([]id.RoomID, len(rows))
	for i, m := range rows {
		rooms[i] = m.RoomID
	}
	return web.JSON(map[string]any{"joined_rooms": rooms}), nil
}

// targeted is the body of the operations that concern another user.
type targeted struct {
	UserID string `json:"user_id"`
	Reason string `json:"reason"`
}

// onTarget serves an operation that concerns another user of a room.
func (a *API) onTarget(ctx context.Context, r *web.Request, act func(context.Context, room.Membership) (id.EventID, error)) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	var body targeted
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.UserID == "" {
		return nil, mxerr.MissingParam("\"user_id\" is missing")
	}
	target, err := id.ParseUserID(body.UserID)
	if err != nil {
		return nil, mxerr.InvalidParam("%v", err)
	}
	if r.Op() == "inviteUser" {
		if err := a.find(ctx, target); err != nil {
			return nil, err
		}
	}
	_, err = act(ctx, room.Membership{Room: roomID, Sender: r.Caller.User, Target: target, Reason: body.Reason})
	if err != nil {
		return nil, err
	}
	return web.Empty, nil
}

// find has an application service make a user of its own who is about to be invited, if there is none. Users who don't exist can be invited all the
// same: nobody can find out who exists that way.
//
// Spec: as Querying
func (a *API) find(ctx context.Context, user id.UserID) error {
	if !a.Ours.Is(user.Domain()) {
		return nil
	}
	_, err := a.Accounts.Exists(ctx, user)
	return err
}

// Spec: cs inviteUser
func (a *API) invite(ctx context.Context, r *web.Request) (*web.Response, error) {
	object, err := r.Object()
	if err != nil {
		return nil, err
	}
	var in addressed
	if err := web.DecodeObject(object, &in); err != nil {
		return nil, err
	}
	if in.Medium != "" {
		roomID, err := r.RoomID("roomId")
		if err != nil {
			return nil, err
		}
		return web.Empty, a.inviteAddress(ctx, r.Caller.User, roomID, in)
	}
	return a.onTarget(ctx, r, a.Federated.Invite)
}

// Spec: cs kick
func (a *API) kick(ctx context.Context, r *web.Request) (*web.Response, error) {
	return a.onTarget(ctx, r, a.Rooms.Kick)
}

// Spec: cs ban
func (a *API) ban(ctx context.Context, r *web.Request) (*web.Response, error) {
	return a.onTarget(ctx, r, a.Rooms.Ban)
}

// Spec: cs unban
func (a *API) unban(ctx context.Context, r *web.Request) (*web.Response, error) {
	return a.onTarget(ctx, r, a.Rooms.Unban)
}

// Spec: cs leaveRoom
func (a *API) leave(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if err := a.mayLeave(ctx, r.Caller.User, roomID); err != nil {
		return nil, err
	}
	_, err = a.Federated.Leave(ctx, room.Membership{Room: roomID, Sender: r.Caller.User, Reason: body.Reason})
	if err != nil {
		return nil, err
	}
	return web.Empty, nil
}

// mayLeave refuses to reject what can't be rejected.
//
// Spec: cs Server Notices
func (a *API) mayLeave(ctx context.Context, user id.UserID, roomID id.RoomID) error {
	if a.Notices == nil {
		return nil
	}
	return a.Notices.MayLeave(ctx, user, roomID)
}

// Spec: cs forgetRoom
func (a *API) forget(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	err = a.Rooms.Forget(ctx, r.Caller.User, roomID)
	if mxerr.Is(err, mxerr.CodeUnknown) { // the user is still in the room
		return nil, web.Status(err, http.StatusBadRequest)
	} else if err != nil {
		return nil, err
	}
	return web.Empty, nil
}

// entering is the body of the operations by which a user enters a room.
type entering struct {
	Reason           string          `json:"reason"`
	ThirdPartySigned json.RawMessage `json:"third_party_signed"`
}

// otherFields are the fields of a body that entering has no place for. Clients may put them into the member
// event as they could with a state event of their own; nil if there are none.
func otherFields(r *web.Request) (map[string]any, error) {
	var fields map[string]any
	if err := r.Decode(&fields); err != nil {
		return nil, err
	}
	delete(fields, "reason")
	delete(fields, "third_party_signed")
	if len(fields) == 0 {
		return nil, nil
	}
	return fields, nil
}

// Spec: cs joinRoom
func (a *API) joinRoom(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, via, err := a.roomIDOrAlias(ctx, r)
	if err != nil {
		return nil, err
	}
	return a.join(ctx, r, roomID, via)
}

// Spec: cs joinRoomById
func (a *API) joinRoomByID(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	return a.join(ctx, r, roomID, nil)
}

// roomEntered is the answer of the operations by which a user enters a room.
type roomEntered struct {
	RoomID id.RoomID `json:"room_id"`
}

func (a *API) join(ctx context.Context, r *web.Request, roomID id.RoomID, via []id.ServerName) (*web.Response, error) {
	var body entering
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if signed := gjson.ParseBytes(body.ThirdPartySigned); signed.Exists() && signed.Type != gjson.Null && !signed.IsObject() {
		return nil, mxerr.BadJSON("third_party_signed must be an object")
	}
	content, err := otherFields(r)
	if err != nil {
		return nil, err
	}
	_, err = a.Federated.Join(ctx, room.Join{
		Membership:       room.Membership{Room: roomID, Sender: r.Caller.User, Reason: body.Reason, Content: content},
		ThirdPartySigned: body.ThirdPartySigned,
	}, via)
	if err != nil {
		return nil, err
	}
	return web.JSON(roomEntered{roomID}), nil
}

// Spec: cs knockRoom
func (a *API) knock(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, via, err := a.roomIDOrAlias(ctx, r)
	if err != nil {
		return nil, err
	}
	var body entering
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	_, err = a.Federated.Knock(ctx, room.Membership{Room: roomID, Sender: r.Caller.User, Reason: body.Reason}, via)
	if err != nil {
		return nil, err
	}
	return web.JSON(roomEntered{roomID}), nil
}

// setMembership serves PUT …/state/m.room.member/{userId}: the same transitions as their own
// operations make, with the content of the client's choice.
//
// Spec: cs setRoomStateWithKey
func (a *API) setMembership(ctx context.Context, r *web.Request, roomID id.RoomID, stateKey string, content []byte) (*web.Response, error) {
	target, err := id.ParseUserID(stateKey)
	if err != nil {
		return nil, mxerr.InvalidParam("%v", err)
	}
	var fields map[string]any
	if err := web.DecodeObject(content, &fields); err != nil {
		return nil, err
	}
	var event id.EventID
	ts, err := massaged(r)
	if err != nil {
		return nil, err
	}
	m := room.Membership{Room: roomID, Sender: r.Caller.User, Target: target, Content: fields, TS: ts}
	switch {
	case fields["membership"] == "join" && target == r.Caller.User:
		event, err = a.Federated.Join(ctx, room.Join{Membership: m}, nil)
	case fields["membership"] == "invite":
		if err := a.find(ctx, target); err != nil {
			return nil, err
		}
		event, err = a.Federated.Invite(ctx, m)
	default:
		if target == r.Caller.User {
			if err := a.mayLeave(ctx, target, roomID); err != nil {
				return nil, err
			}
		}
		event, err = a.Rooms.Send(ctx, room.Message{
			Room:     roomID,
			Proposal: room.Proposal{Sender: r.Caller.User, Type: "m.room.member", StateKey: &stateKey, Content: content, TS: ts},
		})
	}
	if err != nil {
		return nil, err
	}
	return web.JSON(eventSent{event}), nil
}
