package clientapi

import (
	"context"
	"errors"
	"net/http"

	"myelin/internal/account"
	"myelin/internal/web"
	"myelin/matrix/id"
)

// accountDataRoutes is about what clients keep on the server for their users.
//
// Spec: cs Client Config
// Spec: cs Room Tagging
func (a *API) accountDataRoutes() []web.Route {
	const user = "/_matrix/client/v3/user/{userId}"
	const room = user + "/rooms/{roomId}"
	// MSC3391: goes when the specification has the operation.
	const msc3391 = "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}"
	return []web.Route{
		{Method: "GET", Path: user + "/account_data/{type}", Op: "getAccountData", Handle: a.accountData},
		{Method: "PUT", Path: user + "/account_data/{type}", Op: "setAccountData", Handle: a.setAccountData},
		{Method: "DELETE", Path: msc3391 + "/account_data/{type}", Op: "deleteAccountData", EmptyBody: true, Handle: a.deleteAccountData},
		{Method: "GET", Path: room + "/account_data/{type}", Op: "getAccountDataPerRoom", Handle: a.roomAccountData},
		{Method: "PUT", Path: room + "/account_data/{type}", Op: "setAccountDataPerRoom", Handle: a.setRoomAccountData},
		{Method: "DELETE", Path: msc3391 + "/rooms/{roomId}/account_data/{type}", Op: "deleteAccountDataPerRoom", EmptyBody: true, Handle: a.deleteRoomAccountData},
		{Method: "GET", Path: room + "/tags", Op: "getRoomTags", Handle: a.tags},
		{Method: "PUT", Path: room + "/tags/{tag}", Op: "setRoomTag", EmptyBody: true, Handle: a.setTag},
		{Method: "DELETE", Path: room + "/tags/{tag}", Op: "deleteRoomTag", EmptyBody: true, Handle: a.deleteTag},
	}
}

// selfInRoom reads the path of what a user keeps for a room.
func selfInRoom(r *web.Request) (id.UserID, id.RoomID, error) {
	user, err := self(r, "userId")
	if err != nil {
		return "", "", err
	}
	room, err := r.RoomID("roomId")
	return user, room, err
}

// Spec: cs getAccountData
func (a *API) accountData(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := self(r, "userId")
	if err != nil {
		return nil, err
	}
	return a.datum(ctx, r, user, "")
}

// Spec: cs getAccountDataPerRoom
func (a *API) roomAccountData(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, room, err := selfInRoom(r)
	if err != nil {
		return nil, err
	}
	return a.datum(ctx, r, user, room)
}

func (a *API) datum(ctx context.Context, r *web.Request, user id.UserID, room id.RoomID) (*web.Response, error) {
	content, err := a.Accounts.Data(ctx, user, room, r.Path("type"))
	if err != nil {
		return nil, err
	}
	return web.Raw(content), nil
}

// Spec: cs setAccountData
func (a *API) setAccountData(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := self(r, "userId")
	if err != nil {
		return nil, err
	}
	return a.setDatum(ctx, r, user, "")
}

// Spec: cs setAccountDataPerRoom
func (a *API) setRoomAccountData(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, room, err := selfInRoom(r)
	if err != nil {
		return nil, err
	}
	return a.setDatum(ctx, r, user, room)
}

func (a *API) setDatum(ctx context.Context, r *web.Request, user id.UserID, room id.RoomID) (*web.Response, error) {
	content, err := r.Object()
	if err != nil {
		return nil, err
	}
	if r.Path("type") == account.TypeIgnored && room == "" {
		if err := a.Push.Settle(ctx); err != nil {
			return nil, err
		}
	}
	return web.Empty, managed(a.Accounts.SetData(ctx, user, room, r.Path("type"), content))
}

// managed gives the refusal of types that the server manages its status.
func managed(err error) error {
	if errors.Is(err, account.ErrServerManaged) {
		return web.Status(err, http.StatusMethodNotAllowed)
	}
	return err
}

// MSC3391: an entry of account data is deleted.
func (a *API) deleteAccountData(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := self(r, "userId")
	if err != nil {
		return nil, err
	}
	return web.Empty, managed(a.Accounts.DeleteData(ctx, user, "", r.Path("type")))
}

// MSC3391: an entry of a room's account data is deleted.
func (a *API) deleteRoomAccountData(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, room, err := selfInRoom(r)
	if err != nil {
		return nil, err
	}
	return web.Empty, managed(a.Accounts.DeleteData(ctx, user, room, r.Path("type")))
}

// Spec: cs getRoomTags
func (a *API) tags(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, room, err := selfInRoom(r)
	if err != nil {
		return nil, err
	}
	tags, err := a.Accounts.Tags(ctx, user, room)
	if err != nil {
		return nil, err
	}
	return web.Raw(tags), nil
}

// Spec: cs setRoomTag
func (a *API) setTag(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, room, err := selfInRoom(r)
	if err != nil {
		return nil, err
	}
	content, err := r.Object()
	if err != nil {
		return nil, err
	}
	return web.Empty, a.Accounts.SetTag(ctx, user, room, r.Path("tag"), content)
}

// Spec: cs deleteRoomTag
func (a *API) deleteTag(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, room, err := selfInRoom(r)
	if err != nil {
		return nil, err
	}
	return web.Empty, a.Accounts.DeleteTag(ctx, user, room, r.Path("tag"))
}
