package push

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/view"
	"myelin/matrix/id"
	"myelin/matrix/pushrule"
)

var sqlMarks = sqldb.SQL(`SELECT COUNT(*) FROM push_marks WHERE user_id = $1`)

func (n *node) marks(user id.UserID) (count int) {
	n.t.Helper()
	n.ok(n.Settle(n.ctx))
	n.ok(n.db.Read(n.ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(sqlMarks, []any{user}, &count)
		return err
	}))
	return count
}

// Of what differs from what everybody is notified of, only so much is kept: little of what was read, and of the rest what counts.
func TestMarksAreBounded(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, nil)
		name, nid := n.room(bob, carol)
		for _, user := range []id.UserID{bob, carol} {
			n.rulesFor(user, func(s pushrule.Ruleset) (pushrule.Ruleset, error) {
				return s.Put(pushrule.Content, "cake", pushrule.Draft{Actions: raws(`"notify"`, `{"set_tweak":"highlight"}`), Pattern: text("cake")}, pushrule.Place{})
			})
		}
		var last *graph.Event
		for range keptRead + 20 {
			last = n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"cake"}`)
		}
		if got := n.marks(bob); got != keptRead+20 {
			t.Fatalf("%d marks", got)
		}
		n.ok(n.reads.Mark(n.ctx, bob, name, ephemeral.Mark{Type: ephemeral.Read, Event: last.PDU.ID()}))
		for n.marks(bob) != keptRead {
			n.ok(sleep(n.ctx, time.Millisecond))
		}
		n.ok(n.prune(n.ctx, 10))
		if a, b := n.marks(bob), n.marks(carol); a != 10 || b != 10 {
			t.Errorf("%d and %d marks are left", a, b)
		}
		n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"cake"}`)
		found, err := n.Counts(n.ctx, bob, 0, nid)
		if n.ok(err); found[nid].Main != (Count{1, 1}) {
			t.Errorf("counts %+v", found[nid])
		}
	})
}

// An invite by somebody of whom the user wants none is told to no phone.
func TestUnwantedInvites(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		g := newGateway(t)
		n := start(t, open, g.Client().Transport)
		n.ok(n.SetPusher(n.ctx, bob, "PHONE", g.draft("key", "")))
		invite := func(by id.UserID) id.RoomID {
			name, err := n.rooms.Create(n.ctx, room.Creation{Creator: by, Preset: room.PrivateChat})
			n.ok(err)
			_, err = n.rooms.Invite(n.ctx, room.Membership{Room: name, Sender: by, Target: bob})
			n.ok(err)
			return name
		}
		n.ok(n.accounts.SetData(n.ctx, bob, "", "org.matrix.msc4155.invite_permission_config", []byte(`{"ignored_users":["`+string(alice)+`"]}`)))
		n.ok(n.accounts.SetData(n.ctx, bob, "", "m.ignored_user_list", []byte(`{"ignored_users":{"@dora:here.example":{}}}`)))
		invite(alice)
		invite("@dora:here.example")
		wanted := invite(carol)
		if m := g.next(); m.Get("room_id").Str != string(wanted) {
			t.Errorf("told %s", m.Raw)
		}
	})
}

// Invites are told and listed, also those to rooms that are elsewhere, of which there is no event here; until they are answered.
func TestInvites(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		g := newGateway(t)
		n := start(t, open, g.Client().Transport)
		n.ok(n.SetPusher(n.ctx, bob, "PHONE", g.draft("key", "")))
		to := view.Audience{User: bob, OmitRoomID: true}
		listed := func() (rooms []id.RoomID) {
			t.Helper()
			page, err := n.Notifications(n.ctx, NotificationsQuery{To: to})
			n.ok(err)
			for _, e := range page.Notifications {
				e := e
				if raw := gjson.ParseBytes(e.Event); raw.Get("type").Str != "m.room.member" || raw.Get("state_key").Str != string(bob) || e.Read ||
					raw.Get("content.membership").Str != "invite" || raw.Get("event_id").Str == "" || e.TS == 0 || raw.Get("origin_server_ts").Int() != e.TS {
					t.Errorf("listed %s", raw.Raw)
				}
				rooms = append(rooms, e.RoomID)
			}
			return rooms
		}
		here, err := n.rooms.Create(n.ctx, room.Creation{Creator: alice, Preset: room.PrivateChat})
		n.ok(err)
		_, err = n.rooms.Invite(n.ctx, room.Membership{Room: here, Sender: alice, Target: bob})
		n.ok(err)
		if m := g.next(); m.Get("room_id").Str != string(here) || !m.Get("user_is_target").Bool() {
			t.Errorf("told %s", m.Raw)
		}
		tell := func(far id.RoomID, by id.UserID, membership graph.Membership) {
			t.Helper()
			stripped := fmt.Sprintf(`[{"type":"m.room.name","state_key":"","sender":%[2]q,"content":{"name":"Far away"}},
				{"type":"m.room.member","state_key":%[2]q,"sender":%[2]q,"content":{"membership":"join","displayname":"Erin"}},
				{"type":"m.room.member","state_key":%[1]q,"sender":%[2]q,"content":{"membership":%[3]q}}]`, bob, by, membership)
			o := graph.OutOfBand{Room: far, User: bob, Membership: membership, Stripped: []byte(stripped)}
			if membership == graph.Invite {
				o.ID, o.TS = id.EventID("$"+string(far)), 1700000000000
			}
			n.ok(n.graph.SetOutOfBand(n.ctx, o))
		}
		n.ok(n.accounts.SetData(n.ctx, bob, "", "m.ignored_user_list", []byte(`{"ignored_users":{"@dan:there.example":{}}}`)))
		tell("!ignored:there.example", "@dan:there.example", graph.Invite)
		const far = id.RoomID("!far:there.example")
		tell(far, "@erin:there.example", graph.Invite)
		m := g.next()
		if m.Get("room_id").Str != string(far) || m.Get("event_id").Str != "$"+string(far) || m.Get("sender").Str != "@erin:there.example" || !m.Get("user_is_target").Bool() ||
			m.Get("room_name").Str != "Far away" || m.Get("sender_display_name").Str != "Erin" || m.Get("content.membership").Str != "invite" || m.Get("type").Str != "m.room.member" {
			t.Errorf("told %s", m.Raw)
		}
		if got := listed(); !slices.Equal(got, []id.RoomID{far, here}) {
			t.Errorf("listed %v", got)
		}
		tell(far, "@erin:there.example", graph.Leave)
		_, err = n.rooms.Leave(n.ctx, room.Membership{Room: here, Sender: bob})
		n.ok(err)
		if got := listed(); len(got) != 0 {
			t.Errorf("listed %v", got)
		}
		// Who wants to hear of no invites hears of none.
		n.rulesFor(bob, func(s pushrule.Ruleset) (pushrule.Ruleset, error) {
			return s.SetEnabled(pushrule.Override, ".m.rule.invite_for_me", false)
		})
		tell("!another:there.example", "@erin:there.example", graph.Invite)
		if got := listed(); len(got) != 0 {
			t.Errorf("listed %v", got)
		}
	})
}

// BenchmarkCountsOfManyRooms counts what a user whom the server has not in memory has not read, in 1,000 rooms of which each has something.
func BenchmarkCountsOfManyRooms(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		n := start(b, open, nil)
		rooms := make([]graph.RoomNID, 1000)
		for i := range rooms {
			name, nid := n.room(bob)
			for range 3 {
				n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"hello"}`)
			}
			rooms[i] = nid
		}
		n.ok(n.Settle(n.ctx))
		for b.Loop() {
			n.memory.mu.Lock()
			clear(n.memory.people)
			n.memory.mu.Unlock()
			found, err := n.Counts(n.ctx, bob, 0, rooms...)
			if n.ok(err); len(found) != len(rooms) {
				b.Fatalf("%d rooms have something unread", len(found))
			}
		}
	})
}
