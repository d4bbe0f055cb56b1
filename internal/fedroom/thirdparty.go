package fedroom

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// ThirdPartyInvite is an invite of an e-mail address or the like, of which it is now known who owns it.
type ThirdPartyInvite struct {
	Room id.RoomID
	// Sender invited the identifier, Target owns it.
	Sender, Target id.UserID
	// DisplayName is how the room shows the identifier. It may be empty.
	DisplayName string
	// Signed is the object by which the identity server proves that: mxid, token and signatures.
	Signed json.RawMessage
}

// content is that of the invite it becomes.
//
// Spec: ss Third-party invites
func (in ThirdPartyInvite) content() (map[string]any, error) {
	signed := gjson.ParseBytes(in.Signed)
	if !signed.IsObject() {
		return nil, mxerr.BadJSON("\"signed\" must be an object")
	}
	if signed.Get("mxid").Str != string(in.Target) {
		return nil, mxerr.Forbidden("\"signed\" was made for another user")
	}
	object := make(map[string]any, 3)
	for _, field := range []string{"mxid", "token", "signatures"} {
		object[field] = signed.Get(field).Value()
	}
	return map[string]any{"third_party_invite": map[string]any{"display_name": in.DisplayName, "signed": object}}, nil
}

// ExchangeThirdPartyInvite turns the invite of an identifier into one of its owner, by the user who sent the former: here if that is a user of ours, or
// else by that user's server.
//
// Spec: ss exchangeThirdPartyInvite
// Spec: ss onBindThirdPartyIdentifier
func (f *Federated) ExchangeThirdPartyInvite(ctx context.Context, in ThirdPartyInvite) error {
	content, err := in.content()
	if err != nil {
		return err
	}
	if f.cfg.Ours.Is(in.Sender.Domain()) {
		_, err := f.Invite(ctx, room.Membership{Room: in.Room, Sender: in.Sender, Target: in.Target, Content: content})
		return err
	}
	if !f.cfg.Ours.Is(in.Target.Domain()) {
		return mxerr.Forbidden("neither %s nor %s is a user of this server", in.Sender, in.Target)
	}
	content["membership"] = graph.Invite
	body, err := json.Marshal(map[string]any{
		"type": "m.room.member", "room_id": in.Room, "sender": in.Sender, "state_key": in.Target, "content": content,
	})
	if err != nil {
		return fmt.Errorf("encode a third-party invite: %w", err)
	}
	server := in.Sender.Domain()
	if err := f.cfg.Client.ExchangeThirdPartyInvite(ctx, ask(in.Target.Domain(), server), in.Room, body); err != nil {
		refused := new(refusals)
		refused.add(server, err)
		return refused.err("the invite")
	}
	return nil
}

// redeem has a user invited who shows that they own an identifier which was invited to a room that this server isn't in. Whether that helped shows
// when the user joins.
//
// Spec: cs Third-party invites
func (f *Federated) redeem(ctx context.Context, req room.Join) {
	signed := gjson.ParseBytes(req.ThirdPartySigned)
	sender, err := id.ParseUserID(signed.Get("sender").Str)
	if err != nil || f.cfg.Ours.Is(sender.Domain()) || !f.cfg.Client.Permitted(sender.Domain()) {
		return
	}
	err = f.ExchangeThirdPartyInvite(ctx, ThirdPartyInvite{Room: req.Room, Sender: sender, Target: req.Sender, Signed: req.ThirdPartySigned})
	if err != nil {
		f.cfg.Log.InfoContext(ctx, "could not exchange a third-party invite", "room", req.Room, "user", req.Sender, "err", err)
	}
}
