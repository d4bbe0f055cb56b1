package clientapi

import (
	"context"
	"slices"
	"strconv"

	"myelin/internal/graph"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// relationRoutes are about events that relate to others, and rooms that users share.
//
// Spec: cs Relationships API
// Spec: cs Threading
// Spec: cs Mutual Rooms
func (a *API) relationRoutes() []web.Route {
	const (
		v1        = "/_matrix/client/v1/rooms/{roomId}"
		relations = v1 + "/relations/{eventId}"
		// MSC2666: goes once no client of note uses it; the specification has the operation since v1.19.
		msc2666 = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"
	)
	return []web.Route{
		{Method: "GET", Path: relations, Op: "getRelatingEvents", Auth: web.Guest, Handle: a.relations},
		{Method: "GET", Path: relations + "/{relType}", Op: "getRelatingEventsWithRelType", Auth: web.Guest, Handle: a.relations},
		{Method: "GET", Path: relations + "/{relType}/{eventType}", Op: "getRelatingEventsWithRelTypeAndEventType", Auth: web.Guest, Handle: a.relations},
		{Method: "GET", Path: v1 + "/threads", Op: "getThreadRoots", Auth: web.Guest, Handle: a.threadRoots},
		{Method: "GET", Path: "/_matrix/client/v1/mutual_rooms", Op: "getMutualRooms", Handle: a.mutualRooms},
		{Method: "GET", Path: msc2666, Op: "getMutualRoomsUnstable", Handle: a.mutualRooms},
	}
}

// Spec: cs getRelatingEvents
// Spec: cs getRelatingEventsWithRelType
// Spec: cs getRelatingEventsWithRelTypeAndEventType
func (a *API) relations(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	q := view.Relations{
		Audience: audience(r), Room: roomID, From: r.Query("from"), To: r.Query("to"), Backward: r.Query("dir") != "f",
	}
	if q.Event, err = r.EventID("eventId"); err != nil {
		return nil, err
	}
	switch r.Op() {
	case "getRelatingEventsWithRelTypeAndEventType":
		q.RelType, q.Type = r.Path("relType"), r.Path("eventType")
	case "getRelatingEventsWithRelType":
		q.RelType = r.Path("relType")
	}
	if dir := r.Query("dir"); dir != "" && dir != "b" && dir != "f" {
		return nil, mxerr.InvalidParam("\"dir\" must be b or f")
	}
	if q.Recurse, err = r.QueryBool("recurse", false); err != nil {
		return nil, err
	}
	if q.Limit, err = pageLimit(r, 50); err != nil {
		return nil, err
	}
	body, err := a.View.Relations(ctx, q)
	if mxerr.Is(err, mxerr.CodeForbidden) {
		// The specification knows one answer for what the caller may not see here.
		return nil, mxerr.NotFound("there is no event %s that you may see in this room", q.Event)
	}
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}

// pageLimit reads the parameter "limit", which must be greater than zero.
func pageLimit(r *web.Request, fallback int) (int, error) {
	limit, err := r.QueryInt("limit", int64(fallback))
	if err == nil && limit <= 0 {
		err = mxerr.InvalidParam("\"limit\" must be greater than zero")
	}
	return int(min(limit, 1000)), err
}

// Spec: cs getThreadRoots
func (a *API) threadRoots(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	q := view.Threads{Audience: audience(r), Room: roomID, From: r.Query("from")}
	switch r.Query("include") {
	case "", "all":
	case "participated":
		q.Participated = true
	default:
		return nil, mxerr.InvalidParam("\"include\" must be all or participated")
	}
	if q.Limit, err = pageLimit(r, 20); err != nil {
		return nil, err
	}
	body, err := a.View.Threads(ctx, q)
	if err != nil {
		return nil, err
	}
	return web.Raw(body), nil
}

// mutualPage is how many shared rooms one answer lists.
const mutualPage = 500

// Spec: cs getMutualRooms
func (a *API) mutualRooms(ctx context.Context, r *web.Request) (*web.Response, error) {
	if !r.HasQuery("user_id") {
		return nil, mxerr.MissingParam("\"user_id\" is missing")
	}
	other, err := id.ParseUserID(r.Query("user_id"))
	switch {
	case err != nil:
		return nil, mxerr.InvalidParam("user_id: %v", err)
	case other.IsHistorical():
		return nil, mxerr.InvalidParam("%s is no user ID that could be made today", other)
	case other == r.Caller.User:
		return nil, mxerr.InvalidParam("you share every room with yourself")
	}
	var after graph.RoomNID
	if from := r.Query("from"); from != "" {
		n, err := strconv.ParseInt(from, 10, 64)
		if err != nil || n <= 0 {
			return nil, mxerr.InvalidParam("%.40q is no token of this operation", from)
		}
		after = graph.RoomNID(n)
	}
	shared, err := a.Graph.SharedRooms(ctx, r.Caller.User, other)
	if err != nil {
		return nil, err
	}
	slices.Sort(shared)
	page := shared[:0:0]
	for _, nid := range shared {
		if nid > after && len(page) <= mutualPage {
			page = append(page, nid)
		}
	}
	body := map[string]any{"count": len(shared)}
	if len(page) > mutualPage {
		page = page[:mutualPage]
		body["next_batch"] = strconv.FormatInt(int64(page[mutualPage-1]), 10)
	}
	joined := make([]id.RoomID, len(page))
	for i, nid := range page {
		if joined[i], _, err = a.Graph.RoomID(ctx, nid); err != nil {
			return nil, err
		}
	}
	body["joined"] = joined
	return web.JSON(body), nil
}
