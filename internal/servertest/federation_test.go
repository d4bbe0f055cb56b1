package servertest

import (
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/sqldb"
)

// joinVia joins a room that the client's server may not be in, through another server.
func joinVia(c *Client, room string, via *Server) {
	c.tb.Helper()
	c.OK("POST", Path("join", room)+Query("via", via.Name()), M{})
}

// untilMember syncs until a user's membership of a room that the client is in is this one.
func untilMember(c *Client, room string, who *Client, membership string) {
	c.tb.Helper()
	c.eventually(who.User+" has membership "+membership, func() bool {
		a := c.Do("GET", Path("rooms", room, "state", "m.room.member", who.User), nil)
		return a.Status == http.StatusOK && a.At("membership").Str == membership
	})
}

// eventually asks again until something is so. Each time it waits for a sync that brings news, or for a while.
func (c *Client) eventually(what string, so func() bool) {
	c.tb.Helper()
	since, wait := "", 500*time.Millisecond
	if m := c.Server.member; m != nil && m.net.engine == sqldb.SQLite {
		wait = time.Minute // in a bubble, where pauses after failures pass at once too
	}
	// A thousand events may come as a thousand pieces of news, so it is time that runs out.
	for until := time.Now().Add(20 * syncTries * wait); time.Now().Before(until); {
		if so() {
			return
		}
		params := []any{"timeout", strconv.FormatInt(wait.Milliseconds(), 10)}
		if since != "" {
			params = append(params, "since", since)
		}
		since = c.OK("GET", "sync"+Query(params...), nil).Text("next_batch")
	}
	c.tb.Fatalf("%s does not see that %s", c.User, what)
}

// sees waits until the client may read an event.
func sees(c *Client, room, event string) {
	c.tb.Helper()
	c.eventually("event "+event+" has come", func() bool {
		return c.Do("GET", Path("rooms", room, "event", event), nil).Status == http.StatusOK
	})
}

// across is a room of alice on a that bob on b has joined.
type across struct {
	*Net
	a, b       *Server
	alice, bob *Client
	room       string
}

// acrossTwo makes a public room on one server that a user of another one joins.
func acrossTwo(t *testing.T, n *Net) *across {
	t.Helper()
	x := &across{Net: n, a: n.Start("a.test"), b: n.Start("b.test")}
	x.alice, x.bob = x.a.Register(t, "alice"), x.b.Register(t, "bob")
	x.room = x.alice.CreateRoom(M{"preset": "public_chat", "name": "Here"})
	joinVia(x.bob, x.room, x.a)
	untilMember(x.alice, x.room, x.bob, "join")
	return x
}

func TestFederatedChat(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		if name := x.bob.State(x.room, "m.room.name", "").Get("name").Str; name != "Here" {
			t.Errorf("the room's name is %q there", name)
		}
		there := x.alice.Say(x.room, "hello")
		sees(x.bob, x.room, there)
		back := x.bob.Say(x.room, "hello to you")
		sees(x.alice, x.room, back)

		// Alice may redact bob's message, and bob his own.
		x.alice.Redact(x.room, back)
		gone := func(c *Client, event string) {
			t.Helper()
			c.eventually(event+" is redacted", func() bool {
				e := c.OK("GET", Path("rooms", x.room, "event", event), nil)
				return !e.At("content", "body").Exists() && e.At("unsigned", "redacted_because").Exists()
			})
		}
		gone(x.bob, back)
		own := x.bob.Say(x.room, "a slip")
		sees(x.alice, x.room, own)
		x.bob.Redact(x.room, own)
		gone(x.alice, own)

		x.alice.SetState(x.room, "m.room.topic", "", M{"topic": "News"})
		x.bob.eventually("the topic changed", func() bool {
			return x.bob.Do("GET", Path("rooms", x.room, "state", "m.room.topic", ""), nil).At("topic").Str == "News"
		})
	})
}

func TestFederatedInvites(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob, carol := a.Register(t, "alice"), b.Register(t, "bob"), a.Register(t, "carol")
		room := alice.CreateRoom(M{"preset": "private_chat", "name": "Secret"})
		bob.Fails(http.StatusForbidden, "M_FORBIDDEN", "POST", Path("join", room)+Query("via", a.Name()), M{})

		alice.Invite(room, bob)
		s := bob.Until("", "an invite", func(s *Sync) bool { return s.Invited(room).Exists() })
		stripped := s.Invited(room).Get("invite_state.events")
		if name := Find(stripped, "m.room.name").Get("content.name").Str; name != "Secret" {
			t.Errorf("the invite names %q: %s", name, stripped.Raw)
		}
		if m := Find(stripped, "m.room.member", bob.User); m.Get("content.membership").Str != "invite" || m.Get("sender").Str != alice.User {
			t.Errorf("the invite itself: %s", m.Raw)
		}
		bob.Join(room)
		untilMember(alice, room, bob, "join")

		// The other way, and declined.
		bob.Invite(room, carol)
		carol.Until("", "an invite", func(s *Sync) bool { return s.Invited(room).Exists() })
		carol.Leave(room)
		untilMember(bob, room, carol, "leave")

		// From another server, declined: the server that isn't in the room asks one that is.
		dan := b.Register(t, "dan")
		other := alice.CreateRoom(M{"preset": "private_chat", "invite": []string{dan.User}})
		dan.Until("", "an invite", func(s *Sync) bool { return s.Invited(other).Exists() })
		dan.Leave(other)
		untilMember(alice, other, dan, "leave")
		dan.Until("", "the invite gone", func(s *Sync) bool { return !s.Invited(other).Exists() })
	})
}

// Who makes a room and invites somebody whose server is out of reach is told so, once, and has the room.
//
// Spec: cs createRoom
func TestInvitesOfNewRoomsThatFail(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		alice := n.Start("a.test").Register(t, "alice")
		a := alice.Do("POST", "createRoom", M{"preset": "private_chat", "invite": []string{"@bob:nowhere.test"}})
		if a.Status != http.StatusBadRequest && a.Status != http.StatusForbidden {
			t.Errorf("answered with %d", a.Status)
		}
		room := a.At("room_id").Str
		if joined := alice.OK("GET", "joined_rooms", nil).At("joined_rooms").Array(); len(joined) != 1 || joined[0].Str != room {
			t.Errorf("%s was made, and alice is in %v", room, joined)
		}
	})
}

func TestFederatedKickAndBan(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		x.alice.Kick(x.room, x.bob)
		x.bob.Until("", "the kick", func(s *Sync) bool { return !s.Joined(x.room).Exists() })
		x.bob.Fails(http.StatusForbidden, "M_FORBIDDEN", "PUT", Path("rooms", x.room, "send", "m.room.message", Unique("t")), M{"msgtype": "m.text", "body": "still here"})
		joinVia(x.bob, x.room, x.a)
		untilMember(x.alice, x.room, x.bob, "join")
		x.alice.Ban(x.room, x.bob)
		x.bob.Until("", "the ban", func(s *Sync) bool { return !s.Joined(x.room).Exists() })
		x.bob.Fails(http.StatusForbidden, "M_FORBIDDEN", "POST", Path("join", x.room)+Query("via", x.a.Name()), M{})
		x.alice.Unban(x.room, x.bob)
		joinVia(x.bob, x.room, x.a)
		untilMember(x.alice, x.room, x.bob, "join")
		x.bob.Leave(x.room)
		untilMember(x.alice, x.room, x.bob, "leave")
	})
}

func TestFederatedKnock(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob := a.Register(t, "alice"), b.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "private_chat", "name": "Closed", "initial_state": []M{
			{"type": "m.room.join_rules", "state_key": "", "content": M{"join_rule": "knock"}},
		}})
		bob.OK("POST", Path("knock", room)+Query("via", a.Name()), M{"reason": "let me in"})
		bob.Until("", "the knock", func(s *Sync) bool { return s.Knocked(room).Exists() })
		untilMember(alice, room, bob, "knock")
		alice.Invite(room, bob)
		bob.Until("", "an invite", func(s *Sync) bool { return s.Invited(room).Exists() })
		bob.Join(room)
		untilMember(alice, room, bob, "join")

		dan := b.Register(t, "dan")
		joinless := alice.CreateRoom(M{"preset": "private_chat", "initial_state": []M{
			{"type": "m.room.join_rules", "state_key": "", "content": M{"join_rule": "knock"}},
		}})
		dan.OK("POST", Path("knock", joinless)+Query("via", a.Name()), M{})
		untilMember(alice, joinless, dan, "knock")
		dan.Leave(joinless)
		untilMember(alice, joinless, dan, "leave")
	})
}

func TestFederatedRestrictedJoin(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob, eve := a.Register(t, "alice"), b.Register(t, "bob"), b.Register(t, "eve")
		space := alice.CreateRoom(M{"preset": "public_chat", "creation_content": M{"type": "m.space"}})
		room := alice.CreateRoom(M{"initial_state": []M{{
			"type": "m.room.join_rules", "state_key": "",
			"content": M{"join_rule": "restricted", "allow": []M{{"type": "m.room_membership", "room_id": space}}},
		}}})
		eve.Fails(http.StatusForbidden, "M_FORBIDDEN", "POST", Path("join", room)+Query("via", a.Name()), M{})
		joinVia(bob, space, a)
		untilMember(alice, space, bob, "join")
		joinVia(bob, room, a)
		untilMember(alice, room, bob, "join")
		said := bob.Say(room, "inside")
		sees(alice, room, said)

		// Bob's server is in the room now and has nobody who could vouch for others: it asks one that has.
		joinVia(eve, space, a)
		joinVia(eve, room, a)
		untilMember(alice, room, eve, "join")
	})
}

func TestFederatedEphemera(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		ephemeral := func(s *Sync, typ string) gjson.Result { return Find(s.Joined(x.room).Get("ephemeral.events"), typ) }
		since := x.bob.Sync("").Next
		x.alice.OK("PUT", Path("rooms", x.room, "typing", x.alice.User), M{"typing": true, "timeout": 30000})
		s := x.bob.Until(since, "typing", func(s *Sync) bool {
			return ephemeral(s, "m.typing").Get("content.user_ids.0").Str == x.alice.User
		})
		x.alice.OK("PUT", Path("rooms", x.room, "typing", x.alice.User), M{"typing": false})
		x.bob.Until(s.Next, "the end of typing", func(s *Sync) bool {
			typing := ephemeral(s, "m.typing")
			return typing.Exists() && typing.Get("content.user_ids.#").Int() == 0
		})
		said := x.alice.Say(x.room, "read this")
		sees(x.bob, x.room, said)
		since = x.alice.Sync("").Next
		x.bob.OK("POST", Path("rooms", x.room, "receipt", "m.read", said), M{})
		x.alice.Until(since, "the receipt", func(s *Sync) bool {
			return At(ephemeral(s, "m.receipt"), "content", said, "m.read", x.bob.User).Exists()
		})
	})
}

// Who waits for news is told at once that somebody on another server is there, and not with the next other news.
func TestFederatedPresenceWakes(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		for _, state := range []string{"unavailable", "online"} {
			since := x.alice.Sync("").Next
			began := time.Now()
			x.bob.OK("PUT", Path("presence", x.bob.User, "status"), M{"presence": state, "status_msg": "now " + state})
			for seen := false; !seen; {
				s := x.alice.Sync(since, "timeout", "60000")
				since = s.Next
				for _, e := range s.At("presence", "events").Array() {
					seen = seen || e.Get("sender").Str == x.bob.User && e.Get("content.status_msg").Str == "now "+state
				}
				if took := time.Since(began); took > 50*time.Second {
					t.Fatalf("alice waits for %s", took)
				}
			}
		}
	})
}

func TestFederatedQueries(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob := a.Register(t, "alice"), b.Register(t, "bob")
		alice.OK("PUT", Path("profile", alice.User, "displayname"), M{"displayname": "Alice"})
		if name := bob.OK("GET", Path("profile", alice.User), nil).At("displayname").Str; name != "Alice" {
			t.Errorf("the profile of %s there: %q", alice.User, name)
		}
		bob.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", Path("profile", "@nobody:a.test"), nil)

		local := Unique("lounge")
		room := alice.CreateRoom(M{"preset": "public_chat", "room_alias_name": local, "visibility": "public", "name": "Lounge"})
		alias := "#" + local + ":a.test"
		found := bob.OK("GET", Path("directory", "room", alias), nil)
		if found.Text("room_id") != room {
			t.Errorf("the alias: %s", found.Body)
		}
		if servers := found.At("servers"); len(servers.Array()) == 0 || servers.Array()[0].Str != "a.test" {
			t.Errorf("servers of the alias: %s", servers.Raw)
		}
		bob.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", Path("directory", "room", "#nowhere:a.test"), nil)
		list := bob.OK("GET", "publicRooms"+Query("server", "a.test"), nil)
		if got := list.At("chunk").Get("0.room_id").Str; got != room {
			t.Errorf("rooms of a.test: %s", list.Body)
		}
		bob.OK("POST", Path("join", alias), M{})
		untilMember(alice, room, bob, "join")
		if name := bob.State(room, "m.room.member", alice.User).Get("displayname").Str; name != "Alice" {
			t.Errorf("alice's name in the room: %q", name)
		}
		// A third server finds the room by a server that joined it, while the first is down.
		c := n.Start("c.test")
		carol := c.Register(t, "carol")
		a.Stop()
		joinVia(carol, room, b)
		untilMember(bob, room, carol, "join")
	})
}

// history pages back from the present and returns the bodies of messages, the newest first.
func history(c *Client, room string) (bodies []string) {
	c.tb.Helper()
	from := ""
	for range 1000 {
		params := []any{"dir", "b", "limit", "100"}
		if from != "" {
			params = append(params, "from", from)
		}
		page := c.OK("GET", Path("rooms", room, "messages")+Query(params...), nil)
		page.At("chunk").ForEach(func(_, e gjson.Result) bool {
			if e.Get("type").Str == "m.room.message" {
				bodies = append(bodies, e.Get("content.body").Str)
			}
			return true
		})
		if from = page.At("end").Str; from == "" {
			return bodies
		}
	}
	c.tb.Fatalf("the history of %s has no end", room)
	return nil
}

// sameHistory compares what two users see of a room. Servers may differ in the order of what was said while they didn't hear each other.
func sameHistory(t *testing.T, room string, one, two *Client, most int) {
	t.Helper()
	a, b := history(one, room), history(two, room)
	slices.Sort(a)
	slices.Sort(b)
	if len(a) != most {
		t.Errorf("%s sees %d messages, want %d", one.User, len(a), most)
	}
	if len(a) != len(b) {
		t.Fatalf("%s sees %d messages, %s sees %d", one.User, len(a), two.User, len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("%s sees %q, %s sees %q instead", one.User, a[i], two.User, b[i])
		}
	}
}

// TestBackfillFromBeforeTheJoin: who scrolls up sees what was said before the server came.
func TestBackfillFromBeforeTheJoin(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob := a.Register(t, "alice"), b.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		const before = 250
		for i := range before {
			alice.Say(room, Unique("before "))
			if i%100 == 0 {
				alice.SetState(room, "m.room.topic", "", M{"topic": Unique("topic ")})
			}
		}
		joinVia(bob, room, a)
		untilMember(alice, room, bob, "join")
		sameHistory(t, room, alice, bob, before)
	})
}

// TestCatchUp: a server that was down for a thousand messages gets the last ones by itself and the others when they are asked for;
// that goes for either side.
func TestCatchUp(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		const missed = 1000
		say := func(c *Client) (last string) {
			for range missed {
				last = c.Say(x.room, Unique("missed "))
			}
			return last
		}
		x.b.Stop()
		last := say(x.alice)
		x.b.Up()
		// What b says of itself tells a that it is back.
		nudge := x.bob.Say(x.room, "I am back")
		sees(x.bob, x.room, last)
		sees(x.alice, x.room, nudge)
		sameHistory(t, x.room, x.alice, x.bob, missed+1)

		x.a.Stop()
		last = say(x.bob)
		x.a.Up()
		nudge = x.alice.Say(x.room, "so am I")
		sees(x.alice, x.room, last)
		sees(x.bob, x.room, nudge)
		sameHistory(t, x.room, x.alice, x.bob, 2*missed+2)
	})
}

// TestThreeServers: what one says reaches both others, also what it said while one of them was cut off.
func TestThreeServers(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		c := n.Start("c.test")
		carol := c.Register(t, "carol")
		joinVia(carol, x.room, x.b)
		untilMember(x.alice, x.room, carol, "join")
		untilMember(x.bob, x.room, carol, "join")
		said := carol.Say(x.room, "from c")
		sees(x.alice, x.room, said)
		sees(x.bob, x.room, said)

		if n.engine != sqldb.SQLite {
			return // the pauses that follow take minutes of real time
		}
		n.Partition([]string{"c.test"})
		said = x.alice.Say(x.room, "without c")
		sees(x.bob, x.room, said)
		alone := carol.Say(x.room, "without a and b")
		n.Heal()
		tied := x.bob.Say(x.room, "together again")
		sees(carol, x.room, tied)
		nudge := carol.Say(x.room, "indeed")
		for _, client := range []*Client{x.alice, x.bob, carol} {
			for _, event := range []string{said, alone, tied, nudge} {
				sees(client, x.room, event)
			}
		}
	})
}
