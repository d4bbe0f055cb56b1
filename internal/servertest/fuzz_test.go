package servertest

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"myelin/internal/clientapi"
	"myelin/internal/config"
	"myelin/internal/sqldb"
	"myelin/internal/web"
)

// target is a server with something in it, for requests that nobody would send.
type target struct {
	server *Server
	// words are what parameters are filled with: what exists, what does not, and what cannot.
	words  map[string][]string
	any    []string
	tokens []string
	routes []web.Route
	// answers counts statuses.
	answers map[int]int
}

func newTarget(tb testing.TB) *target {
	s := Start(tb, sqldb.SQLite, func(c *config.Config) { c.Federation.Enabled = false }) // no server to wait for
	s.log.mute()                                                                          // send complains itself, of the request that did it
	alice, bob := s.Register(tb, "alice"), s.Register(tb, "bob")
	guest := s.Guest(tb)
	alias := "#" + Unique("fuzz-") + ":localhost"
	room := alice.CreateRoom(M{"preset": "public_chat", "name": "Fuzz", "room_alias_name": strings.TrimSuffix(alias[1:], ":localhost")})
	old := alice.CreateRoom(M{"room_version": "5", "invite": []string{bob.User}})
	bob.Join(room)
	event := alice.Say(room, "hello")
	filter := alice.OK("POST", Path("user", alice.User, "filter"), M{}).Text("filter_id")
	next := alice.Sync("").Next
	end := alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "limit", "1"), nil).At("end").Str
	t := &target{server: s, answers: make(map[int]int), tokens: []string{alice.Token, alice.Token, alice.Token, bob.Token, guest.Token, "mistaken", ""}}
	t.words = map[string][]string{
		"roomId": {room, old}, "roomIdOrAlias": {room, old, alias}, "roomAlias": {alias}, "eventId": {event}, "userId": {alice.User, bob.User},
		"deviceId": {alice.Device}, "filterId": {filter}, "eventType": {"m.room.message", "m.room.name", "m.room.member", "m.room.power_levels", "m.room.redaction", "m.room.create", "m.room.canonical_alias"},
		"stateKey": {alice.User, bob.User, ""}, "txnId": {"1", "2", "3"}, "receiptType": {"m.read", "m.read.private", "m.fully_read"}, "type": {"m.direct", "org.example.x", "m.ignored_user_list"},
		"tag": {"m.favourite"}, "keyName": {"displayname", "avatar_url", "m.tz"}, "kind": {"override", "content", "room", "sender", "underride"}, "ruleId": {".m.rule.master", "tea", room},
		"scope": {"global"}, "since": {next, end}, "from": {next, end, "start"}, "to": {next, end}, "at": {next}, "dir": {"b", "f"}, "limit": {"0", "1", "1000"}, "timeout": {"0"},
		"room_id": {room, old}, "user_id": {alice.User, bob.User}, "event_id": {event}, "membership": {"join", "invite", "leave", "ban", "knock"},
		"auth": {`{"type":"m.login.dummy"}`, `{"type":"m.login.password","password":"x"}`}, "redacts": {event},
	}
	for _, values := range t.words {
		t.any = append(t.any, values...)
	}
	t.any = append(t.any, "", "x", "!", "@", "#", "$", "!a:b", "@a:b", "#a:b", "$a:b", "\u0000", "a\x00b", "\xff\xfe", "ü", "\u202e", "..", "%", "+", "-1", "0", "1", "9223372036854775807", "9223372036854775808",
		"1e999", "true", "null", strings.Repeat("a", 256), "@"+strings.Repeat("a", 250)+":localhost", "!a:localhost", "s1", "t1", "s-1", "s9999999999999999", "t0_0", "{}", "[]", `{"room":{"timeline":{"limit":-1}}}`,
		`{"room":{"rooms":[null]}}`, `{"types":["*"]}`, `{"event_fields":["content.\\.x"]}`, "localhost", "m.login.password", "12", "1", "nonsense")
	for _, r := range new(clientapi.API).Routes() {
		if !strings.Contains(r.Path, "/r0/") && !endsAccess[r.Op] {
			t.routes = append(t.routes, r)
		}
	}
	return t
}

// endsAccess are operations that would leave the other requests without a token. They have tests of their own.
var endsAccess = map[string]bool{"logout": true, "logout_all": true, "deactivateAccount": true, "changePassword": true}

// queries and fields are names that operations read.
var (
	queries = strings.Fields("since from to at dir limit timeout filter full_state set_presence format ts membership not_membership kind room_id access_token server_name server via only reason use_state_after order before after username token user_id")
	fields  = strings.Fields(`user_id reason membership displayname avatar_url body msgtype name topic preset visibility room_alias_name invite initial_state creation_content power_level_content_override room_version
		is_direct new_version additional_creators type identifier password user token auth session device_id initial_device_display_name inhibit_login refresh_token username presence status_msg typing timeout thread_id
		m.fully_read m.read order event_id redacts alias alt_aliases users events users_default notifications pattern actions conditions enabled limit since filter room_id join_rule allow history_visibility
		m.relates_to content url devices display_name locked suspended new_password erase generic_search_term ignored_users ban kick state_default replacement_room predecessor third_party_signed`)
)

// request is drawn from a source of numbers, so that a fuzzer's bytes and a seed do as well.
func (t *target) request(r *rand.Rand) *http.Request {
	route := t.routes[r.IntN(len(t.routes))]
	path := route.Path
	for strings.Contains(path, "{") {
		begin, end := strings.IndexByte(path, '{'), strings.IndexByte(path, '}')
		name := strings.TrimSuffix(path[begin+1:end], "?")
		path = path[:begin] + url.PathEscape(t.word(r, name, 12)) + path[end+1:]
	}
	q := make(url.Values)
	for range r.IntN(4) {
		name := queries[r.IntN(len(queries))]
		q.Set(name, t.word(r, name, 3))
	}
	if route.Op == "sync" || strings.Contains(route.Op, "getEvents") {
		q.Set("timeout", "0")
	}
	var body []byte
	if route.Method != http.MethodGet {
		body = t.body(r)
	}
	req := httptest.NewRequest(route.Method, "http://localhost/", bytes.NewReader(body))
	if u, err := url.Parse("http://localhost" + path + "?" + q.Encode()); err == nil {
		req.URL = u
	}
	if token := t.tokens[r.IntN(len(t.tokens))]; token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req
}

// word is a value for a name: mostly a good one, each oneIn-th time anything.
func (t *target) word(r *rand.Rand, name string, oneIn int) string {
	if good := t.words[name]; len(good) > 0 && r.IntN(oneIn) != 0 {
		return good[r.IntN(len(good))]
	}
	return t.any[r.IntN(len(t.any))]
}

func (t *target) body(r *rand.Rand) []byte {
	switch r.IntN(20) {
	case 0:
		return []byte([]string{"", "{", "null", "[]", `""`, "5", "{}x", "\xff", `{"a":"\ud800"}`, `{"a":1e400}`, `{"a":9007199254740993}`, `{"a":1,"a":2}`, strings.Repeat("[", 5000), strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000), `{"a":"` + strings.Repeat("x", 70000) + `"}`}[r.IntN(15)])
	case 1:
		text, _ := json.Marshal(t.value(r, "", 3))
		if len(text) > 0 {
			text[r.IntN(len(text))] = byte(r.IntN(256))
		}
		return text
	}
	text, _ := json.Marshal(t.object(r, 3))
	return text
}

func (t *target) object(r *rand.Rand, depth int) M {
	m := M{}
	for range r.IntN(6) {
		name := fields[r.IntN(len(fields))]
		if r.IntN(12) == 0 {
			name = t.any[r.IntN(len(t.any))]
		}
		m[name] = t.value(r, name, depth-1)
	}
	return m
}

func (t *target) value(r *rand.Rand, name string, depth int) any {
	if good := t.words[name]; len(good) > 0 && r.IntN(3) != 0 {
		return good[r.IntN(len(good))]
	}
	switch n := r.IntN(10); {
	case n < 2 && depth > 0:
		return t.object(r, depth)
	case n < 4 && depth > 0:
		list := make([]any, r.IntN(3))
		for i := range list {
			list[i] = t.value(r, name, depth-1)
		}
		return list
	case n == 4:
		return []any{nil, true, false, 0, -1, 1, 100, 1.5, 1e300, int64(1) << 53, -(int64(1) << 60)}[r.IntN(11)]
	default:
		return t.any[r.IntN(len(t.any))]
	}
}

// send serves a request and complains of what no request may get.
func (t *target) send(tb testing.TB, req *http.Request, body []byte) {
	ctx, cancel := context.WithTimeout(req.Context(), 20*time.Second)
	defer cancel()
	w := httptest.NewRecorder()
	t.server.Handler().ServeHTTP(w, req.WithContext(ctx))
	t.answers[w.Code]++
	page := strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") // for people
	switch {
	case ctx.Err() != nil:
		tb.Errorf("%s %s takes for ever", req.Method, req.URL)
	case w.Code >= 500:
		tb.Errorf("%s %s %s: status %d %s", req.Method, req.URL, clip(body), w.Code, w.Body)
	case page:
	case w.Code >= 400 && !strings.Contains(w.Body.String(), `"errcode"`) && w.Code != 401:
		tb.Errorf("%s %s: status %d without an errcode: %s", req.Method, req.URL, w.Code, w.Body)
	case !json.Valid(w.Body.Bytes()):
		tb.Errorf("%s %s: status %d with a body that is no JSON: %s", req.Method, req.URL, w.Code, clip(w.Body.Bytes()))
	}
}

// drawn draws a request and sends it.
func (t *target) drawn(tb testing.TB, r *rand.Rand) {
	req := t.request(r)
	var body bytes.Buffer
	if _, err := body.ReadFrom(req.Body); err != nil {
		tb.Fatal(err)
	}
	req.Body = http.NoBody
	if body.Len() > 0 {
		req.Body = readCloser{bytes.NewReader(body.Bytes())}
	}
	t.send(tb, req, body.Bytes())
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// seeded is how many requests the seeded run sends.
const seeded = 4000

// TestNoRequestBreaksTheServer sends requests made out of good and bad parts over the whole route table; none may
// get a 5xx, and the server must still work afterwards.
func TestNoRequestBreaksTheServer(t *testing.T) {
	target := newTarget(t)
	const seed = 1
	r := rand.New(rand.NewPCG(seed, 0))
	for range seeded {
		target.drawn(t, r)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("answers by status: %v", target.answers)
	if target.answers[http.StatusOK] < seeded/10 {
		t.Errorf("hardly any request was good enough to do something")
	}
	after := target.server.Register(t, "after")
	room := after.CreateRoom(nil)
	after.UntilEvent("", room, after.Say(room, "still here"))
}

// FuzzHTTP is the same with the fuzzer's choices.
func FuzzHTTP(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed, seed)
	}
	t := newTarget(f)
	f.Fuzz(func(tb *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		for range 20 {
			t.drawn(tb, r)
		}
	})
}
