package syncer_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/syncer"
	"myelin/internal/view"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

type m = map[string]any

// slideOn calls sliding sync.
func (s *server) slideOn(on *syncer.Syncer, form syncer.SlidingForm, u id.UserID, device id.DeviceID, pos string, body m) (gjson.Result, error) {
	raw, err := json.Marshal(body)
	must(s.tb, err)
	q, err := syncer.ParseSliding(form, u, raw)
	if err != nil {
		return gjson.Result{}, err
	}
	q.Device, q.Presence, q.Pos = device, ephemeral.Offline, pos
	out, err := on.Slide(s.ctx, q)
	if err != nil {
		return gjson.Result{}, err
	}
	if !gjson.ValidBytes(out) {
		return gjson.Result{}, fmt.Errorf("the answer is not JSON: %s", out)
	}
	return gjson.ParseBytes(out), nil
}

// slide calls sliding sync in its unstable form.
func (s *server) slide(u id.UserID, pos string, body m) gjson.Result {
	s.tb.Helper()
	a, err := s.slideOn(s.syncer, syncer.SlidingUnstable, u, "D", pos, body)
	must(s.tb, err)
	return a
}

// all is a request for a range of all rooms.
func all(first, last, limit int, state ...[]string) m {
	if state == nil {
		state = [][]string{}
	}
	return m{"lists": m{"all": m{"ranges": [][]int{{first, last}}, "timeline_limit": limit, "required_state": state}}}
}

func slid(a gjson.Result, r id.RoomID) gjson.Result { return a.Get("rooms." + gjson.Escape(string(r))) }

func TestSlidingBasics(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		name := "Kitchen"
		r := s.create(room.Creation{Name: &name})
		b := s.slide(alice, "", all(0, 9, 3, []string{"m.room.create", ""}))
		j := slid(b, r)
		if !j.Get("initial").Bool() || j.Get("name").Str != "Kitchen" || j.Get("joined_count").Int() != 1 || j.Get("membership").Str != "join" ||
			j.Get("timeline.#").Int() != 3 || !j.Get("limited").Bool() || j.Get("num_live").Int() != 0 || !holds(j.Get("required_state"), "m.room.create", "") ||
			b.Get("lists.all.count").Int() != 1 || b.Get("lists.all.ops.0.room_ids.0").Str != string(r) {
			t.Errorf("first: %s", b)
		}
		if c := s.slide(alice, b.Get("pos").Str, all(0, 9, 3, []string{"m.room.create", ""})); c.Get("rooms.@keys.#").Int() != 0 {
			t.Errorf("nothing happened, yet: %s", c)
		}
		msg := s.did(s.say(r, alice, "hello"))
		for range 2 { // an answer that got lost comes again
			c := s.slide(alice, b.Get("pos").Str, all(0, 9, 3, []string{"m.room.create", ""}))
			j = slid(c, r)
			if !slices.Equal(ids(j.Get("timeline")), []id.EventID{msg}) || j.Get("initial").Exists() || j.Get("num_live").Int() != 1 || j.Get("required_state").Exists() ||
				j.Get("bump_stamp").Int() == 0 {
				t.Errorf("%s", c)
			}
		}
		// A longer timeline is sent at once, and so is more state.
		c := s.slide(alice, b.Get("pos").Str, all(0, 9, 50, []string{"m.room.create", ""}, []string{"m.room.join_rules", ""}))
		if j = slid(c, r); !j.Get("unstable_expanded_timeline").Bool() || j.Get("timeline.#").Int() < 6 || !holds(j.Get("required_state"), "m.room.join_rules", "") || holds(j.Get("required_state"), "m.room.create", "") {
			t.Errorf("expanded: %s", c)
		}
		// The position is a place for /messages.
		if _, err := s.view.Messages(s.ctx, messages(alice, r, b.Get("pos").Str, "")); err != nil {
			t.Errorf("messages from a pos: %v", err)
		}
	})
}

func TestSlidingUnknownPositions(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		first := s.slide(alice, "", all(0, 9, 1)).Get("pos").Str
		refused := func(what, pos string, u id.UserID, device id.DeviceID, body m) {
			t.Helper()
			if _, err := s.slideOn(s.syncer, syncer.SlidingUnstable, u, device, pos, body); !mxerr.Is(err, mxerr.CodeUnknownPos) {
				t.Errorf("%s: %v", what, err)
			}
		}
		refused("another user", first, bob, "D", all(0, 9, 1))
		refused("another device", first, alice, "E", all(0, 9, 1))
		other := all(0, 9, 1)
		other["conn_id"] = "other"
		refused("another connection", first, alice, "D", other)
		for _, bad := range []string{"x", "c", "c1", "c1_2_3", "c1_2_3_4_5", "c-1_2_3_4", "s12", "c01_1_1_1", first + "0_", "c99999999999999999999_1_1_1"} {
			refused("nonsense", bad, alice, "D", all(0, 9, 1))
		}
		refused("a position that is yet to come", strings.Replace(first, "c", "c9", 1), alice, "D", all(0, 9, 1))
		s.did(s.say(r, alice, "one"))
		second := s.slide(alice, "", all(0, 9, 1)).Get("pos").Str
		refused("a connection that was begun anew", first, alice, "D", all(0, 9, 1))
		// Another process knows the connection as well.
		cold := s.newSyncer()
		if _, err := s.slideOn(cold, syncer.SlidingUnstable, alice, "D", second, all(0, 9, 1)); err != nil {
			t.Error(err)
		}
		// There may be no more than so many connections of a device.
		for i := range 20 {
			body := all(0, 9, 1)
			body["conn_id"] = fmt.Sprint(i)
			s.slide(alice, "", body)
		}
		refused("a connection that gave way", second, alice, "D", all(0, 9, 1))
	})
}

func TestSlidingOrderAndWindows(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		var rooms []id.RoomID
		for range 5 {
			rooms = append(rooms, s.create(room.Creation{}))
		}
		shown := func(a gjson.Result) (out []id.RoomID) {
			for _, r := range a.Get("lists.all.ops.0.room_ids").Array() {
				out = append(out, id.RoomID(r.Str))
			}
			return out
		}
		a := s.slide(alice, "", all(0, 1, 1))
		if want := []id.RoomID{rooms[4], rooms[3]}; !slices.Equal(shown(a), want) || a.Get("rooms.@keys.#").Int() != 2 || a.Get("lists.all.count").Int() != 5 {
			t.Fatalf("%s, want %v", a, want)
		}
		s.did(s.say(rooms[1], alice, "up"))
		b := s.slide(alice, a.Get("pos").Str, all(0, 1, 1))
		if want := []id.RoomID{rooms[1], rooms[4]}; !slices.Equal(shown(b), want) || !slid(b, rooms[1]).Get("initial").Bool() || b.Get("rooms.@keys.#").Int() != 1 || slid(b, rooms[1]).Get("num_live").Int() != 1 {
			t.Fatalf("%s, want %v", b, want)
		}
		// Room 3 was shown and has news out of the window: they come once it is in the window.
		s.did(s.say(rooms[3], alice, "a"))
		s.did(s.say(rooms[0], alice, "b"))
		s.did(s.say(rooms[2], alice, "c"))
		c := s.slide(alice, b.Get("pos").Str, all(0, 1, 5))
		if slid(c, rooms[3]).Exists() {
			t.Fatalf("%s", c)
		}
		for _, on := range []*syncer.Syncer{s.syncer, s.newSyncer()} {
			d, err := s.slideOn(on, syncer.SlidingUnstable, alice, "D", c.Get("pos").Str, all(0, 4, 1))
			must(t, err)
			if j := slid(d, rooms[3]); j.Get("initial").Exists() || j.Get("timeline.0.content.body").Str != "a" || d.Get("rooms.@keys.#").Int() != 1 {
				t.Fatalf("%s", d)
			}
		}
	})
}

func TestSlidingFilters(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		space := s.create(room.Creation{Content: m{"type": "m.space"}})
		secret := s.create(room.Creation{})
		s.did(s.set(secret, alice, "m.room.encryption", "", `{"algorithm":"m.megolm.v1.aes-sha2"}`))
		direct, tagged := s.create(room.Creation{}), s.create(room.Creation{})
		must(t, s.accounts.SetData(s.ctx, alice, "", "m.direct", fmt.Appendf(nil, `{"@bob:here.test":[%q]}`, direct)))
		must(t, s.accounts.SetData(s.ctx, alice, tagged, "m.tag", []byte(`{"tags":{"m.favourite":{}}}`)))
		s.did(s.set(space, alice, "m.space.child", string(direct), `{"via":["here.test"]}`))
		invited := s.create(room.Creation{Creator: bob})
		s.did(s.rooms.Invite(s.ctx, on(invited, bob, alice)))
		list := func(filters m) m {
			return m{"ranges": [][]int{{0, 20}}, "timeline_limit": 1, "required_state": [][]string{}, "filters": filters}
		}
		body := func() m {
			return m{"lists": m{
				"spaces": list(m{"room_types": []any{"m.space"}}), "rooms": list(m{"not_room_types": []any{"m.space"}}), "plain": list(m{"room_types": []any{nil}}),
				"secret": list(m{"is_encrypted": true}), "direct": list(m{"is_dm": true}), "tagged": list(m{"tags": []any{"m.favourite"}}),
				"untagged": list(m{"not_tags": []any{"m.favourite"}}), "children": list(m{"spaces": []any{space}}), "invites": list(m{"is_invite": true}),
				"unknown": list(m{"x.filter": 3}),
			}}
		}
		check := func(a gjson.Result, want map[string]int64) {
			t.Helper()
			for name, n := range want {
				if got := a.Get("lists." + name + ".count").Int(); got != n {
					t.Errorf("%s: %d rooms, want %d", name, got, n)
				}
			}
		}
		a := s.slide(alice, "", body())
		check(a, map[string]int64{"spaces": 1, "rooms": 4, "plain": 4, "secret": 1, "direct": 1, "tagged": 1, "untagged": 4, "children": 1, "invites": 1, "unknown": 5})
		if !slid(a, direct).Get("is_dm").Bool() || slid(a, secret).Get("is_dm").Exists() || slid(a, invited).Get("invite_state.#").Int() == 0 {
			t.Errorf("%s", a)
		}
		// All of it may change under way, in another process too.
		s.did(s.set(tagged, alice, "m.room.encryption", "", `{"algorithm":"m.megolm.v1.aes-sha2"}`))
		must(t, s.accounts.SetData(s.ctx, alice, "", "m.direct", []byte(`{}`)))
		must(t, s.accounts.SetData(s.ctx, alice, tagged, "m.tag", []byte(`{"tags":{}}`)))
		s.did(s.set(space, alice, "m.space.child", string(secret), `{"via":["here.test"]}`))
		s.did(s.join(invited, alice))
		for _, on := range []*syncer.Syncer{s.syncer, s.newSyncer()} {
			b, err := s.slideOn(on, syncer.SlidingUnstable, alice, "D", a.Get("pos").Str, body())
			must(t, err)
			check(b, map[string]int64{"spaces": 1, "rooms": 4, "secret": 2, "direct": 0, "tagged": 0, "untagged": 5, "children": 2, "invites": 0})
			if dm := slid(b, direct).Get("is_dm"); !dm.Exists() || dm.Bool() {
				t.Errorf("no longer direct: %s", b)
			}
			if j := slid(b, invited); !j.Get("initial").Bool() || j.Get("membership").Str != "join" || j.Get("invite_state").Exists() {
				t.Errorf("joined: %s", j)
			}
		}
	})
}

// TestSlidingUnwantedInvites: what a user doesn't want to hear of is in no list, nor counted there.
func TestSlidingUnwantedInvites(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		own := s.create(room.Creation{})
		by := func(sender id.UserID) id.RoomID {
			invited := s.create(room.Creation{Creator: sender})
			s.did(s.rooms.Invite(s.ctx, on(invited, sender, alice)))
			return invited
		}
		bobs, carols := by(bob), by(carol)
		const far = id.RoomID("!far:there.test")
		stripped := `[{"type":"m.room.member","state_key":"@alice:here.test","sender":"@erin:there.test","content":{"membership":"invite"}}]`
		must(t, s.graph.SetOutOfBand(s.ctx, graph.OutOfBand{Room: far, User: alice, Membership: graph.Invite, Stripped: []byte(stripped)}))
		pos := s.slide(alice, "", all(0, 20, 1)).Get("pos").Str
		check := func(want ...id.RoomID) {
			t.Helper()
			for _, on := range []*syncer.Syncer{s.syncer, s.newSyncer()} {
				for _, from := range []string{"", pos} {
					body := all(0, 20, 1)
					if from == "" {
						body["conn_id"] = "another"
					}
					a, err := s.slideOn(on, syncer.SlidingUnstable, alice, "D", from, body)
					must(t, err)
					var shown []id.RoomID
					for _, r := range a.Get("lists.all.ops.0.room_ids").Array() {
						shown = append(shown, id.RoomID(r.Str))
					}
					if !slices.Equal(shown, want) || a.Get("lists.all.count").Int() != int64(len(want)) {
						t.Errorf("%s, want %v", a, want)
					}
					if from == "" && a.Get("rooms.@keys.#").Int() != int64(len(want)) {
						t.Errorf("%s, want %v", a, want)
					}
				}
			}
			pos = s.slide(alice, "", all(0, 20, 1)).Get("pos").Str
		}
		check(far, carols, bobs, own)
		must(t, s.accounts.SetData(s.ctx, alice, "", "m.ignored_user_list", []byte(`{"ignored_users":{"@bob:here.test":{},"@erin:there.test":{}}}`)))
		check(carols, own)
		must(t, s.accounts.SetData(s.ctx, alice, "", "m.invite_permission_config", []byte(`{"default_action":"block"}`)))
		check(own)
		must(t, s.accounts.SetData(s.ctx, alice, "", "m.ignored_user_list", []byte(`{}`)))
		must(t, s.accounts.SetData(s.ctx, alice, "", "m.invite_permission_config", []byte(`{}`)))
		check(far, carols, bobs, own)
		// Who sends the invite may be another one the next time.
		s.did(s.rooms.Kick(s.ctx, on(bobs, bob, alice)))
		must(t, s.accounts.SetData(s.ctx, alice, "", "m.ignored_user_list", []byte(`{"ignored_users":{"@bob:here.test":{}}}`)))
		s.did(s.rooms.Invite(s.ctx, on(bobs, bob, alice)))
		check(far, carols, own)
	})
}

// TestSlidingBans: a room that the user was taken out of is listed whatever happens to the user there next; one that the user never was in is not.
func TestSlidingBans(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		kicked, alone, never := s.create(room.Creation{Creator: bob, Preset: room.PublicChat}), s.create(room.Creation{Creator: bob, Preset: room.PublicChat}), s.create(room.Creation{Creator: bob})
		s.did(s.join(kicked, alice))
		s.did(s.join(alone, alice))
		s.did(s.rooms.Leave(s.ctx, room.Membership{Room: alone, Sender: alice}))
		s.slide(alice, "", all(0, 9, 1)) // the shelf is there
		check := func(what string, want ...id.RoomID) {
			t.Helper()
			for _, on := range []*syncer.Syncer{s.syncer, s.newSyncer()} {
				a, err := s.slideOn(on, syncer.SlidingUnstable, alice, "D", "", all(0, 9, 1))
				must(t, err)
				if a.Get("lists.all.count").Int() != int64(len(want)) {
					t.Errorf("%s: %s", what, a)
				}
				for _, r := range want {
					if j := slid(a, r); !j.Get("timeline").Exists() || j.Get("membership").Str == "" {
						t.Errorf("%s: %s is %s", what, r, j)
					}
				}
			}
		}
		s.did(s.rooms.Ban(s.ctx, on(never, bob, alice)))
		check("banned from outside", kicked)
		s.did(s.rooms.Kick(s.ctx, on(kicked, bob, alice)))
		check("kicked", kicked)
		s.did(s.rooms.Ban(s.ctx, on(kicked, bob, alice)))
		check("banned after that", kicked)
		s.did(s.rooms.Ban(s.ctx, on(alone, bob, alice)))
		check("banned after leaving", kicked, alone)
		s.did(s.rooms.Unban(s.ctx, on(kicked, bob, alice)))
		check("unbanned", kicked, alone)
	})
}

// slider is a client that speaks sliding sync and must come to the same as those of v2.
type slider struct {
	*follower
	form   syncer.SlidingForm
	narrow bool // asks for a few rooms only
	picky  bool // asks for a part of the state, now and then
	conn   string
	pos    string
}

func (w *world) addSliders(seed uint64) {
	for i := range 8 {
		f := &follower{world: w, user: locals[i%len(locals)], device: id.DeviceID(fmt.Sprint("slide", seed)), mode: syncer.StateAfter, rooms: map[id.RoomID]*followed{}}
		f.lazy = i%4 == 1
		c := &slider{follower: f, form: syncer.SlidingForm(i % 2), narrow: i >= 4, picky: i >= 3, conn: fmt.Sprint(i)}
		w.sliders = append(w.sliders, c)
	}
}

// rule is what a request asks of rooms.
func (c *slider) rule(whole bool) m {
	limit := pick(c.rng, []int{1, 2, 5, 20, 100})
	if c.form == syncer.SlidingUnstable {
		state := [][]string{{"*", "*"}}
		if !whole {
			state = [][]string{{"m.room.topic", ""}, {"x.state", "*"}, {"m.room.member", "$ME"}}
		}
		if c.lazy {
			state = append(state, []string{"m.room.member", "$LAZY"})
		}
		return m{"timeline_limit": limit, "required_state": state}
	}
	include := []m{{}}
	if !whole {
		include = []m{{"type": "m.room.topic"}, {"type": "x.state", "state_key": "a"}}
	}
	return m{"timeline_limit": limit, "required_state": m{"include": include, "lazy_members": c.lazy}}
}

func (c *slider) slide() {
	c.tb.Helper()
	whole := !c.picky || c.rng.IntN(2) == 0
	list := c.rule(whole)
	last := 1000
	if c.narrow {
		last = c.rng.IntN(3)
	}
	if c.form == syncer.SlidingUnstable {
		list["ranges"] = [][]int{{0, last}}
	} else {
		list["range"] = []int{0, last}
	}
	body := m{"conn_id": c.conn, "lists": m{"all": list}}
	if c.rng.IntN(3) == 0 {
		body["room_subscriptions"] = m{string(pick(c.rng, c.world.rooms)): c.rule(c.rng.IntN(2) == 0)}
	}
	on := c.syncer
	if c.rng.IntN(4) == 0 {
		c.counts["slid in another process"]++
		on = c.newSyncer()
		defer on.Close()
	}
	a, err := c.slideOn(on, c.form, c.user, c.device, c.pos, body)
	must(c.tb, err)
	if !c.reliable && c.rng.IntN(5) == 0 {
		c.counts["slid again"]++
		return
	}
	c.pos = a.Get("pos").Str
	for _, r := range c.world.rooms {
		c.take(r, slid(a, r))
	}
	if !c.narrow {
		c.checkAll(whole)
	}
}

func (c *slider) take(r id.RoomID, part gjson.Result) {
	if !part.Exists() {
		if c.narrow && c.rooms[r] != nil {
			c.counts["kept behind"]++
		}
		return
	}
	f := c.rooms[r]
	if f == nil && !part.Get("initial").Bool() {
		c.tb.Fatalf("%s hears of %s first by %s", c.user, r, part)
	}
	if part.Get("initial").Bool() {
		f = &followed{state: map[event.Key]id.EventID{}}
		c.rooms[r] = f
	}
	for _, e := range part.Get("required_state").Array() {
		key := event.Key{Type: e.Get("type").Str, StateKey: e.Get("state_key").Str}
		if f.state[key] = id.EventID(e.Get("event_id").Str); !e.Get("content").Exists() {
			delete(f.state, key)
		}
	}
	if f.joined = part.Get("membership").Str == "join"; !f.joined {
		c.counts["left while sliding"]++
		return
	}
	expanded := part.Get("expanded_timeline").Bool() || part.Get("unstable_expanded_timeline").Bool()
	if expanded {
		c.counts["expanded"]++
	}
	if part.Get("initial").Bool() || part.Get("limited").Bool() || expanded {
		if c.lazy && part.Get("limited").Bool() && !expanded {
			maps.DeleteFunc(f.state, func(k event.Key, _ id.EventID) bool { return k.Type == "m.room.member" })
			for _, e := range part.Get("required_state").Array() {
				f.state[event.Key{Type: e.Get("type").Str, StateKey: e.Get("state_key").Str}] = id.EventID(e.Get("event_id").Str)
			}
		}
		place, err := view.ParseToken(part.Get("prev_batch").Str)
		must(c.tb, err)
		f.from, f.events = int64(place), nil
	}
	f.events = append(f.events, ids(part.Get("timeline"))...)
}

// checkAll compares what the client holds with what the server says.
func (c *slider) checkAll(whole bool) {
	c.tb.Helper()
	for r, f := range c.rooms {
		row, _, err := c.graph.MembershipOf(c.ctx, c.user, c.head(r).Room)
		must(c.tb, err)
		if joined := row.Membership == "join"; joined != f.joined {
			c.tb.Fatalf("%s in %s: the client thinks joined=%v at %s", c.user, r, f.joined, c.pos)
		}
		if !f.joined {
			continue
		}
		c.since = c.pos
		c.checkEvents(r, f)
		if whole {
			c.checkState(r, f)
		}
	}
}
