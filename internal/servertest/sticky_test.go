package servertest

import (
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
		x.alice.OK("PUT", Path("rooms", x.room, "state", "org.example.call", "")+sticks(1000), M{"in": "call"})
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
