package clientapi

import (
	"context"
	"net/http"

	"myelin/internal/account"
	"myelin/internal/contact"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// confirmPath is the page that links in mails lead to.
const confirmPath = "/_myelin/client/email/confirm"

// ConfirmLink makes the address of the page that confirms an e-mail address.
func ConfirmLink(base, query string) string { return base + confirmPath + "?" + query }

// contactRoutes is about e-mail addresses of accounts.
//
// Spec: cs Adding Account Administrative Contact Information
func (a *API) contactRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	mail := func(p contact.Purpose) web.Handler {
		return func(ctx context.Context, r *web.Request) (*web.Response, error) { return a.requestToken(ctx, r, p) }
	}
	return []web.Route{
		{Method: "GET", Path: v3 + "/account/3pid", Op: "getAccount3PIDs", Handle: a.thirdParties},
		{Method: "POST", Path: v3 + "/account/3pid", Op: "post3PIDs", Rate: web.RateLogin, Handle: a.addThirdPartyByOldForm},
		{Method: "POST", Path: v3 + "/account/3pid/add", Op: "add3PID", Rate: web.RateLogin, Handle: a.addThirdParty},
		{Method: "POST", Path: v3 + "/account/3pid/bind", Op: "bind3PID", Rate: web.RateLogin, Handle: a.bindThirdParty},
		{Method: "POST", Path: v3 + "/account/3pid/delete", Op: "delete3pidFromAccount", NotSuspended: true, Handle: a.deleteThirdParty},
		{Method: "POST", Path: v3 + "/account/3pid/unbind", Op: "unbind3pidFromAccount", Handle: a.unbindThirdParty},
		{Method: "POST", Path: v3 + "/account/3pid/email/requestToken", Op: "requestTokenTo3PIDEmail", Auth: web.None, Rate: web.RateLogin, Handle: mail(contact.ForAccount)},
		{Method: "POST", Path: v3 + "/account/3pid/msisdn/requestToken", Op: "requestTokenTo3PIDMSISDN", Auth: web.None, Rate: web.RateLogin, Handle: denyTelephone},
		{Method: "POST", Path: v3 + "/account/password/email/requestToken", Op: "requestTokenToResetPasswordEmail", Auth: web.None, Rate: web.RateLogin, Handle: mail(contact.ForPassword)},
		{Method: "POST", Path: v3 + "/account/password/msisdn/requestToken", Op: "requestTokenToResetPasswordMSISDN", Auth: web.None, Rate: web.RateLogin, Handle: denyTelephone},
		{Method: "POST", Path: v3 + "/register/email/requestToken", Op: "requestTokenToRegisterEmail", Auth: web.None, Rate: web.RateLogin, Handle: mail(contact.ForRegistration)},
		{Method: "POST", Path: v3 + "/register/msisdn/requestToken", Op: "requestTokenToRegisterMSISDN", Auth: web.None, Rate: web.RateLogin, Handle: denyTelephone},
		{Method: "GET", Path: confirmPath, Op: "emailConfirmationPage", Auth: web.None, Handle: confirmationPage},
		{Method: "POST", Path: confirmPath, Op: "confirmEmail", Auth: web.None, Rate: web.RateLogin, Handle: a.confirmEmail},
	}
}

// denyTelephone answers those who want a telephone number confirmed.
func denyTelephone(context.Context, *web.Request) (*web.Response, error) {
	return nil, mxerr.New(mxerr.CodeThreepidDenied, "this server sends no text messages")
}

// requestToken mails a link. Clients that name an identity server get their mail from this one all the same.
//
// Spec: cs requestTokenTo3PIDEmail
// Spec: cs requestTokenToRegisterEmail
// Spec: cs requestTokenToResetPasswordEmail
func (a *API) requestToken(ctx context.Context, r *web.Request, p contact.Purpose) (*web.Response, error) {
	var body contact.TokenRequest
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	sid, err := a.Contacts.Request(ctx, p, body)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]string{"sid": sid}), nil
}

// Spec: cs getAccount3PIDs
func (a *API) thirdParties(ctx context.Context, r *web.Request) (*web.Response, error) {
	list, err := a.Contacts.List(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"threepids": list}), nil
}

// Spec: cs add3PID
func (a *API) addThirdParty(ctx context.Context, r *web.Request) (*web.Response, error) {
	var creds contact.Credentials
	if err := r.Decode(&creds); err != nil {
		return nil, err
	}
	grant, err := a.confirm(ctx, r, "add3PID")
	if err != nil {
		return nil, err
	}
	// What the client sent at first counts, should it have sent nothing but auth now.
	if err := web.DecodeObject(grant.Params, &creds); err != nil {
		return nil, err
	}
	return web.Empty, a.addContact(ctx, grant, creds)
}

func (a *API) addContact(ctx context.Context, grant *account.Grant, creds contact.Credentials) error {
	switch {
	case creds.SID == "":
		return mxerr.MissingParam("\"sid\" is missing")
	case creds.ClientSecret == "":
		return mxerr.MissingParam("\"client_secret\" is missing")
	}
	return a.Contacts.Add(ctx, grant.User, creds)
}

// addThirdPartyByOldForm serves clients from before there was an operation that wants authentication. They had the address confirmed by an
// identity server, or by this one.
//
// Spec: cs post3PIDs
func (a *API) addThirdPartyByOldForm(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Creds  *contact.Credentials `json:"three_pid_creds"`
		Legacy *contact.Credentials `json:"threePidCreds"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Creds == nil {
		body.Creds = body.Legacy
	}
	if body.Creds == nil {
		return nil, mxerr.MissingParam("\"three_pid_creds\" is missing")
	}
	if body.Creds.IDServer != "" {
		return nil, errNoIdentityServer
	}
	err := a.addContact(ctx, &account.Grant{User: r.Caller.User}, *body.Creds)
	if mxerr.Is(err, mxerr.CodeThreepidAuthFailed) {
		err = web.Status(err, http.StatusForbidden)
	}
	return web.Empty, err
}

// confirmationPage asks whether it was really a human who followed the link: programs that look at mail follow links too.
func confirmationPage(_ context.Context, r *web.Request) (*web.Response, error) {
	return page(http.StatusOK, "confirm", map[string]any{
		"SID": r.Query("sid"), "Secret": r.Query("client_secret"), "Token": r.Query("token"), "Path": confirmPath,
	})
}

// confirmEmail is what the page sends.
//
// Spec: cs requestTokenTo3PIDEmail
func (a *API) confirmEmail(ctx context.Context, r *web.Request) (*web.Response, error) {
	form, err := formOf(r)
	if err != nil {
		return nil, err
	}
	next, err := a.Contacts.Confirm(ctx, form.Get("sid"), form.Get("client_secret"), form.Get("token"))
	switch {
	case mxerr.Is(err, mxerr.CodeNotFound):
		return page(http.StatusNotFound, "message", map[string]any{"Title": "This link is too old", "Text": "This link was replaced by a newer one, or has expired."})
	case err != nil:
		return nil, err
	case next != "":
		return &web.Response{Status: http.StatusSeeOther, Raw: []byte{}, Header: http.Header{"Location": {next}}}, nil
	}
	return page(http.StatusOK, "message", map[string]any{"Title": "Thank you", "Text": "The address is confirmed. You can go back to where you came from."})
}
