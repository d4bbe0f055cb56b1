package clientapi

import (
	"cmp"
	"context"
	"time"

	"myelin/internal/ephemeral"
	"myelin/internal/syncer"
	"myelin/internal/web"
)

// syncRoutes is the chapter on syncing.
//
// Spec: cs Syncing
func (a *API) syncRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/_matrix/client/v3/sync", Op: "sync", Auth: web.Guest, Rate: web.RateNone, Handle: a.sync},
	}
}

// Spec: cs sync
func (a *API) sync(ctx context.Context, r *web.Request) (*web.Response, error) {
	q, err := syncRequest(r)
	if err != nil {
		return nil, err
	}
	if q.Filter, err = a.Syncer.Filter(ctx, r.Caller.User, r.Query("filter")); err != nil {
		return nil, err
	}
	body, err := a.Syncer.Sync(ctx, q)
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}

// syncRequest reads the parameters of sync, but for the filter.
func syncRequest(r *web.Request) (q syncer.Request, err error) {
	q = syncer.Request{User: r.Caller.User, Device: r.Caller.Device, Draining: r.Draining()}
	if since := r.Query("since"); since != "" {
		token, err := syncer.ParseToken(since)
		if err != nil {
			return q, err
		}
		q.Since = &token
	}
	if q.FullState, err = r.QueryBool("full_state", false); err != nil {
		return q, err
	}
	timeout, err := r.QueryInt("timeout", 0)
	if err != nil {
		return q, err
	}
	q.Timeout = time.Duration(min(max(timeout, 0), syncer.MaxTimeout.Milliseconds())) * time.Millisecond
	if q.Presence, err = ephemeral.ParseState(cmp.Or(r.Query("set_presence"), "online")); err != nil {
		return q, err
	}
	q.Mode, err = stateMode(r)
	return q, err
}

// stateMode reads use_state_after by either of its names.
//
// MSC4222: the unstable name goes once no client of note uses it.
func stateMode(r *web.Request) (syncer.StateMode, error) {
	stable, err := r.QueryBool("use_state_after", false)
	if err != nil {
		return 0, err
	}
	unstable, err := r.QueryBool("org.matrix.msc4222.use_state_after", false)
	switch {
	case stable:
		return syncer.StateAfter, err
	case unstable:
		return syncer.StateAfterUnstable, err
	}
	return syncer.StateBefore, err
}
