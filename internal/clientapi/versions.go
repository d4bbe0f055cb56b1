package clientapi

import (
	"context"

	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// discoveryRoutes is about what this server is and where to find it.
//
// Spec: cs API Standards
// Spec: cs Server Discovery
func (a *API) discoveryRoutes() []web.Route {
	const known = "/.well-known/matrix"
	return []web.Route{
		{Method: "GET", Path: "/_matrix/client/versions", Op: "getVersions", Auth: web.None, Rate: web.RateNone, Handle: versions},
		{Method: "GET", Path: known + "/client", Op: "getWellknown", Auth: web.None, Rate: web.RateNone, Handle: a.wellKnownClient},
		{Method: "GET", Path: known + "/support", Op: "getWellknownSupport", Auth: web.None, Rate: web.RateNone, Handle: a.wellKnownSupport},
	}
}

var supported = web.JSON(map[string]any{
	"versions": []string{
		"r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1",
		"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
		"v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
	},
	"unstable_features": map[string]bool{
		"org.matrix.msc3391": true, // deletion of account data
		"org.matrix.msc3814": true, // dehydrated devices
		"org.matrix.msc4140": true, // delayed events
		"org.matrix.msc4143": true, // transports of calls
		"org.matrix.msc4155": true, // filtering invites
		"org.matrix.msc4222": true, // state_after in sync
		"org.matrix.msc4354": true, // events that stick
		"org.matrix.msc4380": true, // blocking invites, before it was stable

		"org.matrix.msc3440.stable": true, // threads
		"org.matrix.msc3874":        true, // filters by relation
		"org.matrix.msc3981":        true, // recursion over relations
		"org.matrix.msc4306":        true, // thread subscriptions
		"org.matrix.msc4308":        true, // their changes in sliding sync

		"uk.half-shot.msc2666.query_mutual_rooms":        true,
		"uk.half-shot.msc2666.query_mutual_rooms.stable": true,

		"org.matrix.simplified_msc3575": true, // sliding sync in its unstable form
	},
})

// Spec: cs getVersions
func versions(context.Context, *web.Request) (*web.Response, error) { return supported, nil }

// Spec: cs getWellknown
func (a *API) wellKnownClient(context.Context, *web.Request) (*web.Response, error) {
	known := map[string]any{"m.homeserver": map[string]any{"base_url": a.Settings.BaseURL()}}
	if found := a.transports(); len(found) > 0 {
		// Before MSC4143 had an operation, clients looked here.
		known["org.matrix.msc4143.rtc_foci"] = found
	}
	return web.JSON(known), nil
}

// supporter is how to reach the people behind a server.
type supporter struct {
	MatrixID     string `json:"matrix_id,omitempty"`
	EmailAddress string `json:"email_address,omitempty"`
	Role         string `json:"role"`
}

// Spec: cs getWellknownSupport
func (a *API) wellKnownSupport(context.Context, *web.Request) (*web.Response, error) {
	s := a.Settings.Support
	body := map[string]any{}
	if s.Email != "" || s.MatrixID != "" {
		body["contacts"] = []supporter{{MatrixID: s.MatrixID, EmailAddress: s.Email, Role: "m.role.admin"}}
	}
	if s.Page != "" {
		body["support_page"] = s.Page
	}
	if len(body) == 0 {
		return nil, mxerr.NotFound("this server names nobody to turn to")
	}
	return web.JSON(body), nil
}
