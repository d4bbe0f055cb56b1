package servertest

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/tidwall/gjson"
)

// sticks is the query of an event that sticks for so many milliseconds.
func sticks(ms int) string { return Query("org.matrix.msc4354.sticky_duration_ms", ms) }

// TestStickyEvents: events that stick reach everybody who is in the room while they do, however much else was said meanwhile.
//
// MSC4354: Sticky events
func TestStickyEvents(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		x := acrossTwo(t, n)
		here := x.a.Register(t, "here")
		here.Join(x.room)
		since := here.Sync("").Next
		say := func(txn string, query string) string {
			return x.alice.OK("PUT", Path("rooms", x.room, "send", "org.example.call", txn)+query, M{"in": "call"}).Text("event_id")
		}
		first := say("1", sticks(600_000))
		if again := say("1", sticks(600_000)); again != first {
			t.Errorf("a repeated request made %s after %s", again, first)
		}
		var last string
		for range 12 {
			last = x.alice.Say(x.room, "something else")
		}
		sticky := func(s gjson.Result) []gjson.Result {
			return s.Get("rooms.join").Get(gjson.Escape(x.room)).Get("msc4354_sticky.events").Array()
		}
		sync := func(c *Client, params ...any) gjson.Result {
			return gjson.ParseBytes(c.OK("GET", "sync"+Query(params...), nil).Body)
		}
		got := sync(here, "since", since)
		e := sticky(got)
		if len(e) != 1 || e[0].Get("event_id").Str != first || e[0].Get("msc4354_sticky.duration_ms").Int() != 600_000 {
			t.Fatalf("a limited timeline comes with %v", e)
		}
		if ttl := e[0].Get("unsigned.msc4354_sticky_duration_ttl_ms").Int(); ttl <= 0 || ttl > 600_000 {
			t.Errorf("it sticks for %d ms more", ttl)
		}
		if e := sticky(sync(here, "since", got.Get("next_batch").Str)); len(e) != 0 {
			t.Errorf("it comes twice: %v", e)
		}
		if e := sticky(sync(here, "filter", M{"room": M{"timeline": M{"limit": 50}}})); len(e) != 0 {
			t.Errorf("it is in the timeline and besides: %v", e)
		}
		if e := sticky(sync(here, "filter", M{"room": M{"timeline": M{"limit": 50, "not_types": []string{"org.example.call"}}}})); len(e) != 1 {
			t.Errorf("a filter keeps it away: %v", e)
		}
		// Whoever comes later is told, on other servers too.
		sees(x.bob, x.room, last)
		if e := sticky(sync(x.bob)); len(e) != 1 || e[0].Get("event_id").Str != first {
			t.Errorf("another server's user sees %v", e)
		}
		x.alice.SetState(x.room, "m.room.history_visibility", "", M{"history_visibility": "joined"})
		carol := x.a.Register(t, "carol")
		token := carol.Sync("").Next
		carol.Join(x.room)
		if e := sticky(sync(carol, "since", token)); len(e) != 1 {
			t.Errorf("a newcomer is told %v", e)
		}
		carol.OK("PUT", Path("user", carol.User, "account_data", "m.ignored_user_list"), M{"ignored_users": M{x.alice.User: M{}}})
		if e := sticky(sync(carol)); len(e) != 0 {
			t.Errorf("who ignores the sender is told %v", e)
		}
		// What no longer sticks, or is taken back, comes no more.
		brief := say("2", sticks(1))
		x.alice.Redact(x.room, first)
		for range 12 {
			x.alice.Say(x.room, "something else")
		}
		here.eventually("nothing sticks", func() bool { return len(sticky(sync(here))) == 0 })
		if e := here.OK("GET", Path("rooms", x.room, "event", brief), nil); !e.At("msc4354_sticky").Exists() {
			t.Errorf("the event forgot that it did: %s", e.Body)
		}
		for _, wrong := range []string{sticks(-1), sticks(3_600_001), Query("org.matrix.msc4354.sticky_duration_ms", "long")} {
			x.alice.Fails(400, "M_INVALID_PARAM", "PUT", Path("rooms", x.room, "send", "org.example.call", Unique("t"))+wrong, M{})
		}
		// State doesn't stick.
		state := x.alice.OK("PUT", Path("rooms", x.room, "state", "org.example.call", "")+sticks(60_000), M{"in": "call"}).Text("event_id")
		if e := x.alice.OK("GET", Path("rooms", x.room, "event", state), nil); e.At("msc4354_sticky").Exists() || len(sticky(sync(here))) != 0 {
			t.Errorf("state sticks: %s", e.Body)
		}
	})
}

// stuck are the IDs of the events that stick in a room, as an answer of /sync lists them.
func stuck(answer gjson.Result, room string) (ids []string) {
	for _, e := range answer.Get("rooms.join").Get(gjson.Escape(room)).Get("msc4354_sticky.events").Array() {
		ids = append(ids, e.Get("event_id").Str)
	}
	return ids
}

// TestStickyEventsReachNewServers: a server that comes into a room is sent what sticks there, though its users see nothing else of what was before.
//
// MSC4354: Federation behaviour
func TestStickyEventsReachNewServers(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob := a.Register(t, "alice"), b.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat", "initial_state": []M{
			{"type": "m.room.history_visibility", "content": M{"history_visibility": "joined"}},
		}})
		var sent []string
		for _, txn := range []string{"1", "2", "3"} {
			sent = append(sent, alice.OK("PUT", Path("rooms", room, "send", "org.example.call", txn)+sticks(3_000_000), M{}).Text("event_id"))
		}
		alice.Redact(room, sent[2])
		hidden := alice.Say(room, "not for newcomers")
		joinVia(bob, room, a)
		bob.eventually("what sticks has come", func() bool {
			got := stuck(gjson.ParseBytes(bob.OK("GET", "sync"+Query("filter", M{"room": M{"timeline": M{"not_types": []string{"org.example.call"}}}}), nil).Body), room)
			return len(got) == 2 && slices.Contains(got, sent[0]) && slices.Contains(got, sent[1])
		})
		for i, event := range sent {
			if status := bob.Do("GET", Path("rooms", room, "event", event), nil).Status; (status == 200) != (i < 2) {
				t.Errorf("event %d: status %d", i, status)
			}
		}
		if status := bob.Do("GET", Path("rooms", room, "event", hidden), nil).Status; status != 404 {
			t.Errorf("what doesn't stick: status %d", status)
		}
		sees(alice, room, bob.Say(room, "hello"))
	})
}

// TestStickyEventsInParts: of many events that stick the next answers have those for which one has no room.
//
// MSC4354: Current /sync
func TestStickyEventsInParts(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		const many = 450
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		before, outside := bob.Sync("").Next, carol.Sync("").Next
		missing := make(map[string]bool)
		for i := range many {
			missing[alice.OK("PUT", Path("rooms", room, "send", "org.example.call", strconv.Itoa(i))+sticks(600_000), M{}).Text("event_id")] = true
		}
		carol.Join(room)
		for name, c := range map[string]struct {
			who   *Client
			since string
		}{"there": {bob, before}, "came later": {carol, outside}, "new device": {bob, ""}} {
			left, twice := maps.Clone(missing), 0
			since, answers := c.since, 0
			for ; len(left) > 0 && answers < 6; answers++ {
				params := []any{"timeout", 30_000}
				if since != "" {
					params = append(params, "since", since)
				}
				answer := gjson.ParseBytes(c.who.OK("GET", "sync"+Query(params...), nil).Body)
				since = answer.Get("next_batch").Str
				ids := stuck(answer, room)
				for _, e := range answer.Get("rooms.join").Get(gjson.Escape(room)).Get("timeline.events").Array() {
					ids = append(ids, e.Get("event_id").Str)
				}
				for _, event := range ids {
					if missing[event] && !left[event] {
						twice++
					}
					delete(left, event)
				}
			}
			if len(left) > 0 || answers < 3 || twice > 20 {
				t.Errorf("%s: after %d answers %d events are missing, %d came twice", name, answers, len(left), twice)
			}
		}
	})
}

// MSC4480: Sliding Sync Extension: Sticky Events
func TestStickyEventsInSlidingSync(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		var sent []string
		for _, txn := range []string{"a", "b", "c"} {
			sent = append(sent, alice.OK("PUT", Path("rooms", room, "send", "org.example.call", txn)+sticks(600_000), M{}).Text("event_id"))
		}
		alice.Say(room, "something else")
		const name = "org.matrix.msc4354.sticky_events"
		ask := func(since string, limit int) gjson.Result {
			a := bob.OK("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", M{
				"lists": M{"all": M{"ranges": [][]int{{0, 10}}, "timeline_limit": 1, "required_state": [][]string{}}}, "extensions": M{name: M{"enabled": true, "since": since, "limit": limit}},
			})
			return a.At("extensions").Get(gjson.Escape(name))
		}
		events := func(r gjson.Result) (ids []string) {
			for _, e := range r.Get("rooms").Get(gjson.Escape(room)).Get("events").Array() {
				ids = append(ids, e.Get("event_id").Str)
			}
			return ids
		}
		page := ask("", 2)
		if got := events(page); len(got) != 2 || got[0] != sent[0] || got[1] != sent[1] {
			t.Fatalf("the first page has %v of %v: %s", got, sent, page.Raw)
		}
		rest := ask(page.Get("next_batch").Str, 2)
		if got := events(rest); len(got) != 1 || got[0] != sent[2] {
			t.Errorf("the second page has %v", got)
		}
		if over := ask(rest.Get("next_batch").Str, 2); len(events(over)) != 0 {
			t.Errorf("the third page has %s", over.Raw)
		}
		carol := s.Register(t, "carol")
		other := alice.CreateRoom(M{"preset": "public_chat"})
		alice.OK("PUT", Path("rooms", other, "send", "org.example.call", "d")+sticks(600_000), M{})
		bob.Join(other)
		if late := ask(rest.Get("next_batch").Str, 1); len(late.Get("rooms").Get(gjson.Escape(other)).Get("events").Array()) != 1 {
			t.Errorf("of a room that was joined later there is %s", late.Raw)
		}
		carol.Fails(400, "M_INVALID_PARAM", "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", M{"extensions": M{name: M{"enabled": true, "since": "x"}}})
		carol.Fails(400, "M_INVALID_PARAM", "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", M{"extensions": M{name: M{"enabled": true, "limit": 0}}})
	})
}
