package clientapi

import (
	"context"

	"myelin/internal/graph"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// readingRoutes is the chapter on getting events of a room.
//
// Spec: cs Getting events for a room
func (a *API) readingRoutes() []web.Route {
	const v3 = "/_matrix/client/v3/rooms/{roomId}"
	return []web.Route{
		{Method: "GET", Path: v3 + "/messages", Op: "getRoomEvents", Auth: web.Guest, Handle: a.messages},
		{Method: "GET", Path: v3 + "/context/{eventId}", Op: "getEventContext", Auth: web.Guest, Handle: a.eventContext},
		{Method: "GET", Path: v3 + "/event/{eventId}", Op: "getOneRoomEvent", Auth: web.Guest, Handle: a.event},
		{Method: "GET", Path: v3 + "/members", Op: "getMembersByRoom", Auth: web.Guest, Handle: a.members},
		{Method: "GET", Path: v3 + "/joined_members", Op: "getJoinedMembersByRoom", Auth: web.Guest, Handle: a.joinedMembers},
		{Method: "GET", Path: v3 + "/state", Op: "getRoomState", Auth: web.Guest, Handle: a.state},
		{Method: "GET", Path: v3 + "/state/{eventType}/{stateKey?}", Op: "getRoomStateWithKey", Auth: web.Guest, Handle: a.stateEntry},
		{Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event", Op: "getEventByTimestamp", Auth: web.Guest, Handle: a.timestampToEvent},
	}
}

// audience is the caller as package view wants to know them.
func audience(r *web.Request) view.Audience {
	return view.Audience{User: r.Caller.User, Device: r.Caller.Device}
}

// roomEventFilter reads the "filter" parameter of an operation on one room.
func roomEventFilter(r *web.Request) (*view.RoomEventFilter, error) {
	return view.ParseRoomEventFilter([]byte(r.Query("filter")))
}

// Spec: cs getRoomEvents
func (a *API) messages(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	p, err := messagesPage(r, roomID)
	if err != nil {
		// Who may not read the room is told so first.
		if denied := a.View.MayRead(ctx, r.Caller.User, roomID); denied != nil {
			return nil, denied
		}
		return nil, err
	}
	if p.Backward {
		// Only who may read the room can have other servers asked for it.
		if err := a.View.MayRead(ctx, r.Caller.User, roomID); err != nil {
			return nil, err
		}
		if p.Open, err = a.Federated.Reach(ctx, roomID, p.From, p.Limit); err != nil {
			return nil, err
		}
	}
	body, err := a.View.Messages(ctx, p)
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}

// messagesPage reads the parameters of messages.
func messagesPage(r *web.Request, roomID id.RoomID) (p view.Page, err error) {
	p = view.Page{Audience: audience(r), Room: roomID, From: r.Query("from"), To: r.Query("to")}
	switch r.Query("dir") {
	case "b":
		p.Backward = true
	case "f":
	case "":
		return p, mxerr.MissingParam("\"dir\" is missing: it must be b or f")
	default:
		return p, mxerr.InvalidParam("\"dir\" must be b or f")
	}
	if p.Filter, err = roomEventFilter(r); err != nil {
		return p, err
	}
	limit, err := r.QueryInt("limit", 10)
	p.Limit = int(min(max(limit, 0), 1000))
	return p, err
}

// Spec: cs getEventContext
func (a *API) eventContext(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	c := view.EventContext{Audience: audience(r), Room: roomID}
	if c.Event, err = r.EventID("eventId"); err != nil {
		return nil, err
	}
	if c.Filter, err = roomEventFilter(r); err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", 10)
	if err != nil {
		return nil, err
	}
	c.Limit = int(min(max(limit, 0), 1000))
	body, err := a.View.Context(ctx, c)
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}

// Spec: cs getOneRoomEvent
func (a *API) event(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	eventID, err := r.EventID("eventId")
	if err != nil {
		return nil, err
	}
	body, err := a.View.Event(ctx, audience(r), roomID, eventID)
	if mxerr.Is(err, mxerr.CodeForbidden) {
		// The specification knows one answer for what the caller may not see here.
		return nil, mxerr.NotFound("there is no event %s that you may see in this room", eventID)
	}
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}

// Spec: cs getMembersByRoom
func (a *API) members(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	q := view.MembersQuery{Audience: audience(r), Room: roomID, At: r.Query("at")}
	if q.Membership, err = membershipParam(r, "membership"); err != nil {
		return nil, err
	}
	if q.NotMembership, err = membershipParam(r, "not_membership"); err != nil {
		return nil, err
	}
	if err := a.allKnown(ctx, r.Caller.User, roomID); err != nil {
		return nil, err
	}
	body, err := a.View.Members(ctx, q)
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}

// allKnown waits until all members of a room are known that was joined without them: a client encrypts for those whom it is told of.
func (a *API) allKnown(ctx context.Context, user id.UserID, room id.RoomID) error {
	if a.Federated == nil {
		return nil
	}
	if err := a.View.MayRead(ctx, user, room); err != nil {
		return err
	}
	return a.Federated.AwaitWhole(ctx, room)
}

func membershipParam(r *web.Request, name string) (graph.Membership, error) {
	switch m := graph.Membership(r.Query(name)); m {
	case "", graph.Join, graph.Invite, graph.Knock, graph.Leave, graph.Ban:
		return m, nil
	}
	return "", mxerr.InvalidParam("%q must be join, invite, knock, leave or ban", name)
}

// Spec: cs getJoinedMembersByRoom
func (a *API) joinedMembers(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	if err := a.allKnown(ctx, r.Caller.User, roomID); err != nil {
		return nil, err
	}
	members, err := a.View.JoinedMembers(ctx, r.Caller.User, roomID)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"joined": members}), nil
}

// Spec: cs getRoomState
func (a *API) state(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	body, err := a.View.State(ctx, audience(r), roomID)
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}

// Spec: cs getRoomStateWithKey
func (a *API) stateEntry(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	var whole bool
	switch r.Query("format") {
	case "", "content":
	case "event":
		whole = true
	default:
		return nil, mxerr.InvalidParam("\"format\" must be content or event")
	}
	body, err := a.View.StateEntry(ctx, audience(r), roomID, r.Path("eventType"), r.Path("stateKey"), whole)
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}

// Spec: cs getEventByTimestamp
func (a *API) timestampToEvent(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	if !r.HasQuery("ts") {
		return nil, mxerr.MissingParam("\"ts\" is missing: a time in milliseconds")
	}
	ts, err := r.QueryInt("ts", 0)
	if err != nil {
		return nil, err
	}
	dir := r.Query("dir")
	if dir != "f" && dir != "b" {
		return nil, mxerr.InvalidParam("\"dir\" must be f or b")
	}
	event, at, err := a.nearTime(ctx, r.Caller.User, roomID, ts, dir == "b")
	if err != nil {
		return nil, err
	}
	return web.JSON(struct {
		EventID        id.EventID `json:"event_id"`
		OriginServerTS int64      `json:"origin_server_ts"`
	}{event, at}), nil
}

// nearTime finds the event nearest to a time. Where something is missing near that time other servers are asked before: what they know
// becomes part of the room's past.
//
// Spec: ss getEventByTimestamp
func (a *API) nearTime(ctx context.Context, user id.UserID, roomID id.RoomID, ts int64, backward bool) (id.EventID, int64, error) {
	if err := a.View.MayRead(ctx, user, roomID); err != nil {
		return "", 0, err
	}
	if _, _, err := a.Federated.TimestampToEvent(ctx, roomID, ts, backward); err != nil {
		return "", 0, err
	}
	return a.View.NearTime(ctx, user, roomID, ts, backward)
}
