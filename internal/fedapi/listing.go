package fedapi

import (
	"context"

	"myelin/internal/directory"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// listingRoutes is about rooms to find.
//
// Spec: ss Published Room Directory
// Spec: ss Spaces
func (a *API) listingRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/_matrix/federation/v1/publicRooms", Op: "getPublicRooms", Auth: web.Server, Rate: web.RateServer, Handle: a.publicRooms},
		{Method: "POST", Path: "/_matrix/federation/v1/publicRooms", Op: "queryPublicRooms", Auth: web.Server, Rate: web.RateServer, Handle: a.queryPublicRooms},
		{Method: "GET", Path: "/_matrix/federation/v1/hierarchy/{roomId}", Op: "getSpaceHierarchy", Auth: web.Server, Rate: web.RateHeavy, Handle: a.hierarchy},
	}
}

// network refuses what can't be asked together, and reports whether the list of a bridge is asked for: there are no bridges, so it is empty.
func network(instance string, all bool) (bridged bool, err error) {
	if instance != "" && all {
		return false, mxerr.InvalidParam("\"third_party_instance_id\" can't be used with \"include_all_networks\"")
	}
	return instance != "", nil
}

var noRooms = directory.Page{Chunk: []*directory.Summary{}}

// Spec: ss getPublicRooms
func (a *API) publicRooms(ctx context.Context, r *web.Request) (*web.Response, error) {
	limit, err := r.QueryInt("limit", 0)
	if err != nil {
		return nil, err
	}
	all, err := r.QueryBool("include_all_networks", false)
	if err != nil {
		return nil, err
	}
	bridged, err := network(r.Query("third_party_instance_id"), all)
	if err != nil {
		return nil, err
	}
	return a.listRooms(ctx, bridged, directory.Query{Limit: limit, Since: r.Query("since")})
}

// Spec: ss queryPublicRooms
func (a *API) queryPublicRooms(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Limit  int64  `json:"limit"`
		Since  string `json:"since"`
		Filter struct {
			Term      string    `json:"generic_search_term"`
			RoomTypes []*string `json:"room_types"`
		} `json:"filter"`
		AllNetworks bool   `json:"include_all_networks"`
		Network     string `json:"third_party_instance_id"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	bridged, err := network(body.Network, body.AllNetworks)
	if err != nil {
		return nil, err
	}
	q := directory.Query{Limit: body.Limit, Since: body.Since, Term: body.Filter.Term}
	for _, t := range body.Filter.RoomTypes {
		if t == nil {
			t = new(string)
		}
		q.Types = append(q.Types, *t)
	}
	return a.listRooms(ctx, bridged, q)
}

func (a *API) listRooms(ctx context.Context, bridged bool, q directory.Query) (*web.Response, error) {
	if bridged {
		return web.JSON(noRooms), nil
	}
	page, err := a.Directory.Rooms(ctx, q)
	if err != nil {
		return nil, err
	}
	return web.JSON(page), nil
}

// Spec: ss getSpaceHierarchy
func (a *API) hierarchy(ctx context.Context, r *web.Request) (*web.Response, error) {
	name, err := a.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	suggested, err := r.QueryBool("suggested_only", false)
	if err != nil {
		return nil, err
	}
	visitor := directory.Visitor{Name: r.Origin, Allowed: func(ctx context.Context, room id.RoomID) error {
		return a.Federated.Allowed(ctx, room, r.Origin)
	}}
	space, err := a.Directory.Hierarchy(ctx, visitor, name, suggested)
	if err != nil {
		return nil, err
	}
	return web.JSON(space), nil
}
