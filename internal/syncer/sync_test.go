package syncer_test

import (
	"fmt"
	"slices"
	"testing"

	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/syncer"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

func TestFirstSync(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		name := "Kitchen"
		r := s.create(room.Creation{Name: &name})
		a := s.sync(alice, "")
		j := a.room("join", r)
		timeline, state := j.Get("timeline.events").Array(), j.Get("state.events").Array()
		if len(timeline)+len(state) != len(s.timeline(r)) || len(timeline) == 0 {
			t.Errorf("%d events in the timeline and %d in the state of a room with %d", len(timeline), len(state), len(s.timeline(r)))
		}
		if j.Get("summary.m\\.joined_member_count").Int() != 1 || j.Get("summary.m\\.heroes").Exists() {
			t.Errorf("summary: %s", j.Get("summary"))
		}
		if again := s.sync(alice, a.next); again.Get("rooms").Exists() || again.next != a.next {
			t.Errorf("nothing happened, yet: %s", again)
		}
		msg := s.did(s.say(r, alice, "hello"))
		b := s.sync(alice, a.next)
		if got := ids(b.room("join", r).Get("timeline.events")); !slices.Equal(got, []id.EventID{msg}) {
			t.Errorf("timeline: %v", got)
		}
		if b.room("join", r).Get("state.events.#").Int() != 0 || b.room("join", r).Get("timeline.limited").Bool() {
			t.Errorf("%s", b)
		}
	})
}

func TestGap(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		s.did(s.join(r, bob))
		a := s.sync(alice, "")
		topic := s.did(s.set(r, alice, "m.room.topic", "", `{"topic":"x"}`))
		for i := range 5 {
			s.did(s.say(r, bob, fmt.Sprint(i)))
		}
		last := s.did(s.say(r, bob, "last"))
		j := s.sync(alice, a.next, `{"room":{"timeline":{"limit":1}}}`).room("join", r)
		if !j.Get("timeline.limited").Bool() || !slices.Equal(ids(j.Get("timeline.events")), []id.EventID{last}) {
			t.Errorf("timeline: %s", j.Get("timeline"))
		}
		if got := ids(j.Get("state.events")); !slices.Equal(got, []id.EventID{topic}) {
			t.Errorf("state: %s", j.Get("state"))
		}
		// The rest comes before prev_batch.
		page, err := s.view.Messages(s.ctx, messages(alice, r, j.Get("timeline.prev_batch").Str, a.next))
		must(t, err)
		if got := parse(page).Get("chunk.#").Int(); got != 6 {
			t.Errorf("%d events between the tokens: %s", got, page)
		}
	})
}

func TestNewlyJoined(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		s.did(s.set(r, alice, "m.room.history_visibility", "", `{"history_visibility":"joined"}`))
		secret := s.did(s.say(r, alice, "before"))
		a := s.sync(bob, "")
		join := s.did(s.join(r, bob))
		after := s.did(s.say(r, alice, "after"))
		b := s.sync(bob, a.next)
		j := b.room("join", r)
		got := ids(j.Get("timeline.events"))
		if slices.Contains(got, secret) || !slices.Equal(got[len(got)-2:], []id.EventID{join, after}) {
			t.Errorf("timeline: %v", got)
		}
		if !holds(j.Get("state.events"), "m.room.create", "") && !holds(j.Get("timeline.events"), "m.room.create", "") {
			t.Errorf("no creation event: %s", j)
		}
		// Left and joined again: the full state once more.
		s.did(s.leave(r, bob))
		s.did(s.say(r, alice, "while away"))
		s.did(s.join(r, bob))
		j = s.sync(bob, b.next).room("join", r)
		if !holds(j.Get("state.events"), "m.room.create", "") || j.Get("timeline.events.#").Int() != 2 {
			t.Errorf("joined again: %s", j)
		}
	})
}

func TestInvites(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		name := "Party"
		r := s.create(room.Creation{Preset: room.PrivateChat, Name: &name})
		a := s.sync(bob, "")
		s.did(s.rooms.Invite(s.ctx, on(r, alice, bob)))
		b := s.sync(bob, a.next)
		state := b.room("invite", r).Get("invite_state.events")
		for _, want := range [][2]string{{"m.room.create", ""}, {"m.room.name", ""}, {"m.room.join_rules", ""}, {"m.room.member", string(bob)}, {"m.room.member", string(alice)}} {
			if !holds(state, want[0], want[1]) {
				t.Errorf("no %v in %s", want, state)
			}
		}
		if state.Get("0.event_id").Exists() || b.room("join", r).Exists() {
			t.Errorf("%s", b)
		}
		if got := s.sync(bob, ""); !got.room("invite", r).Exists() {
			t.Errorf("a first sync has no invite: %s", got)
		}
		if got := s.sync(bob, b.next); got.Get("rooms").Exists() {
			t.Errorf("the invite comes twice: %s", got)
		}
		reject := s.did(s.leave(r, bob))
		l := s.sync(bob, b.next).room("leave", r)
		if !slices.Equal(ids(l.Get("timeline.events")), []id.EventID{reject}) || l.Get("state.events.#").Int() != 0 {
			t.Errorf("rejected: %s", l)
		}
		// Who takes state from state_after alone must see there that the invite is over.
		after := s.with(syncer.Request{User: bob, Mode: syncer.StateAfter}, b.next).room("leave", r)
		if !slices.Equal(ids(after.Get("state_after.events")), []id.EventID{reject}) {
			t.Errorf("rejected, with state_after: %s", after)
		}
		// Who joins after all has the rejection already: what comes now must not be put behind it.
		again := s.sync(bob, b.next)
		s.did(s.rooms.Invite(s.ctx, on(r, alice, bob)))
		s.did(s.join(r, bob))
		if j := s.sync(bob, again.next).room("join", r); !j.Get("timeline.limited").Bool() {
			t.Errorf("joined after a rejected invite: %s", j)
		}
		s.did(s.leave(r, bob))
		b = s.sync(bob, again.next)
		// An invite by somebody whom bob ignores does not exist.
		must(t, s.accounts.SetData(s.ctx, bob, "", "m.ignored_user_list", []byte(`{"ignored_users":{"@alice:here.test":{}}}`)))
		c := s.sync(bob, b.next)
		s.did(s.rooms.Invite(s.ctx, on(r, alice, bob)))
		if got := s.sync(bob, c.next); got.Get("rooms").Exists() {
			t.Errorf("an invite of an ignored user: %s", got)
		}
	})
}

func TestKnock(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		s.did(s.set(r, alice, "m.room.join_rules", "", `{"join_rule":"knock"}`))
		a := s.sync(bob, "")
		_, err := s.rooms.Knock(s.ctx, room.Membership{Room: r, Sender: bob})
		must(t, err)
		state := s.sync(bob, a.next).room("knock", r).Get("knock_state.events")
		if !holds(state, "m.room.create", "") || !holds(state, "m.room.member", string(bob)) {
			t.Errorf("%s", state)
		}
	})
}

func TestLeft(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		s.did(s.join(r, bob))
		a := s.sync(bob, "")
		seen := s.did(s.say(r, alice, "seen"))
		kick := s.did(s.rooms.Kick(s.ctx, on(r, alice, bob)))
		secret := s.did(s.set(r, alice, "m.room.topic", "", `{"topic":"secret"}`))
		s.did(s.say(r, alice, "unseen"))
		ban := s.did(s.rooms.Ban(s.ctx, on(r, alice, bob)))
		s.did(s.say(r, alice, "unseen"))
		b := s.sync(bob, a.next)
		l := b.room("leave", r)
		if got := ids(l.Get("timeline.events")); !slices.Equal(got, []id.EventID{seen, kick, ban}) {
			t.Errorf("timeline: %s", l)
		}
		if slices.Contains(ids(l.Get("state.events")), secret) {
			t.Errorf("the state of later: %s", l)
		}
		if again := s.sync(bob, b.next); again.Get("rooms").Exists() {
			t.Errorf("left twice: %s", again)
		}
		if first := s.sync(bob, ""); !holds(first.room("leave", r).Get("timeline.events"), "m.room.member", string(bob)) {
			t.Errorf("a first sync does not tell of a ban: %s", first)
		}
		s.did(s.rooms.Unban(s.ctx, on(r, alice, bob)))
		if first := s.sync(bob, ""); first.room("leave", r).Exists() {
			t.Errorf("a first sync has a left room: %s", first)
		}
		ban = s.did(s.rooms.Ban(s.ctx, on(r, alice, bob)))
		const include = `{"room":{"include_leave":true}}`
		l = s.sync(bob, "", include).room("leave", r)
		if got := ids(l.Get("timeline.events")); !slices.Equal(got[len(got)-3:], []id.EventID{seen, kick, ban}) {
			t.Errorf("include_leave: %s", l)
		}
		if slices.Contains(ids(l.Get("state.events")), secret) {
			t.Errorf("include_leave shows the state of later: %s", l)
		}
		// What is forgotten is gone, but who has not heard of the departure does.
		must(t, s.graph.Forget(s.ctx, bob, r))
		if got := s.sync(bob, "", include); got.Get("rooms").Exists() {
			t.Errorf("a forgotten room: %s", got)
		}
		got := s.sync(bob, a.next)
		if l := got.room("leave", r); !slices.Equal(ids(l.Get("timeline.events")), []id.EventID{ban}) || l.Get("state.events.#").Int() != 0 {
			t.Errorf("a forgotten room since before: %s", got)
		}
		if again := s.sync(bob, got.next, `{"room":{"include_leave":true}}`); again.Get("rooms").Exists() {
			t.Errorf("a forgotten room again: %s", again)
		}
	})
}

func TestJoinedAndLeftBetween(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		a := s.sync(bob, "")
		s.did(s.join(r, bob))
		leave := s.did(s.leave(r, bob))
		l := s.sync(bob, a.next, `{"room":{"timeline":{"limit":1}}}`).room("leave", r)
		if !holds(l.Get("state.events"), "m.room.create", "") || !slices.Equal(ids(l.Get("timeline.events")), []id.EventID{leave}) {
			t.Errorf("%s", l)
		}
	})
}

func TestTokens(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		s.create(room.Creation{})
		for _, bad := range []string{"x", "s", "s-1", "t5", "s1_1", "s5_0", "s05", "s999999999999999999999", "s999999"} {
			if _, err := s.request(s.syncer, syncer.Request{User: alice}, bad); !mxerr.Is(err, mxerr.CodeInvalidParam) {
				t.Errorf("since %q gives %v", bad, err)
			}
		}
	})
}

func TestFullState(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		a := s.sync(alice, "")
		j := s.with(syncer.Request{User: alice, FullState: true, Timeout: patient}, a.next).room("join", r)
		if int(j.Get("state.events.#").Int()) != s.head(r).State.Len() || j.Get("timeline.events.#").Int() != 0 {
			t.Errorf("%s", j)
		}
		msg := s.did(s.say(r, alice, "x"))
		j = s.with(syncer.Request{User: alice, FullState: true, Mode: syncer.StateAfter}, a.next).room("join", r)
		if int(j.Get("state_after.events.#").Int()) != s.head(r).State.Len() || !slices.Equal(ids(j.Get("timeline.events")), []id.EventID{msg}) {
			t.Errorf("%s", j)
		}
		if j.Get("state").Exists() {
			t.Error("state and state_after")
		}
	})
}

func TestAccountData(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		must(t, s.accounts.SetData(s.ctx, alice, "", "x.global", []byte(`{"n":1}`)))
		must(t, s.accounts.SetTag(s.ctx, alice, r, "m.favourite", []byte(`{"order":0.5}`)))
		a := s.sync(alice, "")
		if !holds(a.Get("account_data.events"), "x.global", "") || !holds(a.Get("account_data.events"), "m.push_rules", "") {
			t.Errorf("%s", a.Get("account_data"))
		}
		if got := a.room("join", r).Get("account_data.events.0.content.tags.m\\.favourite.order").Num; got != 0.5 {
			t.Errorf("tags: %s", a)
		}
		must(t, s.accounts.SetData(s.ctx, alice, "", "x.global", []byte(`{"n":2}`)))
		must(t, s.accounts.DeleteData(s.ctx, alice, "", "x.global"))
		must(t, s.accounts.DeleteTag(s.ctx, alice, r, "m.favourite"))
		b := s.sync(alice, a.next)
		if got := b.Get("account_data.events").Raw; got != `[{"type":"x.global","content":{}}]` {
			t.Errorf("deleted: %s", got)
		}
		if got := b.room("join", r).Get("account_data.events.0.content").Raw; got != `{"tags":{}}` {
			t.Errorf("tags: %s", b)
		}
		if first := s.sync(alice, ""); holds(first.Get("account_data.events"), "x.global", "") {
			t.Errorf("a first sync tells of deleted data: %s", first)
		}
		if got := s.sync(alice, a.next, `{"account_data":{"types":[]},"room":{"account_data":{"not_types":["m.*"]}}}`); got.Get("rooms").Exists() || got.Get("account_data").Exists() {
			t.Errorf("filtered: %s", got)
		}
	})
}

func TestEphemeral(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		s.did(s.join(r, bob))
		msg := s.did(s.say(r, alice, "x"))
		a := s.sync(alice, "")
		must(t, s.ephemeral.Mark(s.ctx, bob, r, ephemeral.Mark{Type: ephemeral.Read, Event: msg}))
		b := s.sync(alice, a.next)
		e := b.room("join", r).Get("ephemeral.events.0")
		if e.Get("type").Str != "m.receipt" || !e.Get("content").Exists() || b.room("join", r).Get("timeline.events.#").Int() != 0 {
			t.Errorf("%s", b)
		}
		cold, err := s.request(s.newSyncer(), syncer.Request{User: alice}, a.next)
		must(t, err)
		if cold.room("join", r).Raw != b.room("join", r).Raw {
			t.Errorf("from memory: %s\nfrom the database: %s", b, cold)
		}
		must(t, s.ephemeral.Mark(s.ctx, bob, r, ephemeral.Mark{Type: ephemeral.ReadPrivate, Event: msg}))
		if c := s.sync(alice, b.next); c.Get("rooms").Exists() {
			t.Errorf("a private receipt: %s", c)
		}
		if c := s.sync(alice, a.next, `{"room":{"ephemeral":{"not_types":["m.receipt"]}}}`); c.Get("rooms").Exists() {
			t.Errorf("a filtered receipt: %s", c)
		}
	})
}

func TestFilters(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r, other := s.create(room.Creation{}), s.create(room.Creation{})
		s.did(s.join(r, bob))
		a := s.sync(alice, "")
		topic := s.did(s.set(r, alice, "m.room.topic", "", `{"topic":"x"}`))
		fromBob := s.did(s.say(r, bob, "x"))
		fromAlice := s.did(s.say(r, alice, "y"))
		s.did(s.say(other, alice, "z"))
		for _, c := range []struct {
			filter          string
			timeline, state []id.EventID
			other           bool
		}{
			{`{}`, []id.EventID{topic, fromBob, fromAlice}, nil, true},
			{`{"room":{"not_rooms":["` + string(other) + `"]}}`, []id.EventID{topic, fromBob, fromAlice}, nil, false},
			{`{"room":{"rooms":["` + string(r) + `"]}}`, []id.EventID{topic, fromBob, fromAlice}, nil, false},
			{`{"room":{"timeline":{"senders":["@bob:here.test"]}}}`, []id.EventID{fromBob}, []id.EventID{topic}, false},
			{`{"room":{"timeline":{"types":["m.room.message"]}}}`, []id.EventID{fromBob, fromAlice}, []id.EventID{topic}, true},
			{`{"room":{"timeline":{"types":["m.room.message"]},"state":{"types":[]}}}`, []id.EventID{fromBob, fromAlice}, nil, true},
			{`{"room":{"timeline":{"rooms":[]}}}`, nil, []id.EventID{topic}, false},
		} {
			got := s.sync(alice, a.next, c.filter)
			j := got.room("join", r)
			if !slices.Equal(ids(j.Get("timeline.events")), c.timeline) || !slices.Equal(ids(j.Get("state.events")), c.state) || got.room("join", other).Exists() != c.other {
				t.Errorf("%s gives %s", c.filter, got)
			}
		}
		e := s.sync(alice, a.next, `{"event_fields":["content.body"],"room":{"timeline":{"types":["m.room.message"]}}}`).room("join", r).Get("timeline.events.0")
		if e.Get("content.body").Str != "x" || e.Get("content.msgtype").Exists() {
			t.Errorf("event_fields: %s", e)
		}
		e = s.sync(alice, a.next, `{"event_format":"federation"}`).room("join", r).Get("timeline.events.0")
		if !e.Get("hashes").Exists() {
			t.Errorf("event_format: %s", e)
		}
	})
}

func TestIgnoredUsers(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		s.did(s.join(r, bob))
		a := s.sync(alice, "")
		must(t, s.accounts.SetData(s.ctx, alice, "", "m.ignored_user_list", []byte(`{"ignored_users":{"@bob:here.test":{}}}`)))
		s.did(s.say(r, bob, "nonsense"))
		b := s.sync(alice, a.next)
		if b.Get("rooms").Exists() || b.Get("account_data.events.#").Int() != 1 {
			t.Errorf("a message of an ignored user: %s", b)
		}
		left := s.did(s.leave(r, bob))
		if got := ids(s.sync(alice, b.next).room("join", r).Get("timeline.events")); !slices.Equal(got, []id.EventID{left}) {
			t.Errorf("state of an ignored user: %v", got)
		}
	})
}

func TestLongPoll(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		s.did(s.join(r, bob))
		a := s.sync(alice, "")
		got := make(chan answer)
		go func() {
			b, err := s.request(s.syncer, syncer.Request{User: alice, Timeout: patient}, a.next)
			if err != nil {
				t.Error(err)
			}
			got <- b
		}()
		msg := s.did(s.say(r, bob, "wake up"))
		if b := <-got; !slices.Equal(ids(b.room("join", r).Get("timeline.events")), []id.EventID{msg}) {
			t.Errorf("%s", b)
		}
		draining := make(chan struct{})
		close(draining)
		b := s.with(syncer.Request{User: alice, Timeout: patient, Draining: draining}, s.sync(alice, a.next).next)
		if b.Get("rooms").Exists() {
			t.Errorf("%s", b)
		}
	})
}

// TestNoDatabaseRead: an answer with one message comes from memory.
func TestNoDatabaseRead(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		s.did(s.join(r, bob))
		a := s.sync(alice, "")
		a = s.sync(alice, a.next)
		msg := s.did(s.say(r, bob, "hello"))
		before := s.db.Stats().Reads
		b := s.sync(alice, a.next)
		if reads := s.db.Stats().Reads - before; reads != 0 {
			t.Errorf("%d reads", reads)
		}
		if !slices.Equal(ids(b.room("join", r).Get("timeline.events")), []id.EventID{msg}) {
			t.Errorf("%s", b)
		}
	})
}

// TestForkedState: a state event that lost is in the timeline, and the client is told who won.
func TestForkedState(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		s.did(s.set(r, alice, "m.room.power_levels", "", `{"users":{"@erin:there.test":50},"state_default":50}`))
		events := s.timeline(r)
		key := string(erin)
		_, _, err := s.foreign(r, erin, "m.room.member", &key, `{"membership":"join"}`, events[len(events)-1])
		must(t, err)
		events = s.timeline(r)
		fork := events[len(events)-1]
		ours := s.did(s.set(r, alice, "m.room.topic", "", `{"topic":"ours"}`))
		a := s.sync(alice, "")
		theirs, verdict, err := s.foreign(r, erin, "m.room.topic", new(string), `{"topic":"theirs"}`, fork)
		must(t, err)
		if verdict != room.Accepted {
			t.Fatalf("verdict %v", verdict)
		}
		nid, _ := s.head(r).State.Get("m.room.topic", "")
		won, err := s.graph.Events(s.ctx, s.head(r).Room, []graph.EventNID{nid})
		must(t, err)
		t.Logf("ours %s, theirs %s, won %s", ours, theirs, won[0].PDU.ID())
		b := s.sync(alice, a.next)
		if got := ids(b.room("join", r).Get("timeline.events")); !slices.Equal(got, []id.EventID{theirs}) {
			t.Fatalf("%s", b)
		}
		if won[0].PDU.ID() == theirs {
			return
		}
		c := s.sync(alice, b.next)
		if got := ids(c.room("join", r).Get("state.events")); !slices.Equal(got, []id.EventID{ours}) {
			t.Errorf("not corrected: %s, then %s", b, c)
		}
		if d := s.sync(alice, c.next); d.Get("rooms").Exists() {
			t.Errorf("corrected twice: %s", d)
		}
	})
}

// TestOutOfBand: invites to rooms that this server has no part in come with what was told of them.
func TestOutOfBand(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		const far = id.RoomID("!far:there.test")
		a := s.sync(bob, "")
		tell := func(m graph.Membership) {
			t.Helper()
			stripped := fmt.Sprintf(`[{"type":"m.room.member","state_key":"@bob:here.test","sender":"@erin:there.test","content":{"membership":%q}}]`, m)
			must(t, s.graph.SetOutOfBand(s.ctx, graph.OutOfBand{Room: far, User: bob, Membership: m, Stripped: []byte(stripped)}))
		}
		tell(graph.Invite)
		b := s.sync(bob, a.next)
		if !holds(b.room("invite", far).Get("invite_state.events"), "m.room.member", string(bob)) {
			t.Errorf("%s", b)
		}
		tell(graph.Leave)
		c := s.sync(bob, b.next)
		if l := c.room("leave", far); !l.Exists() || !holds(l.Get("timeline.events"), "m.room.member", string(bob)) {
			t.Errorf("revoked: %s", c)
		}
		must(t, s.graph.Forget(s.ctx, bob, far))
		if got := s.sync(bob, b.next); !got.room("leave", far).Exists() {
			t.Errorf("revoked and forgotten: %s", got)
		}
	})
}
