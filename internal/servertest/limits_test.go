package servertest

import (
	"strings"
	"testing"

	"myelin/internal/config"
)

// Spec: cs Rate limiting
func TestRateLimits(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(nil)
		limited := false
		for range 200 {
			if a := alice.Do("PUT", Path("rooms", room, "send", "m.room.message", Unique("t")), M{"msgtype": "m.text", "body": "x"}); a.Status == 429 {
				// The check of answers has looked at Retry-After and retry_after_ms.
				limited = a.At("errcode").Str == "M_LIMIT_EXCEEDED"
				break
			}
		}
		if !limited {
			t.Error("a flood of messages is not limited")
		}
		// Another user at the same address goes on.
		bob.CreateRoom(nil)
		limited = false
		for range 100 {
			if a := s.Anonymous(t).Do("POST", "login", M{"type": "m.login.password", "identifier": M{"type": "m.id.user", "user": "x"}, "password": "guess"}); a.Status == 429 {
				limited = true
				break
			}
		}
		if !limited {
			t.Error("guessing passwords is not limited")
		}
	}, func(c *config.Config) { c.RateLimits = "on" })
}

// TestBadInput: what is not well formed gets the specified code and changes nothing.
//
// Spec: cs Common error codes
func TestBadInput(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		before := len(alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "limit", "1000"), nil).At("chunk").Array())
		send := func() string { return Path("rooms", room, "send", "m.room.message", Unique("bad")) }
		deep := func(n int) Raw {
			return Raw(`{"body":"x","msgtype":"m.text","deep":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`)
		}
		for _, row := range []struct {
			status int
			code   string
			method string
			path   string
			body   any
		}{
			// JSON
			{400, "M_NOT_JSON", "PUT", send(), nil},
			{400, "M_NOT_JSON", "PUT", send(), Raw("")},
			{400, "M_NOT_JSON", "PUT", send(), Raw("{")},
			{400, "M_NOT_JSON", "PUT", send(), Raw("{}{}")},
			{400, "M_NOT_JSON", "PUT", send(), Raw("{\"body\":\"\xff\"}")},
			{400, "M_BAD_JSON", "PUT", send(), Raw("[]")},
			{400, "M_BAD_JSON", "PUT", send(), Raw("null")},
			{400, "M_BAD_JSON", "PUT", send(), Raw(`{"n":9007199254740993}`)},
			{400, "M_BAD_JSON", "PUT", send(), Raw(`{"n":-9007199254740992}`)},
			{400, "M_BAD_JSON", "PUT", send(), Raw(`{"n":1.5}`)},
			{400, "M_BAD_JSON", "PUT", send(), deep(5000)},
			// Sizes
			{413, "M_TOO_LARGE", "PUT", send(), M{"body": strings.Repeat("x", 65536)}},
			{413, "M_TOO_LARGE", "PUT", send(), M{"body": strings.Repeat("x", 2<<20)}},
			{413, "M_TOO_LARGE", "PUT", Path("rooms", room, "send", strings.Repeat("t", 256), "x"), M{}},
			{413, "M_TOO_LARGE", "PUT", Path("rooms", room, "state", "org.example", strings.Repeat("k", 256)), M{}},
			// Identifiers
			{400, "M_INVALID_PARAM", "PUT", Path("rooms", "nonsense", "send", "m.room.message", "1"), M{}},
			{400, "M_INVALID_PARAM", "GET", Path("rooms", "#alias:localhost", "state"), nil},
			{400, "M_INVALID_PARAM", "POST", Path("join", "nonsense"), M{}},
			{400, "M_INVALID_PARAM", "GET", Path("profile", "nonsense"), nil},
			{400, "M_INVALID_PARAM", "POST", Path("rooms", room, "invite"), M{"user_id": "@" + strings.Repeat("a", 255) + ":localhost"}},
			{400, "M_INVALID_PARAM", "GET", "/_matrix/client/v3/profile/%ff", nil},
			// Rooms that are not there
			{404, "M_NOT_FOUND", "PUT", Path("rooms", "!unknown:localhost", "send", "m.room.message", "1"), M{}},
			{403, "M_FORBIDDEN", "GET", Path("rooms", "!unknown:localhost", "state"), nil},
			{403, "M_FORBIDDEN", "GET", Path("rooms", "!unknown:localhost", "members"), nil},
			{404, "M_NOT_FOUND", "POST", Path("join", "#unknown:localhost"), M{}},
			// Tokens of other endpoints, and of nobody
			{400, "M_INVALID_PARAM", "GET", "sync" + Query("since", "nonsense"), nil},
			{400, "M_INVALID_PARAM", "GET", "sync" + Query("since", "s99999999999"), nil},
			{400, "M_INVALID_PARAM", "GET", "sync" + Query("timeout", "soon"), nil},
			{400, "M_INVALID_PARAM", "GET", "sync" + Query("full_state", "maybe"), nil},
			{400, "M_INVALID_PARAM", "GET", "sync" + Query("set_presence", "asleep"), nil},
			{400, "M_BAD_JSON", "GET", "sync" + Query("filter", `{"room":5}`), nil},
			{400, "M_INVALID_PARAM", "GET", Path("rooms", room, "messages") + Query("dir", "b", "from", "sxyz"), nil},
		} {
			alice.Fails(row.status, row.code, row.method, row.path, row.body)
		}
		alice.OK("PUT", send(), deep(50))
		back := alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "limit", "1"), nil).Text("end")
		if a := alice.Do("GET", "sync"+Query("since", back), nil); a.Status != 400 {
			t.Errorf("a token of /messages for /sync: %d %s", a.Status, clip(a.Body))
		}
		after := len(alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "limit", "1000"), nil).At("chunk").Array())
		if after != before+1 {
			t.Errorf("bad input left %d events", after-before-1)
		}
		bob.OK("GET", "account/whoami", nil)
	})
}
