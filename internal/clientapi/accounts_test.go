package clientapi_test

import (
	"testing"

	"myelin/internal/servertest"
	"myelin/internal/sqldb"
)

type object = map[string]any

// proof is what a client sends to show that it knows its password.
func proof(c *servertest.Client, session string) object {
	return object{"type": "m.login.password", "session": session, "password": c.Password, "identifier": object{"type": "m.id.user", "user": c.User}}
}

// challenge begins an operation that wants authentication and returns the session.
func challenge(t *testing.T, c *servertest.Client, method, path string, body any) string {
	t.Helper()
	a := c.Do(method, path, body)
	if a.Status != 401 || a.At("errcode").Exists() || a.At("flows").Raw != `[{"stages":["m.login.password"]}]` {
		t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	return a.Text("session")
}

// TestInteraction: what a client sent first counts, whatever it repeats; and a session is good for
// what it was begun for and nothing else.
func TestInteraction(t *testing.T) {
	s := servertest.Start(t, sqldb.SQLite)
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	phone, tablet := alice.Login(), alice.Login()

	// Nothing but auth in the second request.
	session := challenge(t, alice, "POST", "account/password", object{"new_password": "battery staple", "logout_devices": false})
	alice.OK("POST", "account/password", object{"auth": proof(alice, session)})
	alice.Password = "battery staple"
	tablet.OK("GET", "account/whoami", nil)
	alice.Login()

	// A session for one device does not delete another, nor does it change the password.
	session = challenge(t, alice, "DELETE", servertest.Path("devices", phone.Device), nil)
	for _, other := range []struct{ method, path string }{
		{"DELETE", servertest.Path("devices", tablet.Device)},
		{"POST", "delete_devices"},
	} {
		if a := alice.Do(other.method, other.path, object{"devices": []string{tablet.Device}, "auth": proof(alice, session)}); a.Status == 200 {
			t.Errorf("%s %s with another session: %s", other.method, other.path, a.Body)
		}
	}
	tablet.OK("GET", "account/whoami", nil)
	// Somebody else's password is of no use.
	if a := alice.Do("DELETE", servertest.Path("devices", phone.Device), object{"auth": proof(bob, session)}); a.Status == 200 || a.At("errcode").Str != "M_FORBIDDEN" {
		t.Errorf("with bob's password: %d %s", a.Status, a.Body)
	}
	phone.OK("GET", "account/whoami", nil)
	alice.OK("DELETE", servertest.Path("devices", phone.Device), object{"auth": proof(alice, session)})
	phone.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)

	// What would be refused in the end is refused at once.
	alice.Fails(400, "M_WEAK_PASSWORD", "POST", "account/password", object{"new_password": "x"})
	alice.Fails(400, "M_MISSING_PARAM", "POST", "account/password", object{})
	alice.Fails(400, "M_BAD_JSON", "POST", "account/password", object{"new_password": 7})
	session = challenge(t, alice, "POST", "delete_devices", object{})
	alice.Fails(400, "M_MISSING_PARAM", "POST", "delete_devices", object{"auth": proof(alice, session)})

	// Without a token the password says who asks.
	nobody := s.Anonymous(t)
	session = challenge(t, nobody, "POST", "account/password", object{"new_password": "staple battery"})
	nobody.OK("POST", "account/password", object{"new_password": "staple battery", "auth": proof(bob, session)})
	bob.Password = "staple battery"
	bob.Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil)
	bob.Login()
}

// TestOthers: nobody reads or writes what is another user's.
func TestOthers(t *testing.T) {
	s := servertest.Start(t, sqldb.SQLite)
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := alice.CreateRoom(object{})
	for _, op := range []struct {
		method string
		path   []string
		body   any
	}{
		{"GET", []string{"account_data", "x"}, nil},
		{"PUT", []string{"account_data", "x"}, object{}},
		{"GET", []string{"rooms", room, "account_data", "x"}, nil},
		{"PUT", []string{"rooms", room, "account_data", "x"}, object{}},
		{"GET", []string{"rooms", room, "tags"}, nil},
		{"PUT", []string{"rooms", room, "tags", "u.x"}, object{}},
		{"DELETE", []string{"rooms", room, "tags", "u.x"}, nil},
		{"POST", []string{"filter"}, object{}},
		{"GET", []string{"filter", "1"}, nil},
		{"POST", []string{"openid", "request_token"}, object{}},
	} {
		bob.Fails(403, "M_FORBIDDEN", op.method, servertest.Path(append([]string{"user", alice.User}, op.path...)...), op.body)
		alice.Fails(400, "M_INVALID_PARAM", op.method, servertest.Path(append([]string{"user", "alice"}, op.path...)...), op.body)
	}
	bob.Fails(403, "M_FORBIDDEN", "PUT", servertest.Path("profile", alice.User, "displayname"), object{"displayname": "x"})
	bob.Fails(403, "M_FORBIDDEN", "DELETE", servertest.Path("profile", alice.User, "displayname"), nil)
	bob.Fails(403, "M_FORBIDDEN", "GET", servertest.Path("admin", "whois", alice.User), nil)
	alice.OK("GET", servertest.Path("admin", "whois", alice.User), nil)
}

// TestPlacesOfPushRules: where a new rule goes, and what stands in its way.
func TestPlacesOfPushRules(t *testing.T) {
	s := servertest.Start(t, sqldb.SQLite)
	alice := s.Register(t, "alice")
	rule := func(name string) string { return servertest.Path("pushrules", "global", "content", name) }
	draft := object{"pattern": "x", "actions": []any{"notify"}}
	order := func(want string) {
		t.Helper()
		var got string
		for _, r := range alice.OK("GET", "pushrules/", nil).At("global", "content").Array() {
			got += r.Get("rule_id").Str
		}
		if got != want {
			t.Errorf("the order is %s, want %s", got, want)
		}
	}
	for _, name := range []string{"c", "b", "a"} {
		alice.OK("PUT", rule(name), draft)
	}
	order("abc")
	alice.OK("PUT", rule("d")+"?after=a", draft)
	order("adbc")
	alice.OK("PUT", rule("c")+"?before=d&after=b", draft)
	order("acdb")
	alice.OK("DELETE", rule("c"), nil)
	order("adb")
	alice.Fails(400, "M_INVALID_PARAM", "PUT", rule("e")+"?before=none", draft)
	alice.Fails(400, "M_MISSING_PARAM", "PUT", rule("e"), object{"pattern": "x"})
	alice.Fails(400, "M_BAD_JSON", "PUT", rule("e"), object{"pattern": 5, "actions": []any{}})
	alice.Fails(400, "M_MISSING_PARAM", "PUT", rule("a")+"/actions", object{})
	alice.Fails(400, "M_MISSING_PARAM", "PUT", rule("a")+"/enabled", object{})
	alice.Fails(400, "M_BAD_JSON", "PUT", rule("a")+"/enabled", object{"enabled": "true"})
	alice.Fails(404, "M_NOT_FOUND", "PUT", rule("e")+"/enabled", object{"enabled": true})
	alice.Fails(404, "M_NOT_FOUND", "GET", servertest.Path("pushrules", "global", "room", "a"), nil)
	alice.Fails(404, "M_NOT_FOUND", "GET", servertest.Path("pushrules", "global", "unknown", "a"), nil)
	order("adb")
	// They are account data that only these operations change.
	alice.Fails(405, "M_BAD_JSON", "PUT", servertest.Path("user", alice.User, "account_data", "m.push_rules"), object{})
	data := alice.OK("GET", servertest.Path("user", alice.User, "account_data", "m.push_rules"), nil)
	if len(data.At("global", "content").Array()) != 3 {
		t.Errorf("account data: %s", data.Body)
	}
}

// TestGuestProfile: guests have a name and nothing else.
func TestGuestProfile(t *testing.T) {
	s := servertest.Start(t, sqldb.SQLite)
	login := s.Anonymous(t).OK("POST", "register?kind=guest", object{})
	guest := s.Anonymous(t).As(login.Text("access_token"))
	user := login.Text("user_id")
	guest.OK("PUT", servertest.Path("profile", user, "displayname"), object{"displayname": "Visitor"})
	guest.Fails(403, "M_GUEST_ACCESS_FORBIDDEN", "PUT", servertest.Path("profile", user, "avatar_url"), object{"avatar_url": "mxc://x/y"})
	guest.Fails(403, "M_GUEST_ACCESS_FORBIDDEN", "DELETE", servertest.Path("profile", user, "m.tz"), nil)
	guest.OK("DELETE", servertest.Path("profile", user, "displayname"), nil)
	guest.Fails(403, "M_GUEST_ACCESS_FORBIDDEN", "POST", "account/password", object{"new_password": "battery staple"})
}
