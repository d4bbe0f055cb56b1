package clientapi

import (
	"context"
	"encoding/json"
	"time"

	"myelin/internal/ephemeral"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// ephemeralRoutes are the chapters on what users show of themselves besides events.
//
// Spec: cs Receipts
// Spec: cs Fully read markers
// Spec: cs Typing Notifications
// Spec: cs Presence
func (a *API) ephemeralRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "POST", Path: v3 + "/rooms/{roomId}/receipt/{receiptType}/{eventId}", Op: "postReceipt", EmptyBody: true, Handle: a.receipt},
		{Method: "POST", Path: v3 + "/rooms/{roomId}/read_markers", Op: "setReadMarker", Handle: a.readMarkers},
		{Method: "PUT", Path: v3 + "/rooms/{roomId}/typing/{userId}", Op: "setTyping", NotSuspended: true, Handle: a.setTyping},
		{Method: "GET", Path: v3 + "/presence/{userId}/status", Op: "getPresence", Handle: a.presence},
		{Method: "PUT", Path: v3 + "/presence/{userId}/status", Op: "setPresence", Handle: a.setPresence},
	}
}

// Spec: cs postReceipt
func (a *API) receipt(ctx context.Context, r *web.Request) (*web.Response, error) {
	event, err := r.EventID("eventId")
	if err != nil {
		return nil, err
	}
	var body struct {
		ThreadID json.RawMessage `json:"thread_id"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	mark := ephemeral.Mark{Type: r.Path("receiptType"), Event: event}
	if mark.Thread, err = threadID(body.ThreadID); err != nil {
		return nil, err
	}
	return a.mark(ctx, r, mark)
}

// threadID reads the thread of a receipt, "" where there is none.
func threadID(raw json.RawMessage) (string, error) {
	if raw == nil {
		return "", nil
	}
	var thread *string
	if json.Unmarshal(raw, &thread) != nil || thread == nil {
		return "", mxerr.InvalidParam("\"thread_id\" must be a string")
	}
	if *thread == "main" {
		return *thread, nil
	}
	if _, err := id.ParseEventID(*thread); err != nil {
		return "", mxerr.InvalidParam("\"thread_id\" must be main or the ID of an event: %v", err)
	}
	return *thread, nil
}

// Spec: cs setReadMarker
func (a *API) readMarkers(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		FullyRead   string `json:"m.fully_read"`
		Read        string `json:"m.read"`
		ReadPrivate string `json:"m.read.private"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	var marks []ephemeral.Mark
	for _, m := range []struct{ typ, event string }{
		{ephemeral.FullyRead, body.FullyRead}, {ephemeral.Read, body.Read}, {ephemeral.ReadPrivate, body.ReadPrivate},
	} {
		if m.event == "" {
			continue
		}
		event, err := id.ParseEventID(m.event)
		if err != nil {
			return nil, mxerr.InvalidParam("%q: %v", m.typ, err)
		}
		marks = append(marks, ephemeral.Mark{Type: m.typ, Event: event})
	}
	return a.mark(ctx, r, marks...)
}

func (a *API) mark(ctx context.Context, r *web.Request, marks ...ephemeral.Mark) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	if err := a.Ephemeral.Mark(ctx, r.Caller.User, roomID, marks...); err != nil {
		return nil, err
	}
	a.Ephemeral.Active(r.Caller.User, r.Caller.Device)
	return web.Empty, nil
}

// Spec: cs setTyping
func (a *API) setTyping(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	if _, err := self(r, "userId"); err != nil {
		return nil, err
	}
	var body struct {
		Typing  *bool  `json:"typing"`
		Timeout *int64 `json:"timeout"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	duration := ephemeral.DefaultTyping
	switch {
	case body.Typing == nil:
		return nil, mxerr.MissingParam("\"typing\" is missing")
	case !*body.Typing:
		duration = 0
	case body.Timeout != nil:
		// More than an hour means no more than an hour does, and can't overflow.
		duration = time.Duration(min(max(*body.Timeout, 0), time.Hour.Milliseconds())) * time.Millisecond
	}
	if err := a.Ephemeral.SetTyping(ctx, r.Caller.User, roomID, duration); err != nil {
		return nil, err
	}
	a.Ephemeral.Active(r.Caller.User, r.Caller.Device)
	return web.Empty, nil
}

// Spec: cs getPresence
func (a *API) presence(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := r.UserID("userId")
	if err != nil {
		return nil, err
	}
	p, err := a.Ephemeral.Presence(ctx, r.Caller.User, user)
	if err != nil {
		return nil, err
	}
	return web.Raw(a.Ephemeral.AppendContent(nil, p)), nil
}

// Spec: cs setPresence
func (a *API) setPresence(ctx context.Context, r *web.Request) (*web.Response, error) {
	if _, err := self(r, "userId"); err != nil {
		return nil, err
	}
	var body struct {
		Presence string `json:"presence"`
		Status   string `json:"status_msg"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Presence == "" {
		return nil, mxerr.MissingParam("\"presence\" is missing")
	}
	state, err := ephemeral.ParseState(body.Presence)
	if err != nil {
		return nil, err
	}
	if err := a.Ephemeral.SetPresence(ctx, r.Caller.User, r.Caller.Device, state, body.Status); err != nil {
		return nil, err
	}
	return web.Empty, nil
}
