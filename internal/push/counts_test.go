package push

import (
	"testing"
	"time"

	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
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
