package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

const (
	// patience is how long something may take to be seen on the other server before the test gives up.
	patience = 30 * time.Second
	// requestPatience bounds one request, a join of a room of another server included.
	requestPatience = 90 * time.Second
	// look is how long one sync waits. What can't be seen in a sync alone is looked at again after each.
	look = time.Second
)

// object is a JSON object.
type object = map[string]any

// account is a user with one device, and what its syncs have told it so far.
type account struct {
	home  *homeserver
	id    string
	token string

	since string
	rooms map[string]*room
}

// room is what syncs said of a room.
type room struct {
	// The section of the last sync that named the room: join, invite or leave.
	section string
	// Events in the order they came, of the state and of the timeline, and by ID.
	events []gjson.Result
	byID   map[string]gjson.Result
	// limited says that a sync left events of the timeline out.
	limited bool
	// Of invites.
	stripped []gjson.Result
}

// user is an account in the hands of one test.
type user struct {
	*account
	t *testing.T
}

var counter atomic.Int64

// unique returns a name that no other call returned.
func unique(prefix string) string { return prefix + strconv.FormatInt(counter.Add(1), 10) }

// register makes a user.
func register(t *testing.T, h *homeserver, name string) user {
	t.Helper()
	u := user{account: &account{home: h, rooms: make(map[string]*room)}, t: t}
	body := object{"username": unique(name), "password": "correct horse battery"}
	first := u.do("POST", "register", body)
	if first.status != http.StatusUnauthorized {
		t.Fatalf("%s: register without authentication: %s", h, first)
	}
	body["auth"] = object{"type": "m.login.dummy", "session": first.Get("session").Str}
	done := u.ok("POST", "register", body)
	u.id, u.token = done.Get("user_id").Str, done.Get("access_token").Str
	return u
}

// in returns the same user for a subtest.
func (u user) in(t *testing.T) user { return user{account: u.account, t: t} }

// answer is the response to a request.
type answer struct {
	gjson.Result
	status int
}

func (a answer) String() string {
	text := a.Raw
	if len(text) > 800 {
		text = text[:800] + "…"
	}
	return fmt.Sprintf("status %d: %s", a.status, text)
}

// path joins segments, each escaped.
func path(segments ...string) string {
	escaped := make([]string, len(segments))
	for i, s := range segments {
		escaped[i] = url.PathEscape(s)
	}
	return strings.Join(escaped, "/")
}

// do sends a request to a path below /_matrix/client/v3.
func (u user) do(method, path string, body any) answer {
	u.t.Helper()
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			u.t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	r, err := http.NewRequest(method, u.home.url+"/_matrix/client/v3/"+path, reader)
	if err != nil {
		u.t.Fatal(err)
	}
	if u.token != "" {
		r.Header.Set("Authorization", "Bearer "+u.token)
	}
	resp, err := u.home.http.Do(r)
	if err != nil {
		u.t.Fatalf("%s: %v", u.home, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		u.t.Fatalf("%s: %s %s: %v", u.home, method, path, err)
	}
	return answer{Result: gjson.ParseBytes(text), status: resp.StatusCode}
}

// ok sends a request that must succeed.
func (u user) ok(method, path string, body any) answer {
	u.t.Helper()
	a := u.do(method, path, body)
	if a.status != http.StatusOK {
		u.t.Fatalf("%s: %s %s as %s: %s", u.home, method, path, u.id, a)
	}
	return a
}

// refused sends a request that must be refused as forbidden.
func (u user) refused(method, path string, body any) {
	u.t.Helper()
	a := u.do(method, path, body)
	right := a.status == http.StatusForbidden && a.Get("errcode").Str == "M_FORBIDDEN"
	if !right && !(u.home.blunt && a.status >= http.StatusBadRequest) {
		u.t.Errorf("%s: %s %s as %s: %s, want 403 M_FORBIDDEN", u.home, method, path, u.id, a)
	}
}

var syncFilter = url.QueryEscape(`{"room":{"timeline":{"limit":100}},"presence":{"types":[]}}`)

// sync syncs once from where the last one ended.
func (u user) sync(wait time.Duration) {
	u.t.Helper()
	path := fmt.Sprintf("sync?timeout=%d&filter=%s", wait.Milliseconds(), syncFilter)
	if u.since != "" {
		path += "&since=" + url.QueryEscape(u.since)
	}
	a := u.ok("GET", path, nil)
	u.since = a.Get("next_batch").Str
	for _, section := range []string{"join", "invite", "leave"} {
		a.Get("rooms." + section).ForEach(func(id, r gjson.Result) bool {
			u.room(id.Str).note(section, r)
			return true
		})
	}
}

func (a *account) room(id string) *room {
	r := a.rooms[id]
	if r == nil {
		r = &room{byID: make(map[string]gjson.Result)}
		a.rooms[id] = r
	}
	return r
}

// note remembers what a sync says of the room.
func (r *room) note(section string, said gjson.Result) {
	r.section = section
	if section == "invite" {
		r.stripped = said.Get("invite_state.events").Array()
		return
	}
	r.limited = r.limited || said.Get("timeline.limited").Bool()
	for _, list := range []string{"state.events", "timeline.events"} {
		for _, e := range said.Get(list).Array() {
			id := e.Get("event_id").Str
			if _, known := r.byID[id]; !known {
				r.events = append(r.events, e)
			}
			r.byID[id] = e
		}
	}
}

// member is the newest membership event of a user that syncs brought.
func (r *room) member(id string) gjson.Result {
	for i := len(r.events) - 1; i >= 0; i-- {
		if e := r.events[i]; e.Get("type").Str == "m.room.member" && e.Get("state_key").Str == id {
			return e
		}
	}
	return gjson.Result{}
}

// until syncs until something is so. What it says goes into the message about the lack of it.
func (u user) until(what string, is func() bool) {
	u.t.Helper()
	u.untilWithin(patience, what, is)
}

func (u user) untilWithin(patience time.Duration, what string, is func() bool) {
	u.t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			u.t.Fatalf("%s: after %s, %s does not see %s", u.home, patience, u.id, what)
		}
		u.sync(look)
	}
}

// sees waits for an event.
func (u user) sees(roomID, event string) gjson.Result {
	u.t.Helper()
	return u.seesWithin(patience, roomID, event)
}

func (u user) seesWithin(patience time.Duration, roomID, event string) gjson.Result {
	u.t.Helper()
	r := u.room(roomID)
	u.untilWithin(patience, "event "+event, func() bool {
		if !r.byID[event].Exists() && r.limited {
			// It may be in a gap of the timeline.
			if a := u.do("GET", path("rooms", roomID, "event", event), nil); a.status == http.StatusOK {
				r.byID[event] = a.Result
			}
		}
		return r.byID[event].Exists()
	})
	return r.byID[event]
}

// seesMember waits until a user has a membership in a joined room, or in the one it left itself.
func (u user) seesMember(roomID string, who user, membership string) gjson.Result {
	u.t.Helper()
	r := u.room(roomID)
	u.until(fmt.Sprintf("%s of %s", membership, who.id), func() bool {
		in := r.section == "join" || who.id == u.id && membership != "join" && r.section == "leave"
		return in && r.member(who.id).Get("content.membership").Str == membership
	})
	return r.member(who.id)
}

// seesInvite waits for an invite and returns the state that came with it.
func (u user) seesInvite(roomID string) []gjson.Result {
	u.t.Helper()
	r := u.room(roomID)
	u.until("an invite to "+roomID, func() bool { return r.section == "invite" })
	return r.stripped
}

// send sends an event.
func (u user) send(roomID, typ string, content object) string {
	u.t.Helper()
	return u.ok("PUT", path("rooms", roomID, "send", typ, unique("t")), content).Get("event_id").Str
}

// say sends a text.
func (u user) say(roomID, text string) string {
	u.t.Helper()
	return u.send(roomID, "m.room.message", object{"msgtype": "m.text", "body": text})
}

// set sets an entry of the state.
func (u user) set(roomID, typ, key string, content object) string {
	u.t.Helper()
	return u.ok("PUT", path("rooms", roomID, "state", typ, key), content).Get("event_id").Str
}

// create makes a room.
func (u user) create(version string, body object) string {
	u.t.Helper()
	body["room_version"] = version
	return u.ok("POST", "createRoom", body).Get("room_id").Str
}

// joining is the request that joins a room through another server.
func joining(roomIDOrAlias string, through *homeserver) string {
	via := url.QueryEscape(through.name)
	return path("join", roomIDOrAlias) + "?via=" + via + "&server_name=" + via
}

// join joins through another server.
func (u user) join(roomIDOrAlias string, through *homeserver) {
	u.t.Helper()
	u.ok("POST", joining(roomIDOrAlias, through), object{})
}

// act invites, kicks, bans or unbans.
func (u user) act(what, roomID string, whom user) {
	u.t.Helper()
	u.ok("POST", path("rooms", roomID, what), object{"user_id": whom.id})
}

// leave leaves, or rejects an invite.
func (u user) leave(roomID string) {
	u.t.Helper()
	u.ok("POST", path("rooms", roomID, "leave"), object{})
}

// pages bounds how many pages of a history are read.
const pages = 500

// history reads the room's messages from the newest to the beginning, as far as the server has it now, and returns them oldest first. whole says that
// it reaches the room's creation.
func (u user) history(roomID string) (events []gjson.Result, whole bool) {
	u.t.Helper()
	from := ""
	for range pages {
		p := path("rooms", roomID, "messages") + "?dir=b&limit=100"
		if from != "" {
			p += "&from=" + url.QueryEscape(from)
		}
		page := u.ok("GET", p, nil)
		chunk := page.Get("chunk").Array()
		for _, e := range chunk {
			events = append([]gjson.Result{e}, events...)
			whole = whole || e.Get("type").Str == "m.room.create"
		}
		if from = page.Get("end").Str; from == "" || whole || len(chunk) == 0 {
			break
		}
	}
	return events, whole
}

// state is the room's state as this user's server gives it: the event's ID by type and state key.
func (u user) state(roomID string) map[string]string {
	u.t.Helper()
	out := make(map[string]string)
	for _, e := range u.ok("GET", path("rooms", roomID, "state"), nil).Array() {
		out[e.Get("type").Str+" "+e.Get("state_key").Str] = e.Get("event_id").Str
	}
	return out
}
