package view_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/view"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

func sqliteDB(t *testing.T) *sqldb.DB { return sqldbtest.SQLite(t) }

func to(u id.UserID) view.Audience { return view.Audience{User: u} }

func TestContext(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		var messages []id.EventID
		for i := range 9 {
			messages = append(messages, n.say(r, alice, fmt.Sprint(i)))
		}
		f, err := view.ParseRoomEventFilter([]byte(`{"types":["m.room.message","m.room.create"]}`))
		must(t, err)
		for _, tt := range []struct {
			limit         int
			event         int
			before, after []int
		}{
			{0, 4, nil, nil},
			{1, 4, nil, []int{5}},
			{2, 4, []int{3}, []int{5}},
			{5, 4, []int{3, 2}, []int{5, 6, 7}},
			{4, 8, []int{7, 6}, nil},
		} {
			raw, err := n.Context(n.ctx, view.EventContext{Audience: to(alice), Room: r, Event: messages[tt.event], Limit: tt.limit, Filter: f})
			must(t, err)
			c := parse(t, raw)
			pick := func(of []int) (out []id.EventID) {
				for _, i := range of {
					out = append(out, messages[i])
				}
				return out
			}
			if !slices.Equal(ids(c.Get("events_before")), pick(tt.before)) || !slices.Equal(ids(c.Get("events_after")), pick(tt.after)) {
				t.Errorf("limit %d: %s and %s", tt.limit, c.Get("events_before.#.content.body").Raw, c.Get("events_after.#.content.body").Raw)
			}
			if got := c.Get("event.event_id").Str; got != string(messages[tt.event]) {
				t.Errorf("limit %d: event %s", tt.limit, got)
			}
			for _, e := range c.Get("state").Array() {
				if e.Get("type").Str != "m.room.create" {
					t.Errorf("the filter lets state pass: %s", e.Get("type"))
				}
			}
			// The tokens lead on where the context ends.
			older := n.messages(view.Page{Audience: to(alice), Room: r, From: c.Get("start").Str, Backward: true, Limit: 1, Filter: f})
			newer := n.messages(view.Page{Audience: to(alice), Room: r, From: c.Get("end").Str, Limit: 1, Filter: f})
			if got := older.Get("chunk.0.content.body").Str; tt.event-len(tt.before) > 0 && got != fmt.Sprint(tt.event-len(tt.before)-1) {
				t.Errorf("limit %d: older is %q", tt.limit, got)
			}
			if got := newer.Get("chunk.0.content.body").Str; tt.event+len(tt.after) < 8 && got != fmt.Sprint(tt.event+len(tt.after)+1) {
				t.Errorf("limit %d: newer is %q", tt.limit, got)
			}
		}
		_, err = n.Context(n.ctx, view.EventContext{Audience: to(alice), Room: r, Event: "$none"})
		want(t, mxerr.CodeNotFound, err)
		_, err = n.Context(n.ctx, view.EventContext{Audience: to(bob), Room: r, Event: messages[0]})
		want(t, mxerr.CodeForbidden, err)
		other := n.create()
		_, err = n.Context(n.ctx, view.EventContext{Audience: to(alice), Room: other, Event: messages[0]})
		want(t, mxerr.CodeNotFound, err)
	})
}

// State at an event is that after the last event shown, not the newest.
func TestContextState(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		n.set(r, alice, "m.room.topic", "", `{"topic":"then"}`)
		e := n.say(r, alice, "here")
		n.set(r, alice, "m.room.topic", "", `{"topic":"now"}`)
		for limit, topic := range map[int]string{0: "then", 2: "now"} {
			raw, err := n.Context(n.ctx, view.EventContext{Audience: to(alice), Room: r, Event: e, Limit: limit})
			must(t, err)
			if got := parse(t, raw).Get(`state.#(type=="m.room.topic").content.topic`).Str; got != topic {
				t.Errorf("limit %d: topic is %q", limit, got)
			}
		}
	})
}

// Who left sees the room as it was then, also when banned or invited later.
func TestDeparted(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, later := range [][]string{nil, {"ban"}, {"invite"}, {"ban", "unban"}} {
			r := n.create()
			n.set(r, alice, "m.room.topic", "", `{"topic":"then"}`)
			n.moves(r, bob, "join", "leave")
			n.set(r, alice, "m.room.topic", "", `{"topic":"now"}`)
			n.moves(r, carol, "join")
			n.moves(r, bob, later...)
			topic, err := n.StateEntry(n.ctx, to(bob), r, "m.room.topic", "", false)
			must(t, err)
			if string(topic) != `{"topic":"then"}` {
				t.Errorf("%v: topic is %s", later, topic)
			}
			raw, err := n.State(n.ctx, to(bob), r)
			must(t, err)
			state := parse(t, raw)
			if state.Get(`#(state_key=="@carol:here.example")`).Exists() {
				t.Errorf("%v: sees who came later", later)
			}
			if got := state.Get(`#(state_key=="@bob:here.example").content.membership`).Str; got != "leave" {
				t.Errorf("%v: sees themselves as %q", later, got)
			}
			raw, err = n.Members(n.ctx, view.MembersQuery{Audience: to(bob), Room: r, At: view.Token(1 << 40).String()})
			must(t, err)
			if strings.Contains(string(raw), string(carol)) {
				t.Errorf("%v: a token leads beyond the departure", later)
			}
			_, err = n.JoinedMembers(n.ctx, bob, r)
			want(t, mxerr.CodeForbidden, err)
			page := n.messages(view.Page{Audience: to(bob), Room: r, Backward: true, Limit: 100})
			if got := page.Get("chunk.0.content.membership").Str; got != "leave" {
				t.Errorf("%v: the newest is %s", later, page.Get("chunk.0"))
			}
		}
	})
}

func TestStrangers(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		for _, room := range []id.RoomID{r, "!none:here.example"} {
			_, err := n.State(n.ctx, to(bob), room)
			want(t, mxerr.CodeForbidden, err)
			_, err = n.Members(n.ctx, view.MembersQuery{Audience: to(bob), Room: room})
			want(t, mxerr.CodeForbidden, err)
			_, _, err = n.NearTime(n.ctx, bob, room, 0, false)
			want(t, mxerr.CodeForbidden, err)
		}
		n.moves(r, carol, "join")
		private := view.Token(n.event(n.say(r, carol, "private")).Ord).String()
		n.moves(r, carol, "leave")
		n.set(r, alice, "m.room.history_visibility", "", `{"history_visibility":"world_readable"}`)
		_, err := n.State(n.ctx, to(bob), r)
		must(t, err)
		_, err = n.Members(n.ctx, view.MembersQuery{Audience: to(bob), Room: r})
		must(t, err)
		_, err = n.Members(n.ctx, view.MembersQuery{Audience: to(bob), Room: r, At: private})
		want(t, mxerr.CodeForbidden, err)
		_, err = n.StateEntry(n.ctx, to(bob), r, "m.room.topic", "", false)
		want(t, mxerr.CodeNotFound, err)
	})
}

func TestMembersQuery(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		early := view.Token(n.event(n.say(r, alice, "early")).Ord).String()
		n.moves(r, bob, "join")
		n.moves(r, carol, "join", "leave")
		n.moves(r, "@dave:here.example", "ban")
		for _, tt := range []struct {
			q    view.MembersQuery
			want string
		}{
			{view.MembersQuery{}, "alice bob carol dave"},
			{view.MembersQuery{Membership: graph.Join}, "alice bob"},
			{view.MembersQuery{NotMembership: graph.Join}, "carol dave"},
			{view.MembersQuery{Membership: graph.Join, NotMembership: graph.Leave}, "alice bob dave"},
			{view.MembersQuery{Membership: graph.Leave, NotMembership: graph.Leave}, "alice bob carol dave"},
			{view.MembersQuery{At: early}, "alice"},
			{view.MembersQuery{At: "t-5"}, "alice"}, // before the room: its beginning
		} {
			tt.q.Audience, tt.q.Room = to(alice), r
			raw, err := n.Members(n.ctx, tt.q)
			must(t, err)
			var names []string
			for _, e := range parse(t, raw).Get("chunk").Array() {
				names = append(names, id.UserID(e.Get("state_key").Str).Localpart())
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != tt.want {
				t.Errorf("%+v: %s, want %s", tt.q, got, tt.want)
			}
		}
	})
}

func TestNearTime(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(visibility("joined"))
		var hidden []id.EventID
		for i := range 60 {
			hidden = append(hidden, n.send(r, room.Proposal{Sender: alice, Type: "m.room.message", Content: []byte(`{}`), TS: int64(100 + i)}))
		}
		n.moves(r, bob, "join")
		seen := n.send(r, room.Proposal{Sender: alice, Type: "m.room.message", Content: []byte(`{}`), TS: 500})
		same := n.send(r, room.Proposal{Sender: alice, Type: "m.room.message", Content: []byte(`{}`), TS: 500})
		for _, tt := range []struct {
			user     id.UserID
			ts       int64
			backward bool
			want     id.EventID
		}{
			{alice, 110, false, hidden[10]},
			{alice, 110, true, hidden[10]},
			{alice, 300, true, hidden[59]},
			{bob, 0, false, seen},
			{bob, 110, false, seen},
			{bob, 500, true, same},
			{bob, 501, true, same},
			{bob, 400, true, ""},
			{alice, 1 << 60, false, ""},
		} {
			got, _, err := n.NearTime(n.ctx, tt.user, r, tt.ts, tt.backward)
			if tt.want == "" {
				want(t, mxerr.CodeNotFound, err)
				continue
			}
			must(t, err)
			if got != tt.want {
				t.Errorf("%s at %d, backward %v: another event", tt.user, tt.ts, tt.backward)
			}
		}
	})
}

func TestUnsigned(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(visibility("joined"))
		n.set(r, alice, "m.room.topic", "", `{"topic":"hidden from bob"}`)
		n.moves(r, bob, "join")
		topic := n.set(r, alice, "m.room.topic", "", `{"topic":"second"}`)
		sent, err := n.rooms.Send(n.ctx, room.Message{
			Room: r, Proposal: room.Proposal{Sender: bob, Type: "m.room.message", Content: []byte(`{"body":"x"}`)},
			Txn: graph.TxnRef{User: bob, Device: "PHONE", Scope: "send", ID: "txn1"},
		})
		must(t, err)
		show := func(u id.UserID, device id.DeviceID, e id.EventID) gjson.Result {
			raw, err := n.AppendEvent(n.ctx, nil, view.Audience{User: u, Device: device}, n.event(e))
			must(t, err)
			return parse(t, raw).Get("unsigned")
		}
		if got := show(alice, "", topic); got.Get("prev_content.topic").Str != "hidden from bob" || !got.Get("replaces_state").Exists() {
			t.Errorf("for alice: %s", got.Raw)
		}
		if got := show(bob, "", topic); got.Get("prev_content").Exists() {
			t.Errorf("bob learns what was before him: %s", got.Raw)
		}
		for _, c := range []struct {
			user   id.UserID
			device id.DeviceID
			want   string
		}{{bob, "PHONE", "txn1"}, {bob, "LAPTOP", ""}, {bob, "", ""}, {alice, "PHONE", ""}} {
			if got := show(c.user, c.device, sent).Get("transaction_id").Str; got != c.want {
				t.Errorf("%s on %s: transaction %q", c.user, c.device, got)
			}
		}
		n.moves(r, bob, "leave")
		leave := n.timeline(r)[len(n.timeline(r))-1]
		create := n.timeline(r)[0]
		for e, membership := range map[id.EventID]string{sent: "join", leave.PDU.ID(): "leave", create.PDU.ID(): "leave"} {
			if got := show(bob, "", e).Get("membership").Str; got != membership {
				t.Errorf("membership %q, want %q", got, membership)
			}
		}
		_, err = n.rooms.Redact(n.ctx, room.Redaction{Room: r, Sender: alice, Target: sent, Reason: "no"})
		must(t, err)
		got := show(bob, "", sent)
		if got.Get("redacted_because.content.reason").Str != "no" {
			t.Errorf("redacted: %s", got.Raw)
		}
		if age := got.Get("age"); !age.Exists() || age.Int() < 0 || age.Int() > 60_000 {
			t.Errorf("age %s", age.Raw)
		}
	})
}
