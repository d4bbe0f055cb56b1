package fedapi

import (
	"context"
	"encoding/json"

	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// queryRoutes answers questions about aliases and users.
//
// Spec: ss Querying for information
// Spec: ss OpenID
func (a *API) queryRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/_matrix/federation/v1/query/directory", Op: "queryRoomDirectory", Auth: web.Server, Rate: web.RateServer, Handle: a.queryDirectory},
		{Method: "GET", Path: "/_matrix/federation/v1/query/profile", Op: "queryProfile", Auth: web.Server, Rate: web.RateServer, Handle: a.queryProfile},
		{Method: "GET", Path: "/_matrix/federation/v1/query/{queryType}", Op: "queryInfo", Auth: web.Server, Rate: web.RateServer, Handle: a.queryInfo},
		{Method: "GET", Path: "/_matrix/federation/v1/openid/userinfo", Op: "exchangeOpenIdToken", Auth: web.None, Rate: web.RateServer, Handle: a.openIDUser},
	}
}

// Spec: ss queryRoomDirectory
func (a *API) queryDirectory(ctx context.Context, r *web.Request) (*web.Response, error) {
	alias, err := id.ParseRoomAlias(r.Query("room_alias"))
	if err != nil {
		return nil, mxerr.InvalidParam("\"room_alias\": %v", err)
	}
	if !a.Ours.Is(alias.Domain()) {
		return nil, mxerr.NotFound("The alias %s belongs to another server.", alias)
	}
	room, err := a.Directory.Resolve(ctx, alias)
	if err != nil {
		return nil, err
	}
	servers, err := a.Directory.Servers(ctx, room, alias.Domain())
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"room_id": room, "servers": servers}), nil
}

// Spec: ss queryProfile
func (a *API) queryProfile(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := id.ParseUserID(r.Query("user_id"))
	if err != nil {
		return nil, mxerr.InvalidParam("\"user_id\": %v", err)
	}
	if !a.Ours.Is(user.Domain()) {
		return nil, mxerr.InvalidParam("%s is a user of another server.", user)
	}
	if field := r.Query("field"); field != "" {
		value, err := a.Accounts.ProfileField(ctx, user, field)
		if err != nil {
			return nil, err
		}
		return web.JSON(map[string]json.RawMessage{field: value}), nil
	}
	profile, err := a.Accounts.Profile(ctx, user)
	if err != nil {
		return nil, err
	}
	return web.Raw(profile), nil
}

// queryInfo is asked what no other operation answers.
//
// Spec: ss queryInfo
// Spec: ss Unsupported endpoints
func (a *API) queryInfo(_ context.Context, r *web.Request) (*web.Response, error) {
	return nil, mxerr.New(mxerr.CodeUnrecognized, "There are no queries of type %.40q.", r.Path("queryType"))
}

// Spec: ss exchangeOpenIdToken
func (a *API) openIDUser(ctx context.Context, r *web.Request) (*web.Response, error) {
	token := r.Query("access_token")
	if token == "" {
		return nil, mxerr.New(mxerr.CodeMissingToken, "The query parameter \"access_token\" is needed.")
	}
	user, err := a.Accounts.OpenIDUser(ctx, token)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]id.UserID{"sub": user}), nil
}
