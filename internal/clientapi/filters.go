package clientapi

import (
	"context"

	"myelin/internal/view"
	"myelin/internal/web"
)

// filterRoutes is the chapter on filters.
//
// Spec: cs Filtering
func (a *API) filterRoutes() []web.Route {
	const user = "/_matrix/client/v3/user/{userId}"
	return []web.Route{
		{Method: "POST", Path: user + "/filter", Op: "defineFilter", Auth: web.Guest, Handle: a.defineFilter},
		{Method: "GET", Path: user + "/filter/{filterId}", Op: "getFilter", Auth: web.Guest, Handle: a.filter},
	}
}

// Spec: cs defineFilter
func (a *API) defineFilter(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := self(r, "userId")
	if err != nil {
		return nil, err
	}
	filter, err := r.Object()
	if err != nil {
		return nil, err
	}
	if _, err := view.ParseFilter(filter); err != nil {
		return nil, err
	}
	filterID, err := a.Accounts.AddFilter(ctx, user, filter)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"filter_id": filterID}), nil
}

// Spec: cs getFilter
func (a *API) filter(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := self(r, "userId")
	if err != nil {
		return nil, err
	}
	filter, err := a.Accounts.Filter(ctx, user, r.Path("filterId"))
	if err != nil {
		return nil, err
	}
	return web.Raw(filter), nil
}
