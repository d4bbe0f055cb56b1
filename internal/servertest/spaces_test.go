package servertest

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// hierarchyPath is the path of a space's hierarchy with these parameters.
func hierarchyPath(space string, query ...any) string {
	path := Path("/_matrix/client/v1", "rooms", space, "hierarchy")
	if len(query) > 0 {
		path += Query(query...)
	}
	return path
}

// rooms lists the rooms of an array in order.
func rooms(list gjson.Result) (out []string) {
	for _, r := range list.Array() {
		out = append(out, r.Get("room_id").Str)
	}
	return out
}

// finds compares what a user finds in a space with what they should.
func finds(c *Client, space string, want ...string) {
	c.tb.Helper()
	if got := rooms(c.OK("GET", hierarchyPath(space), nil).At("rooms")); !slices.Equal(got, want) {
		c.tb.Errorf("%s finds\n%v, want\n%v", c.User, got, want)
	}
}

// space makes a space.
func (c *Client) space(preset string, more ...M) string {
	c.tb.Helper()
	return c.CreateRoom(M{"preset": preset, "creation_content": M{"type": "m.space"}, "initial_state": more})
}

// addChild puts a room into a space. It can be found through the server.
func (c *Client) addChild(space, room string, via *Server, more ...any) {
	c.tb.Helper()
	content := M{"via": []string{via.Name()}}
	for i := 0; i < len(more); i += 2 {
		content[more[i].(string)] = more[i+1]
	}
	c.SetState(space, "m.space.child", room, content)
}

func restrictedTo(room string) M {
	return M{"type": "m.room.join_rules", "state_key": "", "content": M{
		"join_rule": "restricted", "allow": []M{{"type": "m.room_membership", "room_id": room}},
	}}
}

func joinRule(rule string) M {
	return M{"type": "m.room.join_rules", "state_key": "", "content": M{"join_rule": rule}}
}

var readable = M{"type": "m.room.history_visibility", "state_key": "", "content": M{"history_visibility": "world_readable"}}

// Spec: cs getSpaceHierarchy
func TestHierarchy(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		root, sub, deep := alice.space("public_chat"), alice.space("public_chat"), alice.space("public_chat")
		one, two, three := alice.CreateRoom(M{"preset": "public_chat", "name": "One"}), alice.CreateRoom(M{"preset": "public_chat"}), alice.CreateRoom(M{"preset": "public_chat"})
		alice.addChild(root, two, s, "order", "z", "suggested", true)
		alice.addChild(root, sub, s, "order", "b")
		alice.addChild(root, one, s, "order", "a", "suggested", true)
		alice.addChild(sub, deep, s)
		alice.addChild(deep, three, s)
		alice.addChild(deep, root, s)                                         // a loop
		alice.addChild(sub, two, s, "order", "!")                             // a second way to a room
		alice.addChild(one, three, s)                                         // no space
		alice.SetState(root, "m.space.child", three, M{})                     // removed
		alice.SetState(root, "m.space.child", deep, M{"via": "x"})            // without servers
		alice.SetState(root, "m.space.child", "nonsense", M{"via": []any{1}}) // no room
		all := []string{root, one, sub, two, deep, three}
		finds(bob, root, all...)

		whole := bob.OK("GET", hierarchyPath(root), nil)
		first, second := whole.At("rooms").Get("0"), whole.At("rooms").Get("1")
		if first.Get("room_type").Str != "m.space" || first.Get("children_state.#").Int() != 3 || first.Get("children_state.0.state_key").Str != one {
			t.Errorf("the space: %s", first.Raw)
		}
		if second.Get("name").Str != "One" || second.Get("children_state.#").Int() != 0 || second.Get("join_rule").Str != "public" || second.Get("room_version").Str == "" {
			t.Errorf("a room: %s", second.Raw)
		}
		if whole.At("next_batch").Exists() {
			t.Error("more is promised after the last room")
		}

		pick := func(want []string, query ...any) *Answer {
			t.Helper()
			a := bob.OK("GET", hierarchyPath(root, query...), nil)
			if got := rooms(a.At("rooms")); !slices.Equal(got, want) {
				t.Errorf("%v finds\n%v, want\n%v", query, got, want)
			}
			return a
		}
		pick([]string{root}, "max_depth", 0)
		pick([]string{root, one, sub, two}, "max_depth", 1)
		if a := pick([]string{root, one, two}, "suggested_only", true); a.At("rooms").Get("0.children_state.#").Int() != 2 {
			t.Errorf("suggested: %s", a.Body)
		}
		page := pick(all[:2], "limit", 2)
		token := page.Text("next_batch")
		page = pick(all[2:5], "limit", 3, "from", token)
		pick(all[5:], "from", page.Text("next_batch"))
		pick(all[2:], "from", token) // again, in another size

		bad := func(c *Client, query ...any) {
			t.Helper()
			c.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "GET", hierarchyPath(root, query...), nil)
		}
		bad(bob, "from", token, "max_depth", 3)
		bad(bob, "from", token, "suggested_only", true)
		bad(alice, "from", token)
		bad(bob, "from", "nonsense")
		bad(bob, "limit", 0)
		bad(bob, "limit", -1)
		bad(bob, "max_depth", -1)
		bad(bob, "suggested_only", "maybe")
		bob.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "GET", hierarchyPath(sub, "from", token), nil)
		bob.Fails(http.StatusForbidden, "M_FORBIDDEN", "GET", hierarchyPath("!none:localhost"), nil)
		s.Anonymous(t).Fails(http.StatusUnauthorized, "M_MISSING_TOKEN", "GET", hierarchyPath(root), nil)
	})
}

// Spec: cs getSpaceHierarchy
func TestHierarchyShowsWhatOneMayEnter(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		root, hidden := alice.space("public_chat", readable), alice.space("private_chat")
		below := alice.CreateRoom(M{"preset": "public_chat"})
		private := alice.CreateRoom(M{"preset": "private_chat"})
		members := alice.CreateRoom(M{"preset": "private_chat", "initial_state": []M{restrictedTo(root)}})
		knock := alice.CreateRoom(M{"preset": "private_chat", "initial_state": []M{joinRule("knock")}})
		peek := alice.CreateRoom(M{"preset": "private_chat", "initial_state": []M{readable}})
		old := alice.CreateRoom(M{"preset": "private_chat", "room_version": "6", "initial_state": []M{joinRule("knock")}}) // knows no knocking
		public := alice.CreateRoom(M{"preset": "public_chat"})
		for i, r := range []string{hidden, private, members, knock, peek, old, public} {
			alice.addChild(root, r, s, "order", string(rune('a'+i)))
		}
		alice.addChild(hidden, below, s)
		finds(alice, root, root, hidden, below, private, members, knock, peek, old, public)
		finds(bob, root, root, knock, peek, public)
		bob.Fails(http.StatusForbidden, "M_FORBIDDEN", "GET", hierarchyPath(private), nil)
		bob.Join(root)
		finds(bob, root, root, members, knock, peek, public)
		alice.Invite(private, bob)
		alice.Invite(hidden, bob)
		finds(bob, root, root, hidden, below, private, members, knock, peek, public)
		alice.Ban(public, bob)
		alice.Ban(peek, bob)
		finds(bob, root, root, hidden, below, private, members, knock, peek)
		guest := s.Guest(t)
		finds(guest, root, root, knock, peek, public)
	})
}

// Spec: cs getSpaceHierarchy; ss getSpaceHierarchy
func TestFederatedHierarchy(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob, carol := a.Register(t, "alice"), b.Register(t, "bob"), a.Register(t, "carol")
		root, sub := alice.space("public_chat", readable), alice.space("public_chat", readable)
		here := alice.CreateRoom(M{"preset": "public_chat", "name": "Here"})
		deep := bob.space("public_chat")
		there := bob.CreateRoom(M{"preset": "public_chat", "name": "There"})
		members := bob.CreateRoom(M{"preset": "private_chat", "initial_state": []M{restrictedTo(root)}})
		secret := bob.CreateRoom(M{"preset": "private_chat"})
		alice.addChild(root, sub, a, "order", "a")
		alice.addChild(root, there, b, "order", "b")
		alice.addChild(root, members, b, "order", "c")
		alice.addChild(root, "!gone:b.test", b, "order", "d")
		alice.SetState(root, "m.space.child", "!gone:nowhere.test", M{"order": "e", "via": []string{"nowhere.test"}})
		alice.addChild(sub, deep, b)
		bob.addChild(deep, here, a, "order", "a")
		bob.addChild(deep, secret, b, "order", "b")
		bob.addChild(deep, there, b, "order", "c")
		finds(alice, root, root, sub, deep, here, there)

		// What b doesn't know of alice it can't tell her.
		joinVia(bob, root, a)
		untilMember(alice, root, bob, "join")
		finds(alice, root, root, sub, deep, here, there, members)
		finds(carol, root, root, sub, deep, here, there)
		whole := alice.OK("GET", hierarchyPath(root), nil)
		if r := whole.At("rooms").Get("2"); r.Get("children_state.#").Int() != 3 || r.Get("room_type").Str != "m.space" {
			t.Errorf("the space of another server: %s", r.Raw)
		}
		if r := whole.At("rooms").Get("4"); r.Get("name").Str != "There" {
			t.Errorf("the room of another server: %s", r.Raw)
		}
		// One by one it comes to the same.
		var got []string
		for from := ""; ; {
			params := []any{"limit", 1}
			if from != "" {
				params = append(params, "from", from)
			}
			page := alice.OK("GET", hierarchyPath(root, params...), nil)
			got = append(got, rooms(page.At("rooms"))...)
			if from = page.At("next_batch").Str; from == "" {
				break
			}
		}
		if want := rooms(whole.At("rooms")); !slices.Equal(got, want) {
			t.Errorf("one by one\n%v, want\n%v", got, want)
		}

		// A space on another server is found by whoever is invited, and by the server in a room's name.
		bob.Invite(secret, alice)
		alice.Until("", "an invite", func(s *Sync) bool { return s.Invited(secret).Exists() })
		finds(alice, secret, secret)
		carol.Fails(http.StatusForbidden, "M_FORBIDDEN", "GET", hierarchyPath(secret), nil)
		b.Stop()
		dan := a.Register(t, "dan")
		finds(dan, root, root, sub, deep, here, there) // as b said shortly before
	})
}

// Spec: cs getRoomSummary
func TestRoomSummary(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test"), n.Start("b.test")
		alice, bob, carol := a.Register(t, "alice"), b.Register(t, "bob"), a.Register(t, "carol")
		nobody := a.Anonymous(t)
		summary := func(c *Client, room string, via ...*Server) *Answer {
			t.Helper()
			return c.OK("GET", summaryPath(room, via...), nil)
		}
		missing := func(c *Client, room string, via ...*Server) {
			t.Helper()
			c.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", summaryPath(room, via...), nil)
		}
		local := Unique("lounge")
		lounge := alice.CreateRoom(M{"preset": "public_chat", "name": "Lounge", "topic": "Tea", "room_alias_name": local, "initial_state": []M{
			{"type": "m.room.encryption", "state_key": "", "content": M{"algorithm": "m.megolm.v1.aes-sha2"}},
		}})
		club := alice.CreateRoom(M{"preset": "private_chat", "room_version": "10", "initial_state": []M{restrictedTo(lounge)}})
		closed := alice.CreateRoom(M{"preset": "private_chat"})

		got := summary(alice, lounge)
		for field, want := range map[string]string{
			"room_id": lounge, "name": "Lounge", "topic": "Tea", "join_rule": "public", "membership": "join",
			"encryption": "m.megolm.v1.aes-sha2", "canonical_alias": "#" + local + ":a.test",
		} {
			if v := got.At(field).Str; v != want {
				t.Errorf("%s is %q, want %q: %s", field, v, want, got.Body)
			}
		}
		if got.At("num_joined_members").Int() != 1 || got.At("room_version").Str == "" || got.At("allowed_room_ids").Exists() {
			t.Errorf("%s", got.Body)
		}
		if m := summary(carol, lounge).At("membership").Str; m != "leave" {
			t.Errorf("a stranger's membership is %q", m)
		}
		if open := summary(nobody, "#"+local+":a.test"); open.At("membership").Exists() || open.At("room_id").Str != lounge {
			t.Errorf("to anybody it is %s", open.Body)
		}
		own := summary(alice, club)
		if ids := own.At("allowed_room_ids").Array(); len(ids) != 1 || ids[0].Str != lounge || own.At("room_version").Str != "10" || own.At("join_rule").Str != "restricted" {
			t.Errorf("the club: %s", own.Body)
		}
		missing(nobody, club)
		missing(carol, club)
		missing(carol, closed)
		missing(carol, "!none:a.test")
		carol.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "GET", summaryPath("nonsense"), nil)
		carol.Join(lounge)
		summary(carol, club)
		alice.Ban(lounge, carol)
		if m := summary(carol, lounge).At("membership").Str; m != "ban" {
			t.Errorf("the membership is %q", m)
		}

		// Another server asks.
		far := summary(bob, lounge, a)
		if far.At("name").Str != "Lounge" || far.At("membership").Str != "leave" || far.At("encryption").Str == "" {
			t.Errorf("from b: %s", far.Body)
		}
		if r := summary(bob, "#"+local+":a.test").At("room_id").Str; r != lounge {
			t.Errorf("by its alias b finds %s", r)
		}
		missing(bob, closed, a)
		missing(bob, club, a)
		missing(b.Anonymous(t), lounge, a)
		missing(b.Anonymous(t), "#"+local+":a.test")
		alice.Invite(closed, bob)
		bob.Until("", "an invite", func(s *Sync) bool { return s.Invited(closed).Exists() })
		if m := summary(bob, closed).At("membership").Str; m != "invite" {
			t.Errorf("the invited have membership %q", m)
		}

		unstable := bob.OK("GET", strings.Replace(summaryPath(lounge, a), "/v1/room_summary/", "/unstable/im.nheko.summary/summary/", 1), nil)
		if unstable.At("im.nheko.summary.encryption").Str == "" || unstable.At("im.nheko.summary.room_version").Str == "" || unstable.At("room_id").Str != lounge {
			t.Errorf("under its old name: %s", unstable.Body)
		}
	})
}

func summaryPath(room string, via ...*Server) string {
	path := Path("/_matrix/client/v1", "room_summary", room)
	for _, s := range via {
		path += Query("via", s.Name())
	}
	return path
}
