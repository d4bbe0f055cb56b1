package clientapi

import (
	"context"

	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// ssoRoutes is about signing in elsewhere. There is no elsewhere: no provider of identities can be configured, login offers none, and
// clients that ask all the same are told so.
//
// Spec: cs SSO client login/authentication
// Spec: cs Server metadata discovery
func (a *API) ssoRoutes() []web.Route {
	const redirect = "/_matrix/client/v3/login/sso/redirect"
	return []web.Route{
		{Method: "GET", Path: redirect, Op: "redirectToSSO", Auth: web.None, Handle: noProvider},
		{Method: "GET", Path: redirect + "/{idpId}", Op: "redirectToIdP", Auth: web.None, Handle: noSuchProvider},
		{Method: "GET", Path: "/_matrix/client/v1/auth_metadata", Op: "getAuthMetadata", Auth: web.None, Handle: noOAuth},
		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata", Op: "getAuthMetadata", Auth: web.None, Handle: noOAuth},
		{Method: "GET", Path: "/.well-known/matrix/policy_server", Op: "getWellknownPolicy", Auth: web.None, Rate: web.RateNone, Handle: noPolicyServer},
	}
}

// Spec: cs redirectToSSO
func noProvider(_ context.Context, r *web.Request) (*web.Response, error) {
	if r.Query("redirectUrl") == "" {
		return nil, mxerr.MissingParam("\"redirectUrl\" is missing")
	}
	return nil, mxerr.New(mxerr.CodeUnrecognized, "this server signs nobody in through others")
}

// Spec: cs redirectToIdP
func noSuchProvider(_ context.Context, r *web.Request) (*web.Response, error) {
	if r.Query("redirectUrl") == "" {
		return nil, mxerr.MissingParam("\"redirectUrl\" is missing")
	}
	return nil, mxerr.NotFound("there is no provider of identities %.64q here", r.Path("idpId"))
}

// Spec: cs getAuthMetadata
func noOAuth(context.Context, *web.Request) (*web.Response, error) {
	return nil, mxerr.New(mxerr.CodeUnrecognized, "this server has no OAuth 2.0 API")
}

// Spec: cs getWellknownPolicy
func noPolicyServer(context.Context, *web.Request) (*web.Response, error) {
	return nil, mxerr.NotFound("this is no policy server")
}
