package clientapi

import (
	"context"

	"myelin/internal/directory"
	"myelin/internal/fedclient"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// spaceRoutes are about rooms that one isn't in yet: those in a space, and what can be said of a single one.
//
// Spec: cs Spaces
func (a *API) spaceRoutes() []web.Route {
	// MSC3266: goes once no client of note uses it; the specification has the operation since v1.15.
	const msc3266 = "/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}"
	return []web.Route{
		{Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/hierarchy", Op: "getSpaceHierarchy", Auth: web.Guest, Rate: web.RateHeavy, Handle: a.hierarchy},
		{Method: "GET", Path: "/_matrix/client/v1/room_summary/{roomIdOrAlias}", Op: "getRoomSummary", Auth: web.Optional, Handle: a.roomSummary},
		{Method: "GET", Path: msc3266, Op: "getRoomSummaryUnstable", Auth: web.Optional, Handle: a.unstableRoomSummary},
	}
}

// seeker is the caller as package directory wants to know them. Other servers are not asked on behalf of just anybody.
func (a *API) seeker(r *web.Request) directory.Seeker {
	who := directory.Seeker{User: r.Caller.User}
	if who.User != "" {
		who.Ask = func(ctx context.Context, room id.RoomID, via []id.ServerName, suggestedOnly bool) (fedclient.Hierarchy, error) {
			return a.Federated.Hierarchy(ctx, room, who.User, via, suggestedOnly)
		}
	}
	return who
}

// Spec: cs getSpaceHierarchy
func (a *API) hierarchy(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	t := directory.Tour{Space: roomID, From: r.Query("from"), Depth: -1}
	if t.SuggestedOnly, err = r.QueryBool("suggested_only", false); err != nil {
		return nil, err
	}
	if t.Limit, err = r.QueryInt("limit", 0); err != nil {
		return nil, err
	}
	if r.HasQuery("limit") && t.Limit <= 0 {
		return nil, mxerr.InvalidParam("\"limit\" must be greater than zero")
	}
	if r.HasQuery("max_depth") {
		if t.Depth, err = r.QueryInt("max_depth", -1); err != nil {
			return nil, err
		}
		if t.Depth < 0 {
			return nil, mxerr.InvalidParam("\"max_depth\" must not be negative")
		}
	}
	page, err := a.Directory.Tour(ctx, a.seeker(r), t)
	if err != nil {
		return nil, err
	}
	return web.JSON(page), nil
}

func (a *API) findRoom(ctx context.Context, r *web.Request) (*directory.Found, error) {
	if alias, err := id.ParseRoomAlias(r.Path("roomIdOrAlias")); err == nil && r.Caller.User == "" && !a.Ours.Is(alias.Domain()) {
		return nil, mxerr.NotFound("the room alias %s belongs to another server, which is asked for users of this one only", alias)
	}
	roomID, via, err := a.roomIDOrAlias(ctx, r)
	if err != nil {
		return nil, err
	}
	return a.Directory.Find(ctx, a.seeker(r), roomID, via)
}

// Spec: cs getRoomSummary
func (a *API) roomSummary(ctx context.Context, r *web.Request) (*web.Response, error) {
	found, err := a.findRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	return web.JSON(found), nil
}

// unstableRoomSummary gives two fields the names that they had in the proposal as well.
func (a *API) unstableRoomSummary(ctx context.Context, r *web.Request) (*web.Response, error) {
	found, err := a.findRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	return web.JSON(struct {
		*directory.Found
		RoomVersion string `json:"im.nheko.summary.room_version,omitempty"`
		Encryption  string `json:"im.nheko.summary.encryption,omitempty"`
	}{found, found.RoomVersion, found.Encryption}), nil
}
