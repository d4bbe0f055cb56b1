package fedapi

import (
	"context"

	"myelin/internal/e2ee"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// deviceRoutes is about the keys of our users' devices.
//
// Spec: ss End-to-End Encryption
func (a *API) deviceRoutes() []web.Route {
	return []web.Route{
		{Method: "POST", Path: v1 + "/user/keys/query", Op: "queryUserEncryptionKeys", Auth: web.Server, Rate: web.RateServer, Handle: a.queryKeys},
		{Method: "POST", Path: v1 + "/user/keys/claim", Op: "claimUserEncryptionKeys", Auth: web.Server, Rate: web.RateServer, Handle: a.claimKeys},
	}
}

// Spec: ss queryUserEncryptionKeys
func (a *API) queryKeys(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Keys e2ee.Query `json:"device_keys"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Keys == nil {
		return nil, mxerr.MissingParam("\"device_keys\" is missing.")
	}
	keys, err := a.Encryption.QueryLocal(ctx, only(body.Keys, r.Destination))
	if err != nil {
		return nil, err
	}
	return web.JSON(keys), nil
}

// Spec: ss claimUserEncryptionKeys
func (a *API) claimKeys(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Keys e2ee.Claims `json:"one_time_keys"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Keys == nil {
		return nil, mxerr.MissingParam("\"one_time_keys\" is missing.")
	}
	keys, err := a.Encryption.ClaimLocal(ctx, only(body.Keys, r.Destination))
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"one_time_keys": keys}), nil
}

// only keeps the users of the name of ours that was asked.
func only[M ~map[id.UserID]V, V any](of M, name id.ServerName) M {
	for user := range of {
		if user.Domain() != name {
			delete(of, user)
		}
	}
	return of
}
