package fedapi_test

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// completed asks for a template, completes it and returns the event with the path to send it to.
func (p *peer) completed(membership string, r id.RoomID, user id.UserID, version *roomver.Version) (*event.PDU, string) {
	p.t.Helper()
	ver := "?ver=" + version.ID
	if membership == "leave" {
		ver = ""
	}
	a := p.ok("GET v1/make_"+membership+"/"+esc(r)+"/"+esc(user)+ver, nil)
	if a.get("room_version").Str != version.ID {
		p.t.Fatalf("the template is of version %s", a.body)
	}
	pdu := p.sealed(version, a.get("event"), user, membership)
	api := map[string]string{"join": "v2/send_join/", "leave": "v2/send_leave/", "knock": "v1/send_knock/"}[membership]
	return pdu, api + esc(r) + "/" + esc(pdu.ID())
}

// sealed checks a template as the specification wants it, and completes it.
func (p *peer) sealed(version *roomver.Version, template gjson.Result, user id.UserID, membership string) *event.PDU {
	p.t.Helper()
	if template.Get("sender").Str != string(user) || template.Get("state_key").Str != string(user) || template.Get("type").Str != "m.room.member" ||
		template.Get("content.membership").Str != membership {
		p.t.Fatalf("the template is %s", template.Raw)
	}
	raw := []byte(template.Raw)
	if version.EventIDs == roomver.EventIDDomain {
		raw = canon.With(nil, raw, "event_id", canon.AppendString(nil, "$"+rand.Text()+":"+string(p.name)))
	}
	pdu, err := event.Seal(version, raw, p.name, p.key)
	must(p.t, err)
	return pdu
}

// Spec: ss makeJoin; ss sendJoinV2; ss makeLeave; ss sendLeaveV2
func TestJoinAndLeave(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		for _, version := range roomver.All() {
			r := n.create(room.Creation{Version: version, Name: new("N")})
			before := n.head(r).State
			pdu, path := p.completed("join", r, p.user, version)
			a := p.ok("PUT "+path, pdu.Raw())
			if n.head(r).State.Membership(p.user) != graph.Join {
				t.Fatalf("version %s: the join had no effect", version.ID)
			}
			if state := n.parsed(r, a.get("state")); len(state) != before.Len() || slices.Contains(ids(state), string(pdu.ID())) {
				t.Errorf("version %s: %d events of a state of %d", version.ID, len(state), before.Len())
			}
			chain := append(ids(n.parsed(r, a.get("auth_chain"))), ids(n.parsed(r, a.get("state")))...)
			for _, e := range pdu.AuthEvents() {
				if !slices.Contains(chain, string(e)) {
					t.Errorf("version %s: %s is missing from the auth chain", version.ID, e)
				}
			}
			if a.get("members_omitted").Bool() || n.parsed(r, gjson.Parse("["+a.get("event").Raw+"]"))[0].ID() != pdu.ID() {
				t.Errorf("version %s: %s", version.ID, a.body)
			}
			// The same again is answered the same.
			rev := n.head(r).Rev
			if again := p.ok("PUT "+path, pdu.Raw()); len(again.get("state").Array()) != before.Len() || n.head(r).Rev != rev {
				t.Errorf("version %s: a repeated join: %.300s", version.ID, again.body)
			}

			pdu, path = p.completed("leave", r, p.user, version)
			if a = p.ok("PUT "+path, pdu.Raw()); string(a.body) != "{}" || n.head(r).State.Membership(p.user) != graph.Leave {
				t.Errorf("version %s: leaving answers %s", version.ID, a.body)
			}
		}
		// Servers of the first years get the same in an array.
		r := n.create(room.Creation{})
		pdu, path := p.completed("join", r, p.user, n.head(r).Version)
		a := p.ok("PUT "+strings.Replace(path, "v2/", "v1/", 1), pdu.Raw())
		if a.get("0").Int() != 200 || len(n.parsed(r, a.get("1.state"))) == 0 || n.head(r).State.Membership(p.user) != graph.Join {
			t.Errorf("version 1 answers a join with %.300s", a.body)
		}
		pdu, path = p.completed("leave", r, p.user, n.head(r).Version)
		if a = p.ok("PUT "+strings.Replace(path, "v2/", "v1/", 1), pdu.Raw()); string(a.body) != "[200,{}]" {
			t.Errorf("version 1 answers a leave with %s", a.body)
		}
	})
}

// Spec: ss makeJoin
func TestTemplatesAreRefused(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		version, _ := roomver.Get("10")
		open := n.create(room.Creation{Version: version})
		closed := n.create(room.Creation{Version: version, Preset: room.PrivateChat})
		user := esc(p.user)
		a := p.call("GET v1/make_join/"+esc(open)+"/"+user+"?ver=1&ver=9", nil)
		a.want(400, "M_INCOMPATIBLE_ROOM_VERSION")
		if a.get("room_version").Str != "10" {
			t.Errorf("%s", a.body)
		}
		p.refused(400, "M_INCOMPATIBLE_ROOM_VERSION", "GET v1/make_join/"+esc(open)+"/"+user, nil)
		p.refused(400, "M_INCOMPATIBLE_ROOM_VERSION", "GET v1/make_knock/"+esc(open)+"/"+user+"?ver=1", nil)
		p.refused(400, "M_MISSING_PARAM", "GET v1/make_knock/"+esc(open)+"/"+user, nil)
		p.refused(403, "M_FORBIDDEN", "GET v1/make_join/"+esc(closed)+"/"+user+"?ver=10", nil)
		p.refused(403, "M_FORBIDDEN", "GET v1/make_knock/"+esc(closed)+"/"+user+"?ver=10", nil)
		p.refused(403, "M_FORBIDDEN", "GET v1/make_leave/"+esc(open)+"/"+user, nil)
		p.refused(403, "M_FORBIDDEN", "GET v1/make_join/"+esc(open)+"/@other:other.example?ver=10", nil)
		p.refused(404, "M_NOT_FOUND", "GET v1/make_join/!none:here.example/"+user+"?ver=10", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/make_join/"+esc(open)+"/erin?ver=10", nil)
		p.refused(400, "M_INVALID_PARAM", "GET v1/make_join/none/"+user+"?ver=10", nil)
	})
}

// Spec: ss sendJoinV2
func TestJoinsAreRefused(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p, other := n.peer("there.example"), n.peer("other.example")
		r := n.create(room.Creation{})
		version := n.head(r).Version
		pdu, path := p.completed("join", r, p.user, version)
		send := func(status int, code, path string, raw any) {
			t.Helper()
			p.refused(status, code, "PUT "+path, raw)
			if n.head(r).State.Membership(p.user) == graph.Join {
				t.Fatal("the join had effect")
			}
		}
		key := func(s id.UserID) *string { return (*string)(&s) }
		at := "v2/send_join/" + esc(r) + "/"
		is := func(pdu *event.PDU) (string, []byte) { return at + esc(pdu.ID()), pdu.Raw() }
		other.refused(400, "M_INVALID_PARAM", "PUT "+path, pdu.Raw()) // it speaks for another server
		send(400, "M_INVALID_PARAM", at+"$another", pdu.Raw())
		// In old versions a server may give its event the ID of one that exists, and gets neither that nor our signature.
		old, _ := roomver.Get("1")
		r1 := n.create(room.Creation{Version: old})
		stolen, _ := p.completed("join", r1, p.user, old)
		first := n.head(r1).Extremities[0].ID
		copied, err := event.Seal(old, canon.With(nil, stolen.Raw(), "event_id", canon.AppendString(nil, string(first))), p.name, p.key)
		must(t, err)
		p.refused(400, "M_INVALID_PARAM", "PUT v2/send_join/"+esc(r1)+"/"+esc(first), copied.Raw())
		send(404, "M_NOT_FOUND", "v2/send_join/!none:here.example/"+esc(pdu.ID()), pdu.Raw())
		send(400, "M_INVALID_PARAM", "v2/send_join/"+esc(n.create(room.Creation{}))+"/"+esc(pdu.ID()), pdu.Raw())
		send(400, "M_INVALID_PARAM", "v2/send_leave/"+esc(r)+"/"+esc(pdu.ID()), pdu.Raw())
		send(400, "M_INVALID_PARAM", "v1/send_knock/"+esc(r)+"/"+esc(pdu.ID()), pdu.Raw())
		badlySigned, raw := is(resigned(t, pdu, p))
		send(400, "M_INVALID_PARAM", badlySigned, raw)
		for _, d := range []*event.PDU{
			p.draft(r, p.user, "m.room.message", nil, `{"membership":"join"}`),
			p.draft(r, p.user, "m.room.member", key("@frank:there.example"), `{"membership":"join"}`),
			p.draft(r, p.user, "m.room.member", key(p.user), `{"membership":"invite"}`),
			p.draft(r, p.user, "m.room.member", nil, `{"membership":"join"}`),
		} {
			path, raw := is(d)
			send(400, "M_INVALID_PARAM", path, raw)
		}
		send(400, "M_BAD_JSON", path, `{"type":7}`)

		// Allowed when the template was made, and no more when it comes back.
		n.set(r, "m.room.join_rules", "", `{"join_rule":"invite"}`)
		late, raw := is(p.member(r, p.user, "join"))
		send(403, "M_FORBIDDEN", late, raw)
	})
}

// TestRestrictedJoin: a user of ours vouches for who is in another room of ours, with our signature.
//
// Spec: ss Restricted rooms
func TestRestrictedJoin(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		club := n.create(room.Creation{})
		r := n.create(room.Creation{})
		version := n.head(r).Version
		n.set(r, "m.room.join_rules", "", `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"`+string(club)+`"}]}`)
		make := "GET v1/make_join/" + esc(r) + "/" + esc(p.user) + "?ver=" + version.ID
		p.refused(403, "M_FORBIDDEN", make, nil)
		p.joins(club)
		a := p.ok(make, nil)
		if a.get("event.content.join_authorised_via_users_server").Str != string(alice) {
			t.Fatalf("%s", a.body)
		}
		pdu := p.sealed(version, a.get("event"), p.user, "join")
		a = p.ok("PUT v2/send_join/"+esc(r)+"/"+esc(pdu.ID()), pdu.Raw())
		back := n.parsed(r, gjson.Parse("["+a.get("event").Raw+"]"))[0]
		key, _ := n.ours.Key(here)
		must(t, back.VerifySignature(here, key.ID, key.Public()))
		must(t, back.VerifySignature(p.name, p.key.ID, p.key.Public()))
		if n.head(r).State.Membership(p.user) != graph.Join {
			t.Error("the join had no effect")
		}

		n.set(r, "m.room.join_rules", "", `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!elsewhere:there.example"}]}`)
		other := n.peer("other.example")
		other.refused(400, "M_UNABLE_TO_AUTHORISE_JOIN", "GET v1/make_join/"+esc(r)+"/"+esc(other.user)+"?ver="+version.ID, nil)
	})
}

// Spec: ss makeKnock; ss sendKnock
func TestKnock(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		r := n.create(room.Creation{Name: new("Behind the door")})
		n.set(r, "m.room.join_rules", "", `{"join_rule":"knock"}`)
		pdu, path := p.completed("knock", r, p.user, n.head(r).Version)
		a := p.ok("PUT "+path, pdu.Raw())
		var types []string
		for _, e := range n.parsed(r, a.get("knock_room_state")) { // whole events, as the room's version has them
			types = append(types, e.Type())
		}
		for _, want := range []string{"m.room.create", "m.room.name", "m.room.join_rules"} {
			if !slices.Contains(types, want) {
				t.Errorf("%s is missing: %v", want, types)
			}
		}
		if slices.Contains(types, "m.room.member") || slices.Contains(types, "m.room.power_levels") {
			t.Errorf("who knocks is told %v", types)
		}
		if n.head(r).State.Membership(p.user) != graph.Knock {
			t.Error("the knock had no effect")
		}
		// Who knocks may go away again.
		pdu, path = p.completed("leave", r, p.user, n.head(r).Version)
		p.ok("PUT "+path, pdu.Raw())
	})
}

// TestPartialJoin: members may be left out, and then the servers in the room are named.
//
// Spec: ss sendJoinV2
func TestPartialJoin(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p, other := n.peer("there.example"), n.peer("other.example")
		r := n.create(room.Creation{Name: new("N")})
		other.joins(r)
		pdu, path := p.completed("join", r, p.user, n.head(r).Version)
		a := p.ok("PUT "+path+"?omit_members=true", pdu.Raw())
		if servers := slices.Sorted(slices.Values(a.list("servers_in_room"))); !a.get("members_omitted").Bool() || !slices.Equal(servers, []string{"here.example", "other.example"}) {
			t.Errorf("%s", a.body)
		}
		state, auth := n.parsed(r, a.get("state")), n.parsed(r, a.get("auth_chain"))
		for _, e := range state {
			if e.Type() == "m.room.member" {
				t.Errorf("%s is told", e.Key().StateKey)
			}
		}
		all := append(ids(state), ids(auth)...)
		for _, e := range append(state, pdu) {
			for _, x := range e.AuthEvents() {
				if !slices.Contains(all, string(x)) {
					t.Errorf("%s of %s is missing", x, e.Type())
				}
			}
		}
	})
}

// Spec: ss sendInviteV1; ss sendInviteV2
func TestInvites(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		n.user(bob)
		version, _ := roomver.Get("10")
		const theirs = id.RoomID("!room:there.example")
		invite := func(v *roomver.Version, target id.UserID) *event.PDU {
			key := string(target)
			pdu, err := event.Draft{
				RoomID: theirs, Type: "m.room.member", StateKey: &key, Sender: p.user, Content: []byte(`{"membership":"invite"}`),
				OriginServerTS: 1, Depth: 5, PrevEvents: []id.EventID{"$prev:there.example"}, AuthEvents: []id.EventID{"$auth:there.example"},
			}.Build(v, p.name, p.key, func() string { return "invite" })
			must(t, err)
			raw, err := json.Marshal(json.RawMessage(canon.With(nil, pdu.Raw(), "origin", []byte(`"there.example"`))))
			must(t, err)
			pdu, err = event.Seal(v, raw, p.name, p.key)
			must(t, err)
			return pdu
		}
		pdu := invite(version, bob)
		body := func(v string, pdu *event.PDU) object {
			return object{"room_version": v, "event": json.RawMessage(pdu.Raw()), "invite_room_state": []object{
				{"type": "m.room.create", "state_key": "", "sender": p.user, "content": object{"room_version": v}}, {"type": "m.room.name", "state_key": "", "sender": p.user, "content": object{"name": "Theirs"}},
			}}
		}
		path := "PUT v2/invite/" + esc(theirs) + "/"
		a := p.ok(path+esc(pdu.ID()), body("10", pdu))
		back, err := event.Parse(version, []byte(a.get("event").Raw))
		must(t, err)
		key, _ := n.ours.Key(here)
		must(t, back.VerifySignature(here, key.ID, key.Public()))
		if m, err := n.graph.MembershipIn(n.ctx, bob, theirs); err != nil || m != graph.Invite || back.ID() != pdu.ID() {
			t.Errorf("bob is %q: %v", m, err)
		}
		p.refused(400, "M_MISSING_PARAM", path+esc(pdu.ID()), object{"event": object{}})
		p.refused(400, "M_INCOMPATIBLE_ROOM_VERSION", path+esc(pdu.ID()), body("unheard of", pdu))
		p.refused(400, "M_INVALID_PARAM", path+"$another", body("10", pdu))
		stranger := invite(version, "@nobody:here.example")
		p.refused(404, "M_NOT_FOUND", path+esc(stranger.ID()), body("10", stranger))
		many := body("10", pdu)
		many["invite_room_state"] = slices.Repeat([]object{{}}, 101)
		p.refused(400, "M_INVALID_PARAM", path+esc(pdu.ID()), many)

		first, _ := roomver.Get("1")
		old := invite(first, bob)
		raw := canon.With(nil, old.Raw(), "unsigned", []byte(`{"invite_room_state":[{"type":"m.room.create","state_key":"","sender":"@erin:there.example","content":{}}]}`))
		a = p.ok("PUT v1/invite/"+esc(theirs)+"/"+esc(old.ID()), raw)
		if a.get("0").Int() != 200 || !strings.Contains(a.get("1.event.signatures").Raw, "here.example") {
			t.Errorf("%s", a.body)
		}
	})
}

// A join that is told to come later has not happened.
//
// Spec: ss sendJoinV2
func TestJoinsWaitForTheirTurn(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		p := n.peer("there.example")
		r := n.create(room.Creation{})
		pdu, path := p.completed("join", r, p.user, n.head(r).Version)
		letGo := n.api.Exhaust(p.name)
		p.refused(429, "M_LIMIT_EXCEEDED", "PUT "+path, pdu.Raw())
		if m := n.head(r).State.Membership(p.user); m != "" {
			t.Errorf("the user is %q all the same", m)
		}
		letGo()
		p.ok("PUT "+path, pdu.Raw())
		if m := n.head(r).State.Membership(p.user); m != graph.Join {
			t.Errorf("the user is %q in the end", m)
		}
	})
}
