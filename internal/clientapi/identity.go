package clientapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/identity"
	"myelin/internal/room"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// addressed is an invite of an address whose owner an identity server may know.
//
// Spec: cs Third-party invites
type addressed struct {
	Server  string `json:"id_server"`
	Token   string `json:"id_access_token"`
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

// check refuses what lacks a part.
func (in addressed) check() error {
	for _, f := range []struct{ name, value string }{
		{"id_server", in.Server}, {"id_access_token", in.Token}, {"medium", in.Medium}, {"address", in.Address},
	} {
		if f.value == "" {
			return mxerr.MissingParam("%q is missing", f.name)
		}
	}
	return in.address().Check()
}

func (in addressed) address() identity.Address {
	return identity.Address{Medium: in.Medium, Address: in.Address}
}

// inviteAddress invites the owner of an address, or, where the identity server knows none, the address: whoever proves to own it
// is invited then.
//
// Spec: cs inviteBy3PID
func (a *API) inviteAddress(ctx context.Context, sender id.UserID, roomID id.RoomID, in addressed) error {
	if err := in.check(); err != nil {
		return err
	}
	// Nobody is mailed in the name of a room that the sender isn't in.
	if m, err := a.Graph.MembershipIn(ctx, sender, roomID); err != nil {
		return err
	} else if m != graph.Join {
		return mxerr.Forbidden("you are not in this room")
	}
	at := identity.Server{Name: in.Server, Token: in.Token}
	owner, found, err := a.Identity.Lookup(ctx, sender, at, in.address())
	if err != nil {
		return err
	}
	if found {
		if err := a.find(ctx, owner); err != nil {
			return err
		}
		_, err := a.Federated.Invite(ctx, room.Membership{Room: roomID, Sender: sender, Target: owner})
		return err
	}
	told, err := a.introduction(ctx, sender, roomID, in)
	if err != nil {
		return err
	}
	stored, err := a.Identity.StoreInvite(ctx, at, told)
	if err != nil {
		return err
	}
	content, err := stored.Content()
	if err != nil {
		return fmt.Errorf("encode a third-party invite: %w", err)
	}
	_, err = a.Rooms.Send(ctx, room.Message{
		Room: roomID, Proposal: room.Proposal{Sender: sender, Type: "m.room.third_party_invite", StateKey: &stored.Token, Content: content},
	})
	return err
}

// introduction is what the identity server's mail may say of the room and the sender.
//
// Spec: is storeInviteV2
func (a *API) introduction(ctx context.Context, sender id.UserID, roomID id.RoomID, in addressed) (identity.Invite, error) {
	told := identity.Invite{Medium: in.Medium, Address: in.Address, Room: roomID, Sender: sender}
	var err error
	if told.SenderDisplayName, told.SenderAvatar, err = a.Accounts.NameAndAvatar(ctx, sender); err != nil {
		return told, err
	}
	for _, part := range []struct {
		typ, field string
		to         *string
	}{
		{"m.room.canonical_alias", "alias", &told.RoomAlias}, {"m.room.avatar", "url", &told.RoomAvatar},
		{"m.room.join_rules", "join_rule", &told.RoomJoinRules}, {"m.room.name", "name", &told.RoomName}, {"m.room.create", "type", &told.RoomType},
	} {
		content, err := a.View.StateEntry(ctx, view.Audience{User: sender}, roomID, part.typ, "", false)
		if mxerr.Is(err, mxerr.CodeNotFound) {
			continue
		} else if err != nil {
			return told, err
		}
		*part.to = gjson.GetBytes(content, part.field).Str
	}
	return told, nil
}

// maxAddressed bounds the addresses that one createRoom invites: each is two or three requests to an identity server.
const maxAddressed = 10

// readAddressed reads the addresses that a new room invites.
//
// Spec: cs createRoom
func readAddressed(list []json.RawMessage) ([]addressed, error) {
	if len(list) > maxAddressed {
		return nil, mxerr.InvalidParam("no more than %d addresses can be invited at once", maxAddressed)
	}
	out := make([]addressed, len(list))
	for i, raw := range list {
		if !gjson.ParseBytes(raw).IsObject() {
			return nil, mxerr.BadJSON("each entry of \"invite_3pid\" must be an object")
		}
		if err := web.DecodeObject(raw, &out[i]); err != nil {
			return nil, err
		}
		if err := out[i].check(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// bindThirdParty publishes an address at an identity server.
//
// Spec: cs bind3PID
func (a *API) bindThirdParty(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		SID          string `json:"sid"`
		ClientSecret string `json:"client_secret"`
		IDServer     string `json:"id_server"`
		IDToken      string `json:"id_access_token"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, value string }{
		{"sid", body.SID}, {"client_secret", body.ClientSecret}, {"id_server", body.IDServer}, {"id_access_token", body.IDToken},
	} {
		if f.value == "" {
			return nil, mxerr.MissingParam("%q is missing", f.name)
		}
	}
	at := identity.Server{Name: body.IDServer, Token: body.IDToken}
	return web.Empty, a.Identity.Bind(ctx, r.Caller.User, at, body.SID, body.ClientSecret)
}

// unbound is the answer of the operations that withdraw addresses from identity servers.
func unbound(done bool) *web.Response {
	result := "no-support"
	if done {
		result = "success"
	}
	return web.JSON(map[string]string{"id_server_unbind_result": result})
}

// Spec: cs unbind3pidFromAccount
func (a *API) unbindThirdParty(ctx context.Context, r *web.Request) (*web.Response, error) {
	named, err := namedThirdParty(r)
	if err != nil {
		return nil, err
	}
	done, err := a.Identity.Unbind(ctx, r.Caller.User, named.Address, named.server)
	if err != nil {
		return nil, err
	}
	return unbound(done), nil
}

// Spec: cs delete3pidFromAccount
func (a *API) deleteThirdParty(ctx context.Context, r *web.Request) (*web.Response, error) {
	named, err := namedThirdParty(r)
	if err != nil {
		return nil, err
	}
	if err := a.Contacts.Remove(ctx, r.Caller.User, named.Medium, named.Address.Address); err != nil {
		return nil, err
	}
	// The address is gone from the account, whatever the identity server says.
	done, err := a.Identity.Unbind(ctx, r.Caller.User, named.Address, named.server)
	return unbound(done && err == nil), nil
}

// named is the address that an operation is about, and the identity server, if the client names one.
type named struct {
	identity.Address
	server string
}

func namedThirdParty(r *web.Request) (n named, err error) {
	var body struct {
		Medium  string `json:"medium"`
		Address string `json:"address"`
		Server  string `json:"id_server"`
	}
	err = r.Decode(&body)
	switch {
	case err != nil:
		return n, err
	case body.Medium == "":
		return n, mxerr.MissingParam("\"medium\" is missing")
	case body.Address == "":
		return n, mxerr.MissingParam("\"address\" is missing")
	}
	n = named{identity.Address{Medium: body.Medium, Address: body.Address}, body.Server}
	return n, n.Check()
}

// errNoIdentityServer is for those who had an address validated by an identity server: this server validates itself.
var errNoIdentityServer = web.Status(mxerr.New(mxerr.CodeServerNotTrusted, "this server trusts no identity server to validate addresses"), http.StatusForbidden)
