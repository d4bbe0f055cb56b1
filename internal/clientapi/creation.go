package clientapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// roomCreationRoutes is the chapter on making rooms.
//
// Spec: cs Creation
func (a *API) roomCreationRoutes() []web.Route {
	return []web.Route{
		{Method: "POST", Path: "/_matrix/client/v3/createRoom", Op: "createRoom", Rate: web.RateSend, NotSuspended: true, Handle: a.createRoom},
	}
}

// creation is the body of createRoom.
type creation struct {
	Visibility      string                     `json:"visibility"`
	RoomAliasName   string                     `json:"room_alias_name"`
	Name            *string                    `json:"name"`
	Topic           *string                    `json:"topic"`
	Invite          []id.UserID                `json:"invite"`
	Invite3PID      []json.RawMessage          `json:"invite_3pid"`
	RoomVersion     string                     `json:"room_version"`
	CreationContent map[string]any             `json:"creation_content"`
	InitialState    []initialState             `json:"initial_state"`
	Preset          room.Preset                `json:"preset"`
	IsDirect        bool                       `json:"is_direct"`
	PowerLevels     map[string]json.RawMessage `json:"power_level_content_override"`
}

type initialState struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// maxInvites bounds the invites of one createRoom: each is an event of its own.
const maxInvites = 100

// Spec: cs createRoom
func (a *API) createRoom(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body creation
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	c, err := a.creation(body, r.Caller.User)
	if err != nil {
		return nil, err
	}
	addresses, err := readAddressed(body.Invite3PID)
	if err != nil {
		return nil, err
	}
	if c.Alias != "" {
		if err := a.Appservices.MayAlias(r.Caller.Appservice, c.Alias); err != nil {
			return nil, err
		}
		if err := a.Directory.Reserve(ctx, c.Alias, r.Caller.User); err != nil {
			return nil, err
		}
	}
	c.Also = func(tx *sqldb.Tx, roomID id.RoomID) error {
		if c.Alias != "" {
			a.Directory.Assign(tx, c.Alias, roomID)
		}
		if body.Visibility == "public" {
			a.Directory.Publish(tx, roomID)
		}
		return nil
	}
	remote := a.takeRemote(&c)
	for _, u := range c.Invite {
		if err := a.find(ctx, u); err != nil {
			return nil, err
		}
	}
	roomID, err := a.Rooms.Create(ctx, c)
	if err != nil {
		if c.Alias != "" {
			a.Directory.Release(context.WithoutCancel(ctx), c.Alias)
		}
		return nil, err
	}
	failed := a.Federated.InviteAll(ctx, room.Membership{Room: roomID, Sender: c.Creator, IsDirect: c.IsDirect}, remote)
	for _, u := range remote {
		if err := failed[u]; err != nil {
			return nil, uninvited(roomID, string(u), err)
		}
	}
	for _, in := range addresses {
		if err := a.inviteAddress(ctx, c.Creator, roomID, in); err != nil {
			return nil, uninvited(roomID, in.Address, err)
		}
	}
	return web.JSON(roomEntered{roomID}), nil
}

// uninvited says that a room was made to which a user of another server couldn't be invited: a success would be taken for one.
// The answer is not one after which a client tries again on its own account, since that would make another room.
//
// Spec: cs createRoom
func uninvited(in id.RoomID, user string, err error) error {
	refused, ok := mxerr.Of(err)
	if !ok {
		return fmt.Errorf("invite %s to the new room %s: %w", user, in, err)
	}
	e := mxerr.New(refused.Code, "The room %s was made, but %s could not be invited: %s", in, user, refused.Text).With("room_id", string(in))
	switch refused.Code {
	case mxerr.CodeForbidden, mxerr.CodeInviteBlocked:
		return e
	}
	return web.Status(e, http.StatusBadRequest)
}

// takeRemote takes the users of other servers out of those whom a new room invites: their servers must agree first.
func (a *API) takeRemote(c *room.Creation) (remote []id.UserID) {
	local := make([]id.UserID, 0, len(c.Invite))
	for _, u := range c.Invite {
		if a.Ours.Is(u.Domain()) {
			local = append(local, u)
		} else {
			remote = append(remote, u)
		}
	}
	c.Invite = local
	return remote
}

// creation checks the body and turns it into what package room understands.
func (a *API) creation(body creation, creator id.UserID) (room.Creation, error) {
	c := room.Creation{
		Creator: creator, Preset: body.Preset, Content: body.CreationContent, PowerLevels: body.PowerLevels,
		Name: body.Name, Topic: body.Topic, Invite: body.Invite, IsDirect: body.IsDirect,
	}
	switch {
	case len(body.Invite) > maxInvites:
		return c, mxerr.InvalidParam("no more than %d users can be invited at once", maxInvites)
	}
	for _, u := range body.Invite {
		if _, err := id.ParseUserID(string(u)); err != nil {
			return c, mxerr.InvalidParam("\"invite\": %v", err)
		}
	}
	switch body.Visibility {
	case "", "private", "public":
	default:
		return c, mxerr.InvalidParam("\"visibility\" must be public or private")
	}
	switch c.Preset {
	case room.PrivateChat, room.TrustedPrivateChat, room.PublicChat:
	case "":
		c.Preset = room.PrivateChat
		if body.Visibility == "public" {
			c.Preset = room.PublicChat
		}
	default:
		return c, mxerr.InvalidParam("there is no preset %q", body.Preset)
	}
	var err error
	if c.Version, err = roomVersion(body.RoomVersion); err != nil {
		return c, err
	}
	for _, s := range body.InitialState {
		if s.Type == "" || len(s.Content) == 0 {
			return c, mxerr.BadJSON("each entry of \"initial_state\" needs a type and a content")
		}
		c.InitialState = append(c.InitialState, room.StateEntry(s))
	}
	if body.RoomAliasName != "" {
		c.Alias, err = id.ParseRoomAlias("#" + body.RoomAliasName + ":" + string(creator.Domain()))
		if err != nil {
			return c, mxerr.InvalidParam("\"room_alias_name\": %v", err)
		}
	}
	return c, nil
}

// roomVersion looks a version up; empty means the server's default.
func roomVersion(name string) (*roomver.Version, error) {
	if name == "" {
		return nil, nil
	}
	v, ok := roomver.Get(name)
	if !ok {
		return nil, mxerr.New(mxerr.CodeUnsupportedRoomVersion, "this server does not support room version %q", name)
	}
	return v, nil
}

// Spec: cs upgradeRoom
func (a *API) upgradeRoom(ctx context.Context, r *web.Request) (*web.Response, error) {
	roomID, err := r.RoomID("roomId")
	if err != nil {
		return nil, err
	}
	var body struct {
		NewVersion         string      `json:"new_version"`
		AdditionalCreators []id.UserID `json:"additional_creators"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.NewVersion == "" {
		return nil, mxerr.MissingParam("\"new_version\" is missing")
	}
	version, err := roomVersion(body.NewVersion)
	if err != nil {
		return nil, err
	}
	for _, u := range body.AdditionalCreators {
		if _, err := id.ParseUserID(string(u)); err != nil {
			return nil, mxerr.InvalidParam("\"additional_creators\": %v", err)
		}
	}
	replacement, err := a.Rooms.Upgrade(ctx, room.Upgrade{
		Room: roomID, Sender: r.Caller.User, Version: version, AdditionalCreators: body.AdditionalCreators,
		Also: func(tx *sqldb.Tx, replacement id.RoomID) error {
			a.Directory.Move(tx, roomID, replacement)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"replacement_room": replacement}), nil
}

// maxVia bounds the servers that a client may name to get into a room.
const maxVia = 20

// roomIDOrAlias reads the path of the operations by which a user enters a room, and the servers through which the room can be
// entered: those that the client names, and those that the alias's server does.
//
// Spec: cs joinRoom
func (a *API) roomIDOrAlias(ctx context.Context, r *web.Request) (id.RoomID, []id.ServerName, error) {
	var via []id.ServerName
	for _, name := range append(r.QueryAll("via"), r.QueryAll("server_name")...) {
		server, err := id.ParseServerName(name)
		if err != nil {
			return "", nil, mxerr.InvalidParam("\"via\": %v", err)
		}
		if len(via) < maxVia {
			via = append(via, server)
		}
	}
	s := r.Path("roomIdOrAlias")
	if len(s) > 0 && s[0] == '!' {
		roomID, err := id.ParseRoomID(s)
		if err != nil {
			return "", nil, mxerr.InvalidParam("%v", err)
		}
		return roomID, via, nil
	}
	alias, err := id.ParseRoomAlias(s)
	if err != nil {
		return "", nil, mxerr.InvalidParam("%v", err)
	}
	if a.Ours.Is(alias.Domain()) {
		roomID, err := a.Directory.Resolve(ctx, alias)
		return roomID, via, err
	}
	roomID, servers, err := a.Federated.Alias(ctx, alias)
	return roomID, append(via, servers...), err
}
