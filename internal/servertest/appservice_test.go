package servertest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/config"
)

// bridge is an application service: it keeps what it is sent, and answers as it is told.
type bridge struct {
	t    testing.TB
	http *httptest.Server
	file string

	mu      sync.Mutex // guards all below
	status  int        // of answers to transactions; 0 means 200
	txns    []string   // IDs, in the order in which they came
	bodies  map[string]string
	asked   []string
	answers map[string]string // by path; others are not found
	then    map[string]func()
	changed chan struct{}
}

const registration = `
id: bridge
url: URL
as_token: as-secret
hs_token: hs-secret
sender_localpart: _bot
rate_limited: false
receive_ephemeral: true
org.matrix.msc3202: true
protocols: [irc]
namespaces:
  users:
    - {exclusive: true, regex: "@_irc_.*"}
  aliases:
    - {exclusive: true, regex: "#_irc_.*"}
`

func newBridge(t testing.TB) *bridge {
	b := &bridge{t: t, bodies: make(map[string]string), answers: make(map[string]string), then: make(map[string]func()), changed: make(chan struct{})}
	b.http = httptest.NewServer(b)
	t.Cleanup(b.http.Close)
	b.file = filepath.Join(t.TempDir(), "bridge.yaml")
	if err := os.WriteFile(b.file, []byte(strings.Replace(registration, "URL", b.http.URL, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Header.Get("Authorization") != "Bearer hs-secret" {
		b.t.Errorf("%s without the server's token", r.URL.Path)
	}
	b.mu.Lock()
	status, answer, then := http.StatusOK, "{}", func() {}
	if txn, ok := strings.CutPrefix(r.URL.Path, "/_matrix/app/v1/transactions/"); ok {
		if was, again := b.bodies[txn]; again && was != string(body) {
			b.t.Errorf("transaction %s changed from %s to %s", txn, was, body)
		} else if status = max(b.status, 200); !again && status == 200 {
			b.txns = append(b.txns, txn)
		}
		if status == 200 {
			b.bodies[txn] = string(body)
		}
	} else if r.URL.Path != "/_matrix/app/v1/ping" {
		b.asked = append(b.asked, r.URL.RequestURI())
		if f := b.then[r.URL.Path]; f != nil {
			then = f
		}
		if answer, ok = b.answers[r.URL.Path]; !ok {
			status, answer = http.StatusNotFound, `{"errcode":"M_NOT_FOUND"}`
		}
	}
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()
	then()
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer)
}

func (b *bridge) set(status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = status
}

func (b *bridge) answer(path, body string, then func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[path], b.then[path] = body, then
}

// await waits until something in a field of the transactions satisfies want, and returns it.
func (b *bridge) await(what, field string, want func(gjson.Result) bool) gjson.Result {
	b.t.Helper()
	late := time.After(30 * time.Second)
	for {
		b.mu.Lock()
		changed := b.changed
		for _, txn := range b.txns {
			v := gjson.Get(b.bodies[txn], gjson.Escape(field))
			list := v.Array()
			if v.IsObject() {
				list = []gjson.Result{v}
			}
			for _, e := range list {
				if want(e) {
					b.mu.Unlock()
					return e
				}
			}
		}
		b.mu.Unlock()
		select {
		case <-changed:
		case <-late:
			b.mu.Lock()
			defer b.mu.Unlock()
			all, _ := json.Marshal(b.bodies)
			b.t.Fatalf("the bridge was not sent %s: %s", what, clip(all))
		}
	}
}

func (b *bridge) event(event string) gjson.Result {
	b.t.Helper()
	return b.await(event, "events", func(e gjson.Result) bool { return e.Get("event_id").Str == event })
}

// eachBridge runs a test with a server that has a bridge.
func eachBridge(t *testing.T, run func(t *testing.T, s *Server, b *bridge, as *Client)) {
	var b *bridge
	Each(t, func(t *testing.T, s *Server) {
		as := s.Anonymous(t)
		as.Token = "as-secret"
		run(t, s, b, as)
	}, func(c *config.Config) {
		b = newBridge(t)
		c.Appservices = []string{b.file}
	})
}

// Spec: as Identity assertion; as Server admin style permissions; as Timestamp massaging; as Device management
func TestActingAsUsers(t *testing.T) {
	eachBridge(t, func(t *testing.T, s *Server, b *bridge, as *Client) {
		alice, nobody := s.Register(t, "alice"), s.Anonymous(t)
		if a := as.OK("GET", "account/whoami", nil); a.Text("user_id") != "@_bot:localhost" || a.At("device_id").Exists() {
			t.Errorf("it is %s", a.Body)
		}
		ghost := M{"type": "m.login.application_service", "username": "_irc_ghost", "inhibit_login": true}
		as.Fails(403, "M_FORBIDDEN", "GET", "account/whoami"+Query("user_id", "@_irc_ghost:localhost"), nil)
		if a := as.OK("POST", "register", ghost); a.Text("user_id") != "@_irc_ghost:localhost" || a.At("access_token").Exists() {
			t.Errorf("registered as %s", a.Body)
		}
		as.Fails(400, "M_USER_IN_USE", "POST", "register", ghost)
		as.Fails(400, "M_EXCLUSIVE", "POST", "register", M{"type": "m.login.application_service", "username": "other"})
		nobody.Fails(401, "M_MISSING_TOKEN", "POST", "register", ghost)
		alice.Fails(401, "M_UNKNOWN_TOKEN", "POST", "register", ghost)
		nobody.Fails(400, "M_EXCLUSIVE", "GET", "register/available"+Query("username", "_irc_x"), nil)
		nobody.Fails(400, "M_EXCLUSIVE", "POST", "register", M{"username": "_irc_x", "password": Password})

		acting := Query("user_id", "@_irc_ghost:localhost")
		if a := as.OK("GET", "account/whoami"+acting, nil); a.Text("user_id") != "@_irc_ghost:localhost" {
			t.Errorf("it acts as %s", a.Body)
		}
		as.Fails(403, "M_FORBIDDEN", "GET", "account/whoami"+Query("user_id", alice.User), nil)
		as.Fails(400, "M_UNKNOWN_DEVICE", "GET", "account/whoami"+acting+"&device_id=DEV", nil)
		if a := as.Do("PUT", "devices/DEV"+acting, M{"display_name": "Bridge"}); a.Status != 201 {
			t.Errorf("a new device: %d %s", a.Status, a.Body)
		}
		as.OK("PUT", "devices/DEV"+acting, M{"display_name": "Bridge 2"})
		for _, name := range []string{"device_id", "org.matrix.msc3202.device_id"} {
			if a := as.OK("GET", "account/whoami"+acting+"&"+name+"=DEV", nil); a.Text("device_id") != "DEV" {
				t.Errorf("it acts as %s", a.Body)
			}
		}
		login := as.OK("POST", "login", M{"type": "m.login.application_service", "identifier": M{"type": "m.id.user", "user": "_irc_ghost"}})
		if a := as.As(login.Text("access_token")).OK("GET", "account/whoami", nil); a.Text("user_id") != "@_irc_ghost:localhost" {
			t.Errorf("logged in as %s", a.Body)
		}
		as.Fails(400, "M_EXCLUSIVE", "POST", "login", M{"type": "m.login.application_service", "identifier": M{"type": "m.id.user", "user": alice.User}})
		as.OK("DELETE", "devices/DEV"+acting, nil)

		room := as.OK("POST", "createRoom"+acting, M{"preset": "public_chat"}).Text("room_id")
		sent := as.OK("PUT", Path("rooms", room, "send", "m.room.message", "t1")+acting+"&ts=1000", M{"body": "old", "msgtype": "m.text"}).Text("event_id")
		if again := as.OK("PUT", Path("rooms", room, "send", "m.room.message", "t1")+acting, M{"body": "old"}).Text("event_id"); again != sent {
			t.Errorf("the same transaction made %s", again)
		}
		as.Fails(400, "M_INVALID_PARAM", "PUT", Path("rooms", room, "send", "m.room.message", "t2")+acting+"&ts=x", M{"body": "old"})
		if e := b.event(sent); e.Get("origin_server_ts").Int() != 1000 || e.Get("room_id").Str != room || e.Get("sender").Str != "@_irc_ghost:localhost" {
			t.Errorf("the bridge gets %s", e.Raw)
		}
		alice.OK("POST", Path("join", room), M{})
		mine := alice.OK("PUT", Path("rooms", room, "send", "m.room.message", "t1")+"?ts=1000", M{"body": "x", "msgtype": "m.text"}).Text("event_id")
		if e := b.event(mine); e.Get("origin_server_ts").Int() == 1000 {
			t.Errorf("a user chose the time: %s", e.Raw)
		}
	})
}

// Spec: as Pushing events; as Pushing ephemeral data
func TestBridgeTransactions(t *testing.T) {
	eachBridge(t, func(t *testing.T, s *Server, b *bridge, as *Client) {
		alice := s.Register(t, "alice")
		as.OK("POST", "register", M{"type": "m.login.application_service", "username": "_irc_ghost", "inhibit_login": true})
		acting := Query("user_id", "@_irc_ghost:localhost")
		private := alice.OK("POST", "createRoom", M{}).Text("room_id")
		secret := alice.OK("PUT", Path("rooms", private, "send", "m.room.message", "t0"), M{"body": "secret", "msgtype": "m.text"}).Text("event_id")
		room := alice.OK("POST", "createRoom", M{"invite": []string{"@_irc_ghost:localhost"}}).Text("room_id")
		b.await("the invite", "events", func(e gjson.Result) bool {
			return e.Get("content.membership").Str == "invite" && e.Get("state_key").Str == "@_irc_ghost:localhost"
		})
		as.OK("POST", Path("join", room)+acting, M{})

		// It is away for a while, and the server restarts.
		b.set(503)
		var want []string
		send := func(n int) {
			for range n {
				want = append(want, alice.OK("PUT", Path("rooms", room, "send", "m.room.message", Unique("t")), M{"body": "x", "msgtype": "m.text"}).Text("event_id"))
			}
		}
		send(3)
		s.Restart()
		send(120)
		alice.OK("PUT", Path("rooms", room, "typing", alice.User), M{"typing": true, "timeout": 20000})
		alice.OK("POST", Path("rooms", room, "receipt", "m.read", want[0]), M{})
		b.set(200)
		as.OK("GET", "account/whoami", nil) // a sign of life
		send(2)
		b.event(want[len(want)-1])
		b.mu.Lock()
		var got []string
		for _, txn := range b.txns {
			for _, e := range gjson.Get(b.bodies[txn], "events").Array() {
				if e.Get("type").Str == "m.room.message" {
					got = append(got, e.Get("event_id").Str)
				}
			}
		}
		b.mu.Unlock()
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%d events arrived of %d, or in another order", len(got), len(want))
		}
		for _, e := range got {
			if e == secret {
				t.Error("a room that does not concern it")
			}
		}
		b.await("typing", "ephemeral", func(e gjson.Result) bool {
			return e.Get("type").Str == "m.typing" && e.Get("room_id").Str == room && e.Get("content.user_ids.0").Str == alice.User
		})
		b.await("a receipt", "ephemeral", func(e gjson.Result) bool {
			return e.Get("type").Str == "m.receipt" && e.Get("room_id").Str == room && e.Get("content").Get(gjson.Escape(want[0])).Exists()
		})
		topic := alice.OK("PUT", Path("rooms", room, "state", "m.room.topic", ""), M{"topic": "one"})
		second := alice.OK("PUT", Path("rooms", room, "state", "m.room.topic", ""), M{"topic": "two"}).Text("event_id")
		if e := b.event(second); e.Get("unsigned.prev_content.topic").Str != "one" || e.Get("unsigned.replaces_state").Str != topic.Text("event_id") {
			t.Errorf("a state event: %s", e.Raw)
		}
	})
}

// TestBridgeEncryption is about what a bridge needs in encrypted rooms.
func TestBridgeEncryption(t *testing.T) {
	eachBridge(t, func(t *testing.T, s *Server, b *bridge, as *Client) {
		alice := s.Register(t, "alice")
		const ghost = "@_irc_ghost:localhost"
		as.OK("POST", "register", M{"type": "m.login.application_service", "username": "_irc_ghost", "inhibit_login": true})
		acting := Query("user_id", ghost)
		as.Do("PUT", "devices/DEV"+acting, M{})
		room := alice.OK("POST", "createRoom", M{"preset": "public_chat"}).Text("room_id")
		as.OK("POST", Path("join", room)+acting, M{})
		alice.OK("PUT", Path("sendToDevice", "m.test", "1"), M{"messages": M{ghost: M{"DEV": M{"body": "psst"}}, alice.User: M{alice.Device: M{"body": "own"}}}})
		m := b.await("a message to a device", "de.sorunome.msc2409.to_device", func(e gjson.Result) bool { return e.Get("content.body").Exists() })
		if m.Get("to_user_id").Str != ghost || m.Get("to_device_id").Str != "DEV" || m.Get("content.body").Str != "psst" || m.Get("sender").Str != alice.User {
			t.Errorf("the message: %s", m.Raw)
		}
		b.await("the number of keys", "org.matrix.msc3202.device_one_time_keys_count", func(e gjson.Result) bool {
			return e.Get(gjson.Escape(ghost) + ".DEV.signed_curve25519").Exists()
		})
		alice.OK("POST", "login", M{"type": "m.login.password", "identifier": M{"type": "m.id.user", "user": alice.User}, "password": Password})
		b.await("a change of devices", "org.matrix.msc3202.device_lists", func(e gjson.Result) bool {
			return e.Get(`changed.#(=="` + alice.User + `")`).Exists()
		})
		// Cross-signing keys need no proof.
		key := func(usage string) M {
			return M{"user_id": ghost, "usage": []string{usage}, "keys": M{"ed25519:" + strings.Repeat("A", 43): strings.Repeat("A", 43)}}
		}
		as.OK("POST", "keys/device_signing/upload"+acting, M{"master_key": key("master")})
		another := key("master")
		another["keys"] = M{"ed25519:" + strings.Repeat("B", 42) + "A": strings.Repeat("B", 42) + "A"}
		as.OK("POST", "keys/device_signing/upload"+acting, M{"master_key": another})
	})
}

// Spec: as Querying; as Third-party networks; as Published room directories; as Pinging; as ping
// Spec: as queryUserById; as queryRoomByAlias; as getProtocolMetadata
// Spec: as queryUserByProtocol; as queryLocationByProtocol; as queryUserByID; as queryLocationByAlias
func TestBridgeQuestions(t *testing.T) {
	eachBridge(t, func(t *testing.T, s *Server, b *bridge, as *Client) {
		alice := s.Register(t, "alice")
		b.answer("/_matrix/app/v1/users/@_irc_new:localhost", "{}", func() {
			if _, err := as.Try("POST", "register", M{"type": "m.login.application_service", "username": "_irc_new", "inhibit_login": true}); err != nil {
				t.Error(err)
			}
		})
		alice.OK("GET", Path("profile", "@_irc_new:localhost"), nil)
		alice.Fails(404, "M_NOT_FOUND", "GET", Path("profile", "@_irc_none:localhost"), nil)
		alice.Fails(404, "M_NOT_FOUND", "GET", Path("profile", "@other:localhost"), nil)

		b.answer("/_matrix/app/v1/rooms/#_irc_channel:localhost", "{}", func() {
			if _, err := as.Try("POST", "createRoom", M{"room_alias_name": "_irc_channel", "preset": "public_chat"}); err != nil {
				t.Error(err)
			}
		})
		room := alice.OK("POST", Path("join", "#_irc_channel:localhost"), M{}).Text("room_id")
		alice.Fails(404, "M_NOT_FOUND", "GET", Path("directory", "room", "#_irc_none:localhost"), nil)
		alice.Fails(400, "M_EXCLUSIVE", "PUT", Path("directory", "room", "#_irc_mine:localhost"), M{"room_id": room})
		alice.Fails(400, "M_EXCLUSIVE", "POST", "createRoom", M{"room_alias_name": "_irc_mine"})
		as.Fails(400, "M_EXCLUSIVE", "PUT", Path("directory", "room", "#other:localhost"), M{"room_id": room})
		as.OK("PUT", Path("directory", "room", "#_irc_second:localhost"), M{"room_id": room})
		alice.Fails(400, "M_EXCLUSIVE", "DELETE", Path("directory", "room", "#_irc_second:localhost"), nil)
		as.OK("DELETE", Path("directory", "room", "#_irc_second:localhost"), nil)

		if got := string(alice.OK("GET", "thirdparty/protocols", nil).Body); got != "{}" {
			t.Errorf("a network that can't be asked: %s", got)
		}
		b.answer("/_matrix/app/v1/thirdparty/protocol/irc", `{"user_fields":["nick"],"location_fields":["channel"],"icon":"mxc://localhost/x","field_types":{},"instances":[{"desc":"Net","fields":{},"network_id":"net"},{"bad":1}]}`, nil)
		if a := alice.OK("GET", "thirdparty/protocols", nil); a.Text("irc", "icon") == "" || a.At("irc", "instances").Get("#").Int() != 1 {
			t.Errorf("the networks: %s", a.Body)
		}
		instance := alice.OK("GET", "thirdparty/protocol/irc", nil).At("instances").Get("0.instance_id").Str
		alice.Fails(404, "M_NOT_FOUND", "GET", "thirdparty/protocol/other", nil)
		b.answer("/_matrix/app/v1/thirdparty/user/irc", `[{"userid":"@_irc_jim:localhost","protocol":"irc","fields":{"nick":"jim"}},{"userid":5}]`, nil)
		if a := alice.OK("GET", "thirdparty/user/irc"+Query("nick", "jim"), nil); gjson.ParseBytes(a.Body).Get("#").Int() != 1 {
			t.Errorf("found %s", a.Body)
		}
		b.answer("/_matrix/app/v1/thirdparty/location/irc", `[{"alias":"#_irc_channel:localhost","protocol":"irc","fields":{"channel":"#c"}}]`, nil)
		if a := alice.OK("GET", "thirdparty/location/irc"+Query("channel", "#c"), nil); gjson.ParseBytes(a.Body).Get("#").Int() != 1 {
			t.Errorf("found %s", a.Body)
		}
		b.answer("/_matrix/app/v1/thirdparty/location", `[{"alias":"#_irc_channel:localhost","protocol":"irc","fields":{}}]`, nil)
		if a := alice.OK("GET", "thirdparty/location"+Query("alias", "#_irc_channel:localhost"), nil); gjson.ParseBytes(a.Body).Get("#").Int() != 1 {
			t.Errorf("found %s", a.Body)
		}
		b.answer("/_matrix/app/v1/thirdparty/user", `[{"userid":"@_irc_jim:localhost","protocol":"irc","fields":{"nick":"jim"}}]`, nil)
		if a := alice.OK("GET", "thirdparty/user"+Query("userid", "@_irc_jim:localhost"), nil); gjson.ParseBytes(a.Body).Get("#").Int() != 1 {
			t.Errorf("the third-party users behind a user: %s", a.Body)
		}
		alice.Fails(400, "M_MISSING_PARAM", "GET", "thirdparty/user", nil)

		alice.Fails(403, "M_FORBIDDEN", "PUT", Path("directory", "list", "appservice", "net", room), M{"visibility": "public"})
		as.OK("PUT", Path("directory", "list", "appservice", "net", room), M{"visibility": "public"})
		list := func(body M) int64 { return alice.OK("POST", "publicRooms", body).At("chunk").Get("#").Int() }
		if own, all, net, other := list(M{}), list(M{"include_all_networks": true}), list(M{"third_party_instance_id": instance}), list(M{"third_party_instance_id": "x"}); own != 0 || all != 1 || net != 1 || other != 0 {
			t.Errorf("%d rooms are on the server's list, %d on all, %d on the network's, %d on another's", own, all, net, other)
		}
		as.OK("PUT", Path("directory", "list", "appservice", "net", room), M{"visibility": "private"})
		if n := list(M{"include_all_networks": true}); n != 0 {
			t.Errorf("%d rooms are left on lists", n)
		}

		if a := as.OK("POST", "/_matrix/client/v1/appservice/bridge/ping", M{"transaction_id": "x"}); !a.At("duration_ms").Exists() {
			t.Errorf("the ping: %s", a.Body)
		}
		as.Fails(403, "M_FORBIDDEN", "POST", "/_matrix/client/v1/appservice/other/ping", M{})
		alice.Fails(403, "M_FORBIDDEN", "POST", "/_matrix/client/v1/appservice/bridge/ping", M{})
		b.http.Close()
		as.Fails(502, "M_CONNECTION_FAILED", "POST", "/_matrix/client/v1/appservice/bridge/ping", M{})
	})
}
