package fedroom

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
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
		if err := f.proven(ctx, in); err != nil {
			return err
		}
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

// maxInviteKeys and maxProofs bound the keys of an invite and the signatures of its proof that are looked at.
const (
	maxInviteKeys = 10
	maxProofs     = 10
)

// proven refuses an exchange whose proof was signed with a key that the identity server no longer stands by. Only the server of who invited the
// address asks: others must all come to the same judgement of the event. What isn't signed at all is refused by the rules of the room.
//
// Spec: cs Third-party invites
func (f *Federated) proven(ctx context.Context, in ThirdPartyInvite) error {
	if f.cfg.KeyValid == nil {
		return nil
	}
	head, err := f.cfg.Graph.Head(ctx, in.Room)
	if err != nil {
		return err
	}
	nid, ok := head.State.Get("m.room.third_party_invite", gjson.GetBytes(in.Signed, "token").Str)
	if !ok {
		return mxerr.Forbidden("there is no such third-party invite in this room")
	}
	events, err := f.cfg.Graph.Events(ctx, head.Room, []graph.EventNID{nid})
	if err != nil {
		return err
	}
	content := gjson.ParseBytes(events[0].PDU.Content())
	keys := append([]gjson.Result{content}, content.Get("public_keys").Array()...)
	for _, key := range keys[:min(len(keys), maxInviteKeys)] {
		public, validity := key.Get("public_key").Str, key.Get("key_validity_url").Str
		if validity != "" && signedWith(in.Signed, public) && f.cfg.KeyValid(ctx, in.Sender, validity, public) {
			return nil
		}
	}
	return mxerr.Forbidden("the identity server does not confirm the key that the invite was signed with")
}

// signedWith reports whether an object carries a signature made with a key.
func signedWith(object []byte, public string) bool {
	public = strings.NewReplacer("-", "+", "_", "/").Replace(public)
	key, err := sign.DecodeBase64(public)
	if err != nil {
		return false
	}
	tries := 0
	for entity := range gjson.GetBytes(object, "signatures").Map() {
		for _, name := range sign.KeyIDs(object, entity) {
			if tries++; tries > maxProofs {
				return false
			}
			if sign.Verify(object, entity, name, key) == nil {
				return true
			}
		}
	}
	return false
}
