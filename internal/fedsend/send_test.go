package fedsend_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

func numbered(prefix string, from, to int) (out []string) {
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("%s %d", prefix, i))
	}
	return out
}

func same(t *testing.T, r *remote, want []string) {
	t.Helper()
	if got := r.texts(); !slices.Equal(got, want) {
		t.Errorf("%s has %q, not %q", r.name, got, want)
	}
}

func TestEventsReachTheServersOfTheRoom(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		in, also, out := w.server("in"), w.server("also"), w.server("out")
		n := w.node(open).start()
		r := n.create()
		n.join(r, in, also)
		n.say(r, "one")
		in.has(t, "one")
		also.has(t, "one")
		n.member(r, also, also.user(2), "join")
		n.member(r, also, also.user(1), "leave")
		n.say(r, "two")
		also.has(t, "two")
		n.member(r, also, also.user(2), "leave")
		n.say(r, "three")
		in.has(t, "three")
		same(t, in, []string{"one", "two", "three"})
		same(t, also, []string{"one", "two"})
		if len(out.seen().txns) != 0 {
			t.Errorf("a server that is not in the room got %q", out.seen().pdus)
		}
		for _, p := range slices.Concat(in.seen().pdus, also.seen().pdus) {
			if strings.Contains(p, "there.example") {
				t.Errorf("an event of another server was passed on: %s", p)
			}
		}
		if list := n.troubles(); len(list) != 0 {
			t.Errorf("troubles %+v", list)
		}
		sqldbtest.PrepareAll(t, n.db)
	})
}

func TestWhoIsPutOutLearnsOfIt(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a, b := w.server("a"), w.server("b")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a, b)
		back := func() (id.EventID, error) {
			n.join(r, a)
			return "", nil
		}
		for i, put := range []func() (id.EventID, error){
			func() (id.EventID, error) {
				return n.rooms.Kick(n.ctx, room.Membership{Room: r, Sender: alice, Target: a.user(1)})
			},
			back,
			func() (id.EventID, error) {
				return n.rooms.Ban(n.ctx, room.Membership{Room: r, Sender: alice, Target: a.user(1)})
			},
			func() (id.EventID, error) {
				return n.rooms.Unban(n.ctx, room.Membership{Room: r, Sender: alice, Target: a.user(1)})
			},
		} {
			_, err := put()
			ok(t, err)
			n.say(r, fmt.Sprint("after ", i))
		}
		b.has(t, "after 2")
		who := "m.room.member " + string(a.user(1))
		// What she says while they are there comes between; that the ban is lifted they need not know.
		a.until(t, "the ban", func() bool { return slices.Contains(a.pdus, who+" ban") })
		if want := []string{who + " leave", "after 1", who + " ban"}; !slices.Equal(a.seen().pdus, want) {
			t.Errorf("got %q, not %q", a.seen().pdus, want)
		}
	})
}

func TestInviteesServerIsNotTold(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a, b := w.server("a"), w.server("b")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		_, err := n.rooms.Invite(n.ctx, room.Membership{Room: r, Sender: alice, Target: b.user(1)})
		ok(t, err)
		n.say(r, "done")
		a.has(t, "done")
		if len(b.seen().txns) != 0 || !slices.Contains(a.seen().pdus, "m.room.member "+string(b.user(1))+" invite") {
			t.Errorf("the invitee's server got %q, the other %q", b.seen().pdus, a.seen().pdus)
		}
	})
}

// While one transaction is on its way others wait, and go together.
func TestOneTransactionAtATime(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		hangs := make(chan struct{})
		a.set(0, hangs)
		for _, text := range numbered("m", 0, 120) {
			n.say(r, text)
		}
		close(hangs)
		a.set(0, nil)
		a.has(t, "m 119")
		same(t, a, numbered("m", 0, 120))
		if a.seen().most != 1 {
			t.Errorf("%d transactions at once", a.seen().most)
		}
		for _, size := range a.seen().sizes {
			if size[0] > 50 || size[1] > 100 {
				t.Errorf("transactions of %v", a.seen().sizes)
			}
		}
		if len(a.seen().sizes) > 10 {
			t.Errorf("%d transactions for 120 messages", len(a.seen().sizes))
		}
	})
}

// Whatever was acknowledged is sent after a restart, in order, and what arrived before is not sent again.
func TestRestart(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		well, down := w.server("well"), w.server("down")
		down.set(http.StatusBadGateway, nil)
		n := w.node(open).start()
		r, other := n.create(), n.create()
		n.join(r, well, down)
		n.join(other, down)
		n.say(other, "elsewhere")
		for _, text := range numbered("before", 0, 70) {
			n.say(r, text)
		}
		well.has(t, "before 69")
		n.stop()

		n = w.node(open)
		if list := n.troubles(); len(list) != 1 || list[0].Server != down.name || list[0].Rooms != 2 || list[0].Failures == 0 || list[0].Reason == "" {
			t.Errorf("troubles %+v", list)
		}
		for _, text := range numbered("between", 0, 3) {
			n.say(r, text) // the sender doesn't run
		}
		n.start()
		n.say(r, "after")
		well.has(t, "after")
		same(t, well, slices.Concat(numbered("before", 0, 70), numbered("between", 0, 3), []string{"after"}))
		down.set(0, nil)
		n.Heard(down.name)
		down.until(t, "all", func() bool { return slices.Contains(down.pdus, "after") && slices.Contains(down.pdus, "elsewhere") })
		got := slices.DeleteFunc(down.texts(), func(s string) bool { return s == "elsewhere" })
		if want := slices.Concat(numbered("before", 0, 70), numbered("between", 0, 3), []string{"after"}); !slices.Equal(got, want) {
			t.Errorf("the server that was down has %q", got)
		}
		n.stop()
		if n = w.node(open); len(n.troubles()) != 0 {
			t.Errorf("troubles %+v", n.troubles())
		}
	})
}

// A member whom another server brings into a room through this one is made known to the rest of the room.
func TestRelayedEvents(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a, b := w.server("a"), w.server("b")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		raw, v, err := n.rooms.Template(n.ctx, r, b.user(1), graph.Join, []string{roomver.Default})
		ok(t, err)
		pdu, err := event.Seal(v, raw, b.name, b.key)
		ok(t, err)
		_, err = n.rooms.Accept(n.ctx, pdu)
		ok(t, err)
		n.say(r, "welcome")
		a.has(t, "welcome")
		b.has(t, "welcome")
		if want := []string{"m.room.member " + string(b.user(1)) + " join", "welcome"}; !slices.Equal(a.seen().pdus, want) || !slices.Equal(b.seen().pdus, want[1:]) {
			t.Errorf("the room got %q, the newcomer's server %q", a.seen().pdus, b.seen().pdus)
		}
	})
}
