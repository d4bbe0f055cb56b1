package fedapi

import (
	"context"

	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// discoveryRoutes is about what this server is and where to find it.
//
// Spec: ss Server discovery
func (a *API) discoveryRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/.well-known/matrix/server", Op: "getWellKnown", Auth: web.None, Rate: web.RateServer, Handle: a.wellKnown},
		{Method: "GET", Path: v1 + "/version", Op: "getVersion", Auth: web.None, Rate: web.RateServer, Handle: a.version},
	}
}

// addressed returns the name of ours that an unsigned request was sent to: that of its Host header, or the primary one, since
// a proxy or a delegation may have changed the header.
func (a *API) addressed(r *web.Request) id.ServerName {
	if name, err := id.ParseServerName(r.HTTP.Host); err == nil && a.Ours.Is(name) {
		return name
	}
	return a.Ours.Primary()
}

// Spec: ss getWellKnown
func (a *API) wellKnown(_ context.Context, r *web.Request) (*web.Response, error) {
	if a.Settings.Delegate != nil {
		if at := a.Settings.Delegate(a.addressed(r)); at != "" {
			return web.JSON(map[string]string{"m.server": at}), nil
		}
	}
	return nil, mxerr.NotFound("This server is reached under its own name.")
}

// Spec: ss getVersion
func (a *API) version(context.Context, *web.Request) (*web.Response, error) {
	return web.JSON(map[string]any{"server": map[string]string{"name": "Myelin", "version": a.Settings.Version}}), nil
}
