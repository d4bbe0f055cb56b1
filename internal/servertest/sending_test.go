package servertest

import (
	"strings"
	"testing"
)

// Spec: cs Transaction identifiers
func TestTransactions(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		phone := alice.Login()
		room, other := alice.CreateRoom(nil), alice.CreateRoom(nil)
		path := Path("rooms", room, "send", "m.room.message", "txn")
		body := M{"msgtype": "m.text", "body": "once"}
		first := alice.OK("PUT", path, body).Text("event_id")
		same := func(when string) {
			t.Helper()
			if again := alice.OK("PUT", path, body).Text("event_id"); again != first {
				t.Errorf("%s the repetition is another event", when)
			}
			// Even with another content: the transaction ID decides.
			if again := alice.OK("PUT", path, M{"msgtype": "m.text", "body": "twice"}).Text("event_id"); again != first {
				t.Errorf("%s the repetition with another content is another event", when)
			}
		}
		same("at once")
		for what, id := range map[string]string{
			"another device": phone.OK("PUT", path, body).Text("event_id"),
			"another room":   alice.OK("PUT", Path("rooms", other, "send", "m.room.message", "txn"), body).Text("event_id"),
			"another type":   alice.OK("PUT", Path("rooms", room, "send", "org.example", "txn"), body).Text("event_id"),
		} {
			if id == first {
				t.Errorf("%s has the same event", what)
			}
		}
		redact := Path("rooms", room, "redact", first, "txn")
		redaction := alice.OK("PUT", redact, M{}).Text("event_id")
		s.Restart()
		same("after a restart")
		if again := alice.OK("PUT", redact, M{}).Text("event_id"); again != redaction {
			t.Error("a repeated redaction is another event")
		}
		n := 0
		for _, e := range alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "limit", "100"), nil).At("chunk").Array() {
			if e.Get("type").Str == "m.room.message" {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%d messages, want 2", n)
		}
	})
}

// Spec: cs getRoomStateWithKey; cs setRoomStateWithKey; cs getRoomState
func TestState(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"name": "first"})
		event := alice.SetState(room, "m.room.name", "", M{"name": "second"})
		for _, path := range []string{Path("rooms", room, "state", "m.room.name"), Path("rooms", room, "state", "m.room.name", "")} {
			if name := alice.OK("GET", path, nil).At("name").Str; name != "second" {
				t.Errorf("%s: name %q", path, name)
			}
			whole := alice.OK("GET", path+"?format=event", nil)
			if whole.Text("event_id") != event || whole.Text("room_id") != room || whole.Text("content", "name") != "second" {
				t.Errorf("%s: %s", path, whole.Body)
			}
		}
		if again := alice.OK("PUT", Path("rooms", room, "state", "m.room.name"), M{"name": "third"}).Text("event_id"); again == event {
			t.Error("a change is the same event")
		}
		// A state key may hold anything, slashes included.
		alice.SetState(room, "org.example.thing", "a/b c%ü", M{"here": true})
		if !alice.State(room, "org.example.thing", "a/b c%ü").Get("here").Bool() {
			t.Error("a state key with a slash")
		}
		if n := len(alice.OK("GET", Path("rooms", room, "state"), nil).At().Array()); n != 8 {
			t.Errorf("%d state events", n)
		}
		alice.Fails(404, "M_NOT_FOUND", "GET", Path("rooms", room, "state", "m.room.topic", ""), nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", Path("rooms", room, "state", "m.room.name", "")+"?format=nonsense", nil)
		bob.Fails(403, "M_FORBIDDEN", "GET", Path("rooms", room, "state"), nil)
		bob.Fails(403, "M_FORBIDDEN", "PUT", Path("rooms", room, "state", "m.room.name", ""), M{"name": "mine"})
		alice.Fails(400, "M_INVALID_PARAM", "PUT", Path("rooms", room, "state", "m.room.create", ""), M{})
		alice.Fails(403, "M_FORBIDDEN", "PUT", Path("rooms", room, "state", "org.example.thing", "@somebody:else"), M{})
		alice.Fails(400, "M_BAD_ALIAS", "PUT", Path("rooms", room, "state", "m.room.canonical_alias", ""), M{"alias": "#nowhere:localhost"})
		alice.Fails(400, "M_INVALID_PARAM", "PUT", Path("rooms", room, "state", "m.room.canonical_alias", ""), M{"alias": "nonsense"})
	})
}

// Spec: cs redactEvent
func TestRedaction(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		room := alice.CreateRoom(M{"preset": "public_chat", "name": "Name"})
		bob.Join(room)
		carol.Join(room)
		event := bob.Say(room, "a slip")
		carol.Fails(403, "M_FORBIDDEN", "PUT", Path("rooms", room, "redact", event, "c"), M{})
		redaction := bob.OK("PUT", Path("rooms", room, "redact", event, "b"), M{"reason": "spelling"}).Text("event_id")
		a := alice.OK("GET", Path("rooms", room, "event", event), nil)
		because := a.At("unsigned", "redacted_because")
		if a.At("content").Raw != "{}" || because.Get("event_id").Str != redaction || because.Get("content.reason").Str != "spelling" {
			t.Errorf("the redacted event: %s", a.Body)
		}
		if r := alice.OK("GET", Path("rooms", room, "event", redaction), nil); r.At("redacts").Str != event && r.At("content", "redacts").Str != event {
			t.Errorf("the redaction: %s", r.Body)
		}
		moderated := bob.Say(room, "nonsense")
		alice.Redact(room, moderated)
		if a := bob.OK("GET", Path("rooms", room, "event", moderated), nil); a.At("content").Raw != "{}" {
			t.Errorf("moderated: %s", a.Body)
		}
		// State that is redacted keeps what the rules need; history shows the pruned form.
		name := alice.SetState(room, "m.room.name", "", M{"name": "Rude"})
		alice.Redact(room, name)
		if got := alice.State(room, "m.room.name", "").Get("name"); got.Exists() {
			t.Errorf("the redacted name is %s", got.Raw)
		}
		alice.Fails(404, "M_NOT_FOUND", "PUT", Path("rooms", room, "redact", "$nothing", "x"), M{})
		// Through /send, as room versions since 11 have it.
		third := bob.Say(room, "third")
		bob.Send(room, "m.room.redaction", M{"redacts": third})
		if a := alice.OK("GET", Path("rooms", room, "event", third), nil); a.At("content").Raw != "{}" {
			t.Errorf("redacted through /send: %s", a.Body)
		}
	})
}

// Spec: cs m.room.power_levels
func TestPowers(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		for _, version := range []string{"9", "11", "12"} {
			room := alice.CreateRoom(M{"preset": "public_chat", "room_version": version})
			bob.Join(room)
			carol.Join(room)
			set := func(who *Client, change func(M)) *Answer {
				var levels M
				who.OK("GET", Path("rooms", room, "state", "m.room.power_levels", ""), nil).Into(&levels)
				change(levels)
				return who.Do("PUT", Path("rooms", room, "state", "m.room.power_levels", ""), levels)
			}
			users := func(l M) M {
				if l["users"] == nil {
					l["users"] = M{}
				}
				return l["users"].(M)
			}
			if a := set(bob, func(l M) { users(l)[bob.User] = 100 }); a.Status != 403 {
				t.Errorf("version %s: Bob makes himself an administrator: %d %s", version, a.Status, a.Body)
			}
			if a := set(alice, func(l M) { users(l)[bob.User] = 50 }); a.Status != 200 {
				t.Fatalf("version %s: Alice raises Bob: %d %s", version, a.Status, a.Body)
			}
			if a := set(alice, func(l M) { l["events"].(M)["m.room.power_levels"] = 50 }); a.Status != 200 {
				t.Fatalf("version %s: Alice lets Bob: %d %s", version, a.Status, a.Body)
			}
			if a := set(bob, func(l M) { users(l)[carol.User] = 51 }); a.Status != 403 {
				t.Errorf("version %s: Bob raises Carol above himself: %d %s", version, a.Status, a.Body)
			}
			if a := set(bob, func(l M) { users(l)[carol.User] = 50 }); a.Status != 200 {
				t.Errorf("version %s: Bob raises Carol: %d %s", version, a.Status, a.Body)
			}
			if a := set(bob, func(l M) { delete(users(l), carol.User) }); a.Status != 403 {
				t.Errorf("version %s: Bob lowers his equal: %d %s", version, a.Status, a.Body)
			}
			if a := set(alice, func(l M) { users(l)["nonsense"] = 5 }); a.Status != 400 && a.Status != 403 {
				t.Errorf("version %s: a power of no user: %d %s", version, a.Status, a.Body)
			}
			if a := set(alice, func(l M) { l["ban"] = 1.5 }); version != "9" && a.Status != 400 && a.Status != 403 {
				t.Errorf("version %s: a fraction: %d %s", version, a.Status, a.Body)
			}
			if a := set(alice, func(l M) { l["ban"] = 1 << 60 }); a.Status != 400 {
				t.Errorf("version %s: beyond 2^53: %d %s", version, a.Status, a.Body)
			}
			bob.Fails(403, "M_FORBIDDEN", "POST", Path("rooms", room, "kick"), M{"user_id": alice.User})
		}
	})
}

// Spec: cs upgradeRoom; cs Room Upgrades
func TestUpgrade(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		alias := Unique("up-")
		old := alice.CreateRoom(M{"preset": "public_chat", "room_version": "10", "name": "House", "topic": "Talk", "room_alias_name": alias, "visibility": "public"})
		bob.Join(old)
		alice.SetState(old, "m.room.server_acl", "", M{"allow": []string{"*"}})
		bob.Fails(403, "M_FORBIDDEN", "POST", Path("rooms", old, "upgrade"), M{"new_version": "12"})
		alice.Fails(400, "M_UNSUPPORTED_ROOM_VERSION", "POST", Path("rooms", old, "upgrade"), M{"new_version": "999"})
		room := alice.OK("POST", Path("rooms", old, "upgrade"), M{"new_version": "12", "additional_creators": []string{bob.User}}).Text("replacement_room")

		tombstone := alice.State(old, "m.room.tombstone", "")
		if tombstone.Get("replacement_room").Str != room {
			t.Errorf("tombstone: %s", tombstone.Raw)
		}
		create := alice.State(room, "m.room.create", "")
		if create.Get("room_version").Str != "12" || create.Get("predecessor.room_id").Str != old || create.Get("additional_creators.0").Str != bob.User {
			t.Errorf("create: %s", create.Raw)
		}
		for typ, want := range map[string]string{"m.room.name": "House", "m.room.topic": "Talk"} {
			if got := alice.State(room, typ, "").Get(strings.TrimPrefix(typ, "m.room.")).Str; got != want {
				t.Errorf("%s: %q", typ, got)
			}
		}
		if !alice.State(room, "m.room.server_acl", "").Get("allow").Exists() || alice.State(room, "m.room.join_rules", "").Get("join_rule").Str != "public" {
			t.Error("the state is not carried over")
		}
		if got := bob.OK("GET", Path("directory", "room", "#"+alias+":localhost"), nil).Text("room_id"); got != room {
			t.Errorf("the alias is of %s", got)
		}
		bob.Fails(403, "M_FORBIDDEN", "PUT", Path("rooms", old, "send", "m.room.message", "late"), M{"msgtype": "m.text", "body": "late"})
		bob.Join(room)
		bob.Say(room, "here")
		// Bob is a creator and can do everything.
		bob.SetState(room, "m.room.name", "", M{"name": "Castle"})
	})
}
