package clientapi

import (
	"context"
	"strconv"

	"myelin/internal/push"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// pushRoutes is about notifications and the devices that are told of them.
//
// Spec: cs Push Notifications
func (a *API) pushRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "GET", Path: v3 + "/pushers", Op: "getPushers", Handle: a.pushers},
		{Method: "POST", Path: v3 + "/pushers/set", Op: "postPusher", Handle: a.setPusher},
		{Method: "GET", Path: v3 + "/notifications", Op: "getNotifications", Handle: a.notifications},
	}
}

// Spec: cs getPushers
func (a *API) pushers(ctx context.Context, r *web.Request) (*web.Response, error) {
	list, err := a.Push.Pushers(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"pushers": list}), nil
}

// Spec: cs postPusher
func (a *API) setPusher(ctx context.Context, r *web.Request) (*web.Response, error) {
	var draft push.PusherDraft
	if err := r.Decode(&draft); err != nil {
		return nil, err
	}
	return web.Empty, a.Push.SetPusher(ctx, r.Caller.User, r.Caller.Device, draft)
}

// Spec: cs getNotifications
func (a *API) notifications(ctx context.Context, r *web.Request) (*web.Response, error) {
	q := push.NotificationsQuery{
		To:   view.Audience{User: r.Caller.User, Device: r.Caller.Device, OmitRoomID: true},
		From: r.Query("from"), Highlights: r.Query("only") == "highlight",
	}
	if s := r.Query("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return nil, mxerr.InvalidParam("%.40q is no limit.", s)
		}
		q.Limit = n
	}
	page, err := a.Push.Notifications(ctx, q)
	if err != nil {
		return nil, err
	}
	return web.JSON(page), nil
}
