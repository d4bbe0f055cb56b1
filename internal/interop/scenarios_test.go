package interop

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/tidwall/gjson"
)

// stage is where a scenario plays: a version, a server where rooms are made, and another from which guests come.
type stage struct {
	version     string
	host, guest *homeserver
	// alice and carol are of the host, bob and dave of the guest.
	alice, carol, bob, dave user
}

// in returns the stage for a subtest, which shows what both servers complained about if it fails.
func (s stage) in(t *testing.T) stage {
	for _, u := range []*user{&s.alice, &s.carol, &s.bob, &s.dave} {
		*u = u.in(t)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range []*homeserver{s.host, s.guest} {
				t.Logf("the last complaints of %s, of whatever test:\n%s", h, h.log.complaints(6))
			}
		}
	})
	return s
}

// scenarios in the order they play. Each makes its own rooms.
var scenarios = []struct {
	name string
	play func(t *testing.T, s stage)
	// has says whether rooms of a version have what it is about; nil means all.
	has func(version string) bool
}{
	{"join", joinAndLeave, nil},
	{"invite", inviteBothWays, nil},
	{"chat", chat, nil},
	{"redact", redact, nil},
	{"kick", kick, nil},
	{"ban", ban, nil},
	{"restricted", restrictedJoin, func(version string) bool { return version != "6" }},
	{"backfill", backfill, nil},
}

// public makes a public room of alice's that has a name, and lets bob join it.
func (s stage) public(t *testing.T) string {
	t.Helper()
	id := s.alice.create(s.version, object{
		"preset": "public_chat", "name": "Tea", "power_level_content_override": object{"events": object{chapter: 0}},
	})
	s.bob.join(id, s.host)
	s.alice.seesMember(id, s.bob, "join")
	s.bob.seesMember(id, s.bob, "join")
	return id
}

// exchange sends a message each way.
func (s stage) exchange(t *testing.T, roomID string) {
	t.Helper()
	s.bob.sees(roomID, s.alice.say(roomID, "do you hear me?"))
	s.alice.sees(roomID, s.bob.say(roomID, "I hear you"))
}

// agree waits until both servers name the same events as the state of the room.
func (s stage) agree(t *testing.T, roomID string) {
	t.Helper()
	var ours, theirs map[string]string
	s.bob.until("the same state as "+s.alice.id, func() bool {
		ours, theirs = s.alice.state(roomID), s.bob.state(roomID)
		if maps.Equal(ours, theirs) {
			return true
		}
		s.alice.sync(0)
		return false
	})
	if len(ours) < 6 {
		t.Errorf("a state of %d entries is hardly one", len(ours))
	}
}

// joinAndLeave finds a room by its alias, joins and leaves it, and comes back by its ID.
func joinAndLeave(t *testing.T, s stage) {
	local := unique("tea")
	id := s.alice.create(s.version, object{"preset": "public_chat", "name": "Tea", "room_alias_name": local})
	alias := "#" + local + ":" + s.host.name
	if found := s.bob.ok("GET", path("directory", "room", alias), nil).Get("room_id").Str; found != id {
		t.Errorf("%s leads to %s, want %s", alias, found, id)
	}
	s.bob.join(alias, s.host)
	s.alice.seesMember(id, s.bob, "join")
	s.bob.seesMember(id, s.bob, "join")
	if name := s.bob.ok("GET", path("rooms", id, "state", "m.room.name", ""), nil).Get("name").Str; name != "Tea" {
		t.Errorf("the guest sees the name %q", name)
	}
	for _, u := range []user{s.alice, s.bob} {
		joined := u.ok("GET", path("rooms", id, "joined_members"), nil).Get("joined")
		if n := len(joined.Map()); n != 2 {
			t.Errorf("%s: %d members, want 2: %s", u.home, n, joined.Raw)
		}
	}
	s.agree(t, id)
	s.bob.leave(id)
	s.alice.seesMember(id, s.bob, "leave")
	s.bob.seesMember(id, s.bob, "leave")
	s.bob.join(id, s.host)
	s.alice.seesMember(id, s.bob, "join")
	s.bob.seesMember(id, s.bob, "join")
	s.exchange(t, id)
	s.agree(t, id)
}

// inviteBothWays invites a guest who declines, and another who comes and invites another user of the host.
func inviteBothWays(t *testing.T, s stage) {
	id := s.alice.create(s.version, object{
		"preset": "private_chat", "name": "Quiet tea", "power_level_content_override": object{"invite": 0},
	})
	s.bob.refused("POST", joining(id, s.host), object{})

	// Nobody of the guest's server is in the room, so that it needs the host to decline.
	s.alice.act("invite", id, s.dave)
	s.dave.seesInvite(id)
	s.dave.leave(id)
	s.alice.seesMember(id, s.dave, "leave")
	s.dave.until("no invite any more", func() bool { return s.dave.room(id).section == "leave" })
	s.dave.refused("POST", joining(id, s.host), object{})

	s.alice.act("invite", id, s.bob)
	stripped := s.bob.seesInvite(id)
	named := slices.ContainsFunc(stripped, func(e gjson.Result) bool {
		return e.Get("type").Str == "m.room.name" && e.Get("content.name").Str == "Quiet tea"
	})
	if !named {
		t.Errorf("the invite does not say what the room is called: %v", stripped)
	}
	s.bob.join(id, s.host)
	s.alice.seesMember(id, s.bob, "join")
	s.bob.seesMember(id, s.bob, "join")

	s.bob.act("invite", id, s.carol)
	s.carol.seesInvite(id)
	s.alice.seesMember(id, s.carol, "invite")
	s.carol.join(id, s.host)
	s.bob.seesMember(id, s.carol, "join")

	s.agree(t, id)
}

// chat says things in turn, then all at once, and changes the state from both sides.
func chat(t *testing.T, s stage) {
	id := s.public(t)
	for range 5 {
		s.exchange(t, id)
	}
	// Each server sends before it can have heard the other, so that the room forks and joins again.
	var said []string
	for i := range 10 {
		said = append(said, s.alice.say(id, fmt.Sprint("alice ", i)), s.bob.say(id, fmt.Sprint("bob ", i)))
	}
	for _, e := range said {
		s.alice.sees(id, e)
		s.bob.sees(id, e)
	}
	levels := s.alice.ok("GET", path("rooms", id, "state", "m.room.power_levels", ""), nil)
	content := object{}
	for key, value := range levels.Map() {
		content[key] = value.Value()
	}
	users, _ := content["users"].(map[string]any)
	if users == nil {
		users = object{}
	}
	users[s.bob.id] = 50
	content["users"] = users
	s.bob.sees(id, s.alice.set(id, "m.room.power_levels", "", content))
	s.alice.sees(id, s.bob.set(id, "m.room.topic", "", object{"topic": "as the guest wants it"}))
	s.bob.sees(id, s.alice.set(id, "m.room.name", "", object{"name": "as the host wants it"}))
	s.agree(t, id)
}

// redact takes back what the guest said, by itself and by the host, and what the host said.
func redact(t *testing.T, s stage) {
	id := s.public(t)
	for _, turn := range []struct{ author, censor user }{{s.alice, s.alice}, {s.bob, s.bob}, {s.bob, s.alice}} {
		event := turn.author.say(id, "a slip")
		s.alice.sees(id, event)
		s.bob.sees(id, event)
		by := turn.censor.ok("PUT", path("rooms", id, "redact", event, unique("t")), object{"reason": "a slip"}).Get("event_id").Str
		for _, u := range []user{s.alice, s.bob} {
			if u.home.keepsRedacted && (s.version == "11" || s.version == "12") {
				t.Logf("not looked at: %s redacts nothing in rooms of version %s", u.home, s.version)
				continue
			}
			var gone answer
			u.until("that "+event+" is redacted", func() bool {
				gone = u.ok("GET", path("rooms", id, "event", event), nil)
				return gone.Get("unsigned.redacted_because").Exists()
			})
			if gone.Get("content.body").Exists() || gone.Get("unsigned.redacted_because.event_id").Str != by {
				t.Errorf("%s: a redacted event: %s", u.home, gone)
			}
			if seen := u.sees(id, by); seen.Get("redacts").Str != event && seen.Get("content.redacts").Str != event {
				t.Errorf("%s: the redaction of %s: %s", u.home, event, seen.Raw)
			}
		}
	}
	s.exchange(t, id)
	s.agree(t, id)
}

// kick removes the guest, who comes back, and then a user who stays away.
func kick(t *testing.T, s stage) {
	id := s.public(t)
	s.dave.join(id, s.host)
	s.alice.seesMember(id, s.dave, "join")
	s.bob.seesMember(id, s.dave, "join")
	s.alice.ok("POST", path("rooms", id, "kick"), object{"user_id": s.bob.id, "reason": "too loud"})
	// Alice looks too: what she does before she sees bob come back would fork the room into a part that the guest's server has left.
	for _, u := range []user{s.alice, s.bob, s.dave} {
		if seen := u.seesMember(id, s.bob, "leave"); seen.Get("sender").Str != s.alice.id || seen.Get("content.reason").Str != "too loud" {
			t.Errorf("%s: the kick: %s", u.home, seen.Raw)
		}
	}
	s.bob.refused("PUT", path("rooms", id, "send", "m.room.message", unique("t")), object{"msgtype": "m.text", "body": "still here?"})
	s.bob.join(id, s.host)
	s.alice.seesMember(id, s.bob, "join")
	s.bob.seesMember(id, s.bob, "join")
	s.alice.act("kick", id, s.dave)
	s.bob.seesMember(id, s.dave, "leave")
	s.exchange(t, id)
	s.agree(t, id)
}

// ban keeps the guest out until the ban is taken back. Nobody else of the guest's server is in the room, so that it must ask.
func ban(t *testing.T, s stage) {
	id := s.public(t)
	s.alice.act("ban", id, s.bob)
	s.bob.seesMember(id, s.bob, "ban")
	s.bob.refused("POST", joining(id, s.host), object{})
	s.alice.act("unban", id, s.bob)
	s.alice.seesMember(id, s.bob, "leave")
	s.bob.join(id, s.host)
	s.alice.seesMember(id, s.bob, "join")
	s.bob.seesMember(id, s.bob, "join")
	s.exchange(t, id)
	s.agree(t, id)
}

// restrictedJoin lets members of one room into another, and nobody else.
func restrictedJoin(t *testing.T, s stage) {
	lobby := s.public(t)
	id := s.alice.create(s.version, object{"preset": "private_chat", "initial_state": []object{{
		"type": "m.room.join_rules", "state_key": "",
		"content": object{"join_rule": "restricted", "allow": []object{{"type": "m.room_membership", "room_id": lobby}}},
	}}})
	s.dave.refused("POST", joining(id, s.host), object{})
	s.bob.join(id, s.host)
	s.bob.seesMember(id, s.bob, "join")
	seen := s.alice.seesMember(id, s.bob, "join")
	if by := seen.Get("content.join_authorised_via_users_server").Str; by != s.alice.id {
		t.Errorf("the join was authorised by %q, want %s", by, s.alice.id)
	}
	// The guest's server is in the room now.
	s.dave.refused("POST", joining(id, s.host), object{})
	s.dave.join(lobby, s.host)
	s.alice.seesMember(lobby, s.dave, "join")
	s.dave.join(id, s.host)
	s.alice.seesMember(id, s.dave, "join")
	s.bob.seesMember(id, s.dave, "join")
	s.exchange(t, id)
	s.agree(t, id)
}

// chapter is a type of state that any member of a public room may set.
const chapter = "org.example.chapter"

// past is how much is said before the guest comes.
const past = 120

// backfill reads what was said before the guest came.
func backfill(t *testing.T, s stage) {
	id := s.alice.create(s.version, object{"preset": "public_chat", "name": "Tea"})
	said := s.monologue(s.alice, id, past)
	s.bob.join(id, s.host)
	s.bob.seesMember(id, s.bob, "join")
	s.bob.remembers(id, said)
	s.exchange(t, id)
}

// monologue lets a user say many things, of which the state changes with every fiftieth.
func (s stage) monologue(u user, roomID string, n int) []string {
	u.t.Helper()
	said := make([]string, 0, n)
	for i := range n {
		if i%50 == 49 {
			u.set(roomID, chapter, fmt.Sprint(i), object{"number": i})
		}
		said = append(said, u.say(roomID, fmt.Sprint("message ", i)))
	}
	return said
}

// remembers waits until the history of a room, read back to its creation, has each of these messages once and in this order.
func (u user) remembers(roomID string, said []string) {
	u.t.Helper()
	place := make(map[string]int, len(said))
	for i, e := range said {
		place[e] = i
	}
	var found []int
	whole := false
	u.untilWithin(2*patience, fmt.Sprintf("%d messages and the room's creation", len(said)), func() bool {
		var events []gjson.Result
		found = found[:0]
		events, whole = u.history(roomID)
		for _, e := range events {
			if at, known := place[e.Get("event_id").Str]; known {
				found = append(found, at)
			}
		}
		u.t.Logf("%s: %d of %d messages, and the room's creation: %v", u.home, len(found), len(said), whole)
		return whole && len(found) >= len(said)
	})
	for i, at := range found {
		if i != at {
			u.t.Errorf("%s: the history has message %d in place %d", u.home, at, i)
			return
		}
	}
}
