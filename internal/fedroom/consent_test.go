package fedroom_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/fedroom"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

func (s *server) invite(r id.RoomID, by, target id.UserID) error {
	_, err := s.fed.Invite(s.ctx, room.Membership{Room: r, Sender: by, Target: target, Reason: "come in"})
	return err
}

// stripped returns what a user is shown of a room that their server isn't in.
func (s *server) stripped(r id.RoomID, u id.UserID) gjson.Result {
	s.t.Helper()
	rows, err := s.graph.MembershipsOf(s.ctx, u)
	must(s.t, err)
	for _, row := range rows {
		if row.RoomID == r {
			return gjson.ParseBytes(row.Stripped)
		}
	}
	return gjson.Result{}
}

func TestInviteAnotherServersUser(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newTown(t)
		a, b := w.server("a.example"), w.serverOn("b.example", open)
		alice, bob, hermit := a.user("alice"), b.user("bob"), b.user("hermit")
		for _, version := range []string{"1", "6", "10", "11", "12"} {
			v, _ := roomver.Get(version)
			name := "Secret garden"
			r := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PrivateChat, Name: &name})
			must(t, a.invite(r, alice, bob))
			if got := a.membership(r, bob); got != graph.Invite {
				t.Errorf("version %s: at a the membership is %q", version, got)
			}
			if got := b.membership(r, bob); got != graph.Invite {
				t.Errorf("version %s: at b the membership is %q", version, got)
			}
			shown := b.stripped(r, bob)
			if !shown.Get(`#(type=="m.room.name").content.name`).Exists() || shown.Get(`#(type=="m.room.member")#|#(state_key=="`+string(bob)+`").sender`).Str != string(alice) {
				t.Errorf("version %s: the invited user is shown %s", version, shown)
			}
			if err := a.invite(r, alice, hermit); code(err) != mxerr.CodeInviteBlocked {
				t.Errorf("version %s: somebody who wants no invites: %v", version, err)
			}
			if err := a.invite(r, alice, "@nobody:b.example"); err == nil || a.membership(r, "@nobody:b.example") != "" {
				t.Errorf("version %s: somebody who does not exist was invited: %v", version, err)
			}
			// The invite tells where to join.
			must(t, b.join(r, bob))
			same(t, r, a, b)
		}
	})
}

// What comes back from the invited user's server must be our invite with its signature.
func TestInviteComesBack(t *testing.T) {
	for _, c := range []struct {
		name string
		lie  func(o map[string]any)
	}{
		{"unsigned", func(o map[string]any) {
			delete(o["event"].(map[string]any)["signatures"].(map[string]any), "b.example")
		}},
		{"badly signed", func(o map[string]any) {
			keys := o["event"].(map[string]any)["signatures"].(map[string]any)["b.example"].(map[string]any)
			for k := range keys {
				keys[k] = strings.Repeat("A", 86)
			}
		}},
		{"with another content", func(o map[string]any) {
			o["event"].(map[string]any)["content"].(map[string]any)["reason"] = "another one"
		}},
		{"as another event", func(o map[string]any) { o["event"].(map[string]any)["origin_server_ts"] = 1 }},
		{"not at all", func(o map[string]any) { delete(o, "event") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTown(t)
			a, b := w.server("a.example"), w.server("b.example")
			alice, bob := a.user("alice"), b.user("bob")
			r := a.create(room.Creation{Creator: alice, Preset: room.PrivateChat})
			b.lies("invite", object(c.lie))
			if err := a.invite(r, alice, bob); code(err) != mxerr.CodeConnectionFailed {
				t.Errorf("invited: %v", err)
			}
			if got := a.membership(r, bob); got != "" {
				t.Errorf("the membership is %q", got)
			}
		})
	}
}

// A server signs invites and nothing else.
func TestInvitedChecks(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob := a.user("alice"), b.user("bob")
	eve := w.server("eve.example")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	draft, stripped, err := a.rooms.InviteDraft(t.Context(), room.Membership{Room: r, Sender: alice, Target: bob})
	must(t, err)
	good := fedroom.Invitation{Origin: a.name, Room: r, Event: draft.ID(), Version: "12", Raw: draft.Raw(), Stripped: stripped}
	ill, _, err := a.rooms.InviteDraft(t.Context(), room.Membership{Room: r, Sender: alice, Target: "@carol:eve.example"})
	must(t, err)
	for _, c := range []struct {
		name   string
		change func(*fedroom.Invitation)
		want   mxerr.Code
	}{
		{"of another server", func(in *fedroom.Invitation) { in.Origin = eve.name }, mxerr.CodeInvalidParam},
		{"to another room", func(in *fedroom.Invitation) { in.Room = "!other:a.example" }, mxerr.CodeInvalidParam},
		{"by another ID", func(in *fedroom.Invitation) { in.Event = "$other" }, mxerr.CodeInvalidParam},
		{"of an unknown version", func(in *fedroom.Invitation) { in.Version = "99" }, mxerr.CodeIncompatibleRoomVersion},
		{"of somebody else's user", func(in *fedroom.Invitation) { in.Event, in.Raw = ill.ID(), ill.Raw() }, mxerr.CodeInvalidParam},
		{"that is a creation", func(in *fedroom.Invitation) {
			in.Event = a.stateEvent(r, "m.room.create", "")
			in.Raw = a.raw(in.Event)
		}, mxerr.CodeInvalidParam},
		{"that is a join", func(in *fedroom.Invitation) {
			in.Event = a.stateEvent(r, "m.room.member", string(alice))
			in.Raw = a.raw(in.Event)
		}, mxerr.CodeInvalidParam},
		{"without a signature", func(in *fedroom.Invitation) {
			var e map[string]json.RawMessage
			must(t, json.Unmarshal(in.Raw, &e))
			e["signatures"] = json.RawMessage(`{}`)
			in.Raw, _ = json.Marshal(e)
		}, mxerr.CodeInvalidParam},
		{"that is no event", func(in *fedroom.Invitation) { in.Raw = json.RawMessage(`{}`) }, mxerr.CodeInvalidParam},
	} {
		in := good
		c.change(&in)
		if _, err := b.fed.Invited(t.Context(), in); code(err) != c.want {
			t.Errorf("an invite %s: %v, want %s", c.name, err, c.want)
		}
	}
	if got := b.membership(r, bob); got != "" {
		t.Fatalf("the membership is %q", got)
	}
	signed, err := b.fed.Invited(t.Context(), good)
	must(t, err)
	if len(signed.SignedWith(b.name)) != 1 || signed.ID() != draft.ID() {
		t.Error("the invite is not signed")
	}
	// Shown is what holds.
	in := good
	in.Stripped = []json.RawMessage{json.RawMessage(`{"type":"m.room.name","state_key":"","sender":"@alice:a.example","content":{"name":"plain"}}`),
		json.RawMessage(`{"type":"m.room.topic","state_key":"","sender":"@alice:a.example","content":{"topic":"forged"},"signatures":{"a.example":{}}}`),
		json.RawMessage(`{"type":7}`), json.RawMessage(`"x"`)}
	_, err = b.fed.Invited(t.Context(), in)
	must(t, err)
	if got := b.stripped(r, bob); len(got.Array()) != 2 || got.Get("0.content.name").Str != "plain" {
		t.Errorf("shown is %s", got)
	}
}

func TestRejectAnInvite(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob := a.user("alice"), b.user("bob")
	for _, version := range []string{"1", "10", "12"} {
		v, _ := roomver.Get(version)
		r := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PrivateChat})
		must(t, a.invite(r, alice, bob))
		_, err := b.fed.Leave(t.Context(), room.Membership{Room: r, Sender: bob, Reason: "no thanks"})
		must(t, err)
		if x, y := a.membership(r, bob), b.membership(r, bob); x != graph.Leave || y != graph.Leave {
			t.Errorf("version %s: the membership is %q and %q", version, x, y)
		}
		if got := gjson.GetBytes(a.raw(a.stateEvent(r, "m.room.member", string(bob))), "content.reason").Str; got != "no thanks" {
			t.Errorf("version %s: the room is told %q", version, got)
		}
		// Whether or not anybody answers.
		must(t, a.invite(r, alice, bob))
		a.refuses(500, "M_UNKNOWN", "make_leave")
		_, err = b.fed.Leave(t.Context(), room.Membership{Room: r, Sender: bob})
		must(t, err)
		if got := b.membership(r, bob); got != graph.Leave {
			t.Errorf("version %s: after a failure the membership is %q", version, got)
		}
		_, err = b.fed.Leave(t.Context(), room.Membership{Room: r, Sender: bob})
		must(t, err) // once more does nothing
		a.honest()
	}
	if _, err := b.fed.Leave(t.Context(), room.Membership{Room: "!nothing:a.example", Sender: bob}); code(err) != mxerr.CodeForbidden {
		t.Errorf("left a room that nobody knows: %v", err)
	}
}

// Who invited may think better of it.
func TestRescindedInvite(t *testing.T) {
	w := newTown(t)
	a, b, c := w.server("a.example"), w.server("b.example"), w.server("c.example")
	alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	must(t, c.join(r, carol, a.name))
	must(t, a.invite(r, alice, bob))
	// A message means nothing to a server that isn't in the room.
	refused := a.deliver(b, a.say(r, alice, "hello?"))
	if len(refused) != 1 {
		t.Errorf("a message was taken: %v", refused)
	}
	kick, err := a.rooms.Kick(t.Context(), room.Membership{Room: r, Sender: alice, Target: bob})
	must(t, err)
	// Somebody else's word is not enough; the one who passes it on doesn't matter.
	forged, err := c.rooms.Kick(t.Context(), room.Membership{Room: r, Sender: carol, Target: carol})
	if err == nil {
		c.deliver(b, forged)
	}
	if got := b.membership(r, bob); got != graph.Invite {
		t.Fatalf("the membership is %q", got)
	}
	if refused := a.deliver(b, kick); len(refused) > 0 {
		t.Errorf("the kick was refused: %v", refused)
	}
	if got := b.membership(r, bob); got != graph.Leave {
		t.Errorf("the membership is %q", got)
	}
}

func TestKnockThroughAnotherServer(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob := a.user("alice"), b.user("bob")
	for _, version := range []string{"7", "10", "12"} {
		v, _ := roomver.Get(version)
		name := "Members only"
		r := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PrivateChat, Name: &name})
		knock := func() error {
			_, err := b.fed.Knock(t.Context(), room.Membership{Room: r, Sender: bob, Reason: "let me in"}, []id.ServerName{a.name})
			return err
		}
		if err := knock(); code(err) != mxerr.CodeForbidden {
			t.Errorf("version %s: knocked on a room that doesn't hear it: %v", version, err)
		}
		a.setState(r, alice, "m.room.join_rules", "", `{"join_rule":"knock"}`)
		must(t, knock())
		if x, y := a.membership(r, bob), b.membership(r, bob); x != graph.Knock || y != graph.Knock {
			t.Errorf("version %s: the membership is %q and %q", version, x, y)
		}
		if got := b.stripped(r, bob); got.Get(`#(type=="m.room.name").content.name`).Str != name {
			t.Errorf("version %s: who knocks is shown %s", version, got)
		}
		// Taken back, and repeated.
		_, err := b.fed.Leave(t.Context(), room.Membership{Room: r, Sender: bob})
		must(t, err)
		if x, y := a.membership(r, bob), b.membership(r, bob); x != graph.Leave || y != graph.Leave {
			t.Errorf("version %s: the membership is %q and %q", version, x, y)
		}
		must(t, knock())
		// Heard.
		must(t, a.invite(r, alice, bob))
		must(t, b.join(r, bob))
		same(t, r, a, b)
	}
}

// Who has nothing to do with a room can't end a knock on it.
func TestKnockIsRefusedFromTheRoom(t *testing.T) {
	w := newTown(t)
	a, b, c := w.server("a.example"), w.server("b.example"), w.server("c.example")
	alice, bob, eve := a.user("alice"), b.user("bob"), c.user("eve")
	v, _ := roomver.Get("10")
	r := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PrivateChat})
	a.setState(r, alice, "m.room.join_rules", "", `{"join_rule":"knock"}`)
	_, err := b.fed.Knock(t.Context(), room.Membership{Room: r, Sender: bob}, []id.ServerName{a.name})
	must(t, err)
	key, _ := c.ours.Key(c.name)
	target := string(bob)
	kick, err := event.Draft{
		RoomID: r, Type: "m.room.member", StateKey: &target, Sender: eve, Content: []byte(`{"membership":"ban"}`), Depth: 9,
		OriginServerTS: time.Now().UnixMilli(), PrevEvents: []id.EventID{"$x"}, AuthEvents: []id.EventID{"$y"},
	}.Build(v, c.name, key, nil)
	must(t, err)
	if refused := c.transact(b, kick.Raw()); len(refused) != 1 || b.membership(r, bob) != graph.Knock {
		t.Errorf("refused is %v, the membership is %q", refused, b.membership(r, bob))
	}
	_, err = a.rooms.Kick(t.Context(), room.Membership{Room: r, Sender: alice, Target: bob})
	must(t, err)
	if refused := a.deliver(b, a.stateEvent(r, "m.room.member", string(bob))); len(refused) > 0 || b.membership(r, bob) != graph.Leave {
		t.Errorf("refused is %v, the membership is %q", refused, b.membership(r, bob))
	}
}
