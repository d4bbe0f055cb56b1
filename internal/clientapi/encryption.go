package clientapi

import (
	"context"

	"github.com/tidwall/gjson"

	"myelin/internal/e2ee"
	"myelin/internal/syncer"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// encryptionRoutes is the chapter on keys.
//
// Spec: cs End-to-End Encryption
// Spec: cs Send-to-Device messaging
func (a *API) encryptionRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "POST", Path: v3 + "/keys/upload", Op: "uploadKeys", Auth: web.Guest, Handle: a.uploadKeys},
		{Method: "POST", Path: v3 + "/keys/query", Op: "queryKeys", Auth: web.Guest, Handle: a.queryKeys},
		{Method: "POST", Path: v3 + "/keys/claim", Op: "claimKeys", Auth: web.Guest, Handle: a.claimKeys},
		{Method: "PUT", Path: v3 + "/sendToDevice/{eventType}/{txnId}", Op: "sendToDevice", Auth: web.Guest, Rate: web.RateSend, Handle: a.sendToDevice},
		{Method: "POST", Path: v3 + "/keys/device_signing/upload", Op: "uploadCrossSigningKeys", Handle: a.uploadSigning},
		{Method: "POST", Path: v3 + "/keys/signatures/upload", Op: "uploadCrossSigningSignatures", Handle: a.uploadSignatures},
		{Method: "GET", Path: v3 + "/keys/changes", Op: "getKeysChanges", Handle: a.keyChanges},
	}
}

// Spec: cs uploadKeys
func (a *API) uploadKeys(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body e2ee.Upload
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	counts, err := a.Encryption.Upload(ctx, r.Caller.User, r.Caller.Device, body)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"one_time_key_counts": counts}), nil
}

// Spec: cs queryKeys
func (a *API) queryKeys(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Keys    e2ee.Query    `json:"device_keys"`
		Timeout e2ee.Patience `json:"timeout"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Keys == nil {
		return nil, mxerr.MissingParam("\"device_keys\" is missing")
	}
	keys, failures, err := a.Encryption.Query(ctx, r.Caller.User, body.Keys, body.Timeout)
	if err != nil {
		return nil, err
	}
	return web.JSON(struct {
		*e2ee.Keys
		Failures e2ee.Failures `json:"failures"`
	}{keys, failures}), nil
}

// Spec: cs claimKeys
func (a *API) claimKeys(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Keys    e2ee.Claims   `json:"one_time_keys"`
		Timeout e2ee.Patience `json:"timeout"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Keys == nil {
		return nil, mxerr.MissingParam("\"one_time_keys\" is missing")
	}
	keys, failures, err := a.Encryption.Claim(ctx, r.Caller.User, body.Keys, body.Timeout)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"one_time_keys": keys, "failures": failures}), nil
}

// keyChanges compares with now: "to" is a hint, and what changed after it a client would ask for soon anyway.
//
// Spec: cs getKeysChanges
func (a *API) keyChanges(ctx context.Context, r *web.Request) (*web.Response, error) {
	var from syncer.Token
	for _, name := range []string{"to", "from"} {
		if r.Query(name) == "" {
			return nil, mxerr.MissingParam("%q is missing", name)
		}
		var err error
		if from, err = syncer.ParseToken(r.Query(name)); err != nil {
			return nil, err
		}
	}
	changes, err := a.Encryption.Changes(ctx, e2ee.Window{User: r.Caller.User, From: from.Pos, To: a.Bus.Last()})
	if err != nil {
		return nil, err
	}
	return web.JSON(changes), nil
}

// Spec: cs sendToDevice
func (a *API) sendToDevice(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Messages e2ee.Messages `json:"messages"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Messages == nil {
		return nil, mxerr.MissingParam("\"messages\" is missing")
	}
	return web.Empty, a.Encryption.Send(ctx, r.Caller.User, r.Caller.Device, r.Path("eventType"), r.Path("txnId"), body.Messages)
}

// Spec: cs uploadCrossSigningKeys
func (a *API) uploadSigning(ctx context.Context, r *web.Request) (*web.Response, error) {
	const op = "uploadCrossSigningKeys"
	var body e2ee.SigningUpload
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	raw, err := r.Object()
	if err != nil {
		return nil, err
	}
	if r.Caller.Appservice != "" { // Spec: as Cross-signing
		return ok(nil, func() error { return a.Encryption.UploadSigning(ctx, r.Caller.User, body, true) })
	}
	must, err := a.Encryption.MustConfirm(ctx, r.Caller.User, body)
	// A client that goes on with a session need not say again what it wants.
	empty := body.Master == nil && body.Self == nil && body.User == nil && gjson.GetBytes(raw, "auth.session").Exists()
	if err != nil || !must && !empty {
		return ok(err, func() error { return a.Encryption.UploadSigning(ctx, r.Caller.User, body, false) })
	}
	grant, err := a.confirm(ctx, r, op)
	if err != nil {
		return nil, err
	}
	body = e2ee.SigningUpload{}
	err = web.DecodeObject(grant.Params, &body)
	return ok(err, func() error { return a.Encryption.UploadSigning(ctx, r.Caller.User, body, true) })
}

// ok does something that has no answer, unless there was an error before.
func ok(err error, do func() error) (*web.Response, error) {
	if err == nil {
		err = do()
	}
	if err != nil {
		return nil, err
	}
	return web.Empty, nil
}

// Spec: cs uploadCrossSigningSignatures
func (a *API) uploadSignatures(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body e2ee.Signatures
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	failures, err := a.Encryption.UploadSignatures(ctx, r.Caller.User, body)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"failures": failures}), nil
}
