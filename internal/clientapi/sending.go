package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/web"
	"myelin/matrix/canon"
	pdu "myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// sendingRoutes is the chapter on sending events to a room.
//
// Spec: cs Sending events to a room
func (a *API) sendingRoutes() []web.Route {
	const v3 = "/_matrix/client/v3/rooms/{roomId}"
	return []web.Route{
		{Method: "PUT", Path: v3 + "/send/{eventType}/{txnId}", Op: "sendMessage", Auth: web.Guest, Rate: web.RateSend, NotSuspended: true, Handle: a.sendMessage},
		{Method: "POST", Path: v3 + "/send/{eventType}", Op: "sendMessage", Auth: web.Guest, Rate: web.RateSend, NotSuspended: true, Handle: a.sendMessage},
		{Method: "PUT", Path: v3 + "/state/{eventType}/{stateKey?}", Op: "setRoomStateWithKey", Auth: web.Guest, Rate: web.RateSend, NotSuspended: true, Handle: a.setState},
		{Method: "PUT", Path: v3 + "/redact/{eventId}/{txnId}", Op: "redactEvent", Auth: web.Guest, Rate: web.RateSend, EmptyBody: true, Handle: a.redact},
		{Method: "POST", Path: v3 + "/redact/{eventId}", Op: "redactEvent", Auth: web.Guest, Rate: web.RateSend, EmptyBody: true, Handle: a.redact},
		{Method: "POST", Path: v3 + "/upgrade", Op: "upgradeRoom", Rate: web.RateSend, NotSuspended: true, Handle: a.upgradeRoom},
	}
}

// eventSent is the answer of the operations that make one event.
type eventSent struct {
	EventID id.EventID `json:"event_id"`
}

// Spec: cs sendMessage
func (a *API) sendMessage(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	typ := r.Path("eventType")
	if r.HasQuery(delayParam) {
		return a.delayByQuery(ctx, r, roomID, nil)
	}
	content, err := r.Object()
	if err != nil {
		return nil, err
	}
	ts, err := massaged(r)
	if err != nil {
		return nil, err
	}
	if typ == "m.room.redaction" {
		return a.sendRedaction(ctx, r, roomID, content)
	}
	sticky, err := stickyFor(r, nil)
	if err != nil {
		return nil, err
	}
	event, err := a.Rooms.Send(ctx, room.Message{
		Room:     roomID,
		Proposal: room.Proposal{Sender: r.Caller.User, Type: typ, Content: content, TS: ts, Sticky: sticky},
		Txn:      transaction(r, "send", string(roomID), typ),
	})
	if mxerr.Is(err, mxerr.CodeUnknown) { // the code for what may be no root of a thread
		return nil, web.Status(err, http.StatusBadRequest)
	} else if err != nil {
		return nil, err
	}
	return web.JSON(eventSent{event}), nil
}

// transaction identifies the client's request by its path. Requests without a transaction ID
// are never the same.
//
// Spec: cs Transaction identifiers
func transaction(r *web.Request, path ...string) graph.TxnRef {
	if r.HTTP.Method != "PUT" {
		return graph.TxnRef{}
	}
	scope, err := json.Marshal(path)
	if err != nil {
		panic(err) // strings can always be marshalled
	}
	return graph.TxnRef{User: r.Caller.User, Device: r.Caller.Device, Scope: string(scope), ID: r.Path("txnId")}
}

// massaged is the origin_server_ts that an application service wants for its event; 0 where it wants none, and for users, who have no say.
//
// Spec: as Timestamp massaging
// Deviates: as Timestamp massaging
func massaged(r *web.Request) (int64, error) {
	if r.Caller.Appservice == "" || !r.HasQuery("ts") {
		return 0, nil
	}
	ts, err := r.QueryInt("ts", 0)
	if err != nil || ts <= 0 || ts > canon.MaxInt {
		return 0, mxerr.InvalidParam("\"ts\" must be a time in milliseconds since the epoch")
	}
	return ts, nil
}

// stickyFor reads for how many milliseconds an event is to stick. State is there anyway: only messages stick.
//
// MSC4354: Sticky events
func stickyFor(r *web.Request, state *string) (int64, error) {
	const param = "org.matrix.msc4354.sticky_duration_ms"
	if state != nil || !r.HasQuery(param) {
		return 0, nil
	}
	ms, err := r.QueryInt(param, 0)
	if err != nil || ms < 0 || ms > pdu.MaxSticky {
		return 0, mxerr.InvalidParam("%q must be a number of milliseconds, at most %d", param, pdu.MaxSticky)
	}
	return ms, nil
}

// setState serves both forms, with and without a state key.
//
// Spec: cs setRoomStateWithKey
func (a *API) setState(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	typ, stateKey := r.Path("eventType"), r.Path("stateKey")
	if r.HasQuery(delayParam) {
		return a.delayByQuery(ctx, r, roomID, &stateKey)
	}
	content, err := r.Object()
	if err != nil {
		return nil, err
	}
	ts, err := massaged(r)
	if err != nil {
		return nil, err
	}
	switch typ {
	case "m.room.member":
		return a.setMembership(ctx, r, roomID, stateKey, content)
	case "m.room.create":
		return nil, mxerr.InvalidParam("the room has been created already")
	}
	event, err := a.Rooms.Send(ctx, room.Message{
		Room:     roomID,
		Proposal: room.Proposal{Sender: r.Caller.User, Type: typ, StateKey: &stateKey, Content: content, TS: ts},
	})
	if err != nil {
		return nil, err
	}
	return web.JSON(eventSent{event}), nil
}

// sendRedaction lets clients redact through /send, which the specification allows since
// room version 11 moved the target into the content.
//
// Spec: cs sendMessage
func (a *API) sendRedaction(ctx context.Context, r *web.Request, roomID id.RoomID, content []byte) (*web.Response, error) {
	var body struct {
		Redacts string `json:"redacts"`
	}
	if err := web.DecodeObject(content, &body); err != nil {
		return nil, err
	}
	target, err := id.ParseEventID(body.Redacts)
	if err != nil {
		return nil, mxerr.BadJSON("\"redacts\": %v", err)
	}
	ts, err := massaged(r)
	if err != nil {
		return nil, err
	}
	event, err := a.Rooms.Redact(ctx, room.Redaction{
		Room: roomID, Sender: r.Caller.User, Target: target, Content: content, TS: ts,
		Txn: transaction(r, "send", string(roomID), "m.room.redaction"),
	})
	if err != nil {
		return nil, err
	}
	return web.JSON(eventSent{event}), nil
}

// Spec: cs redactEvent
func (a *API) redact(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	target, err := r.EventID("eventId")
	if err != nil {
		return nil, err
	}
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if r.Caller.Suspended {
		if err := a.onlyOwn(ctx, r.Caller.User, target); err != nil {
			return nil, err
		}
	}
	event, err := a.Rooms.Redact(ctx, room.Redaction{
		Room: roomID, Sender: r.Caller.User, Target: target, Reason: body.Reason,
		Txn: transaction(r, "redact", string(roomID), string(target)),
	})
	if err != nil {
		return nil, err
	}
	return web.JSON(eventSent{event}), nil
}

// onlyOwn keeps a suspended user from redacting what others sent.
//
// Spec: cs Account suspension
func (a *API) onlyOwn(ctx context.Context, user id.UserID, target id.EventID) error {
	e, found, err := a.Graph.Event(ctx, target)
	if err == nil && (!found || e.PDU.Sender() != user) {
		err = web.Suspended()
	}
	return err
}
