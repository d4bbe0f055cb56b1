package fedapi_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"image"
	"image/png"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"myelin/internal/media"
	"myelin/internal/room"
	"myelin/internal/spectest"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// stage makes what the requests of an operation speak of: a room of alice and the asking server's user with a message, and whatever
// else the operation asks for.
func stage(t *testing.T, op spectest.Operation, of *peer) *scene {
	t.Helper()
	node := *of.node
	node.t = t
	p := *of
	p.node = &node
	r := p.create(room.Creation{})
	s := &scene{peer: &p, op: op}
	joined := p.joins(r)
	said := p.say(r, "hello")
	s.path = map[string]string{
		"roomId": string(r), "eventId": string(said), "userId": string(alice), "txnId": rand.Text(), "queryType": "weather", "serverName": string(p.name),
	}
	s.query = url.Values{
		"event_id": {string(said)}, "v": {string(said)}, "limit": {"10"}, "ts": {strconv.FormatInt(time.Now().UnixMilli(), 10)}, "dir": {"b"}, "ver": {"11", "12"},
		"user_id": {string(alice)}, "field": {"displayname"}, "minimum_valid_until_ts": {"1"}, "suggested_only": {"true"}, "omit_members": {"true"},
		"timeout_ms": {"10"}, "width": {"16"}, "height": {"16"}, "method": {"scale"}, "animated": {"false"}, "include_all_networks": {"false"},
	}
	if op.Body != nil {
		s.body = object{}
	}
	switch op.ID {
	case "getWellKnown":
		s.host = string(alias)
	case "queryRoomDirectory":
		called := id.RoomAlias("#" + strings.ToLower(rand.Text()) + ":" + string(here))
		must(t, p.directory.Create(p.ctx, called, r, actor))
		s.query["room_alias"] = []string{string(called)}
	case "exchangeOpenIdToken":
		token, err := p.accounts.NewOpenIDToken(p.ctx, alice)
		must(t, err)
		s.query["access_token"] = []string{token.AccessToken}
	case "getContent", "getContentThumbnail":
		s.path["mediaId"] = p.picture()
	case "getMissingPreviousEvents":
		s.body = object{"limit": 5, "min_depth": 0, "earliest_events": []id.EventID{joined.ID()}, "latest_events": []id.EventID{p.say(r, "later")}}
	case "queryPublicRooms":
		s.body = object{"limit": 10, "filter": object{"generic_search_term": "x", "room_types": []any{nil}}, "include_all_networks": true}
	case "queryUserEncryptionKeys":
		s.body = object{"device_keys": object{string(alice): []string{}}}
	case "claimUserEncryptionKeys":
		s.body = object{"one_time_keys": object{string(alice): object{"DEVICE": "signed_curve25519"}}}
	case "bulkPerspectivesKeyQuery":
		s.body = object{"server_keys": object{string(p.name): object{string(p.key.ID): object{"minimum_valid_until_ts": 1}}}}
	case "sendTransaction":
		s.body = object{
			"origin": p.name, "origin_server_ts": 1, "pdus": []json.RawMessage{p.message(r, "hello back").Raw()},
			"edus": []object{{"edu_type": "m.typing", "content": object{"room_id": r, "user_id": p.user, "typing": true}}},
		}
	default:
		s.membership(t, r)
	}
	return s
}

// membership sets the scene of operations that change who is in a room.
func (s *scene) membership(t *testing.T, r id.RoomID) {
	t.Helper()
	another := func(c room.Creation) id.RoomID {
		other := s.create(c)
		s.path["roomId"] = string(other)
		return other
	}
	sends := func(pdu *event.PDU) {
		s.path["eventId"], s.body = string(pdu.ID()), eventBody(t, pdu.Raw())
	}
	knocks := func() id.RoomID {
		other := another(room.Creation{})
		s.set(other, "m.room.join_rules", "", `{"join_rule":"knock"}`)
		return other
	}
	switch s.op.ID {
	case "makeJoin":
		first, _ := roomver.Get("1") // what a server knows that names no versions
		another(room.Creation{Version: first})
		s.query["ver"] = []string{"1", "12"}
		s.path["userId"] = string(s.user)
	case "makeLeave":
		s.path["userId"] = string(s.user)
	case "makeKnock":
		knocks()
		s.path["userId"] = string(s.user)
	case "sendJoinV1", "sendJoinV2":
		sends(s.member(another(room.Creation{}), s.user, "join"))
	case "sendLeaveV1", "sendLeaveV2":
		sends(s.member(r, s.user, "leave"))
	case "sendKnock":
		sends(s.member(knocks(), s.user, "knock"))
	case "sendInviteV1", "sendInviteV2":
		s.invite(t)
	case "exchangeThirdPartyInvite":
		is := newIdentity(t)
		other := is.invites(s.node, "token")
		s.path["roomId"] = string(other)
		s.body = object{"type": "m.room.member", "room_id": other, "sender": alice, "state_key": s.user, "content": object{
			"membership": "invite", "third_party_invite": object{"display_name": "erin", "signed": is.proof(t, s.user, "token")},
		}}
	case "onBindThirdPartyIdentifier":
		is := newIdentity(t)
		other := is.invites(s.node, "token")
		s.body = object{"medium": "email", "address": "b@x.example", "mxid": bob, "invites": []object{
			{"medium": "email", "address": "b@x.example", "mxid": bob, "sender": alice, "room_id": other, "signed": is.proof(t, bob, "token")},
		}}
	}
}

// invite sets the scene of an invite of bob to a room of the asking server.
func (s *scene) invite(t *testing.T) {
	t.Helper()
	id11, theirs := "11", id.RoomID("!"+rand.Text()+":"+string(s.name))
	if s.op.ID == "sendInviteV1" {
		id11 = "2" // the first form is for the first versions
	}
	version, _ := roomver.Get(id11)
	key := string(bob)
	pdu, err := event.Draft{
		RoomID: theirs, Type: "m.room.member", StateKey: &key, Sender: s.user, Content: []byte(`{"membership":"invite"}`),
		OriginServerTS: 1, Depth: 5, PrevEvents: []id.EventID{"$prev:there.example"}, AuthEvents: []id.EventID{"$auth:there.example"},
	}.Build(version, s.name, s.key, rand.Text)
	must(t, err)
	// The document still has an origin in every event.
	pdu, err = event.Seal(version, canon.With(nil, pdu.Raw(), "origin", canon.AppendString(nil, string(s.name))), s.name, s.key)
	must(t, err)
	s.path["roomId"], s.path["eventId"] = string(theirs), string(pdu.ID())
	create := object{"type": "m.room.create", "state_key": "", "sender": s.user, "content": object{"room_version": id11}}
	if s.op.ID == "sendInviteV1" {
		s.body = eventBody(t, pdu.Raw())
		s.body["unsigned"] = object{"invite_room_state": []object{create}}
		return
	}
	s.body = object{"room_version": id11, "event": json.RawMessage(pdu.Raw()), "invite_room_state": []object{create}}
}

// picture uploads a picture of alice's and returns the ID of it.
func (n *node) picture() string {
	n.t.Helper()
	var b bytes.Buffer
	must(n.t, png.Encode(&b, image.NewGray(image.Rect(0, 0, 64, 64))))
	u, err := n.media.Upload(n.ctx, media.Upload{User: alice, ContentType: "image/png", Name: "a.png", Body: &b})
	must(n.t, err)
	return u.ID
}
