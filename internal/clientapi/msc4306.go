package clientapi

import (
	"context"
	"net/http"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/thread"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// threadSubscriptionRoutes are about the threads that a user follows. They get other paths once the proposals are part of the specification.
//
// MSC4306: thread subscriptions
// MSC4308: their changes
func (a *API) threadSubscriptionRoutes() []web.Route {
	const (
		one = "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription"
		all = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"
	)
	return []web.Route{
		{Method: "GET", Path: one, Op: "getThreadSubscription", Handle: a.threadSubscription},
		{Method: "PUT", Path: one, Op: "putThreadSubscription", Handle: a.subscribe},
		{Method: "DELETE", Path: one, Op: "deleteThreadSubscription", Handle: a.unsubscribe},
		{Method: "GET", Path: all, Op: "getThreadSubscriptions", Handle: a.threadSubscriptions},
	}
}

// codeNotInThread is the errcode for a cause that is no part of the thread.
const codeNotInThread mxerr.Code = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"

// threadOf finds the thread that a request names, and the event in it that is given as cause; nil where the event is no part of it.
func (a *API) threadOf(ctx context.Context, r *web.Request, cause id.EventID) (t thread.Thread, because *graph.Event, err error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return t, nil, err
	}
	rootID, err := r.EventID("eventId")
	if err != nil {
		return t, nil, err
	}
	root, because, err := a.View.InThread(ctx, r.Caller.User, roomID, rootID, cause)
	if err != nil {
		return t, nil, err
	}
	return thread.Thread{Room: root.Room, Root: rootID}, because, nil
}

// MSC4306: thread subscriptions
func (a *API) threadSubscription(ctx context.Context, r *web.Request) (*web.Response, error) {
	t, _, err := a.threadOf(ctx, r, "")
	if err != nil {
		return nil, err
	}
	subscribed, automatic, err := a.Threads.Of(ctx, r.Caller.User, t)
	if err != nil {
		return nil, err
	}
	if !subscribed {
		return nil, mxerr.NotFound("you are not subscribed to this thread")
	}
	return web.JSON(map[string]bool{"automatic": automatic}), nil
}

// MSC4306: thread subscriptions
func (a *API) subscribe(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Automatic *string `json:"automatic"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	var cause id.EventID
	if body.Automatic != nil {
		var err error
		if cause, err = id.ParseEventID(*body.Automatic); err != nil {
			return nil, mxerr.InvalidParam("automatic: %v", err)
		}
	}
	t, because, err := a.threadOf(ctx, r, cause)
	if err != nil {
		return nil, err
	}
	if cause != "" && because == nil {
		return nil, web.Status(mxerr.New(codeNotInThread, "the event %s is not in this thread", cause), http.StatusBadRequest)
	}
	err = a.Threads.Subscribe(ctx, r.Caller.User, t, because)
	if mxerr.Is(err, thread.CodeConflict) {
		return nil, web.Status(err, http.StatusConflict)
	}
	if err != nil {
		return nil, err
	}
	return web.Empty, nil
}

// MSC4306: thread subscriptions
func (a *API) unsubscribe(ctx context.Context, r *web.Request) (*web.Response, error) {
	t, _, err := a.threadOf(ctx, r, "")
	if err != nil {
		return nil, err
	}
	return web.Empty, a.Threads.Unsubscribe(ctx, r.Caller.User, t)
}

// MSC4308: what changed for a user, the newest first
func (a *API) threadSubscriptions(ctx context.Context, r *web.Request) (*web.Response, error) {
	if r.Query("dir") != "b" {
		return nil, mxerr.InvalidParam("\"dir\" must be b")
	}
	bounds := [2]sqldb.Pos{0, 1 << 62}
	for i, name := range []string{"to", "from"} {
		if r.HasQuery(name) {
			token, err := thread.ParseToken(r.Query(name))
			if err != nil {
				return nil, err
			}
			bounds[i] = sqldb.Pos(token)
		}
	}
	limit, err := pageLimit(r, 100)
	if err != nil {
		return nil, err
	}
	changes, err := a.Threads.Changes(ctx, r.Caller.User, bounds[0], bounds[1], limit+1)
	if err != nil {
		return nil, err
	}
	var body struct {
		thread.List
		End string `json:"end,omitempty"`
	}
	if len(changes) > limit {
		changes = changes[:limit]
		body.End = thread.Token(changes[limit-1].Pos - 1).String()
	}
	body.List, err = thread.NewList(changes, func(nid graph.RoomNID) (id.RoomID, error) {
		room, _, err := a.Graph.RoomID(ctx, nid)
		return room, err
	})
	if err != nil {
		return nil, err
	}
	return web.JSON(body), nil
}
