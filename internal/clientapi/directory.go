package clientapi

import (
	"context"
	"encoding/json"
	"fmt"

	"myelin/internal/directory"
	"myelin/internal/fedclient"
	"myelin/internal/room"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// directoryRoutes are the chapters on aliases and on the list of published rooms.
//
// Spec: cs Room aliases
// Spec: cs Published room directory
func (a *API) directoryRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "GET", Path: v3 + "/directory/room/{roomAlias}", Op: "getRoomIdByAlias", Auth: web.None, Handle: a.resolveAlias},
		{Method: "PUT", Path: v3 + "/directory/room/{roomAlias}", Op: "setRoomAlias", NotSuspended: true, Handle: a.createAlias},
		{Method: "DELETE", Path: v3 + "/directory/room/{roomAlias}", Op: "deleteRoomAlias", Handle: a.deleteAlias},
		{Method: "GET", Path: v3 + "/rooms/{roomId}/aliases", Op: "getLocalAliases", Handle: a.aliases},
		{Method: "GET", Path: v3 + "/directory/list/room/{roomId}", Op: "getRoomVisibilityOnDirectory", Auth: web.None, Handle: a.roomVisibility},
		{Method: "PUT", Path: v3 + "/directory/list/room/{roomId}", Op: "setRoomVisibilityOnDirectory", NotSuspended: true, Handle: a.setRoomVisibility},
		{Method: "GET", Path: v3 + "/publicRooms", Op: "getPublicRooms", Auth: web.None, Handle: a.publicRooms},
		{Method: "POST", Path: v3 + "/publicRooms", Op: "queryPublicRooms", EmptyBody: true, Handle: a.queryPublicRooms},
		{Method: "POST", Path: v3 + "/user_directory/search", Op: "searchUserDirectory", Handle: a.searchUsers},
	}
}

func actor(r *web.Request) directory.Actor {
	return directory.Actor{User: r.Caller.User, Admin: r.Caller.Admin}
}

// Spec: cs getRoomIdByAlias
func (a *API) resolveAlias(ctx context.Context, r *web.Request) (*web.Response, error) {
	alias, err := r.RoomAlias("roomAlias")
	if err != nil {
		return nil, err
	}
	var answer struct {
		RoomID  id.RoomID       `json:"room_id"`
		Servers []id.ServerName `json:"servers"`
	}
	if a.Ours.Is(alias.Domain()) {
		if answer.RoomID, err = a.Directory.Resolve(ctx, alias); err == nil {
			answer.Servers, err = a.Directory.Servers(ctx, answer.RoomID, alias.Domain())
		}
	} else {
		answer.RoomID, answer.Servers, err = a.Federated.Alias(ctx, alias)
	}
	if err != nil {
		return nil, err
	}
	return web.JSON(answer), nil
}

// Spec: cs setRoomAlias
func (a *API) createAlias(ctx context.Context, r *web.Request) (*web.Response, error) {
	alias, err := r.RoomAlias("roomAlias")
	if err != nil {
		return nil, err
	}
	var body struct {
		RoomID string `json:"room_id"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.RoomID == "" {
		return nil, mxerr.MissingParam("\"room_id\" is missing")
	}
	roomID, err := id.ParseRoomID(body.RoomID)
	if err != nil {
		return nil, mxerr.InvalidParam("\"room_id\": %v", err)
	}
	if err := a.Appservices.MayAlias(r.Caller.Appservice, alias); err != nil {
		return nil, err
	}
	err = a.Directory.Create(ctx, alias, roomID, actor(r))
	if mxerr.Is(err, mxerr.CodeRoomInUse) {
		return nil, web.Status(err, 409)
	}
	if err != nil {
		return nil, err
	}
	return web.Empty, nil
}

// Spec: cs deleteRoomAlias
func (a *API) deleteAlias(ctx context.Context, r *web.Request) (*web.Response, error) {
	alias, err := r.RoomAlias("roomAlias")
	if err != nil {
		return nil, err
	}
	who := actor(r)
	if !who.Admin {
		if err := a.Appservices.MayAlias(r.Caller.Appservice, alias); err != nil {
			return nil, err
		}
		who.Admin = a.Appservices.OwnsAlias(r.Caller.Appservice, alias)
	}
	roomID, err := a.Directory.Delete(ctx, alias, who)
	if err != nil {
		return nil, err
	}
	// The alias is gone, whether or not the caller may tell the room.
	if err := a.dropCanonicalAlias(ctx, roomID, alias, r.Caller.User); err != nil {
		if _, refused := mxerr.Of(err); !refused {
			a.Log.Warn("a deleted alias is still called canonical", "room", roomID, "error", err)
		}
	}
	return web.Empty, nil
}

// dropCanonicalAlias takes an alias that is gone out of what its room is called.
//
// Spec: cs deleteRoomAlias
func (a *API) dropCanonicalAlias(ctx context.Context, roomID id.RoomID, alias id.RoomAlias, sender id.UserID) error {
	const typ = "m.room.canonical_alias"
	old, err := a.View.StateEntry(ctx, view.Audience{User: sender}, roomID, typ, "", false)
	if err != nil {
		return err
	}
	content, named := directory.WithoutAlias(old, alias)
	if !named {
		return nil
	}
	stateKey := ""
	_, err = a.Rooms.Send(ctx, room.Message{
		Room:     roomID,
		Proposal: room.Proposal{Sender: sender, Type: typ, StateKey: &stateKey, Content: content},
	})
	return err
}

// Spec: cs getLocalAliases
func (a *API) aliases(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	aliases, err := a.Directory.Of(ctx, roomID, actor(r))
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"aliases": aliases}), nil
}

// Spec: cs getRoomVisibilityOnDirectory
func (a *API) roomVisibility(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	visibility, err := a.visibility(ctx, roomID)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"visibility": visibility}), nil
}

// visibility says in the words of the specification whether a room is on the list.
func (a *API) visibility(ctx context.Context, roomID id.RoomID) (string, error) {
	public, err := a.Directory.IsPublished(ctx, roomID)
	if public {
		return "public", err
	}
	return "private", err
}

// Spec: cs setRoomVisibilityOnDirectory
func (a *API) setRoomVisibility(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	var body struct {
		Visibility *string `json:"visibility"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	public := body.Visibility == nil || *body.Visibility == "public"
	if !public && *body.Visibility != "private" {
		return nil, mxerr.InvalidParam("\"visibility\" must be public or private")
	}
	if err := a.Directory.SetPublished(ctx, roomID, public, actor(r)); err != nil {
		return nil, err
	}
	return web.Empty, nil
}

// Spec: cs getPublicRooms
func (a *API) publicRooms(ctx context.Context, r *web.Request) (*web.Response, error) {
	limit, err := r.QueryInt("limit", 0)
	if err != nil {
		return nil, err
	}
	return a.listRooms(ctx, r, directory.Query{Limit: limit, Since: r.Query("since")})
}

// listing is the body of queryPublicRooms.
type listing struct {
	Limit  int64  `json:"limit"`
	Since  string `json:"since"`
	Filter struct {
		Term      string    `json:"generic_search_term"`
		RoomTypes []*string `json:"room_types"`
	} `json:"filter"`
	AllNetworks bool   `json:"include_all_networks"`
	Network     string `json:"third_party_instance_id"`
}

// Spec: cs queryPublicRooms
func (a *API) queryPublicRooms(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body listing
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Network != "" && body.AllNetworks {
		return nil, mxerr.InvalidParam("\"third_party_instance_id\" can't be used with \"include_all_networks\"")
	}
	q := directory.Query{
		Limit: body.Limit, Since: body.Since, Term: body.Filter.Term, Network: body.Network, AllNetworks: body.AllNetworks,
	}
	for _, t := range body.Filter.RoomTypes {
		if t == nil {
			t = new(string)
		}
		q.Types = append(q.Types, *t)
	}
	return a.listRooms(ctx, r, q)
}

// remoteRooms passes a question for published rooms on to another server.
//
// Spec: ss queryPublicRooms
func (a *API) remoteRooms(ctx context.Context, server id.ServerName, q directory.Query) (*web.Response, error) {
	filter := make(map[string]any, 2)
	if q.Term != "" {
		filter["generic_search_term"] = q.Term
	}
	if q.Types != nil {
		types := make([]*string, len(q.Types))
		for i, t := range q.Types {
			if t != "" {
				types[i] = &t
			}
		}
		filter["room_types"] = types
	}
	raw, err := json.Marshal(filter)
	if err != nil {
		return nil, fmt.Errorf("encode a filter for rooms: %w", err)
	}
	page, err := a.Federated.PublicRooms(ctx, server, fedclient.PublicRoomsQuery{Limit: int(min(q.Limit, maxRemoteRooms)), Since: q.Since, Filter: raw})
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"chunk": page.Chunk}
	if page.Chunk == nil {
		answer["chunk"] = []json.RawMessage{}
	}
	if page.NextBatch != "" {
		answer["next_batch"] = page.NextBatch
	}
	if page.PrevBatch != "" {
		answer["prev_batch"] = page.PrevBatch
	}
	if page.Total != nil {
		answer["total_room_count_estimate"] = *page.Total
	}
	return web.JSON(answer), nil
}

// maxRemoteRooms bounds how many rooms another server is asked for at once.
const maxRemoteRooms = 500

func (a *API) listRooms(ctx context.Context, r *web.Request, q directory.Query) (*web.Response, error) {
	if server := r.Query("server"); server != "" {
		name, err := id.ParseServerName(server)
		if err != nil {
			return nil, mxerr.InvalidParam("\"server\": %v", err)
		}
		if !a.Ours.Is(name) {
			return a.remoteRooms(ctx, name, q)
		}
	}
	page, err := a.Directory.Rooms(ctx, q)
	if err != nil {
		return nil, err
	}
	return web.JSON(page), nil
}

// Spec: cs searchUserDirectory
func (a *API) searchUsers(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Term  *string `json:"search_term"`
		Limit int64   `json:"limit"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	switch {
	case body.Term == nil:
		return nil, mxerr.MissingParam("\"search_term\" is missing")
	case body.Limit < 0:
		return nil, mxerr.InvalidParam("\"limit\" must not be negative")
	}
	found, err := a.Directory.SearchUsers(ctx, r.Caller.User, *body.Term, body.Limit)
	if err != nil {
		return nil, err
	}
	return web.JSON(found), nil
}
