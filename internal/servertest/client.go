package servertest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/spectest"
)

// Client talks to a server as one device of one user, or as nobody. Its methods end the test
// where they say so.
type Client struct {
	Server *Server
	User   string
	Device string
	Token  string
	// Refresh is the refresh token, where one was asked for.
	Refresh string
	// Password is set by Register.
	Password string

	tb testing.TB
}

// M is a JSON object.
type M = map[string]any

// Raw is a body that is sent as it is.
type Raw string

// Anonymous returns a client without a token.
func (s *Server) Anonymous(tb testing.TB) *Client { return &Client{Server: s, tb: tb} }

// In returns the same client for a subtest.
func (c *Client) In(tb testing.TB) *Client {
	next := *c
	next.tb = tb
	return &next
}

// As returns the same device with another access token.
func (c *Client) As(token string) *Client {
	next := *c
	next.Token = token
	return &next
}

// Path joins path segments, each escaped, under /_matrix/client/v3. A first segment that begins with a
// slash replaces that prefix.
func Path(segments ...string) string {
	path := "/_matrix/client/v3"
	if strings.HasPrefix(segments[0], "/") {
		path, segments = segments[0], segments[1:]
	}
	for _, s := range segments {
		path += "/" + url.PathEscape(s)
	}
	return path
}

// Answer is the response to one request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte

	what string // the request, for messages
	tb   testing.TB
}

// At reads a value below the object keys given. What is missing does not exist.
func (a *Answer) At(keys ...string) gjson.Result { return At(gjson.ParseBytes(a.Body), keys...) }

// At reads a value below object keys.
func At(v gjson.Result, keys ...string) gjson.Result {
	for _, k := range keys {
		if !v.IsObject() {
			return gjson.Result{}
		}
		v = v.Get(gjson.Escape(k))
	}
	return v
}

// Text reads a string that must be there.
func (a *Answer) Text(keys ...string) string {
	a.tb.Helper()
	v := a.At(keys...)
	if v.Type != gjson.String {
		a.tb.Fatalf("%s: no text at %q in %s", a.what, keys, clip(a.Body))
	}
	return v.Str
}

// Into decodes the body.
func (a *Answer) Into(v any) {
	a.tb.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		a.tb.Fatalf("%s: %v in %s", a.what, err, clip(a.Body))
	}
}

func clip(b []byte) string {
	if len(b) > 1500 {
		return string(b[:1500]) + "…"
	}
	return string(b)
}

// Do sends a request and checks the answer's form. body may be nil for none, Raw, or anything that
// encoding/json takes. The path is absolute, or begins below /_matrix/client/v3 without a slash.
func (c *Client) Do(method, path string, body any) *Answer {
	c.tb.Helper()
	a, err := c.Try(method, path, body)
	if err != nil {
		c.tb.Fatalf("%s %s: %v", method, path, err)
	}
	spectest.Check(c.tb, method, absolute(path), spectest.Answer{Status: a.Status, Header: a.Header, Body: a.Body})
	return a
}

// Try is Do without any judgement, for goroutines of their own.
func (c *Client) Try(method, path string, body any) (*Answer, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case Raw:
		reader = strings.NewReader(string(b))
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(text)
	}
	r, err := http.NewRequest(method, c.Server.URL+absolute(path), reader)
	if err != nil {
		return nil, err
	}
	if c.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if reader != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Server.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &Answer{Status: resp.StatusCode, Header: resp.Header, Body: text, what: method + " " + path, tb: c.tb}, nil
}

func absolute(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return "/_matrix/client/v3/" + path
}

// OK sends a request that must succeed.
func (c *Client) OK(method, path string, body any) *Answer {
	c.tb.Helper()
	a := c.Do(method, path, body)
	if a.Status != http.StatusOK {
		c.tb.Fatalf("%s %s: status %d: %s", method, path, a.Status, clip(a.Body))
	}
	return a
}

// Fails sends a request that must be refused with this status and errcode. The test goes on after another answer.
func (c *Client) Fails(status int, code, method, path string, body any) *Answer {
	c.tb.Helper()
	a := c.Do(method, path, body)
	if got := a.At("errcode").Str; a.Status != status || got != code {
		c.tb.Errorf("%s %s %s: status %d %s, want %d %s", method, path, describe(body), a.Status, clip(a.Body), status, code)
	}
	return a
}

func describe(body any) string {
	if raw, ok := body.(Raw); ok {
		return clip([]byte(raw))
	}
	text, _ := json.Marshal(body)
	return clip(text)
}

var counter atomic.Int64

// Unique returns a name that no other call returned, beginning with prefix.
func Unique(prefix string) string { return prefix + strconv.FormatInt(counter.Add(1), 10) }

// Password is what Register gives every user.
const Password = "correct horse battery"

// Register makes a user whose name begins with name, and signs it in.
func (s *Server) Register(tb testing.TB, name string) *Client {
	tb.Helper()
	c := s.Anonymous(tb)
	c.Password = Password
	body := M{"username": Unique(name + "-"), "password": Password, "initial_device_display_name": name}
	first := c.Do("POST", "register", body)
	if first.Status != http.StatusUnauthorized {
		tb.Fatalf("register: status %d without authentication: %s", first.Status, clip(first.Body))
	}
	body["auth"] = M{"type": "m.login.dummy", "session": first.Text("session")}
	c.signedIn(c.OK("POST", "register", body))
	return c
}

func (c *Client) signedIn(a *Answer) {
	c.tb.Helper()
	c.User, c.Device, c.Token = a.Text("user_id"), a.Text("device_id"), a.Text("access_token")
	c.Refresh = a.At("refresh_token").Str
}

// Guest makes a guest.
func (s *Server) Guest(tb testing.TB) *Client {
	tb.Helper()
	c := s.Anonymous(tb)
	c.signedIn(c.OK("POST", "register?kind=guest", M{}))
	return c
}

// Login signs the user in on another device.
func (c *Client) Login() *Client {
	c.tb.Helper()
	next := c.Server.Anonymous(c.tb)
	next.Password = c.Password
	next.signedIn(next.OK("POST", "login", M{
		"type": "m.login.password", "identifier": M{"type": "m.id.user", "user": c.User}, "password": c.Password,
	}))
	return next
}

// Authenticated sends a request that asks for the user's password, and answers with it.
func (c *Client) Authenticated(method, path string, body M) *Answer {
	c.tb.Helper()
	first := c.Do(method, path, body)
	if first.Status != http.StatusUnauthorized {
		c.tb.Fatalf("%s %s: status %d without authentication: %s", method, path, first.Status, clip(first.Body))
	}
	full := M{"auth": M{
		"type": "m.login.password", "session": first.Text("session"), "password": c.Password,
		"identifier": M{"type": "m.id.user", "user": c.User},
	}}
	for k, v := range body {
		full[k] = v
	}
	return c.OK(method, path, full)
}

// CreateRoom makes a room and returns its ID. body may be nil.
func (c *Client) CreateRoom(body M) string {
	c.tb.Helper()
	if body == nil {
		body = M{}
	}
	return c.OK("POST", "createRoom", body).Text("room_id")
}

// Send sends an event under a new transaction ID and returns the event's ID.
func (c *Client) Send(room, typ string, content any) string {
	c.tb.Helper()
	return c.OK("PUT", Path("rooms", room, "send", typ, Unique("t")), content).Text("event_id")
}

// Say sends a text message and returns its event's ID.
func (c *Client) Say(room, text string) string {
	c.tb.Helper()
	return c.Send(room, "m.room.message", M{"msgtype": "m.text", "body": text})
}

// SetState sets an entry of the room's state and returns the event's ID.
func (c *Client) SetState(room, typ, key string, content any) string {
	c.tb.Helper()
	return c.OK("PUT", Path("rooms", room, "state", typ, key), content).Text("event_id")
}

// State reads the content of an entry of the room's state.
func (c *Client) State(room, typ, key string) gjson.Result {
	c.tb.Helper()
	return c.OK("GET", Path("rooms", room, "state", typ, key), nil).At()
}

// Redact redacts an event and returns the redaction's ID.
func (c *Client) Redact(room, event string) string {
	c.tb.Helper()
	return c.OK("PUT", Path("rooms", room, "redact", event, Unique("t")), M{}).Text("event_id")
}

// Join, Leave, Invite, Kick, Ban and Unban must succeed.
func (c *Client) Join(room string) {
	c.tb.Helper()
	c.OK("POST", Path("join", room), M{})
}

// Leave leaves a room.
func (c *Client) Leave(room string) {
	c.tb.Helper()
	c.OK("POST", Path("rooms", room, "leave"), M{})
}

// Invite invites a user.
func (c *Client) Invite(room string, who *Client) { c.tb.Helper(); c.target("invite", room, who) }

// Kick removes a user.
func (c *Client) Kick(room string, who *Client) { c.tb.Helper(); c.target("kick", room, who) }

// Ban bans a user.
func (c *Client) Ban(room string, who *Client) { c.tb.Helper(); c.target("ban", room, who) }

// Unban takes a ban back.
func (c *Client) Unban(room string, who *Client) { c.tb.Helper(); c.target("unban", room, who) }

func (c *Client) target(what, room string, who *Client) {
	c.tb.Helper()
	c.OK("POST", Path("rooms", room, what), M{"user_id": who.User})
}

// Membership reads a user's membership as the client sees it.
func (c *Client) Membership(room string, who *Client) string {
	c.tb.Helper()
	return c.State(room, "m.room.member", who.User).Get("membership").Str
}

// Events lists the events of an array by their "event_id".
func Events(list gjson.Result) []string {
	var out []string
	list.ForEach(func(_, e gjson.Result) bool {
		out = append(out, e.Get("event_id").Str)
		return true
	})
	return out
}

// Find returns the first object of an array that has this "type", and "state_key" if one is given.
func Find(list gjson.Result, typ string, key ...string) gjson.Result {
	var found gjson.Result
	list.ForEach(func(_, e gjson.Result) bool {
		k := e.Get("state_key")
		if e.Get("type").Str == typ && (len(key) == 0 || k.Exists() && k.Str == key[0]) {
			found = e
			return false
		}
		return true
	})
	return found
}

// Query builds a query string out of names and values.
func Query(pairs ...any) string {
	q := make(url.Values)
	for i := 0; i+1 < len(pairs); i += 2 {
		text, ok := pairs[i+1].(string)
		if !ok {
			raw, err := json.Marshal(pairs[i+1])
			if err != nil {
				panic(fmt.Sprintf("query %v: %v", pairs[i], err))
			}
			text = string(raw)
		}
		q.Add(pairs[i].(string), text)
	}
	return "?" + q.Encode()
}

// Admin makes an administrator by the registration shared secret and signs it in.
func (s *Server) Admin(tb testing.TB, secret string) *Client {
	tb.Helper()
	c := s.Anonymous(tb)
	c.Password = Password
	const path = "/_synapse/admin/v1/register"
	nonce, name := c.OK("GET", path, nil).Text("nonce"), Unique("admin-")
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(strings.Join([]string{nonce, name, Password, "admin"}, "\x00")))
	c.signedIn(c.OK("POST", path, M{"nonce": nonce, "username": name, "password": Password, "admin": true, "mac": hex.EncodeToString(mac.Sum(nil))}))
	return c
}
