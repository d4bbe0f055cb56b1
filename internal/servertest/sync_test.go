package servertest

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// Spec: cs sync
func TestSync(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "private_chat", "name": "Tea", "topic": "Talk"})
		first := alice.Sync("")
		if got := Find(first.Timeline(room), "m.room.create"); !got.Exists() {
			t.Errorf("the first sync: %s", first.Body)
		}
		if again := alice.Sync(first.Next); again.Joined(room).Exists() || again.At("rooms", "join").Exists() && len(again.At("rooms", "join").Map()) > 0 {
			t.Errorf("nothing new: %s", again.Body)
		}

		// An invite has stripped state.
		since := bob.Sync("").Next
		alice.OK("POST", Path("rooms", room, "invite"), M{"user_id": bob.User, "reason": "tea"})
		invite := bob.Sync(since)
		stripped := invite.Invited(room).Get("invite_state.events")
		for _, typ := range []string{"m.room.create", "m.room.join_rules", "m.room.name", "m.room.topic"} {
			if e := Find(stripped, typ, ""); !e.Exists() {
				t.Errorf("the invite lacks %s: %s", typ, stripped.Raw)
			}
		}
		if e := Find(stripped, "m.room.member", bob.User); e.Get("content.membership").Str != "invite" || e.Get("sender").Str != alice.User || e.Get("content.reason").Str != "tea" {
			t.Errorf("the invite itself: %s", e.Raw)
		}
		if Find(stripped, "m.room.create", "").Get("event_id").Exists() && Find(stripped, "m.room.name", "").Get("origin_server_ts").Exists() {
			t.Log("stripped state has more than it must")
		}
		if full := bob.Sync(""); !full.Invited(room).Exists() {
			t.Error("a first sync lacks the invite")
		}

		// Joined: the whole state arrives.
		bob.Join(room)
		joined := bob.Sync(invite.Next)
		all := append(joined.Joined(room).Get("state.events").Array(), joined.Timeline(room).Array()...)
		keys := map[string]bool{}
		for _, e := range all {
			keys[e.Get("type").Str+"/"+e.Get("state_key").Str] = true
		}
		for _, k := range []string{"m.room.create/", "m.room.name/", "m.room.power_levels/", "m.room.member/" + alice.User, "m.room.member/" + bob.User} {
			if !keys[k] {
				t.Errorf("after joining %s is missing: %s", k, joined.Body)
			}
		}
		if joined.Invited(room).Exists() {
			t.Error("a joined room is among the invites")
		}
		// Left: the departure arrives, and nothing after it.
		bob.Leave(room)
		late := alice.Say(room, "late")
		left := bob.Sync(joined.Next)
		if e := Find(left.Left(room).Get("timeline.events"), "m.room.member", bob.User); e.Get("content.membership").Str != "leave" || HasEvent(left.Left(room).Get("timeline.events"), late) {
			t.Errorf("after leaving: %s", left.Body)
		}
		if again := bob.Sync(left.Next); again.Left(room).Exists() {
			t.Errorf("the departure comes again: %s", again.Body)
		}
		if full := bob.Sync(""); full.Left(room).Exists() {
			t.Errorf("a first sync has a room that was left: %s", full.Body)
		}
		if full := bob.Sync("", "filter", M{"room": M{"include_leave": true}}); !full.Left(room).Exists() {
			t.Errorf("include_leave: %s", full.Body)
		}
	})
}

// TestSyncWaits: a long poll answers when something happens, and at its timeout.
//
// Spec: cs sync
func TestSyncWaits(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		since := bob.Sync("").Next
		began := time.Now()
		quiet := M{"presence": M{"types": []string{}}}
		if a := bob.Sync(since, "timeout", "100", "filter", quiet); a.Next == "" || time.Since(began) < 80*time.Millisecond {
			t.Errorf("an empty poll took %s: %s", time.Since(began), a.Body)
		}
		answers := make(chan *Answer, 1)
		go func() {
			a, _ := bob.Try("GET", "sync"+Query("since", since, "timeout", "30000"), nil)
			answers <- a
		}()
		event := alice.Say(room, "wake up")
		select {
		case a := <-answers:
			if a == nil || !HasEvent(a.At("rooms", "join", room, "timeline", "events"), event) {
				t.Errorf("the poll brought %+v", a)
			}
		case <-time.After(10 * time.Second):
			t.Error("the poll sleeps on")
		}
		// A restart ends polls and forgets nothing.
		go func() {
			a, _ := bob.Try("GET", "sync"+Query("since", since, "timeout", "30000"), nil)
			answers <- a
		}()
		<-answers
		s.Restart()
		if a := bob.Sync(since); !HasEvent(a.Timeline(room), event) {
			t.Errorf("after a restart: %s", a.Body)
		}
	})
}

// TestGaps: after a gap the state delta is right, in each way to ask for state.
//
// Spec: cs sync
func TestGaps(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(M{"name": "first", "topic": "kept"})
		since := alice.Sync("").Next
		alice.SetState(room, "m.room.name", "", M{"name": "second"})
		alice.SetState(room, "org.example.gone", "", M{"x": 1})
		var said []string
		for i := range 12 {
			said = append(said, alice.Say(room, strconv.Itoa(i)))
		}
		last := alice.SetState(room, "m.room.name", "", M{"name": "third"})
		small := M{"room": M{"timeline": M{"limit": 5}}}

		gap := alice.Sync(since, "filter", small)
		line := gap.Joined(room).Get("timeline")
		if !line.Get("limited").Bool() || len(line.Get("events").Array()) != 5 || Events(line.Get("events"))[4] != last {
			t.Errorf("timeline: %s", line.Raw)
		}
		state := gap.Joined(room).Get("state.events")
		if Find(state, "m.room.name").Get("content.name").Str != "second" || !Find(state, "org.example.gone").Exists() || Find(state, "m.room.topic").Exists() {
			t.Errorf("state: %s", state.Raw)
		}
		// What is missing is behind prev_batch.
		back := alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "from", line.Get("prev_batch").Str, "limit", "3"), nil)
		if got := Events(back.At("chunk")); !slices.Equal(got, []string{said[7], said[6], said[5]}) {
			t.Errorf("before the timeline: %v", got)
		}
		for _, name := range []string{"use_state_after", "org.matrix.msc4222.use_state_after"} {
			after := alice.Sync(since, "filter", small, name, "true").Joined(room)
			section := after.Get("state_after")
			if !section.Exists() {
				section = At(after, "org.matrix.msc4222.state_after")
			}
			if Find(section.Get("events"), "m.room.name").Get("content.name").Str != "third" || !Find(section.Get("events"), "org.example.gone").Exists() || after.Get("state").Exists() {
				t.Errorf("%s: %s", name, after.Raw)
			}
		}
		full := alice.Sync(since, "filter", small, "full_state", "true").Joined(room).Get("state.events")
		if !Find(full, "m.room.topic").Exists() || !Find(full, "m.room.create").Exists() {
			t.Errorf("full state: %s", full.Raw)
		}
	})
}

// Spec: cs Lazy-loading room members; cs sync
func TestLazyMembersAndSummary(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		var others []*Client
		for range 8 {
			c := s.Register(t, "other")
			c.Join(room)
			others = append(others, c)
		}
		others[7].Leave(room)
		invited := s.Register(t, "invited")
		alice.Invite(room, invited)
		for i := range 3 {
			alice.Say(room, strconv.Itoa(i))
		}
		others[0].Say(room, "hello")
		filter := M{"room": M{"state": M{"lazy_load_members": true}, "timeline": M{"limit": 2}}}
		first := alice.Sync("", "filter", filter)
		members := func(list gjson.Result) (users []string) {
			for _, e := range list.Array() {
				if e.Get("type").Str == "m.room.member" {
					users = append(users, e.Get("state_key").Str)
				}
			}
			slices.Sort(users)
			return users
		}
		// Those who speak, and those the room is named after.
		want := []string{alice.User, others[0].User}
		for _, hero := range At(first.Joined(room), "summary", "m.heroes").Array() {
			want = append(want, hero.Str)
		}
		slices.Sort(want)
		want = slices.Compact(want)
		if got := members(first.Joined(room).Get("state.events")); !slices.Equal(got, want) {
			t.Errorf("members: %v, want %v", got, want)
		}
		summary := first.Joined(room).Get("summary")
		if At(summary, "m.joined_member_count").Int() != 8 || At(summary, "m.invited_member_count").Int() != 1 {
			t.Errorf("summary: %s", summary.Raw)
		}
		if heroes := At(summary, "m.heroes").Array(); len(heroes) != 5 || slices.ContainsFunc(heroes, func(h gjson.Result) bool { return h.Str == alice.User || h.Str == others[7].User }) {
			t.Errorf("heroes: %v", heroes)
		}
		quiet := others[slices.IndexFunc(others, func(c *Client) bool { return !slices.Contains(want, c.User) })]
		quiet.Say(room, "me too")
		next := alice.Sync(first.Next, "filter", filter)
		if got := members(next.Joined(room).Get("state.events")); !slices.Equal(got, []string{quiet.User}) {
			t.Errorf("the next member: %v", got)
		}
		others[0].Say(room, "again")
		third := alice.Sync(next.Next, "filter", filter)
		if got := members(third.Joined(room).Get("state.events")); len(got) != 0 {
			t.Errorf("a member that is known: %v", got)
		}
		redundant := M{"room": M{"state": M{"lazy_load_members": true, "include_redundant_members": true}}}
		if got := members(alice.Sync(next.Next, "filter", redundant).Joined(room).Get("state.events")); !slices.Equal(got, []string{others[0].User}) {
			t.Errorf("redundant members: %v", got)
		}
	})
}

// Spec: cs Filtering
func TestSyncFilters(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		one, two := alice.CreateRoom(M{"preset": "public_chat"}), alice.CreateRoom(nil)
		bob.Join(one)
		event := bob.Say(one, "by Bob")
		other := alice.Say(one, "by Alice")
		get := func(filter M) *Sync { t.Helper(); return alice.Sync("", "filter", filter) }
		if a := get(M{"room": M{"rooms": []string{one}}}); !a.Joined(one).Exists() || a.Joined(two).Exists() {
			t.Errorf("rooms: %s", a.Body)
		}
		if a := get(M{"room": M{"not_rooms": []string{one}}}); a.Joined(one).Exists() || !a.Joined(two).Exists() {
			t.Errorf("not_rooms: %s", a.Body)
		}
		if a := get(M{"room": M{"timeline": M{"senders": []string{bob.User}, "types": []string{"m.room.mess*"}}}}); !slices.Equal(Events(a.Timeline(one)), []string{event}) {
			t.Errorf("senders: %s", a.Timeline(one).Raw)
		}
		if a := get(M{"room": M{"timeline": M{"not_senders": []string{bob.User}}}}); HasEvent(a.Timeline(one), event) || !HasEvent(a.Timeline(one), other) {
			t.Errorf("not_senders: %s", a.Timeline(one).Raw)
		}
		if a := get(M{"room": M{"state": M{"types": []string{}}, "timeline": M{"limit": 1}}}); len(a.Joined(one).Get("state.events").Array()) != 0 {
			t.Errorf("no state: %s", a.Body)
		}
		if a := get(M{"event_fields": []string{"type", "content.body"}, "room": M{"timeline": M{"limit": 1}}}); Find(a.Timeline(one), "m.room.message").Get("content.msgtype").Exists() || Find(a.Timeline(one), "m.room.message").Get("content.body").Str != "by Alice" {
			t.Errorf("event_fields: %s", a.Timeline(one).Raw)
		}
		// Ignored users are not heard.
		alice.OK("PUT", Path("user", alice.User, "account_data", "m.ignored_user_list"), M{"ignored_users": M{bob.User: M{}}})
		if a := get(M{}); HasEvent(a.Timeline(one), event) || !HasEvent(a.Timeline(one), other) {
			t.Errorf("ignored: %s", a.Timeline(one).Raw)
		}
	})
}

// Spec: cs Knocking on rooms; cs sync
func TestSyncKnocks(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"name": "Door", "initial_state": []M{{"type": "m.room.join_rules", "content": M{"join_rule": "knock"}}}})
		since, own := bob.Sync("").Next, alice.Sync("").Next
		bob.OK("POST", Path("knock", room), M{"reason": "hello"})
		knock := bob.Sync(since)
		state := knock.Knocked(room).Get("knock_state.events")
		if Find(state, "m.room.name").Get("content.name").Str != "Door" || Find(state, "m.room.member", bob.User).Get("content.membership").Str != "knock" {
			t.Errorf("knock: %s", knock.Body)
		}
		if e := Find(alice.Sync(own).Timeline(room), "m.room.member", bob.User); e.Get("content.reason").Str != "hello" {
			t.Errorf("Alice hears %s", e.Raw)
		}
		alice.Invite(room, bob)
		invited := bob.Sync(knock.Next)
		if !invited.Invited(room).Exists() || invited.Knocked(room).Exists() {
			t.Errorf("invited: %s", invited.Body)
		}
		alice.Kick(room, bob)
		if a := bob.Sync(invited.Next); !a.Left(room).Exists() {
			t.Errorf("the invite taken back: %s", a.Body)
		}
	})
}

// Spec: cs initialSync; cs roomInitialSync; cs getEvents; cs peekEvents; cs getOneEvent
func TestDeprecated(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat", "initial_state": []M{{"type": "m.room.history_visibility", "content": M{"history_visibility": "world_readable"}}}})
		all := alice.OK("GET", "initialSync?limit=2", nil)
		if !all.At("end").Exists() || len(all.At("rooms").Array()) != 1 {
			t.Errorf("initialSync: %s", all.Body)
		}
		if got := alice.OK("GET", Path("rooms", room, "initialSync"), nil); got.Text("room_id") != room || got.Text("membership") != "join" {
			t.Errorf("of the room: %s", got.Body)
		}
		event := alice.Say(room, "hello")
		if got := alice.OK("GET", "events"+Query("from", all.Text("end"), "timeout", "1000"), nil); !HasEvent(got.At("chunk"), event) {
			t.Errorf("events: %s", got.Body)
		}
		if got := bob.OK("GET", "events"+Query("from", all.Text("end"), "timeout", "1000", "room_id", room), nil); !HasEvent(got.At("chunk"), event) {
			t.Errorf("peeking: %s", got.Body)
		}
		if got := alice.OK("GET", Path("events", event), nil); got.Text("event_id") != event {
			t.Errorf("event: %s", got.Body)
		}
	})
}
