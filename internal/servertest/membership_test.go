package servertest

import (
	"testing"

	"myelin/internal/config"
	"myelin/internal/sqldb"
)

// Spec: cs Room membership
func TestMembership(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		room := alice.CreateRoom(M{"preset": "private_chat"})
		want := func(who *Client, membership string) {
			t.Helper()
			if got := alice.Membership(room, who); got != membership {
				t.Fatalf("membership %q, want %q", got, membership)
			}
		}
		act := func(what string) string { return Path("rooms", room, what) }

		// Nobody enters without an invite.
		bob.Fails(403, "M_FORBIDDEN", "POST", Path("join", room), M{})
		bob.Fails(403, "M_FORBIDDEN", "POST", Path("knock", room), M{})
		bob.Fails(403, "M_FORBIDDEN", "POST", act("invite"), M{"user_id": carol.User})
		bob.Fails(403, "M_FORBIDDEN", "POST", act("leave"), M{})

		// Invite, reject.
		alice.OK("POST", act("invite"), M{"user_id": bob.User, "reason": "come"})
		if got := alice.State(room, "m.room.member", bob.User).Get("reason").Str; got != "come" {
			t.Errorf("reason %q", got)
		}
		alice.Invite(room, bob) // again is no error
		bob.Fails(403, "M_FORBIDDEN", "PUT", Path("rooms", room, "send", "m.room.message", "x"), M{})
		bob.Leave(room)
		want(bob, "leave")
		bob.Fails(403, "M_FORBIDDEN", "POST", Path("join", room), M{})

		// Invite, join, join again.
		alice.Invite(room, bob)
		bob.Join(room)
		want(bob, "join")
		before := alice.OK("GET", Path("rooms", room, "state", "m.room.member", bob.User)+"?format=event", nil).Text("event_id")
		if got := bob.OK("POST", act("join"), M{}).Text("room_id"); got != room {
			t.Errorf("joined %s", got)
		}
		if after := alice.OK("GET", Path("rooms", room, "state", "m.room.member", bob.User)+"?format=event", nil).Text("event_id"); after != before {
			t.Error("joining again makes another event")
		}
		alice.Fails(403, "M_FORBIDDEN", "POST", act("invite"), M{"user_id": bob.User})

		// What else a client says on joining stands in the event.
		public := alice.CreateRoom(M{"preset": "public_chat"})
		carol.OK("POST", Path("join", public), M{"reason": "hi", "membership": "ban", "org.example.mood": "good"})
		if got := alice.State(public, "m.room.member", carol.User); got.Get("org\\.example\\.mood").Str != "good" ||
			got.Get("reason").Str != "hi" || got.Get("membership").Str != "join" {
			t.Errorf("joined as %s", got.Raw)
		}

		// Kick and ban need power.
		bob.Fails(403, "M_FORBIDDEN", "POST", act("kick"), M{"user_id": alice.User})
		bob.Fails(403, "M_FORBIDDEN", "POST", act("ban"), M{"user_id": carol.User})
		alice.OK("POST", act("kick"), M{"user_id": bob.User, "reason": "go"})
		want(bob, "leave")
		alice.Fails(403, "M_FORBIDDEN", "POST", act("kick"), M{"user_id": bob.User})
		alice.Ban(room, bob)
		want(bob, "ban")
		alice.Fails(403, "M_FORBIDDEN", "POST", act("invite"), M{"user_id": bob.User})
		bob.Fails(403, "M_FORBIDDEN", "POST", Path("join", room), M{})
		bob.Fails(403, "M_FORBIDDEN", "POST", act("leave"), M{})
		alice.Unban(room, bob)
		want(bob, "leave")
		alice.Fails(403, "M_FORBIDDEN", "POST", act("unban"), M{"user_id": carol.User})

		// Ban somebody who never was there.
		alice.Ban(room, carol)
		want(carol, "ban")

		// By state events.
		alice.SetState(room, "m.room.member", bob.User, M{"membership": "invite"})
		want(bob, "invite")
		bob.SetState(room, "m.room.member", bob.User, M{"membership": "join", "displayname": "Bobby"})
		if got := alice.State(room, "m.room.member", bob.User).Get("displayname").Str; got != "Bobby" {
			t.Errorf("display name %q", got)
		}
		if a := bob.Do("PUT", Path("rooms", room, "state", "m.room.member", bob.User), M{"membership": "dancing"}); a.Status < 400 || a.Status >= 500 {
			t.Errorf("an unknown membership: %d %s", a.Status, a.Body)
		}
		bob.Fails(403, "M_FORBIDDEN", "PUT", Path("rooms", room, "state", "m.room.member", alice.User), M{"membership": "join"})

		// Bad targets.
		alice.Fails(400, "M_INVALID_PARAM", "POST", act("invite"), M{"user_id": "nobody"})
		alice.Fails(400, "M_MISSING_PARAM", "POST", act("invite"), M{})
		alice.Fails(400, "M_BAD_JSON", "POST", act("kick"), M{"user_id": 5})
	})
}

// Spec: cs forgetRoom; cs getJoinedRooms
func TestForget(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		if got := bob.OK("GET", "joined_rooms", nil).At("joined_rooms").Array(); len(got) != 1 || got[0].Str != room {
			t.Errorf("joined rooms: %v", got)
		}
		bob.Fails(400, "M_UNKNOWN", "POST", Path("rooms", room, "forget"), M{})
		bob.Leave(room)
		if got := bob.OK("GET", "joined_rooms", nil).At("joined_rooms").Array(); len(got) != 0 {
			t.Errorf("joined rooms after leaving: %v", got)
		}
		bob.OK("GET", Path("rooms", room, "messages")+Query("dir", "b"), nil)
		bob.OK("POST", Path("rooms", room, "forget"), M{})
		bob.Fails(403, "M_FORBIDDEN", "GET", Path("rooms", room, "messages")+Query("dir", "b"), nil)
		bob.Join(room)
		bob.OK("GET", Path("rooms", room, "messages")+Query("dir", "b"), nil)
	})
}

// Where rooms that are left are forgotten, that goes for everybody who leaves, is put out or declines, and lasts until they are back.
//
// Spec: cs m.forget_forced_upon_leave capability
func TestForgetByLeaving(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) {
			s := Start(t, d, func(c *config.Config) { c.ForgetLeftRooms = true })
			alice, bob, carol, dave, eve := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol"), s.Register(t, "dave"), s.Register(t, "eve")
			if !alice.OK("GET", "capabilities", nil).At("capabilities", "m.forget_forced_upon_leave", "enabled").Bool() {
				t.Error("the capability says that nothing is forgotten")
			}
			room := alice.CreateRoom(M{"preset": "public_chat"})
			for _, c := range []*Client{bob, carol, dave} {
				c.Join(room)
			}
			alice.Invite(room, eve)
			gone := map[*Client]func(){
				bob: func() { bob.Leave(room) }, carol: func() { alice.Kick(room, carol) }, dave: func() { alice.Ban(room, dave) }, eve: func() { eve.Leave(room) },
			}
			for c, leave := range gone {
				since := c.OK("GET", "sync", nil).Text("next_batch")
				leave()
				if a := c.OK("GET", Path("sync")+Query("since", since, "timeout", 30000), nil); !a.At("rooms", "leave", room).Exists() {
					t.Errorf("%s does not hear of leaving: %s", c.User, a.Body)
				}
				if a := c.OK("GET", Path("sync")+Query("filter", `{"room":{"include_leave":true}}`), nil); a.At("rooms", "leave", room).Exists() {
					t.Errorf("%s is shown the room: %s", c.User, a.Body)
				}
				c.Fails(403, "M_FORBIDDEN", "GET", Path("rooms", room, "messages")+Query("dir", "b"), nil)
			}
			bob.Join(room)
			bob.OK("GET", Path("rooms", room, "messages")+Query("dir", "b"), nil)
			if got := bob.OK("GET", "joined_rooms", nil).At("joined_rooms").Array(); len(got) != 1 {
				t.Errorf("joined rooms: %v", got)
			}
		})
	}
}

// Spec: cs Knocking on rooms
func TestKnock(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"name": "Door", "initial_state": []M{{"type": "m.room.join_rules", "content": M{"join_rule": "knock"}}}})
		bob.Fails(403, "M_FORBIDDEN", "POST", Path("join", room), M{})
		if got := bob.OK("POST", Path("knock", room), M{"reason": "let me in"}).Text("room_id"); got != room {
			t.Errorf("knocked on %s", got)
		}
		if got := alice.State(room, "m.room.member", bob.User); got.Get("membership").Str != "knock" || got.Get("reason").Str != "let me in" {
			t.Errorf("member: %s", got.Raw)
		}
		bob.Leave(room) // takes the knock back
		bob.OK("POST", Path("knock", room), M{})
		alice.Kick(room, bob) // refuses it
		bob.OK("POST", Path("knock", room), M{})
		alice.Invite(room, bob)
		bob.Join(room)
		bob.Fails(403, "M_FORBIDDEN", "POST", Path("knock", room), M{})
		alice.Ban(room, bob)
		bob.Fails(403, "M_FORBIDDEN", "POST", Path("knock", room), M{})
	})
}

// Spec: cs Restricted rooms
func TestRestricted(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		space := alice.CreateRoom(M{"preset": "public_chat", "creation_content": M{"type": "m.space"}})
		for _, rule := range []string{"restricted", "knock_restricted"} {
			bob, carol := s.Register(t, "bob"), s.Register(t, "carol")
			room := alice.CreateRoom(M{"initial_state": []M{{"type": "m.room.join_rules", "content": M{
				"join_rule": rule, "allow": []M{{"type": "m.room_membership", "room_id": space}, {"type": "org.example.unknown"}},
			}}}})
			bob.Fails(403, "M_FORBIDDEN", "POST", Path("join", room), M{})
			bob.Join(space)
			bob.Join(room)
			if got := alice.State(room, "m.room.member", bob.User).Get("join_authorised_via_users_server").Str; got != alice.User {
				t.Errorf("%s: authorised by %q", rule, got)
			}
			// Staying does not need the space; a change of the name keeps the membership.
			bob.Leave(space)
			bob.SetState(room, "m.room.member", bob.User, M{
				"membership": "join", "displayname": "Rob", "join_authorised_via_users_server": "ignored",
			})
			bob.Leave(room)
			bob.Fails(403, "M_FORBIDDEN", "POST", Path("join", room), M{})

			// An invite does as well.
			alice.Invite(room, bob)
			bob.Join(room)

			if rule == "knock_restricted" {
				carol.OK("POST", Path("knock", room), M{})
			} else {
				carol.Fails(403, "M_FORBIDDEN", "POST", Path("knock", room), M{})
			}
		}
		// Nobody in the room may invite, so nobody can let the members of the space in.
		room := alice.CreateRoom(M{
			"room_version": "11", "power_level_content_override": M{"invite": 100, "users": M{alice.User: 100}},
			"initial_state": []M{{"type": "m.room.join_rules", "content": M{"join_rule": "restricted", "allow": []M{{"type": "m.room_membership", "room_id": space}}}}},
		})
		dave := s.Register(t, "dave")
		dave.Join(space)
		dave.Join(room)
		alice.Leave(room)
		erin := s.Register(t, "erin")
		erin.Join(space)
		if a := erin.Do("POST", Path("join", room), M{}); a.Status != 400 || a.At("errcode").Str != "M_UNABLE_TO_GRANT_JOIN" {
			if a.Status != 403 {
				t.Errorf("nobody can let Erin in: %d %s", a.Status, a.Body)
			}
		}
	})
}
