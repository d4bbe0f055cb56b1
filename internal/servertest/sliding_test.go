package servertest

import (
	"net/http"
	"testing"

	"github.com/tidwall/gjson"
)

const (
	slidingStable   = "/_matrix/client/v4/sync"
	slidingUnstable = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
)

// slidingPhone is what a client on a telephone asks for.
func slidingPhone(last int, more M) M {
	body := M{
		"conn_id": "room-list",
		"lists": M{"all": M{
			"ranges": [][]int{{0, last}}, "timeline_limit": 1, "filters": M{"not_room_types": []string{"m.space"}},
			"required_state": [][]string{{"m.room.name", ""}, {"m.room.encryption", ""}, {"m.room.member", "$LAZY"}, {"m.room.member", "$ME"}},
		}},
		"extensions": M{
			"to_device": M{"enabled": true}, "e2ee": M{"enabled": true}, "account_data": M{"enabled": true},
			"receipts": M{"enabled": true}, "typing": M{"enabled": true},
		},
	}
	for k, v := range more {
		body[k] = v
	}
	return body
}

func slidingRoom(a *Answer, room string) gjson.Result { return a.At("rooms", room) }

// TestSlidingSync is a telephone's day.
func TestSlidingSync(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		if !alice.OK("GET", "/_matrix/client/versions", nil).At("unstable_features", "org.matrix.simplified_msc3575").Bool() {
			t.Error("sliding sync is not announced")
		}
		room := alice.CreateRoom(M{"name": "Kitchen", "preset": "public_chat"})
		bob.Join(room)
		first := bob.OK("POST", slidingUnstable, slidingPhone(19, nil))
		j := slidingRoom(first, room)
		if j.Get("name").Str != "Kitchen" || !j.Get("initial").Bool() || j.Get("joined_count").Int() != 2 || j.Get("timeline.#").Int() != 1 ||
			!Find(j.Get("required_state"), "m.room.member", bob.User).Exists() || Find(j.Get("required_state"), "m.room.member", alice.User).Exists() {
			t.Errorf("first: %s", first.Body)
		}
		if !first.At("extensions", "e2ee", "device_one_time_keys_count").Exists() || first.At("extensions", "to_device", "next_batch").Str == "" ||
			!Find(first.At("extensions", "account_data", "global"), "m.push_rules").Exists() {
			t.Errorf("extensions: %s", first.At("extensions"))
		}
		// A waiting request hears of a message at once, and of who sent it.
		done := make(chan *Answer, 1)
		go func() {
			a, err := bob.Try("POST", slidingUnstable+Query("pos", first.Text("pos"), "timeout", "30000"), slidingPhone(19, nil))
			if err != nil {
				t.Error(err)
			}
			done <- a
		}()
		message := alice.Say(room, "tea?")
		second := <-done
		if second == nil || !HasEvent(slidingRoom(second, room).Get("timeline"), message) || !Find(slidingRoom(second, room).Get("required_state"), "m.room.member", alice.User).Exists() {
			t.Fatalf("second: %s", second.Body)
		}
		// The server restarts; the connection goes on, and a lost answer comes again.
		s.Restart()
		again := bob.OK("POST", slidingUnstable+Query("pos", first.Text("pos")), slidingPhone(19, nil))
		if !HasEvent(slidingRoom(again, room).Get("timeline"), message) || slidingRoom(again, room).Get("initial").Exists() {
			t.Errorf("after a restart: %s", again.Body)
		}
		quiet := bob.OK("POST", slidingUnstable+Query("pos", again.Text("pos")), slidingPhone(19, nil))
		if slidingRoom(quiet, room).Exists() {
			t.Errorf("nothing happened: %s", quiet.Body)
		}
		slidingExtensions(t, alice, bob, room, message, quiet.Text("pos"))
		alice.Fails(http.StatusBadRequest, "M_UNKNOWN_POS", "POST", slidingUnstable+Query("pos", quiet.Text("pos")), slidingPhone(19, nil))
		s.Anonymous(t).Fails(http.StatusUnauthorized, "M_MISSING_TOKEN", "POST", slidingUnstable, M{})
	})
}

// slidingExtensions is what isn't an event.
func slidingExtensions(t *testing.T, alice, bob *Client, room, message, pos string) {
	t.Helper()
	alice.OK("PUT", Path("rooms", room, "typing", alice.User), M{"typing": true, "timeout": 30000})
	alice.OK("POST", Path("rooms", room, "receipt", "m.read", message), M{})
	bob.OK("PUT", Path("user", bob.User, "account_data", "x.global"), M{"a": 1})
	bob.OK("PUT", Path("user", bob.User, "rooms", room, "account_data", "x.room"), M{"b": 1})
	alice.OK("PUT", Path("sendToDevice", "x.letter", Unique("t")), M{
		"messages": M{bob.User: M{bob.Device: M{"c": 1}}},
	})
	ask := func(pos string, more M) *Answer {
		return bob.OK("POST", slidingUnstable+Query("pos", pos), slidingPhone(19, more))
	}
	a := ask(pos, nil)
	ext := a.At("extensions")
	switch {
	case At(ext, "typing", "rooms", room).Get("content.user_ids.0").Str != alice.User,
		!At(ext, "receipts", "rooms", room, "content", message, "m.read", alice.User).Exists(),
		!Find(ext.Get("account_data.global"), "x.global").Exists(),
		!Find(At(ext, "account_data", "rooms", room), "x.room").Exists(),
		!Find(ext.Get("to_device.events"), "x.letter").Exists():
		t.Errorf("extensions: %s", ext)
	}
	// Messages to the device have tokens of their own: they come until the client names the one that came with them.
	if again := ask(a.Text("pos"), nil); !Find(again.At("extensions", "to_device", "events"), "x.letter").Exists() || again.At("extensions", "typing").Exists() {
		t.Errorf("%s", again.Body)
	}
	next := a.At("extensions", "to_device", "next_batch").Str
	for _, since := range []string{next, ""} {
		more := M{"extensions": M{"to_device": M{"enabled": true, "since": since}}}
		if got := ask(a.Text("pos"), more); Find(got.At("extensions", "to_device", "events"), "x.letter").Exists() {
			t.Errorf("it comes after it was acknowledged, too: %s", got.Body)
		}
	}
}

// TestSlidingSyncAccepted is the form of the accepted proposal.
func TestSlidingSyncAccepted(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat", "initial_state": []M{{"type": "m.room.name", "content": M{"name": "Kitchen"}}}})
		bob.Join(room)
		body := func(pos string) M {
			b := M{"lists": M{"all": M{
				"timeline_limit": 5, "required_state": M{"include": []M{{}}, "lazy_members": true},
			}}}
			if pos != "" {
				b["pos"] = pos
			}
			return b
		}
		a := bob.OK("POST", slidingStable, body(""))
		j := slidingRoom(a, room)
		if j.Get("lists.0").Str != "all" || j.Get("name").Str != "Kitchen" || j.Get("notification_count").Exists() || a.At("lists", "all", "ops").Exists() ||
			!Find(j.Get("required_state"), "m.room.create").Exists() {
			t.Errorf("%s", a.Body)
		}
		alice.SetState(room, "m.room.name", "", M{})
		b := bob.OK("POST", slidingStable, body(a.Text("pos")))
		if n := slidingRoom(b, room).Get("name"); !n.Exists() || n.Type != gjson.Null || slidingRoom(b, room).Get("heroes.0.user_id").Str != alice.User {
			t.Errorf("the name is gone: %s", b.Body)
		}
		// Who is taken out hears of it, who leaves too.
		alice.Kick(room, bob)
		c := bob.OK("POST", slidingStable, body(b.Text("pos")))
		if slidingRoom(c, room).Get("membership").Str != "leave" || !Find(slidingRoom(c, room).Get("timeline"), "m.room.member", bob.User).Exists() {
			t.Errorf("kicked: %s", c.Body)
		}
		if fresh := bob.OK("POST", slidingStable, body("")); slidingRoom(fresh, room).Get("membership").Str != "leave" {
			t.Errorf("kicked, seen from a new connection: %s", fresh.Body)
		}
		invite := alice.CreateRoom(M{"preset": "private_chat"})
		alice.Invite(invite, bob)
		d := bob.OK("POST", slidingStable, body(""))
		if !Find(slidingRoom(d, invite).Get("stripped_state"), "m.room.create").Exists() || slidingRoom(d, invite).Get("timeline").Exists() {
			t.Errorf("invited: %s", d.Body)
		}
		bob.Leave(invite)
		e := bob.OK("POST", slidingStable, body(d.Text("pos")))
		if slidingRoom(e, invite).Get("membership").Str != "leave" {
			t.Errorf("rejected: %s", e.Body)
		}
		if f := bob.OK("POST", slidingStable, body(e.Text("pos"))); slidingRoom(f, invite).Exists() {
			t.Errorf("rejected twice: %s", f.Body)
		}
	})
}

// TestSlidingSyncBadInput: what makes no sense is refused, and what nobody knows is ignored.
func TestSlidingSyncBadInput(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(nil)
		list := func(l M) M { return M{"lists": M{"a": l}} }
		plain := func(ranges any) M {
			return list(M{"ranges": ranges, "timeline_limit": 1, "required_state": [][]string{}})
		}
		many, state, subs := M{}, [][]string{}, M{}
		for range 101 {
			many[Unique("l")] = M{"ranges": [][]int{{0, 1}}, "timeline_limit": 1, "required_state": state}
			subs["!"+Unique("r")+":x"] = M{"timeline_limit": 1, "required_state": state}
		}
		for range 201 {
			state = append(state, []string{Unique("x"), ""})
		}
		for _, body := range []M{
			{"lists": many}, {"room_subscriptions": subs}, plain([][]int{{5, 2}}), plain([][]int{{-1, 2}}), plain([][]int{{1}}), plain("all"),
			list(M{"ranges": [][]int{{0, 1}}, "timeline_limit": -1, "required_state": [][]string{}}),
			list(M{"ranges": [][]int{{0, 1}}, "timeline_limit": 1, "required_state": state}),
			list(M{"ranges": [][]int{{0, 1}}, "timeline_limit": 1, "required_state": [][]string{{"x"}}}),
			list(M{"ranges": [][]int{{0, 1}}, "timeline_limit": 1, "required_state": [][]string{}, "filters": M{"is_dm": "yes"}}),
			{"room_subscriptions": M{"nonsense": M{}}}, {"extensions": M{"to_device": M{"enabled": true, "since": "x"}}},
		} {
			alice.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "POST", slidingUnstable, body)
		}
		alice.Fails(http.StatusBadRequest, "M_MISSING_PARAM", "POST", slidingStable, list(M{"range": []int{0, 1}, "required_state": M{}}))
		alice.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "POST", slidingStable, M{"set_presence": "asleep"})
		alice.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "POST", slidingStable,
			M{"lists": M{"not opaque": M{"timeline_limit": 1, "required_state": M{}}}})
		alice.Fails(http.StatusBadRequest, "M_UNKNOWN_POS", "POST", slidingStable, M{"pos": "c1_1_1_1"})
		huge := alice.OK("POST", slidingUnstable, plain([][]int64{{0, 1 << 60}}))
		if !slidingRoom(huge, room).Exists() {
			t.Errorf("a large range: %s", huge.Body)
		}
		// A database that was put back in time doesn't shut out a device that has a later token.
		alice.toDevice("1", M{alice.User: M{alice.Device: M{"n": 1}}})
		late := alice.OK("POST", slidingUnstable, M{"extensions": M{"to_device": M{"enabled": true, "since": "999999999"}}})
		if len(late.At("extensions", "to_device", "events").Array()) != 1 || len(late.At("extensions", "to_device", "next_batch").Str) > 8 {
			t.Errorf("a token of to_device from the future: %s", late.Body)
		}
		foreign := alice.OK("POST", slidingUnstable, M{"room_subscriptions": M{"!nowhere:x": M{"timeline_limit": 1, "required_state": [][]string{{"*", "*"}}}}})
		if foreign.At("rooms", "!nowhere:x").Exists() {
			t.Errorf("a room that the user is not in: %s", foreign.Body)
		}
	})
}

// TestSlidingThreadSubscriptions tells of the threads that a user follows.
func TestSlidingThreadSubscriptions(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(nil)
		const name = "io.element.msc4308.thread_subscriptions"
		ask := func(pos string) *Answer {
			return alice.OK("POST", slidingUnstable+Query("pos", pos), M{"extensions": M{name: M{"enabled": true, "limit": 1}}})
		}
		at := ask("").Text("pos")
		const base = "/_matrix/client/unstable/io.element.msc4306/rooms"
		var roots []string
		for range 2 {
			root := alice.Say(room, "root")
			alice.OK("PUT", Path(base, room, "thread", root, "subscription"), M{})
			roots = append(roots, root)
		}
		a := ask(at)
		list := a.At("extensions", name)
		if At(list, "subscribed", room, roots[1], "automatic").Type != gjson.False || list.Get("prev_batch").Str == "" || At(list, "subscribed", room, roots[0]).Exists() {
			t.Errorf("%s", a.Body)
		}
		rest := alice.OK("GET", "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"+Query("dir", "b", "from", list.Get("prev_batch").Str, "to", at), nil)
		if !rest.At("subscribed", room, roots[0]).Exists() {
			t.Errorf("%s", rest.Body)
		}
		alice.OK("DELETE", Path(base, room, "thread", roots[1], "subscription"), nil)
		b := ask(a.Text("pos"))
		if !b.At("extensions", name, "unsubscribed", room, roots[1]).Exists() {
			t.Errorf("%s", b.Body)
		}
		if c := ask(b.Text("pos")); c.At("extensions", name).Exists() {
			t.Errorf("%s", c.Body)
		}
	})
}
