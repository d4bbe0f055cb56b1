package clientapi

import (
	"context"
	"net/http"

	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// deviceRoutes is the chapter on devices.
//
// Spec: cs Device Management
func (a *API) deviceRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "GET", Path: v3 + "/devices", Op: "getDevices", Auth: web.Guest, Handle: a.devices},
		{Method: "GET", Path: v3 + "/devices/{deviceId}", Op: "getDevice", Auth: web.Guest, Handle: a.device},
		{Method: "PUT", Path: v3 + "/devices/{deviceId}", Op: "updateDevice", Auth: web.Guest, Handle: a.updateDevice},
		{Method: "DELETE", Path: v3 + "/devices/{deviceId}", Op: "deleteDevice", EmptyBody: true, Handle: a.deleteDevice},
		{Method: "POST", Path: v3 + "/delete_devices", Op: "deleteDevices", Handle: a.deleteDevices},
	}
}

// Spec: cs getDevices
func (a *API) devices(ctx context.Context, r *web.Request) (*web.Response, error) {
	list, err := a.Accounts.Devices(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	shown := []shownDevice{}
	for _, d := range list {
		shown = append(shown, shownDevice{Device: d})
	}
	if err := a.markDehydrated(ctx, r.Caller.User, shown); err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"devices": shown}), nil
}

// Spec: cs getDevice
func (a *API) device(ctx context.Context, r *web.Request) (*web.Response, error) {
	device, err := a.Accounts.Device(ctx, r.Caller.User, id.DeviceID(r.Path("deviceId")))
	if err != nil {
		return nil, err
	}
	shown := []shownDevice{{Device: device}}
	if err := a.markDehydrated(ctx, r.Caller.User, shown); err != nil {
		return nil, err
	}
	return web.JSON(shown[0]), nil
}

// Spec: cs updateDevice
// Spec: as Creating devices
func (a *API) updateDevice(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	device := id.DeviceID(r.Path("deviceId"))
	if r.Caller.Appservice != "" {
		made, err := a.Accounts.PutDevice(ctx, r.Caller.User, device, body.DisplayName)
		if err == nil && made {
			return &web.Response{Status: http.StatusCreated, Raw: web.Empty.Raw}, nil
		}
		return web.Empty, err
	}
	if body.DisplayName == nil {
		_, err := a.Accounts.Device(ctx, r.Caller.User, device)
		return web.Empty, err
	}
	return web.Empty, a.Accounts.RenameDevice(ctx, r.Caller.User, device, *body.DisplayName)
}

// Spec: cs deleteDevice
func (a *API) deleteDevice(ctx context.Context, r *web.Request) (*web.Response, error) {
	device := r.Path("deviceId")
	if _, err := a.confirm(ctx, r, "deleteDevice "+device); err != nil {
		return nil, err
	}
	return web.Empty, a.Accounts.DeleteDevices(ctx, r.Caller.User, id.DeviceID(device))
}

// Spec: cs deleteDevices
func (a *API) deleteDevices(ctx context.Context, r *web.Request) (*web.Response, error) {
	grant, err := a.confirm(ctx, r, "deleteDevices")
	if err != nil {
		return nil, err
	}
	var body struct {
		Devices []id.DeviceID `json:"devices"`
	}
	if err := web.DecodeObject(grant.Params, &body); err != nil {
		return nil, err
	}
	if body.Devices == nil {
		return nil, mxerr.MissingParam("\"devices\" is missing")
	}
	return web.Empty, a.Accounts.DeleteDevices(ctx, r.Caller.User, body.Devices...)
}
