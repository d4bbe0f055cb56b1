package clientapi

import (
	"context"

	"myelin/internal/search"
	"myelin/internal/view"
	"myelin/internal/web"
)

// searchRoutes is the chapter on finding messages.
//
// Spec: cs Server Side Search
func (a *API) searchRoutes() []web.Route {
	return []web.Route{
		{Method: "POST", Path: "/_matrix/client/v3/search", Op: "search", Rate: web.RateHeavy, Handle: a.search},
	}
}

// Spec: cs search
func (a *API) search(ctx context.Context, r *web.Request) (*web.Response, error) {
	body, err := r.Object()
	if err != nil {
		return nil, err
	}
	asked, err := search.ParseRequest(body, r.Query("next_batch"), web.DecodeObject)
	if err != nil {
		return nil, err
	}
	if asked == nil {
		return web.JSON(map[string]any{"search_categories": struct{}{}}), nil
	}
	asked.Audience = view.Audience{User: r.Caller.User, Device: r.Caller.Device}
	raw, err := a.Search.Find(ctx, asked)
	if err != nil {
		return nil, err
	}
	return web.Raw(raw), nil
}
