package clientapi

import (
	"context"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// registrationRoutes is about new accounts.
//
// Spec: cs Account registration
func (a *API) registrationRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	const tools = "/_synapse/admin/v1/register"
	return []web.Route{
		{Method: "POST", Path: v3 + "/register", Op: "register", Auth: web.None, Rate: web.RateLogin, EmptyBody: true, Handle: a.register},
		{Method: "GET", Path: v3 + "/register/available", Op: "checkUsernameAvailability", Auth: web.None, Rate: web.RateLogin, Handle: a.usernameAvailable},
		{Method: "GET", Path: "/_matrix/client/v1/register/m.login.registration_token/validity", Op: "registrationTokenValidity", Auth: web.None, Rate: web.RateLogin, Handle: a.registrationTokenValidity},
		{Method: "GET", Path: tools, Op: "sharedSecretNonce", Auth: web.None, Rate: web.RateLogin, Handle: a.sharedSecretNonce},
		{Method: "POST", Path: tools, Op: "sharedSecretRegister", Auth: web.None, Rate: web.RateLogin, Handle: a.sharedSecretRegister},
	}
}

// Spec: cs register
func (a *API) register(ctx context.Context, r *web.Request) (*web.Response, error) {
	body, err := r.Object()
	if err != nil {
		return nil, err
	}
	var login *account.Login
	if gjson.GetBytes(body, "type").Str == account.TypeAppservice {
		if login, err = a.Appservices.Register(ctx, r, body); err != nil {
			return nil, err
		}
		return web.JSON(login), nil
	}
	switch kind := r.Query("kind"); kind {
	case "", "user":
		login, err = a.Accounts.Register(ctx, body)
	case "guest":
		login, err = a.registerGuest(ctx, body)
	default:
		return nil, mxerr.InvalidParam("there is no kind of account %q", kind)
	}
	if err != nil {
		return nil, err
	}
	return web.JSON(login), nil
}

func (a *API) registerGuest(ctx context.Context, body []byte) (*account.Login, error) {
	var guest struct {
		DeviceName string `json:"initial_device_display_name"`
	}
	if err := web.DecodeObject(body, &guest); err != nil {
		return nil, err
	}
	return a.Accounts.RegisterGuest(ctx, guest.DeviceName)
}

// Spec: cs checkUsernameAvailability
func (a *API) usernameAvailable(ctx context.Context, r *web.Request) (*web.Response, error) {
	name := r.Query("username")
	if name == "" {
		return nil, mxerr.MissingParam("\"username\" is missing")
	}
	if _, err := a.Accounts.CheckAvailable(ctx, name); err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"available": true}), nil
}

// Spec: cs registrationTokenValidity
func (a *API) registrationTokenValidity(ctx context.Context, r *web.Request) (*web.Response, error) {
	if !r.HasQuery("token") {
		return nil, mxerr.MissingParam("\"token\" is missing")
	}
	valid, err := a.Accounts.RegistrationTokenValid(ctx, r.Query("token"))
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"valid": valid}), nil
}

// sharedSecretNonce begins a registration with the server's shared secret, which the tools of
// other homeservers speak; it is not in the specification.
func (a *API) sharedSecretNonce(ctx context.Context, _ *web.Request) (*web.Response, error) {
	nonce, err := a.Accounts.SharedSecretNonce(ctx)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"nonce": nonce}), nil
}

// sharedSecretRegister ends such a registration.
func (a *API) sharedSecretRegister(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body account.SharedRegistration
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	login, err := a.Accounts.RegisterShared(ctx, body)
	if err != nil {
		return nil, err
	}
	return web.JSON(login), nil
}
