package fedapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"myelin/internal/fedroom"
	"myelin/internal/graph"
	"myelin/internal/web"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// inviteRoutes is about invites of our users, and of identifiers that turn out to be theirs.
//
// Spec: ss Inviting to a room
// Spec: ss Third-party invites
func (a *API) inviteRoutes() []web.Route {
	return []web.Route{
		{Method: "PUT", Path: "/_matrix/federation/v1/invite/{roomId}/{eventId}", Op: "sendInviteV1", Auth: web.Server, Rate: web.RateServer, Handle: a.inviteV1},
		{Method: "PUT", Path: "/_matrix/federation/v2/invite/{roomId}/{eventId}", Op: "sendInviteV2", Auth: web.Server, Rate: web.RateServer, Handle: a.inviteV2},
		{Method: "PUT", Path: "/_matrix/federation/v1/exchange_third_party_invite/{roomId}", Op: "exchangeThirdPartyInvite", Auth: web.Server, Rate: web.RateServer, MaxBody: maxEvent, Handle: a.exchangeInvite},
		{Method: "PUT", Path: "/_matrix/federation/v1/3pid/onbind", Op: "onBindThirdPartyIdentifier", Auth: web.None, Rate: web.RateHeavy, Handle: a.onBind},
	}
}

// maxStripped bounds the events that describe a room to who is invited.
const maxStripped = 100

// Spec: ss sendInviteV1
func (a *API) inviteV1(ctx context.Context, r *web.Request) (*web.Response, error) {
	raw, err := r.Object()
	if err != nil {
		return nil, err
	}
	var body struct {
		Unsigned struct {
			State []json.RawMessage `json:"invite_room_state"`
		} `json:"unsigned"`
	}
	if err := web.DecodeObject(raw, &body); err != nil {
		return nil, err
	}
	signed, err := a.invited(ctx, r, fedroom.Invitation{Raw: raw, Stripped: body.Unsigned.State})
	if err != nil {
		return nil, err
	}
	return web.Raw(append(append([]byte(`[200,{"event":`), signed.Raw()...), "}]"...)), nil
}

// Spec: ss sendInviteV2
func (a *API) inviteV2(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Version string            `json:"room_version"`
		Event   json.RawMessage   `json:"event"`
		State   []json.RawMessage `json:"invite_room_state"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Version == "" || len(body.Event) == 0 {
		return nil, mxerr.MissingParam("\"room_version\" and \"event\" are needed.")
	}
	signed, err := a.invited(ctx, r, fedroom.Invitation{Raw: body.Event, Version: body.Version, Stripped: body.State})
	if err != nil {
		return nil, err
	}
	return web.Raw(append(append([]byte(`{"event":`), signed.Raw()...), '}')), nil
}

// invited completes an invitation with what the path says, and has it taken.
func (a *API) invited(ctx context.Context, r *web.Request, in fedroom.Invitation) (*event.PDU, error) {
	if len(in.Stripped) > maxStripped {
		return nil, mxerr.InvalidParam("\"invite_room_state\" has more than %d events.", maxStripped)
	}
	var err error
	if in.Event, err = r.EventID("eventId"); err != nil {
		return nil, err
	}
	if in.Room, err = a.enter(ctx, r); err != nil {
		return nil, err
	}
	in.Origin = r.Origin
	return a.Federated.Invited(ctx, in)
}

// Spec: ss exchangeThirdPartyInvite
func (a *API) exchangeInvite(ctx context.Context, r *web.Request) (*web.Response, error) {
	room, err := a.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Type    string    `json:"type"`
		Room    string    `json:"room_id"`
		Sender  id.UserID `json:"sender"`
		Target  id.UserID `json:"state_key"`
		Content struct {
			Membership string `json:"membership"`
			Invite     struct {
				DisplayName string          `json:"display_name"`
				Signed      json.RawMessage `json:"signed"`
			} `json:"third_party_invite"`
		} `json:"content"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	in := fedroom.ThirdPartyInvite{Room: room, DisplayName: body.Content.Invite.DisplayName, Signed: body.Content.Invite.Signed}
	if in.Sender, err = userOf("sender", string(body.Sender)); err != nil {
		return nil, err
	}
	if in.Target, err = userOf("state_key", string(body.Target)); err != nil {
		return nil, err
	}
	switch {
	case body.Type != "m.room.member" || body.Content.Membership != string(graph.Invite):
		return nil, mxerr.InvalidParam("The event is not an invite.")
	case body.Room != string(room):
		return nil, mxerr.InvalidParam("The event is of another room.")
	case in.Target.Domain() != r.Origin:
		return nil, mxerr.Forbidden("%s is not a user of %s.", in.Target, r.Origin)
	case !a.Ours.Is(in.Sender.Domain()):
		// Nor do we ask whose user it is: two servers could keep each other busy.
		return nil, mxerr.Forbidden("%s is not a user of this server.", in.Sender)
	}
	if err := a.Federated.ExchangeThirdPartyInvite(ctx, in); err != nil {
		return nil, err
	}
	return web.Empty, nil
}

func userOf(field, text string) (id.UserID, error) {
	user, err := id.ParseUserID(text)
	if err != nil {
		return "", mxerr.InvalidParam("%q: %v", field, err)
	}
	return user, nil
}

// Bounds of what anybody can have us do by saying that an identifier was bound.
const (
	// maxBound bounds the invites that come with one identifier, and maxAbroad the requests to other servers that they cause. Who was
	// invited to more rooms elsewhere shows the proof when they join.
	maxBound  = 20
	maxAbroad = 3
	// bindsAtOnce bounds the calls that are under way, bindPatience how long each takes.
	bindsAtOnce  = 4
	bindPatience = 20 * time.Second
)

// onBind hears from an identity server, or from whoever says to be one: what the identity server signed is proof
// enough for the room's rules, and nothing is done without it.
//
// Spec: ss onBindThirdPartyIdentifier
func (a *API) onBind(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		User    string `json:"mxid"`
		Invites []struct {
			User   string          `json:"mxid"`
			Room   string          `json:"room_id"`
			Sender string          `json:"sender"`
			Signed json.RawMessage `json:"signed"`
		} `json:"invites"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Invites == nil {
		return nil, mxerr.MissingParam("\"invites\" is missing.")
	}
	if len(body.Invites) > maxBound {
		return nil, mxerr.InvalidParam("\"invites\" lists more than %d invites.", maxBound)
	}
	user, err := userOf("mxid", body.User)
	if err != nil {
		return nil, err
	}
	if exists, err := a.Accounts.Exists(ctx, user); err != nil || !exists {
		return nil, cmp.Or(err, error(mxerr.NotFound("There is no user %s here.", user)))
	}
	invites := make([]fedroom.ThirdPartyInvite, len(body.Invites))
	for i, invite := range body.Invites {
		in := fedroom.ThirdPartyInvite{Target: user, DisplayName: string(user), Signed: invite.Signed}
		if in.Sender, err = userOf("sender", invite.Sender); err != nil {
			return nil, err
		}
		if in.Room, err = id.ParseRoomID(invite.Room); err != nil {
			return nil, mxerr.InvalidParam("\"room_id\": %v", err)
		}
		if invite.User != body.User {
			return nil, mxerr.InvalidParam("\"invites\" lists an invite of another user.")
		}
		invites[i] = in
	}
	select {
	case a.binds <- struct{}{}:
		defer func() { <-a.binds }()
	default:
		return nil, mxerr.LimitExceeded(bindPatience)
	}
	return web.Empty, a.exchange(ctx, invites)
}

// exchange has users invited to whom invites of an identifier turned out to belong. That one comes to nothing is no error.
func (a *API) exchange(ctx context.Context, invites []fedroom.ThirdPartyInvite) error {
	ctx, cancel := context.WithTimeout(ctx, bindPatience)
	defer cancel()
	abroad := 0
	for _, in := range invites {
		if !a.Ours.Is(in.Sender.Domain()) {
			if abroad++; abroad > maxAbroad {
				continue
			}
		}
		err := a.Federated.ExchangeThirdPartyInvite(ctx, in)
		if _, refused := mxerr.Of(err); err != nil && !refused && ctx.Err() == nil {
			return fmt.Errorf("invite %s to %s: %w", in.Target, in.Room, err)
		}
		if err != nil {
			a.Log.Debug("an invite of an identifier came to nothing", "room", in.Room, "user", in.Target, "error", err)
		}
	}
	return nil
}
