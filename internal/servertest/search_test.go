package servertest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// found searches and returns the category of the answer. Pairs are fields of the criteria; "next_batch" is the token.
func found(c *Client, term string, pairs ...any) gjson.Result {
	c.tb.Helper()
	criteria, query := M{"search_term": term}, ""
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == "next_batch" {
			query = Query("next_batch", pairs[i+1])
		} else {
			criteria[pairs[i].(string)] = pairs[i+1]
		}
	}
	return c.OK("POST", "search"+query, M{"search_categories": M{"room_events": criteria}}).At("search_categories", "room_events")
}

// ids are the events of a search's results.
func ids(category gjson.Result) []string {
	all := []string{}
	for _, r := range category.Get("results").Array() {
		all = append(all, r.Get("result.event_id").Str)
	}
	return all
}

// Spec: cs search
func TestSearch(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat", "name": "Meeting place", "topic": "All about rivers"})
		other := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		hello := alice.Say(room, "hello, world")
		cafe := bob.Say(room, "Un Café crème, s'il vous plaît")
		japanese := alice.Say(room, "明日は東京に行きます")
		elsewhere := alice.Say(other, "Hello from elsewhere")
		one := func(c *Client, term, want string, pairs ...any) {
			t.Helper()
			got := found(c, term, pairs...)
			if events := ids(got); !slices.Equal(events, []string{want}) || got.Get("count").Int() != 1 {
				t.Errorf("%q finds %s", term, got.Raw)
			}
		}
		none := func(c *Client, term string, pairs ...any) {
			t.Helper()
			if got := found(c, term, pairs...); len(ids(got)) > 0 || got.Get("next_batch").Exists() {
				t.Errorf("%q finds %s", term, got.Raw)
			}
		}
		for range 2 {
			one(alice, "WORLD hello", hello)
			one(alice, "cafe CREME", cafe)
			one(alice, "東京", japanese)
			one(alice, "京", japanese)
			none(alice, "京東")
			none(alice, "worl")
			none(alice, "...")
			one(alice, "elsewhere", elsewhere)
			none(bob, "elsewhere")
			one(bob, "hello", hello)
			one(alice, "hello", elsewhere, "filter", M{"rooms": []string{other}})
			one(alice, "hello", hello, "filter", M{"not_rooms": []string{other}})
			one(bob, "rivers", Find(gjson.ParseBytes(alice.OK("GET", Path("rooms", room, "state"), nil).Body), "m.room.topic").Get("event_id").Str)
			none(bob, "rivers", "keys", []string{"content.body", "content.name"})
			none(bob, "meeting", "keys", []string{"content.topic"})
			if got := found(bob, "meeting", "keys", []string{"content.name"}); len(ids(got)) != 1 || got.Get("highlights").Raw != `["meeting"]` {
				t.Errorf("by name: %s", got.Raw)
			}
			none(alice, "hello", "filter", M{"senders": []string{bob.User}})
			none(alice, "hello", "filter", M{"types": []string{"m.room.topic"}})
			s.Restart() // what was found in the stream is now found in the index
		}
		alice.Fails(400, "M_MISSING_PARAM", "POST", "search", M{})
		alice.Fails(400, "M_MISSING_PARAM", "POST", "search", M{"search_categories": M{"room_events": M{}}})
		alice.OK("POST", "search", M{"search_categories": M{}})
		for field, wrong := range map[string]any{
			"order_by": "size", "keys": []string{"content.url"}, "groupings": M{"group_by": []M{{"key": "colour"}}}, "search_term": strings.Repeat("a", 2000),
		} {
			criteria := M{"search_term": "x"}
			criteria[field] = wrong
			alice.Fails(400, "M_INVALID_PARAM", "POST", "search", M{"search_categories": M{"room_events": criteria}})
		}
		alice.Fails(400, "M_BAD_JSON", "POST", "search", M{"search_categories": M{"room_events": M{"search_term": "x", "filter": M{"limit": "y"}}}})
		for _, token := range []string{"x", "1", "0_1", "1_-1", "1_2_r", "1_2_r_nonsense", "1_2_x_!a", "1_99999999"} {
			alice.Fails(400, "M_INVALID_PARAM", "POST", "search"+Query("next_batch", token), M{"search_categories": M{"room_events": M{"search_term": "x"}}})
		}
		s.Anonymous(t).Fails(401, "M_MISSING_TOKEN", "POST", "search", M{"search_categories": M{}})
	})
}

// Who may not see an event doesn't find it, nor does who doesn't want to.
//
// Spec: cs Server Side Search
func TestSearchVisibility(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		room := alice.CreateRoom(M{"preset": "public_chat", "initial_state": []M{{"type": "m.room.history_visibility", "content": M{"history_visibility": "joined"}}}})
		before := alice.Say(room, "pebble before")
		bob.Join(room)
		during := alice.Say(room, "pebble during")
		bob.Leave(room)
		after := alice.Say(room, "pebble after")
		check := func(c *Client, term string, want ...string) {
			t.Helper()
			got := ids(found(c, term, "order_by", "recent"))
			if !slices.Equal(got, append([]string{}, want...)) {
				t.Errorf("%s finds %v for %q, want %v", c.User, got, term, want)
			}
		}
		check(alice, "pebble", after, during, before)
		check(bob, "pebble", during)
		check(carol, "pebble")
		bob.OK("POST", Path("rooms", room, "forget"), M{})
		check(bob, "pebble")

		alice.Redact(room, during)
		check(alice, "pebble", after, before)

		// An edit is found as what it edits, and only that of the author counts.
		carol.Join(room)
		edited := carol.Say(room, "a stone")
		edit := func(who *Client, text string) {
			who.Send(room, "m.room.message", M{"msgtype": "m.text", "body": "* " + text, "m.new_content": M{"msgtype": "m.text", "body": text},
				"m.relates_to": M{"rel_type": "m.replace", "event_id": edited}})
		}
		edit(carol, "a diamond")
		edit(alice, "a fake")
		check(alice, "diamond", edited)
		check(alice, "fake")

		alice.OK("PUT", Path("user", alice.User, "account_data", "m.ignored_user_list"), M{"ignored_users": M{carol.User: M{}}})
		check(alice, "diamond")
		check(carol, "diamond", edited)

		alice.SetState(room, "m.room.encryption", "", M{"algorithm": "m.megolm.v1.aes-sha2"})
		check(alice, "pebble")
	})
}

// Pages, groups, context, profiles and state.
//
// Spec: cs search
func TestSearchPages(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		alice.OK("PUT", Path("profile", alice.User, "displayname"), M{"displayname": "Alice"})
		rooms := []string{alice.CreateRoom(M{"preset": "public_chat"}), alice.CreateRoom(M{"preset": "public_chat"})}
		var said []string
		for i := range 23 {
			c := []*Client{alice, bob}[i%2]
			if i < 4 && i%2 == 1 {
				bob.Join(rooms[i/2])
			}
			said = append(said, c.Say(rooms[(i/2)%2], fmt.Sprintf("Needle number %d", i)))
		}
		newest := slices.Clone(said)
		slices.Reverse(newest)
		for _, order := range []string{"recent", "rank"} {
			var all []string
			token, pages := "", 0
			for {
				got := found(alice, "needle", "order_by", order, "filter", M{"limit": 5}, "next_batch", token)
				all = append(all, ids(got)...)
				if got.Get("count").Int() != 23 {
					t.Errorf("count %s", got.Get("count"))
				}
				pages++
				if token = got.Get("next_batch").Str; token == "" {
					break
				}
				if pages == 1 {
					alice.Say(rooms[0], "A needle that comes while they turn pages")
				}
			}
			if order == "recent" && !slices.Equal(all[:20], newest[:20]) {
				t.Errorf("%s: %v", order, all)
			}
			slices.Sort(all)
			want := slices.Clone(said)
			slices.Sort(want)
			if pages != 5 || !slices.Equal(all, want) {
				t.Errorf("%s: %d pages, %d results", order, pages, len(all))
			}
			alice.Redact(rooms[0], ids(found(alice, "turn pages"))[0])
		}

		got := found(alice, "needle", "order_by", "recent", "filter", M{"limit": 6}, "groupings", M{"group_by": []M{{"key": "room_id"}, {"key": "sender"}}})
		for _, by := range []string{"room_id", "sender"} {
			groups, n := got.Get("groups").Get(by).Map(), 0
			for value, g := range groups {
				events := []string{}
				for _, e := range g.Get("results").Array() {
					events = append(events, e.Str)
				}
				n += len(events)
				for token := g.Get("next_batch").Str; token != ""; {
					more := found(alice, "needle", "order_by", "recent", "filter", M{"limit": 6}, "next_batch", token)
					events = append(events, ids(more)...)
					token = more.Get("next_batch").Str
				}
				var want []string
				for i, e := range slices.Backward(said) {
					if value == rooms[(i/2)%2] || value == []*Client{alice, bob}[i%2].User {
						want = append(want, e)
					}
				}
				if !slices.Equal(events, want) {
					t.Errorf("by %s in %s: %d events, want %d", by, value, len(events), len(want))
				}
			}
			if len(groups) != 2 || n != 6 {
				t.Errorf("groups by %s: %s", by, got.Get("groups").Raw)
			}
		}

		with := found(alice, "number 12", "event_context", M{"before_limit": 2, "after_limit": 1, "include_profile": true}, "include_state", true)
		context := with.Get("results.0.context")
		if before, after := Events(context.Get("events_before")), Events(context.Get("events_after")); !slices.Equal(before, []string{said[9], said[8]}) || !slices.Equal(after, []string{said[13]}) {
			t.Errorf("context: %s", context.Raw)
		}
		if name := At(context.Get("profile_info"), alice.User, "displayname").Str; name != "Alice" {
			t.Errorf("profiles: %s", context.Get("profile_info").Raw)
		}
		if context.Get("start").Str == "" || context.Get("end").Str == "" {
			t.Errorf("tokens: %s", context.Raw)
		}
		state := At(with.Get("state"), rooms[0])
		if !Find(state, "m.room.create").Exists() || len(with.Get("state").Map()) != 1 {
			t.Errorf("state: %s", with.Get("state").Raw)
		}
		if c := found(alice, "number 12", "event_context", M{}).Get("results.0.context"); len(c.Get("events_before").Array()) != 5 || c.Get("profile_info").Exists() {
			t.Errorf("context by default: %s", c.Raw)
		}
	})
}
