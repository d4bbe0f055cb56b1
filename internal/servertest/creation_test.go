package servertest

import (
	"strings"
	"testing"
)

// Spec: cs createRoom
func TestPresets(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		for _, row := range []struct {
			body                     M
			join, visibility, guests string
			bobs                     int64 // power
		}{
			{M{}, "invite", "shared", "can_join", 0},
			{M{"preset": "private_chat"}, "invite", "shared", "can_join", 0},
			{M{"preset": "trusted_private_chat"}, "invite", "shared", "can_join", 100},
			{M{"preset": "public_chat"}, "public", "shared", "forbidden", 0},
			{M{"visibility": "public"}, "public", "shared", "forbidden", 0},
			{M{"visibility": "private"}, "invite", "shared", "can_join", 0},
		} {
			row.body["invite"] = []string{bob.User}
			row.body["room_version"] = "11"
			room := alice.CreateRoom(row.body)
			if got := alice.State(room, "m.room.join_rules", "").Get("join_rule").Str; got != row.join {
				t.Errorf("%v: join rule %q", row.body, got)
			}
			if got := alice.State(room, "m.room.history_visibility", "").Get("history_visibility").Str; got != row.visibility {
				t.Errorf("%v: visibility %q", row.body, got)
			}
			a := alice.Do("GET", Path("rooms", room, "state", "m.room.guest_access", ""), nil)
			if got := a.At("guest_access").Str; got != row.guests && (a.Status != 404 || row.guests != "forbidden") {
				t.Errorf("%v: guests %q", row.body, got)
			}
			powers := alice.State(room, "m.room.power_levels", "")
			if got := At(powers, "users", bob.User).Int(); got != row.bobs {
				t.Errorf("%v: Bob's power %d", row.body, got)
			}
			if got := At(powers, "users", alice.User).Int(); got != 100 {
				t.Errorf("%v: Alice's power %d", row.body, got)
			}
			if got := alice.Membership(room, bob); got != "invite" {
				t.Errorf("%v: Bob's membership %q", row.body, got)
			}
		}
	})
}

// Spec: cs createRoom
func TestCreationOptions(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		alias := Unique("alias-")
		room := alice.CreateRoom(M{
			"name": "Name", "topic": "Topic", "room_alias_name": alias, "is_direct": true, "invite": []string{bob.User},
			"creation_content": M{"m.federate": false, "type": "org.example.kind", "creator": "@forged:localhost", "room_version": "1"},
			"initial_state": []M{
				{"type": "m.room.join_rules", "content": M{"join_rule": "knock"}},
				{"type": "org.example.thing", "state_key": "key", "content": M{"x": 1}},
				{"type": "m.room.name", "content": M{"name": "overridden"}},
			},
			"power_level_content_override": M{"events_default": 10, "users": M{bob.User: 50}},
		})
		create := alice.State(room, "m.room.create", "")
		if create.Get("room_version").Str != "12" || create.Get(`m\.federate`).Bool() || create.Get("type").Str != "org.example.kind" || create.Get("creator").Exists() && create.Get("creator").Str != alice.User {
			t.Errorf("create: %s", create.Raw)
		}
		if strings.Contains(room, ":") {
			t.Errorf("a room of version 12 has the ID %s", room)
		}
		for _, row := range [][4]string{
			{"m.room.name", "", "name", "Name"}, {"m.room.topic", "", "topic", "Topic"}, {"m.room.join_rules", "", "join_rule", "knock"},
			{"org.example.thing", "key", "x", "1"}, {"m.room.canonical_alias", "", "alias", "#" + alias + ":localhost"},
		} {
			if got := alice.State(room, row[0], row[1]).Get(row[2]).String(); got != row[3] {
				t.Errorf("%s is %q, want %q", row[0], got, row[3])
			}
		}
		powers := alice.State(room, "m.room.power_levels", "")
		if powers.Get("events_default").Int() != 10 || At(powers, "users", bob.User).Int() != 50 || At(powers, "users", alice.User).Exists() {
			t.Errorf("power levels: %s", powers.Raw)
		}
		if !At(alice.State(room, "m.room.member", bob.User), "is_direct").Bool() {
			t.Error("the invite is not direct")
		}
		if got := alice.OK("GET", Path("directory", "room", "#"+alias+":localhost"), nil).Text("room_id"); got != room {
			t.Errorf("the alias is of %s", got)
		}

		alice.Fails(400, "M_ROOM_IN_USE", "POST", "createRoom", M{"room_alias_name": alias})
		alice.Fails(400, "M_UNSUPPORTED_ROOM_VERSION", "POST", "createRoom", M{"room_version": "nonsense"})
		alice.Fails(400, "M_INVALID_PARAM", "POST", "createRoom", M{"preset": "nonsense"})
		alice.Fails(400, "M_INVALID_PARAM", "POST", "createRoom", M{"visibility": "nonsense"})
		alice.Fails(400, "M_INVALID_PARAM", "POST", "createRoom", M{"invite": []string{"nobody"}})
		alice.Fails(400, "M_BAD_JSON", "POST", "createRoom", M{"invite": "nobody"})
		alice.Fails(400, "M_BAD_JSON", "POST", "createRoom", M{"name": 5})
		if a := alice.Do("POST", "createRoom", M{"power_level_content_override": M{"users": M{alice.User: "50"}}}); a.Status != 400 {
			t.Errorf("power levels that are no numbers: %d %s", a.Status, a.Body)
		}
		if a := alice.Do("POST", "createRoom", M{"room_version": "12", "power_level_content_override": M{"users": M{alice.User: 100}}}); a.Status != 400 {
			t.Errorf("a creator among the powers of version 12: %d %s", a.Status, a.Body)
		}
	})
}

// TestVersions: rooms of every version can be made and used.
//
// Spec: rooms Feature matrix
func TestVersions(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		for _, version := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
			room := alice.CreateRoom(M{"preset": "public_chat", "room_version": version, "name": version})
			bob.Join(room)
			event := bob.Say(room, "in "+version)
			alice.Redact(room, event)
			a := alice.OK("GET", Path("rooms", room, "event", event), nil)
			if a.At("content", "body").Exists() || !a.At("unsigned", "redacted_because").Exists() {
				t.Errorf("version %s: a redacted event: %s", version, a.Body)
			}
			alice.Kick(room, bob)
			if m := alice.Membership(room, bob); m != "leave" {
				t.Errorf("version %s: a kicked member: %s", version, m)
			}
			if got := alice.State(room, "m.room.create", "").Get("room_version").Str; got != version && version != "1" {
				t.Errorf("version %s: %q", version, got)
			}
		}
	})
}
