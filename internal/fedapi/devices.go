package fedapi

import (
	"context"
	"encoding/json"

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
		{Method: "GET", Path: v1 + "/user/devices/{userId}", Op: "getUserDevices", Auth: web.Server, Rate: web.RateServer, Handle: a.userDevices},
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
	keys, err := a.Encryption.QueryLocal(ctx, "", only(body.Keys, r.Destination))
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

// Spec: ss getUserDevices
func (a *API) userDevices(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := r.UserID("userId")
	if err != nil {
		return nil, err
	}
	if user.Domain() != r.Destination {
		return nil, mxerr.InvalidParam("%s is a user of another server.", user)
	}
	list, err := a.Encryption.ListOf(ctx, user)
	if err != nil {
		return nil, err
	}
	return web.JSON(list), nil
}

// deviceList takes what another server says of a device of a user of its own.
//
// Spec: ss Device Management
func (n *news) deviceList(ctx context.Context, content json.RawMessage) error {
	var body struct {
		User     string          `json:"user_id"`
		Device   id.DeviceID     `json:"device_id"`
		Name     string          `json:"device_display_name"`
		StreamID int64           `json:"stream_id"`
		PrevID   []int64         `json:"prev_id"`
		Deleted  bool            `json:"deleted"`
		Keys     json.RawMessage `json:"keys"`
	}
	if err := read(content, &body); err != nil {
		return err
	}
	user, err := n.user(body.User)
	if err != nil {
		return err
	}
	if string(body.Keys) == "null" {
		body.Keys = nil
	}
	return n.api.Encryption.RemoteUpdate(ctx, e2ee.Update{
		User: user, Device: body.Device, Name: body.Name, StreamID: body.StreamID, PrevID: body.PrevID, Deleted: body.Deleted, Keys: body.Keys,
	})
}

// direct takes messages of another server's user to devices of ours.
//
// Spec: ss Send-to-device messaging
func (n *news) direct(ctx context.Context, content json.RawMessage) error {
	var body struct {
		Sender   string        `json:"sender"`
		Type     string        `json:"type"`
		ID       string        `json:"message_id"`
		Messages e2ee.Messages `json:"messages"`
	}
	if err := read(content, &body); err != nil {
		return err
	}
	sender, err := n.user(body.Sender)
	if err != nil {
		return err
	}
	return n.api.Encryption.Receive(ctx, sender, body.Type, body.ID, body.Messages)
}

// signing takes the cross-signing keys of a user of another server.
//
// Spec: ss End-to-End Encryption
func (n *news) signing(ctx context.Context, content json.RawMessage) error {
	var body struct {
		User string `json:"user_id"`
		e2ee.SigningUpload
	}
	if err := read(content, &body); err != nil {
		return err
	}
	user, err := n.user(body.User)
	if err != nil {
		return err
	}
	return n.api.Encryption.RemoteSigning(ctx, user, body.SigningUpload)
}
