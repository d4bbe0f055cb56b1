package clientapi

import (
	"context"

	"myelin/internal/web"
)

// rtcRoutes is where clients find servers for the media of calls of several users.
//
// MSC4143: goes when the specification has the operation.
func (a *API) rtcRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", Op: "getRtcTransports", Auth: web.Guest, Handle: a.rtcTransports},
		{Method: "GET", Path: "/_matrix/client/v1/rtc/transports", Op: "getRtcTransports", Auth: web.Guest, Handle: a.rtcTransports},
	}
}

// rtcTransport is one of them.
//
// MSC4195: the type "livekit" and its service.
type rtcTransport struct {
	Type       string `json:"type"`
	ServiceURL string `json:"livekit_service_url"`
}

func (a *API) transports() []rtcTransport {
	list := make([]rtcTransport, len(a.Settings.LiveKit))
	for i, url := range a.Settings.LiveKit {
		list[i] = rtcTransport{Type: "livekit", ServiceURL: url}
	}
	return list
}

// MSC4143: the transports that this server offers.
func (a *API) rtcTransports(context.Context, *web.Request) (*web.Response, error) {
	return web.JSON(map[string]any{"rtc_transports": a.transports()}), nil
}
