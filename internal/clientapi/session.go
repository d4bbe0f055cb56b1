package clientapi

import (
	"context"

	"myelin/internal/account"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// sessionRoutes is about logging in and out.
//
// Spec: cs Login
func (a *API) sessionRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "GET", Path: v3 + "/login", Op: "getLoginFlows", Auth: web.None, Handle: a.loginFlows},
		{Method: "POST", Path: v3 + "/login", Op: "login", Auth: web.None, Rate: web.RateLogin, Handle: a.login},
		{Method: "POST", Path: "/_matrix/client/v1/login/get_token", Op: "generateLoginToken", Rate: web.RateLogin, EmptyBody: true, Handle: a.loginToken},
		{Method: "POST", Path: v3 + "/refresh", Op: "refresh", Auth: web.None, Rate: web.RateLogin, Handle: a.refresh},
		{Method: "POST", Path: v3 + "/logout", Op: "logout", Auth: web.Guest, EmptyBody: true, WhileLocked: true, Handle: a.logout},
		{Method: "POST", Path: v3 + "/logout/all", Op: "logout_all", Auth: web.Guest, EmptyBody: true, WhileLocked: true, Handle: a.logoutAll},
		{Method: "GET", Path: v3 + "/account/whoami", Op: "getTokenOwner", Auth: web.Guest, Handle: a.whoami},
	}
}

// Spec: cs getLoginFlows
func (a *API) loginFlows(context.Context, *web.Request) (*web.Response, error) {
	return web.JSON(map[string]any{"flows": a.Accounts.LoginFlows()}), nil
}

// Spec: cs login
func (a *API) login(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body account.LoginRequest
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	var login *account.Login
	var err error
	if body.Type == account.TypeAppservice {
		login, err = a.Appservices.Login(ctx, r, body)
	} else {
		login, err = a.Accounts.Login(ctx, body)
	}
	if err != nil {
		return nil, err
	}
	return web.JSON(login), nil
}

// Spec: cs generateLoginToken
func (a *API) loginToken(ctx context.Context, r *web.Request) (*web.Response, error) {
	if _, err := a.confirm(ctx, r, "generateLoginToken"); err != nil {
		return nil, err
	}
	token, err := a.Accounts.NewLoginToken(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return web.JSON(token), nil
}

// confirm has the caller prove again who they are. op names the request as account.Operation
// wants it. An application service can't, and need not.
//
// Spec: cs User-Interactive Authentication API
// Spec: as Deleting devices
func (a *API) confirm(ctx context.Context, r *web.Request, op string) (*account.Grant, error) {
	return a.confirmBy(ctx, r, op, account.PasswordFlow)
}

// confirmBy is confirm with other flows.
func (a *API) confirmBy(ctx context.Context, r *web.Request, op string, flows []web.Flow) (*account.Grant, error) {
	if r.Caller.Guest {
		return nil, mxerr.New(mxerr.CodeGuestAccessForbidden, "guests have no password to prove who they are")
	}
	body, err := r.Object()
	if err != nil {
		return nil, err
	}
	if r.Caller.Appservice != "" {
		return &account.Grant{User: r.Caller.User, Params: body}, nil
	}
	return a.Accounts.Interact(ctx, account.Operation{
		Name: op, User: r.Caller.User, Body: body, Flows: flows,
	})
}

// Spec: cs refresh
func (a *API) refresh(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.RefreshToken == "" {
		return nil, mxerr.MissingParam("\"refresh_token\" is missing")
	}
	tokens, err := a.Accounts.Refresh(ctx, body.RefreshToken)
	if err != nil {
		return nil, err
	}
	return web.JSON(tokens), nil
}

// Spec: cs logout
func (a *API) logout(ctx context.Context, r *web.Request) (*web.Response, error) {
	return web.Empty, a.Accounts.Logout(ctx, r.Caller)
}

// Spec: cs logout_all
func (a *API) logoutAll(ctx context.Context, r *web.Request) (*web.Response, error) {
	return web.Empty, a.Accounts.LogoutAll(ctx, r.Caller.User)
}

// Spec: cs getTokenOwner
func (a *API) whoami(_ context.Context, r *web.Request) (*web.Response, error) {
	owner := map[string]any{"user_id": r.Caller.User, "is_guest": r.Caller.Guest}
	if r.Caller.Device != "" {
		owner["device_id"] = r.Caller.Device
	}
	return web.JSON(owner), nil
}
