package servertest

import (
	"strings"
	"testing"
)

// Spec: cs Profiles
func TestProfile(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, nobody := s.Register(t, "alice"), s.Register(t, "bob"), s.Anonymous(t)
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		field := func(who *Client, name string) string { return Path("profile", who.User, name) }
		since := bob.Sync("").Next
		alice.OK("PUT", field(alice, "displayname"), M{"displayname": "Alice"})
		alice.OK("PUT", field(alice, "avatar_url"), M{"avatar_url": "mxc://localhost/face"})
		alice.OK("PUT", field(alice, "org.example.pronouns"), M{"org.example.pronouns": []string{"she"}})
		if got := nobody.OK("GET", field(alice, "displayname"), nil).Text("displayname"); got != "Alice" {
			t.Errorf("name %q", got)
		}
		whole := nobody.OK("GET", Path("profile", alice.User), nil)
		if whole.Text("displayname") != "Alice" || whole.Text("avatar_url") != "mxc://localhost/face" || whole.At("org.example.pronouns").Array()[0].Str != "she" {
			t.Errorf("profile: %s", whole.Body)
		}
		// It shows in the rooms.
		bob.Until(since, "the new name", func(*Sync) bool {
			m := bob.State(room, "m.room.member", alice.User)
			return m.Get("displayname").Str == "Alice" && m.Get("avatar_url").Str == "mxc://localhost/face" && m.Get("membership").Str == "join"
		})
		next := alice.CreateRoom(nil)
		if got := alice.State(next, "m.room.member", alice.User).Get("displayname").Str; got != "Alice" {
			t.Errorf("in a new room: %q", got)
		}

		bob.Fails(403, "M_FORBIDDEN", "PUT", field(alice, "displayname"), M{"displayname": "Mallory"})
		bob.Fails(403, "M_FORBIDDEN", "DELETE", field(alice, "displayname"), nil)
		nobody.Fails(401, "M_MISSING_TOKEN", "PUT", field(alice, "displayname"), M{"displayname": "Mallory"})
		alice.Fails(400, "M_MISSING_PARAM", "PUT", field(alice, "displayname"), M{"other": "x"})
		if a := alice.Do("PUT", field(alice, "displayname"), M{"displayname": 5}); a.Status != 400 {
			t.Errorf("a name that is a number: %d %s", a.Status, a.Body)
		}
		alice.Fails(400, "M_KEY_TOO_LARGE", "PUT", field(alice, strings.Repeat("k", 256)), M{strings.Repeat("k", 256): "x"})
		alice.Fails(400, "M_PROFILE_TOO_LARGE", "PUT", field(alice, "org.example.big"), M{"org.example.big": strings.Repeat("x", 70000)})
		nobody.Fails(404, "M_NOT_FOUND", "GET", Path("profile", "@nobody:localhost"), nil)
		nobody.Fails(404, "M_NOT_FOUND", "GET", field(alice, "org.example.nothing"), nil)

		alice.OK("DELETE", field(alice, "org.example.pronouns"), nil)
		nobody.Fails(404, "M_NOT_FOUND", "GET", field(alice, "org.example.pronouns"), nil)
		alice.OK("DELETE", field(alice, "displayname"), nil)
		bob.Until("", "the name's removal", func(*Sync) bool {
			return bob.State(room, "m.room.member", alice.User).Get("displayname").Str != "Alice"
		})
	})
}

// Spec: cs Client Config; cs Room tagging; cs Filtering
func TestAccountData(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(nil)
		since := alice.Sync("").Next
		own := func(rest ...string) string { return Path(append([]string{"user", alice.User}, rest...)...) }
		global, inRoom := own("account_data", "org.example.a"), own("rooms", room, "account_data", "org.example.b")
		tag := own("rooms", room, "tags", "u.work")
		alice.OK("PUT", global, M{"x": 1})
		alice.OK("PUT", inRoom, M{"y": 2})
		alice.OK("PUT", tag, M{"order": 0.25})
		if alice.OK("GET", global, nil).At("x").Int() != 1 || alice.OK("GET", inRoom, nil).At("y").Int() != 2 {
			t.Error("account data is not what was set")
		}
		if got := alice.OK("GET", own("rooms", room, "tags"), nil).At("tags", "u.work", "order").Num; got != 0.25 {
			t.Errorf("order %v", got)
		}
		sync := alice.Sync(since)
		if Find(sync.At("account_data", "events"), "org.example.a").Get("content.x").Int() != 1 {
			t.Errorf("sync: %s", sync.Body)
		}
		local := sync.Joined(room).Get("account_data.events")
		if Find(local, "org.example.b").Get("content.y").Int() != 2 || !At(Find(local, "m.tag"), "content", "tags", "u.work").Exists() {
			t.Errorf("sync of the room: %s", local.Raw)
		}
		alice.OK("DELETE", tag, nil)
		if got := alice.OK("GET", own("rooms", room, "tags"), nil).At("tags"); len(got.Map()) != 0 {
			t.Errorf("tags: %s", got.Raw)
		}
		again := alice.Sync(sync.Next)
		if got := Find(again.Joined(room).Get("account_data.events"), "m.tag"); !got.Exists() || len(got.Get("content.tags").Map()) != 0 {
			t.Errorf("the removed tag in sync: %s", again.Body)
		}

		bob.Fails(403, "M_FORBIDDEN", "GET", global, nil)
		bob.Fails(403, "M_FORBIDDEN", "PUT", global, M{})
		bob.Fails(403, "M_FORBIDDEN", "PUT", tag, M{})
		alice.Fails(404, "M_NOT_FOUND", "GET", own("account_data", "org.example.nothing"), nil)
		for _, managed := range []string{"m.push_rules", "m.fully_read"} {
			if a := alice.Do("PUT", own("account_data", managed), M{}); a.Status != 405 {
				t.Errorf("%s is set by hand: %d %s", managed, a.Status, a.Body)
			}
		}
		alice.Fails(400, "M_BAD_JSON", "PUT", global, Raw(`[1]`))
		alice.Fails(400, "M_NOT_JSON", "PUT", global, Raw(`{`))

		filter := alice.OK("POST", own("filter"), M{"room": M{"timeline": M{"limit": 1}}}).Text("filter_id")
		if got := alice.OK("GET", own("filter", filter), nil).At("room", "timeline", "limit").Int(); got != 1 {
			t.Errorf("filter: %d", got)
		}
		if got := alice.Sync("", "filter", filter).Timeline(room).Array(); len(got) != 1 {
			t.Errorf("a timeline of %d with limit 1", len(got))
		}
		alice.Fails(404, "M_NOT_FOUND", "GET", own("filter", "999999"), nil)
		alice.Fails(400, "M_BAD_JSON", "POST", own("filter"), M{"room": 5})
		bob.Fails(403, "M_FORBIDDEN", "POST", own("filter"), M{})
		if a := alice.Do("GET", "sync"+Query("filter", "999999"), nil); a.Status != 400 && a.Status != 404 {
			t.Errorf("an unknown filter: %d %s", a.Status, a.Body)
		}
	})
}

// Spec: cs Push Rules: API
func TestPushRules(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		since := alice.Sync("").Next
		rules := alice.OK("GET", "pushrules/", nil)
		if len(rules.At("global", "override").Array()) < 5 || len(rules.At("global", "underride").Array()) < 5 {
			t.Errorf("rules: %s", rules.Body)
		}
		rule := Path("pushrules", "global", "content", "tea")
		alice.OK("PUT", rule, M{"pattern": "tea", "actions": []any{"notify"}})
		if got := alice.OK("GET", rule, nil); got.Text("pattern") != "tea" || !got.At("enabled").Bool() || got.At("default").Bool() {
			t.Errorf("rule: %s", got.Body)
		}
		alice.OK("PUT", rule+"/enabled", M{"enabled": false})
		if alice.OK("GET", rule+"/enabled", nil).At("enabled").Bool() {
			t.Error("the rule is enabled")
		}
		alice.OK("PUT", rule+"/actions", M{"actions": []any{"notify", M{"set_tweak": "highlight"}}})
		if got := alice.OK("GET", rule+"/actions", nil).At("actions").Array(); len(got) != 2 {
			t.Errorf("actions: %v", got)
		}
		alice.OK("PUT", Path("pushrules", "global", "override", ".m.rule.master", "enabled"), M{"enabled": true})
		if sync := alice.Sync(since); !strings.Contains(Find(sync.At("account_data", "events"), "m.push_rules").Raw, `"tea"`) {
			t.Errorf("sync lacks the rule: %s", sync.Body)
		}
		alice.OK("DELETE", rule, nil)
		alice.Fails(404, "M_NOT_FOUND", "GET", rule, nil)
		alice.Fails(404, "M_NOT_FOUND", "DELETE", rule, nil)
		alice.OK("GET", "pushrules/global/", nil)
		if a := alice.Do("PUT", Path("pushrules", "global", "content", ".mine"), M{"pattern": "x", "actions": []any{}}); a.Status != 400 {
			t.Errorf("a rule with the name of the server's: %d %s", a.Status, a.Body)
		}
		if a := alice.Do("PUT", Path("pushrules", "global", "nonsense", "x"), M{"actions": []any{}}); a.Status != 400 && a.Status != 404 {
			t.Errorf("an unknown kind: %d %s", a.Status, a.Body)
		}
		if got := alice.OK("GET", "pushers", nil).At("pushers").Array(); len(got) != 0 {
			t.Errorf("pushers: %v", got)
		}
	})
}

// Spec: cs Capabilities negotiation
func TestSmallAnswers(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		caps := alice.OK("GET", "capabilities", nil)
		if caps.At("capabilities", "m.room_versions", "default").Str != "12" || caps.At("capabilities", "m.room_versions", "available", "12").Str != "stable" {
			t.Errorf("capabilities: %s", caps.Body)
		}
		alice.OK("GET", "account/3pid", nil)
		alice.OK("GET", "thirdparty/protocols", nil)
		alice.Fails(404, "M_NOT_FOUND", "GET", "thirdparty/protocol/irc", nil)
		for _, path := range []string{"account/3pid", "account/password", "register"} {
			for _, medium := range []string{"email", "msisdn"} {
				body := M{"client_secret": "x", "send_attempt": 1, "email": "a@example.org", "country": "GB", "phone_number": "1"}
				alice.Fails(403, "M_THREEPID_DENIED", "POST", path+"/"+medium+"/requestToken", body)
			}
		}
		if got := alice.OK("POST", Path("user", alice.User, "openid", "request_token"), M{}); got.Text("matrix_server_name") != "localhost" || got.At("expires_in").Int() <= 0 {
			t.Errorf("openid: %s", got.Body)
		}
	})
}
