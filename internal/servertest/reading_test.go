package servertest

import (
	"slices"
	"strconv"
	"testing"
)

// Spec: cs getRoomEvents; cs Pagination
func TestMessages(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		var said []string
		for i := range 25 {
			said = append(said, alice.Say(room, strconv.Itoa(i)))
		}
		list := func(params ...any) *Answer {
			t.Helper()
			return alice.OK("GET", Path("rooms", room, "messages")+Query(params...), nil)
		}
		walk := func(dir, from string, limit int) (all []string, last *Answer) {
			t.Helper()
			for {
				q := []any{"dir", dir, "limit", strconv.Itoa(limit)}
				if from != "" {
					q = append(q, "from", from)
				}
				last = list(q...)
				if from != "" && last.Text("start") != from {
					t.Errorf("start %q, want %q", last.Text("start"), from)
				}
				all = append(all, Events(last.At("chunk"))...)
				if from = last.At("end").Str; from == "" {
					return all, last
				}
				if len(all) > 200 {
					t.Fatal("no end")
				}
			}
		}
		for _, limit := range []int{1, 7, 100} {
			back, _ := walk("b", "", limit)
			forth, _ := walk("f", "", limit)
			slices.Reverse(back)
			if !slices.Equal(back, forth) || len(forth) < 30 || !slices.Equal(forth[len(forth)-25:], said) {
				t.Errorf("limit %d: %d back, %d forth", limit, len(back), len(forth))
			}
		}
		// To and fro from a token in the middle.
		middle := list("dir", "b", "limit", "10")
		if got := Events(middle.At("chunk")); got[0] != said[24] || got[9] != said[15] {
			t.Errorf("ten back: %v", got)
		}
		forth, _ := walk("f", middle.Text("end"), 4)
		if !slices.Equal(forth, said[15:]) {
			t.Errorf("forth from the middle: %v", forth)
		}
		// A stop token.
		rest := list("dir", "b", "limit", "100", "to", middle.Text("end"))
		if got := Events(rest.At("chunk")); len(got) != 10 || got[9] != said[15] {
			t.Errorf("to the middle: %v", got)
		}
		// Filters.
		types := list("dir", "b", "limit", "100", "filter", M{"types": []string{"m.room.create", "m.room.mem*"}})
		if got := types.At("chunk").Array(); len(got) != 2 {
			t.Errorf("by type: %s", types.Body)
		}
		if got := list("dir", "b", "filter", M{"not_senders": []string{alice.User}}).At("chunk").Array(); len(got) != 0 {
			t.Errorf("by sender: %v", got)
		}
		bob.Join(room)
		bob.Say(room, "by Bob")
		lazy := list("dir", "b", "limit", "1", "filter", M{"lazy_load_members": true})
		if m := lazy.At("state").Array(); len(m) != 1 || m[0].Get("state_key").Str != bob.User {
			t.Errorf("lazy members: %s", lazy.Body)
		}

		path := Path("rooms", room, "messages")
		alice.Fails(400, "M_MISSING_PARAM", "GET", path, nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("dir", "x"), nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("dir", "b", "from", "nonsense"), nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("dir", "b", "limit", "many"), nil)
		if a := alice.Do("GET", path+Query("dir", "b", "filter", `{"types":5}`), nil); a.Status != 400 {
			t.Errorf("a filter of the wrong type: %d %s", a.Status, a.Body)
		}
		alice.Fails(403, "M_FORBIDDEN", "GET", Path("rooms", "!unknown:localhost", "messages")+Query("dir", "b"), nil)
	})
}

// Spec: cs getEventContext
func TestContext(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(M{"name": "before"})
		var said []string
		for i := range 11 {
			said = append(said, alice.Say(room, strconv.Itoa(i)))
		}
		alice.SetState(room, "m.room.name", "", M{"name": "after"})
		c := alice.OK("GET", Path("rooms", room, "context", said[5])+Query("limit", "6"), nil)
		before, after := Events(c.At("events_before")), Events(c.At("events_after"))
		slices.Reverse(before)
		if c.Text("event", "event_id") != said[5] || !slices.Equal(before, said[2:5]) || !slices.Equal(after, said[6:9]) {
			t.Errorf("context: %s", c.Body)
		}
		if name := Find(c.At("state"), "m.room.name").Get("content.name").Str; name != "before" {
			t.Errorf("the state's name is %q", name)
		}
		further := alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "from", c.Text("start"), "limit", "2"), nil)
		if got := Events(further.At("chunk")); !slices.Equal(got, []string{said[1], said[0]}) {
			t.Errorf("further back: %v", got)
		}
		further = alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "f", "from", c.Text("end"), "limit", "2"), nil)
		if got := Events(further.At("chunk")); !slices.Equal(got, said[9:11]) {
			t.Errorf("further on: %v", got)
		}
		if c := alice.OK("GET", Path("rooms", room, "context", said[5])+Query("limit", "0"), nil); len(c.At("events_before").Array()) != 0 || len(c.At("events_after").Array()) != 0 {
			t.Errorf("limit 0: %s", c.Body)
		}
		alice.Fails(404, "M_NOT_FOUND", "GET", Path("rooms", room, "context", "$nothing"), nil)
		alice.Fails(404, "M_NOT_FOUND", "GET", Path("rooms", room, "event", "$nothing"), nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", Path("rooms", room, "event", "nonsense"), nil)
	})
}

// Spec: cs getMembersByRoom; cs getJoinedMembersByRoom
func TestMembers(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		at := alice.Sync("").Next
		alice.Invite(room, carol)
		bob.Leave(room)
		path := Path("rooms", room, "members")
		count := func(q string) int { t.Helper(); return len(alice.OK("GET", path+q, nil).At("chunk").Array()) }
		for q, want := range map[string]int{
			"": 3, "?membership=join": 1, "?membership=leave": 1, "?not_membership=leave": 2, "?membership=ban": 0, Query("at", at): 2, Query("at", at, "membership", "join"): 2,
		} {
			if got := count(q); got != want {
				t.Errorf("%q: %d members, want %d", q, got, want)
			}
		}
		joined := alice.OK("GET", Path("rooms", room, "joined_members"), nil).At("joined")
		if len(joined.Map()) != 1 || !At(joined, alice.User).Exists() {
			t.Errorf("joined: %s", joined.Raw)
		}
		alice.Fails(400, "M_INVALID_PARAM", "GET", path+"?membership=dancing", nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", path+"?at=nonsense", nil)
		s.Register(t, "dave").Fails(403, "M_FORBIDDEN", "GET", path, nil)
	})
}

// Spec: cs getEventByTimestamp
func TestTimestampToEvent(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(nil)
		event := alice.Say(room, "now")
		at := alice.OK("GET", Path("rooms", room, "event", event), nil).At("origin_server_ts").Int()
		path := Path("/_matrix/client/v1/rooms", room, "timestamp_to_event")
		near := func(ts int64, dir string) *Answer { return alice.Do("GET", path+Query("ts", ts, "dir", dir), nil) }
		if a := near(at+1000, "b"); a.Status != 200 || a.Text("event_id") != event {
			t.Errorf("back: %d %s", a.Status, a.Body)
		}
		if a := near(0, "f"); a.Status != 200 || a.At("origin_server_ts").Int() > at {
			t.Errorf("from the beginning: %d %s", a.Status, a.Body)
		}
		if a := near(at+1000, "f"); a.Status != 404 || a.At("errcode").Str != "M_NOT_FOUND" {
			t.Errorf("the future: %d %s", a.Status, a.Body)
		}
		if a := near(0, "b"); a.Status != 404 {
			t.Errorf("before all: %d %s", a.Status, a.Body)
		}
		alice.Fails(400, "M_MISSING_PARAM", "GET", path+"?dir=f", nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", path+"?ts=1&dir=x", nil)
		s.Register(t, "bob").Fails(403, "M_FORBIDDEN", "GET", path+"?ts=1&dir=f", nil)
	})
}
