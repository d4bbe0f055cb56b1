package clientapi

import (
	"context"
	"encoding/json"
	"strconv"

	"myelin/internal/account"
	"myelin/internal/e2ee"
	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// dehydratedRoutes are about the device that waits for its user to sign in again. They get other paths once the proposal is part of the
// specification. Clients before and after a change of the proposal ask for messages with POST and with GET.
//
// MSC3814: dehydrated devices with SSSS
func (a *API) dehydratedRoutes() []web.Route {
	const (
		one    = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
		events = one + "/{deviceId}/events"
	)
	return []web.Route{
		{Method: "PUT", Path: one, Op: "putDehydratedDevice", Handle: a.putDehydrated},
		{Method: "GET", Path: one, Op: "getDehydratedDevice", Handle: a.dehydrated},
		{Method: "DELETE", Path: one, Op: "deleteDehydratedDevice", Handle: a.deleteDehydrated},
		{Method: "GET", Path: events, Op: "getDehydratedDeviceEvents", Handle: a.dehydratedEvents},
		{Method: "POST", Path: events, Op: "postDehydratedDeviceEvents", Handle: a.dehydratedEvents},
	}
}

// shownDevice is a device as its user sees it. The proposal marks a dehydrated one by its keys, which the client signs; the mark here has the same
// name, and spares clients that list devices the look at keys. It goes where the proposal gives lists of devices another mark.
//
// MSC3814: dehydrated devices with SSSS
type shownDevice struct {
	account.Device
	Dehydrated bool `json:"dehydrated,omitempty"`
}

// markDehydrated marks the dehydrated one of a user's devices.
func (a *API) markDehydrated(ctx context.Context, user id.UserID, devices []shownDevice) error {
	d, err := a.Encryption.Dehydrated(ctx, user)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return nil
	}
	for i := range devices {
		devices[i].Dehydrated = devices[i].ID == d.Device
	}
	return err
}

// MSC3814: uploading a dehydrated device
func (a *API) putDehydrated(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		e2ee.Dehydrated
		e2ee.Upload
		Name string `json:"initial_device_display_name"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Device == "" {
		return nil, mxerr.MissingParam("\"device_id\" is missing")
	}
	user := r.Caller.User
	write, err := a.Encryption.Dehydrate(ctx, user, body.Dehydrated, body.Upload)
	if err != nil {
		return nil, err
	}
	old := func(tx *sqldb.Tx) (id.DeviceID, error) { return e2ee.DehydratedID(tx, user) }
	if err := a.Accounts.ReplaceDevice(ctx, user, body.Device, body.Name, old, write); err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"device_id": body.Device}), nil
}

// MSC3814: rehydrating a device
func (a *API) dehydrated(ctx context.Context, r *web.Request) (*web.Response, error) {
	d, err := a.Encryption.Dehydrated(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return web.JSON(d), nil
}

// MSC3814: deleting a dehydrated device
func (a *API) deleteDehydrated(ctx context.Context, r *web.Request) (*web.Response, error) {
	d, err := a.Encryption.Dehydrated(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	if err := a.Accounts.DeleteDevices(ctx, r.Caller.User, d.Device); err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"device_id": d.Device}), nil
}

// MSC3814: the messages for a dehydrated device
func (a *API) dehydratedEvents(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Next string `json:"next_batch"`
	}
	if body.Next = r.Query("from"); r.Op() == "postDehydratedDeviceEvents" {
		if err := r.Decode(&body); err != nil {
			return nil, err
		}
	}
	var from int64
	if body.Next != "" {
		var err error
		if from, err = strconv.ParseInt(body.Next, 10, 64); err != nil || from < 0 {
			return nil, mxerr.InvalidParam("This is no token of ours.")
		}
	}
	events, last, err := a.Encryption.DehydratedInbox(ctx, r.Caller.User, id.DeviceID(r.Path("deviceId")), sqldb.Pos(from))
	if err != nil {
		return nil, err
	}
	return web.JSON(struct {
		Events []json.RawMessage `json:"events"`
		Next   string            `json:"next_batch"`
	}{events, strconv.FormatInt(int64(last), 10)}), nil
}
