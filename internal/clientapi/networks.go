package clientapi

import (
	"context"
	"maps"
	"net/url"
	"time"

	"myelin/internal/appservice"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// networkRoutes are about third-party networks, and for the application services that connect them.
//
// Spec: cs Third-party Networks
// Spec: as Client-Server API Extensions
func (a *API) networkRoutes() []web.Route {
	const v3 = "/_matrix/client/v3/thirdparty"
	return []web.Route{
		{Method: "GET", Path: v3 + "/protocols", Op: "getProtocols", Rate: web.RateHeavy, Handle: a.protocols},
		{Method: "GET", Path: v3 + "/protocol/{protocol}", Op: "getProtocolMetadata", Rate: web.RateHeavy, Handle: a.protocol},
		{Method: "GET", Path: v3 + "/user/{protocol}", Op: "queryUserByProtocol", Rate: web.RateHeavy, Handle: a.networkUsers},
		{Method: "GET", Path: v3 + "/location/{protocol}", Op: "queryLocationByProtocol", Rate: web.RateHeavy, Handle: a.networkLocations},
		{Method: "GET", Path: v3 + "/user", Op: "queryUserByID", Rate: web.RateHeavy, Handle: a.networkUser},
		{Method: "GET", Path: v3 + "/location", Op: "queryLocationByAlias", Rate: web.RateHeavy, Handle: a.networkLocation},
		{Method: "POST", Path: "/_matrix/client/v1/appservice/{appserviceId}/ping", Op: "pingAppservice", EmptyBody: true, Handle: a.pingAppservice},
		{Method: "PUT", Path: "/_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}", Op: "updateAppserviceRoomDirectoryVisibility", Handle: a.setNetworkVisibility},
	}
}

// Spec: cs getProtocols
func (a *API) protocols(ctx context.Context, _ *web.Request) (*web.Response, error) {
	found, err := a.Appservices.Protocols(ctx, "")
	if err != nil {
		return nil, err
	}
	return web.JSON(found), nil
}

// Spec: cs getProtocolMetadata
func (a *API) protocol(ctx context.Context, r *web.Request) (*web.Response, error) {
	name := r.Path("protocol")
	found, err := a.Appservices.Protocols(ctx, name)
	if err != nil {
		return nil, err
	}
	return web.JSON(found[name]), nil
}

// Spec: cs queryUserByProtocol
func (a *API) networkUsers(ctx context.Context, r *web.Request) (*web.Response, error) {
	return a.networks(ctx, appservice.ThirdParty{Kind: "user", Protocol: r.Path("protocol"), Fields: fields(r)})
}

// Spec: cs queryLocationByProtocol
func (a *API) networkLocations(ctx context.Context, r *web.Request) (*web.Response, error) {
	return a.networks(ctx, appservice.ThirdParty{Kind: "location", Protocol: r.Path("protocol"), Fields: fields(r)})
}

// Spec: cs queryUserByID
func (a *API) networkUser(ctx context.Context, r *web.Request) (*web.Response, error) {
	if r.Query("userid") == "" {
		return nil, mxerr.MissingParam("\"userid\" is missing")
	}
	return a.networks(ctx, appservice.ThirdParty{Kind: "user", Fields: url.Values{"userid": {r.Query("userid")}}})
}

// Spec: cs queryLocationByAlias
func (a *API) networkLocation(ctx context.Context, r *web.Request) (*web.Response, error) {
	if r.Query("alias") == "" {
		return nil, mxerr.MissingParam("\"alias\" is missing")
	}
	return a.networks(ctx, appservice.ThirdParty{Kind: "location", Fields: url.Values{"alias": {r.Query("alias")}}})
}

func (a *API) networks(ctx context.Context, q appservice.ThirdParty) (*web.Response, error) {
	found, err := a.Appservices.Networks(ctx, q)
	if err != nil {
		return nil, err
	}
	return web.JSON(found), nil
}

// fields is the query of a request as it is passed on: without what proves who sent it.
func fields(r *web.Request) url.Values {
	all := maps.Clone(r.HTTP.URL.Query())
	for _, own := range []string{"access_token", "user_id", "device_id"} {
		delete(all, own)
	}
	return all
}

// Spec: cs pingAppservice
func (a *API) pingAppservice(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Txn string `json:"transaction_id"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	s := a.Appservices.Service(r.Path("appserviceId"))
	if s == nil || s.ID != r.Caller.Appservice {
		return nil, mxerr.Forbidden("this is for the application service itself")
	}
	took, err := a.Appservices.Ping(ctx, s, body.Txn)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"duration_ms": int64(took / time.Millisecond)}), nil
}

// Spec: cs updateAppserviceRoomDirectoryVisibility
func (a *API) setNetworkVisibility(ctx context.Context, r *web.Request) (*web.Response, error) {
	s := a.Appservices.Service(r.Caller.Appservice)
	if s == nil {
		return nil, mxerr.Forbidden("this is for application services")
	}
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	var body struct {
		Visibility string `json:"visibility"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Visibility != "public" && body.Visibility != "private" {
		return nil, mxerr.InvalidParam("\"visibility\" must be public or private")
	}
	err = a.Directory.SetInNetwork(ctx, s.Instance(r.Path("networkId")), roomID, body.Visibility == "public")
	if err != nil {
		return nil, err
	}
	return web.Empty, nil
}
