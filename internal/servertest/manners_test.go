package servertest

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// TestBridgeOfBadManners: an application service that answers wrongly, or not at all, gets what is its own later, and costs nobody else anything.
//
// Spec: as Querying; as Third-party networks; as sendTransaction
func TestBridgeOfBadManners(t *testing.T) {
	eachBridge(t, func(t *testing.T, s *Server, b *bridge, as *Client) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		as.OK("POST", "register", M{"type": "m.login.application_service", "username": "_irc_ghost", "inhibit_login": true})
		room := alice.CreateRoom(M{"preset": "public_chat"})
		as.OK("POST", Path("join", room)+Query("user_id", "@_irc_ghost:localhost"), M{})

		for _, wrong := range []string{"", "no JSON", "5", "null", `"x"`, "[[]]", `{"instances":5,"icon":{}}`, `[{"userid":"@x:localhost"},7]`, strings.Repeat("[", 100_000), `{"x":"` + strings.Repeat("x", 2<<20) + `"}`} {
			for _, path := range []string{"protocol/irc", "user/irc", "location/irc", "user", "location"} {
				b.answer("/_matrix/app/v1/thirdparty/"+path, wrong, nil)
			}
			b.answer("/_matrix/app/v1/rooms/#_irc_x:localhost", wrong, nil)
			for _, question := range []string{"thirdparty/protocols", "thirdparty/protocol/irc", "thirdparty/user/irc", "thirdparty/location/irc",
				"thirdparty/user" + Query("userid", "@_irc_x:localhost"), "thirdparty/location" + Query("alias", "#_irc_x:localhost"), Path("directory", "room", "#_irc_x:localhost")} {
				if a := alice.Do("GET", question, nil); a.Status >= 500 && a.Status != http.StatusBadGateway && a.Status != http.StatusGatewayTimeout {
					t.Errorf("%s, answered %.40q: status %d: %s", question, wrong, a.Status, a.Body)
				}
			}
		}

		// It hangs over more questions than are asked at once. Others go on, and it gets its events.
		hang, held := make(chan struct{}), make(chan int, 40)
		b.answer("/_matrix/app/v1/users/@_irc_slow:localhost", "{}", func() { <-hang })
		for range cap(held) {
			go func() {
				a, err := alice.Try("GET", Path("profile", "@_irc_slow:localhost"), nil)
				if err != nil {
					t.Error(err)
					held <- 0
					return
				}
				held <- a.Status
			}()
		}
		bob.Join(room)
		said := bob.Say(room, "in the meantime")
		b.event(said)
		if got := alice.OK("GET", Path("profile", bob.User), nil); got.Status != 200 {
			t.Errorf("another profile: %d", got.Status)
		}
		close(hang)
		for range cap(held) {
			if status := <-held; status != 404 && status != 429 {
				t.Errorf("the profile of nobody: status %d", status)
			}
		}

		// Whatever it says in place of 200, it is told again.
		var want []string
		for _, status := range []int{301, 404, 400, 500} {
			b.set(status)
			want = append(want, alice.Say(room, "hello"))
		}
		b.set(200)
		as.OK("GET", "account/whoami", nil) // a sign of life
		b.event(want[3])
		b.mu.Lock()
		defer b.mu.Unlock()
		got := 0
		for _, txn := range b.txns {
			for _, e := range gjson.Get(b.bodies[txn], "events").Array() {
				if got < len(want) && e.Get("event_id").Str == want[got] {
					got++
				}
			}
		}
		if got != len(want) {
			t.Errorf("of %d events %d came in their order", len(want), got)
		}
	})
}
