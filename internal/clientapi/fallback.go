package clientapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"myelin/internal/account"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

//go:embed pages/*.html
var pageFiles embed.FS

var pages = template.Must(template.ParseFS(pageFiles, "pages/*.html"))

// fallbackRoutes are pages for clients that don't know a stage of interactive authentication, or a way to sign in.
//
// Spec: cs Fallback
// Spec: cs Login Fallback
func (a *API) fallbackRoutes() []web.Route {
	const stage = "/_matrix/client/v3/auth/{stage}/fallback/web"
	return []web.Route{
		{Method: "GET", Path: stage, Op: "authFallbackPage", Auth: web.None, Rate: web.RateLogin, Handle: a.stagePage},
		{Method: "POST", Path: stage, Op: "completeAuthFallback", Auth: web.None, Rate: web.RateLogin, Handle: a.completeStage},
		{Method: "GET", Path: "/_matrix/static/client/login/", Op: "loginFallbackPage", Auth: web.None, Handle: loginPage},
	}
}

// page answers with one of the pages. Nothing runs on it but the scripts that bear the answer's own nonce.
func page(status int, name string, data map[string]any) (*web.Response, error) {
	nonce := rand.Text()
	data["Nonce"] = nonce
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name+".html", data); err != nil {
		return nil, err
	}
	policy := "default-src 'none'; style-src 'unsafe-inline'; form-action 'self' http: https:; connect-src 'self'; base-uri 'none'; script-src 'nonce-" + nonce + "'"
	if script, _ := data["Script"].(string); script != "" {
		// The service's script loads others, shows frames and asks its own server.
		policy += " 'strict-dynamic'; frame-src https: http:; img-src https: http: data:; connect-src 'self' https: http:"
		policy = strings.Replace(policy, "connect-src 'self'; ", "", 1)
	}
	return &web.Response{Status: status, Raw: b.Bytes(), Header: http.Header{
		"Content-Type": {"text/html; charset=utf-8"}, "Content-Security-Policy": {policy}, "Cache-Control": {"no-store"},
		"Referrer-Policy": {"no-referrer"}, "X-Content-Type-Options": {"nosniff"},
	}}, nil
}

// formOf reads the body that an HTML form sends.
func formOf(r *web.Request) (url.Values, error) {
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, mxerr.InvalidParam("the form is not well formed")
	}
	return form, nil
}

// stageForms are the pages of stages. Each names the fields of the form that make the auth object.
var stageForms = map[string][]string{
	account.StageDummy:             {},
	account.StageTerms:             {},
	account.StageCaptcha:           {"response"},
	account.StageRegistrationToken: {"token"},
	account.StagePassword:          {"user", "password"},
}

// Spec: cs Fallback
func (a *API) stagePage(_ context.Context, r *web.Request) (*web.Response, error) {
	return a.showStage(r, http.StatusOK, r.Query("session"), "")
}

func (a *API) showStage(r *web.Request, status int, session, problem string) (*web.Response, error) {
	stage := r.Path("stage")
	params, known := a.Accounts.StageParams(stage)
	if _, shown := stageForms[stage]; !known || !shown {
		return nil, mxerr.New(mxerr.CodeUnrecognized, "there is no page for the stage %.64q", stage)
	}
	if session == "" {
		return nil, mxerr.MissingParam("\"session\" is missing")
	}
	data := map[string]any{"Stage": stage, "Session": session, "Problem": problem, "Action": r.HTTP.URL.Path}
	if stage == account.StageCaptcha {
		data["Script"] = a.Settings.CaptchaScript
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	var shown struct {
		PublicKey string                                `json:"public_key"`
		Policies  map[string]map[string]json.RawMessage `json:"policies"`
	}
	if err := json.Unmarshal(raw, &shown); err != nil {
		return nil, err
	}
	data["Key"] = shown.PublicKey
	var texts []account.PolicyText
	for _, policy := range shown.Policies {
		for _, raw := range policy {
			var text account.PolicyText
			if json.Unmarshal(raw, &text) == nil && text.URL != "" {
				texts = append(texts, text)
			}
		}
	}
	data["Texts"] = texts
	return page(status, "stage", data)
}

// completeStage is what the page of a stage sends.
func (a *API) completeStage(ctx context.Context, r *web.Request) (*web.Response, error) {
	stage := r.Path("stage")
	fields, known := stageForms[stage]
	if !known {
		return nil, mxerr.New(mxerr.CodeUnrecognized, "there is no page for the stage %.64q", stage)
	}
	form, err := formOf(r)
	if err != nil {
		return nil, err
	}
	session := form.Get("session")
	auth := map[string]string{"type": stage, "session": session}
	for _, f := range fields {
		auth[f] = form.Get(f)
	}
	// The service's script knows one name for its field.
	if stage == account.StageCaptcha && auth["response"] == "" {
		auth["response"] = form.Get("g-recaptcha-response")
	}
	raw, err := json.Marshal(auth)
	if err != nil {
		return nil, err
	}
	err = a.Accounts.CompleteStage(ctx, session, stage, raw)
	if refused, ok := mxerr.Of(err); ok && refused.Code != mxerr.CodeLimitExceeded && refused.Code != mxerr.CodeNotFound {
		return a.showStage(r, http.StatusUnauthorized, session, refused.Text)
	}
	if err != nil {
		return nil, err
	}
	return page(http.StatusOK, "done", map[string]any{})
}

// Spec: cs Login Fallback
func loginPage(context.Context, *web.Request) (*web.Response, error) {
	return page(http.StatusOK, "login", map[string]any{})
}
