package fedapi_test

import (
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/id"
	"myelin/matrix/sign"
)

// identity is an identity server, as far as its signature goes.
type identity struct{ key sign.Key }

func newIdentity(t *testing.T) identity {
	t.Helper()
	key, err := sign.Generate(rand.Reader, "0")
	must(t, err)
	return identity{key}
}

// proof is what it signs once a user owns the identifier that was invited.
func (i identity) proof(t *testing.T, user id.UserID, token string) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(object{"mxid": user, "token": token})
	must(t, err)
	raw, err = i.key.Sign(raw, "identity.example")
	must(t, err)
	return raw
}

// invites has alice invite an identifier to a private room.
func (i identity) invites(n *node, token string) id.RoomID {
	n.t.Helper()
	r := n.create(room.Creation{Preset: room.PrivateChat})
	n.set(r, "m.room.third_party_invite", token, `{"display_name":"e...@x","key_validity_url":"https://identity.example/valid","public_key":"`+
		sign.EncodeBase64(i.key.Public())+`"}`)
	return r
}

// Spec: ss exchangeThirdPartyInvite
func TestExchangeThirdPartyInvite(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		is := newIdentity(t)
		r := is.invites(n, "token")
		body := func(change func(body, content object)) object {
			content := object{"membership": "invite", "third_party_invite": object{"display_name": "erin", "signed": is.proof(t, p.user, "token")}}
			b := object{"type": "m.room.member", "room_id": r, "sender": alice, "state_key": p.user, "content": content}
			if change != nil {
				change(b, content)
			}
			return b
		}
		path := "PUT v1/exchange_third_party_invite/" + esc(r)
		for what, change := range map[string]func(body, content object){
			"400 M_INVALID_PARAM another type":       func(b, _ object) { b["type"] = "m.room.name" },
			"400 M_INVALID_PARAM another membership": func(_, c object) { c["membership"] = "join" },
			"400 M_INVALID_PARAM another room":       func(b, _ object) { b["room_id"] = "!x:here.example" },
			"400 M_INVALID_PARAM no user":            func(b, _ object) { b["state_key"] = "erin" },
			"400 M_INVALID_PARAM no sender":          func(b, _ object) { delete(b, "sender") },
			"403 M_FORBIDDEN another server's user":  func(b, _ object) { b["state_key"] = "@x:other.example" },
			"403 M_FORBIDDEN not our invite":         func(b, _ object) { b["sender"] = p.user },
			"403 M_FORBIDDEN a forged proof": func(_, c object) {
				c["third_party_invite"] = object{"display_name": "erin", "signed": newIdentity(t).proof(t, p.user, "token")}
			},
			"403 M_FORBIDDEN a proof for somebody else": func(_, c object) {
				c["third_party_invite"] = object{"display_name": "erin", "signed": is.proof(t, "@frank:there.example", "token")}
			},
			"403 M_FORBIDDEN an invite that isn't there": func(_, c object) {
				c["third_party_invite"] = object{"display_name": "erin", "signed": is.proof(t, p.user, "another")}
			},
		} {
			status, rest, _ := strings.Cut(what, " ")
			code, name, _ := strings.Cut(rest, " ")
			if a := p.call(path, body(change)); a.get("errcode").Str != code || !strings.HasPrefix(status, string('0'+rune(a.status/100))) {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		if m := n.head(r).State.Membership(p.user); m != "" {
			t.Fatalf("erin is %q", m)
		}
		p.ok(path, body(nil))
		if m := n.head(r).State.Membership(p.user); m != graph.Invite {
			t.Errorf("erin is %q", m)
		}
	})
}

// Spec: ss onBindThirdPartyIdentifier
func TestOnBind(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		n.user(bob)
		is := newIdentity(t)
		r := is.invites(n, "token")
		bind := func(user id.UserID, invites ...object) *answer {
			t.Helper()
			for _, i := range invites {
				i["medium"], i["address"] = "email", "b@x.example"
			}
			raw, err := json.Marshal(object{"medium": "email", "address": "b@x.example", "mxid": user, "invites": append([]object{}, invites...)})
			must(t, err)
			return n.open("PUT /_matrix/federation/v1/3pid/onbind", string(raw))
		}
		invite := func(sender id.UserID, room id.RoomID, token string) object {
			return object{"mxid": bob, "sender": sender, "room_id": room, "signed": is.proof(t, bob, token)}
		}
		// A useless invite doesn't keep the others from being taken, and one of another server's user is taken there.
		bind(bob, invite(alice, r, "another"), invite(alice, r, "token"), invite(p.user, "!theirs:there.example", "t")).want(200, "")
		if m := n.head(r).State.Membership(bob); m != graph.Invite {
			t.Errorf("bob is %q", m)
		}
		if path := <-p.asked; !strings.Contains(path, "/exchange_third_party_invite/!theirs:there.example") {
			t.Errorf("the other server was asked %s", path)
		}
		// However many it names, few requests go out.
		p.asked = make(chan string, 20)
		abroad := make([]object, 20)
		for i := range abroad {
			abroad[i] = invite(p.user, "!theirs:there.example", "t")
		}
		bind(bob, abroad...).want(200, "")
		if got := len(p.asked); got != 3 {
			t.Errorf("20 invites of another server made %d requests", got)
		}
		bind("@nobody:here.example").want(404, "M_NOT_FOUND")
		bind(p.user).want(404, "M_NOT_FOUND")
		bind("bob").want(400, "M_INVALID_PARAM")
		other := invite(alice, r, "token")
		other["mxid"] = alice
		bind(bob, other).want(400, "M_INVALID_PARAM")
		many := make([]object, 21)
		for i := range many {
			many[i] = object{}
		}
		bind(bob, many...).want(400, "M_INVALID_PARAM")
	})
}
