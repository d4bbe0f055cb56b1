package clientapi

import (
	"cmp"
	"context"

	"myelin/internal/ephemeral"
	"myelin/internal/syncer"
	"myelin/internal/web"
)

// slidingRoutes is sliding sync: in the form that was accepted, and in the one that clients spoke before.
//
// MSC4186: Simplified Sliding Sync. The unstable route goes once no client of note uses it.
func (a *API) slidingRoutes() []web.Route {
	const unstable = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
	return []web.Route{
		{Method: "POST", Path: "/_matrix/client/v4/sync", Op: "slidingSync", Auth: web.Guest, Rate: web.RateNone, Handle: a.slidingSync},
		{Method: "POST", Path: unstable, Op: "slidingSyncUnstable", Auth: web.Guest, Rate: web.RateNone, Handle: a.unstableSlidingSync},
	}
}

// MSC4186: POST /_matrix/client/v4/sync
func (a *API) slidingSync(ctx context.Context, r *web.Request) (*web.Response, error) {
	body, err := r.Object()
	if err != nil {
		return nil, err
	}
	q, err := syncer.ParseSliding(syncer.SlidingStable, r.Caller.User, body)
	if err != nil {
		return nil, err
	}
	return a.slide(ctx, r, q)
}

// unstableSlidingSync has some parameters in the query.
//
// MSC4186: org.matrix.simplified_msc3575
func (a *API) unstableSlidingSync(ctx context.Context, r *web.Request) (*web.Response, error) {
	body, err := r.Object()
	if err != nil {
		return nil, err
	}
	q, err := syncer.ParseSliding(syncer.SlidingUnstable, r.Caller.User, body)
	if err != nil {
		return nil, err
	}
	q.Pos = r.Query("pos")
	timeout, err := r.QueryInt("timeout", 0)
	if err != nil {
		return nil, err
	}
	q.Timeout = syncer.SlidingTimeout(timeout)
	if q.Presence, err = ephemeral.ParseState(cmp.Or(r.Query("set_presence"), "online")); err != nil {
		return nil, err
	}
	return a.slide(ctx, r, q)
}

func (a *API) slide(ctx context.Context, r *web.Request, q *syncer.Sliding) (*web.Response, error) {
	q.Device, q.Draining = r.Caller.Device, r.Draining()
	body, err := a.Syncer.Slide(ctx, q)
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}
