package clientapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tidwall/gjson"

	"myelin/internal/delayed"
	"myelin/internal/graph"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// delayParam is how clients ask for a delay with the operations that send at once. Newer ones have an operation of its own.
const delayParam = "org.matrix.msc4140.delay"

// delayedRoutes schedule events, and manage what is scheduled. An action needs no access token: who knows the ID of a delayed event, which holds
// 130 random bits, was told so by its user, such as a server of calls that sees when the user is gone.
//
// MSC4140: goes when the specification has the operations.
func (a *API) delayedRoutes() []web.Route {
	const prefix = "/_matrix/client/unstable/org.matrix.msc4140"
	return []web.Route{
		{Method: "PUT", Path: prefix + "/rooms/{roomId}/delayed_event/{eventType}/{txnId}", Op: "scheduleDelayedEvent", Auth: web.Guest, Rate: web.RateSend, NotSuspended: true, EmptyBody: true, Handle: a.scheduleDelayed},
		{Method: "GET", Path: prefix + "/delayed_events", Op: "getDelayedEvents", Auth: web.Guest, Handle: a.delayedEvents},
		{Method: "GET", Path: prefix + "/delayed_events/{delayId}", Op: "getDelayedEvent", Auth: web.Guest, Handle: a.delayedEvent},
		{Method: "POST", Path: prefix + "/delayed_events/{delayId}/{action}", Op: "updateDelayedEvent", Auth: web.None, EmptyBody: true, Handle: a.updateDelayed},
		{Method: "POST", Path: prefix + "/delayed_events/{delayId}", Op: "updateDelayedEventByBody", Auth: web.None, Handle: a.updateDelayedByBody},
	}
}

// MSC4140: an event is scheduled.
func (a *API) scheduleDelayed(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	txn := transaction(r, "delayed_event", string(roomID), r.Path("eventType"))
	return a.schedule(ctx, txn, func() (delayed.Event, error) {
		var body struct {
			Delay   *int64          `json:"delay_ms"`
			State   *string         `json:"state_key"`
			Content json.RawMessage `json:"content"`
		}
		if err := r.Decode(&body); err != nil {
			return delayed.Event{}, err
		}
		switch {
		case body.Delay == nil:
			return delayed.Event{}, mxerr.MissingParam("\"delay_ms\" is missing")
		case body.Content == nil:
			return delayed.Event{}, mxerr.MissingParam("\"content\" is missing")
		case body.Content[0] != '{':
			return delayed.Event{}, mxerr.BadJSON("\"content\" must be an object")
		}
		sticky, err := stickyFor(r, body.State)
		return delayed.Event{User: r.Caller.User, Room: roomID, Type: r.Path("eventType"), State: body.State, Content: body.Content, Delay: *body.Delay, Sticky: sticky}, err
	})
}

// delayByQuery serves the operations that send at once where they are asked for a delay.
func (a *API) delayByQuery(ctx context.Context, r *web.Request, roomID id.RoomID, state *string) (*web.Response, error) {
	txn := graph.TxnRef{}
	if state == nil {
		txn = transaction(r, "delayed", string(roomID), r.Path("eventType"))
	}
	return a.schedule(ctx, txn, func() (delayed.Event, error) {
		delay, err := r.QueryInt(delayParam, 0)
		if err != nil {
			return delayed.Event{}, err
		}
		sticky, err := stickyFor(r, state)
		if err != nil {
			return delayed.Event{}, err
		}
		content, err := r.Object()
		return delayed.Event{User: r.Caller.User, Room: roomID, Type: r.Path("eventType"), State: state, Content: content, Delay: delay, Sticky: sticky}, err
	})
}

// schedule schedules what read finds in a request, unless the transaction did so before.
func (a *API) schedule(ctx context.Context, txn graph.TxnRef, read func() (delayed.Event, error)) (*web.Response, error) {
	delay, known, err := a.Delayed.Scheduled(ctx, txn)
	if err != nil {
		return nil, err
	}
	if !known {
		e, err := read()
		if err != nil {
			return nil, err
		}
		if e.State != nil && e.Type == "m.room.member" {
			// Entering rooms and inviting people takes more than an event, and the moment's consent of other servers.
			switch gjson.GetBytes(e.Content, "membership").Str {
			case "join", "invite", "knock":
				return nil, mxerr.Forbidden("entering a room and inviting to one can't be delayed")
			}
		}
		delay, err = a.Delayed.Schedule(ctx, e, txn)
		if errors.Is(err, delayed.ErrTooLong) {
			return nil, web.Status(err, http.StatusBadRequest)
		} else if err != nil {
			return nil, err
		}
	}
	return web.JSON(map[string]any{"delay_id": delay}), nil
}

// MSC4140: what the caller has scheduled.
func (a *API) delayedEvents(ctx context.Context, r *web.Request) (*web.Response, error) {
	list, err := a.Delayed.List(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"delayed_events": list}), nil
}

// MSC4140: what has become of an event.
func (a *API) delayedEvent(ctx context.Context, r *web.Request) (*web.Response, error) {
	e, err := a.Delayed.Get(ctx, r.Caller.User, r.Path("delayId"))
	if err != nil {
		return nil, err
	}
	return web.JSON(e), nil
}

// MSC4140: a scheduled event is sent at once, cancelled, or waits anew.
func (a *API) updateDelayed(ctx context.Context, r *web.Request) (*web.Response, error) {
	switch action := r.Path("action"); action {
	case "send", "cancel", "restart":
		return a.actOnDelayed(ctx, r, action)
	}
	return nil, mxerr.NotFound("there is no such action")
}

// updateDelayedByBody is updateDelayed for older clients.
func (a *API) updateDelayedByBody(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Action string `json:"action"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Action == "" {
		return nil, mxerr.MissingParam("\"action\" is missing")
	}
	return a.actOnDelayed(ctx, r, body.Action)
}

func (a *API) actOnDelayed(ctx context.Context, r *web.Request, action string) (*web.Response, error) {
	var err error
	switch delay := r.Path("delayId"); action {
	case "send":
		err = a.Delayed.SendNow(ctx, delay)
	case "cancel":
		err = a.Delayed.Cancel(ctx, delay)
	case "restart":
		err = a.Delayed.Restart(ctx, delay)
	default:
		return nil, mxerr.InvalidParam("\"action\" must be send, cancel or restart")
	}
	if errors.Is(err, delayed.ErrFinalised) {
		return nil, web.Status(err, http.StatusConflict)
	}
	if err != nil {
		return nil, err
	}
	return web.Empty, nil
}
