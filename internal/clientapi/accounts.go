package clientapi

import (
	"context"
	"encoding/json"

	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// accountRoutes is about what users do with their whole account.
//
// Spec: cs Password Management
// Spec: cs Account deactivation
func (a *API) accountRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "POST", Path: v3 + "/account/password", Op: "changePassword", Auth: web.Optional, Rate: web.RateLogin, Handle: a.changePassword},
		{Method: "POST", Path: v3 + "/account/deactivate", Op: "deactivateAccount", Auth: web.Optional, Rate: web.RateLogin, EmptyBody: true, Handle: a.deactivate},
		{Method: "POST", Path: v3 + "/user/{userId}/openid/request_token", Op: "requestOpenIdToken", EmptyBody: true, Handle: a.openIDToken},
	}
}

// self reads a path parameter that must be the caller's own user ID.
func self(r *web.Request, name string) (id.UserID, error) {
	user, err := r.UserID(name)
	if err != nil {
		return "", err
	}
	if user != r.Caller.User {
		return "", mxerr.Forbidden("this is another user's")
	}
	return user, nil
}

// passwordChange is the body of changePassword.
type passwordChange struct {
	NewPassword   *string `json:"new_password"`
	LogoutDevices *bool   `json:"logout_devices"`
}

// Spec: cs changePassword
func (a *API) changePassword(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		passwordChange
		Auth json.RawMessage `json:"auth"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	switch {
	case body.NewPassword != nil:
		if err := a.Accounts.CheckPassword(*body.NewPassword); err != nil {
			return nil, err
		}
	case body.Auth == nil:
		return nil, mxerr.MissingParam("\"new_password\" is missing")
	}
	grant, err := a.confirmBy(ctx, r, "changePassword", a.Accounts.PasswordFlows(r.Caller.User))
	if err != nil {
		return nil, err
	}
	// What the client sent at first counts, should it have sent nothing but auth now.
	var change passwordChange
	if err := web.DecodeObject(grant.Params, &change); err != nil {
		return nil, err
	}
	if change.NewPassword == nil {
		return nil, mxerr.MissingParam("\"new_password\" is missing")
	}
	logout := change.LogoutDevices == nil || *change.LogoutDevices
	return web.Empty, a.Accounts.SetPassword(ctx, grant.User, *change.NewPassword, logout, r.Caller.Device)
}

// Spec: cs deactivateAccount
func (a *API) deactivate(ctx context.Context, r *web.Request) (*web.Response, error) {
	grant, err := a.confirm(ctx, r, "deactivateAccount")
	if err != nil {
		return nil, err
	}
	var body struct {
		Erase  bool   `json:"erase"`
		Server string `json:"id_server"`
	}
	if err := web.DecodeObject(grant.Params, &body); err != nil {
		return nil, err
	}
	if err := a.Accounts.Deactivate(ctx, grant.User, body.Erase); err != nil {
		return nil, err
	}
	// The account is gone, whatever an identity server says.
	done, err := a.Identity.UnbindAll(ctx, grant.User, body.Server)
	return unbound(done && err == nil), nil
}

// Spec: cs requestOpenIdToken
func (a *API) openIDToken(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := self(r, "userId")
	if err != nil {
		return nil, err
	}
	if err := r.Decode(new(struct{})); err != nil {
		return nil, err
	}
	token, err := a.Accounts.NewOpenIDToken(ctx, user)
	if err != nil {
		return nil, err
	}
	return web.JSON(token), nil
}
