package fedsend_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"myelin/internal/ephemeral"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// kinds returns the EDUs of one type that came, as JSON.
func (r record) kinds(typ string) (out []string) {
	for _, e := range r.edus {
		if field(e, "edu_type") == `"`+typ+`"` && valid(e) {
			out = append(out, field(e, "content"))
		}
	}
	return out
}

func TestTyping(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a, out := w.server("a"), w.server("out")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		n.join(n.create(), out)
		time.Sleep(time.Second)
		types := func(d time.Duration) { ok(t, n.eph.SetTyping(n.ctx, alice, r, d)) }
		types(2 * time.Minute)
		ok(t, n.eph.RemoteTyping(n.ctx, a.user(1), r, true))
		time.Sleep(time.Minute)
		types(0)
		time.Sleep(time.Minute)
		is := func(typing string) string {
			return `{"room_id":"` + string(r) + `","typing":` + typing + `,"user_id":"` + string(alice) + `"}`
		}
		if got, want := a.seen().kinds("m.typing"), []string{is("true"), is("true"), is("false")}; !slices.Equal(got, want) {
			t.Errorf("got %q, not %q", got, want)
		}
		if len(out.seen().edus) != 0 {
			t.Errorf("a server that is not in the room got %q", out.seen().edus)
		}
	})
}

func TestReceipts(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		_, err := n.rooms.Join(n.ctx, room.Join{Membership: room.Membership{Room: r, Sender: bob}})
		ok(t, err)
		n.join(r, a)
		mark := func(user id.UserID, m ephemeral.Mark) { ok(t, n.eph.Mark(n.ctx, user, r, m)) }
		first := n.say(r, "first")
		mark(bob, ephemeral.Mark{Type: ephemeral.ReadPrivate, Event: first})
		mark(bob, ephemeral.Mark{Type: ephemeral.FullyRead, Event: first})
		ok(t, n.eph.RemoteReceipt(n.ctx, a.user(1), r, ephemeral.Mark{Type: ephemeral.Read, Event: first}))
		mark(bob, ephemeral.Mark{Type: ephemeral.Read, Event: first, TS: 5})
		mark(bob, ephemeral.Mark{Type: ephemeral.Read, Event: first, Thread: "main", TS: 6})
		a.until(t, "two receipts", func() bool { return len(a.kinds("m.receipt")) == 2 })
		is := func(data string) string {
			return `{"` + string(r) + `":{"m.read":{"` + string(bob) + `":{"data":` + data + `,"event_ids":["` + string(first) + `"]}}}}`
		}
		if got, want := a.seen().kinds("m.receipt"), []string{is(`{"ts":5}`), is(`{"thread_id":"main","ts":6}`)}; !slices.Equal(got, want) {
			t.Errorf("got %q, not %q", got, want)
		}
	})
}

func TestPresence(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a, b, out := w.server("a"), w.server("b"), w.server("out")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		time.Sleep(time.Second)
		done := n.eph.Poll(alice, "PHONE", ephemeral.Online)
		ok(t, n.eph.SetPresence(n.ctx, alice, "PHONE", ephemeral.Online, "hi"))
		time.Sleep(time.Second)
		last := func(s *remote) string {
			if list := s.seen().kinds("m.presence"); len(list) > 0 {
				return field(list[len(list)-1], "push.0")
			}
			return ""
		}
		got := last(a)
		if field(got, "presence") != `"online"` || field(got, "status_msg") != `"hi"` || field(got, "user_id") != `"`+string(alice)+`"` ||
			field(got, "currently_active") != "true" || field(got, "last_active_ago") == "" {
			t.Errorf("the server was told %s", got)
		}
		// Who comes later is told, too.
		n.join(r, b)
		time.Sleep(time.Second)
		if got := last(b); field(got, "presence") != `"online"` {
			t.Errorf("the new server was told %s", got)
		}
		// It is repeated before others forget it.
		before := len(a.seen().kinds("m.presence"))
		time.Sleep(30 * time.Minute)
		if after := len(a.seen().kinds("m.presence")); after < before+2 {
			t.Errorf("told %d times, and %d times half an hour before", after, before)
		}
		done()
		if len(out.seen().edus) != 0 {
			t.Errorf("a server that shares no room got %q", out.seen().edus)
		}
	})
}

// What is of no use later isn't kept for servers that are away, and of the rest only the newest.
func TestOldNewsIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		_, err := n.rooms.Join(n.ctx, room.Join{Membership: room.Membership{Room: r, Sender: bob}})
		ok(t, err)
		n.join(r, a)
		n.eph.Start(n.work.Group)
		time.Sleep(time.Second)
		a.set(http.StatusBadGateway, nil)
		var last id.EventID
		for _, text := range numbered("m", 0, 20) {
			last = n.say(r, text)
			ok(t, n.eph.Mark(n.ctx, bob, r, ephemeral.Mark{Type: ephemeral.Read, Event: last}))
			ok(t, n.eph.SetTyping(n.ctx, bob, r, time.Second))
			time.Sleep(2 * time.Second)
		}
		time.Sleep(20 * time.Minute)
		a.set(0, nil)
		n.Heard(a.name)
		a.has(t, "m 19")
		time.Sleep(time.Minute)
		if list := a.seen().kinds("m.receipt"); len(list) != 1 || !strings.Contains(list[0], string(last)) {
			t.Errorf("receipts %q", list)
		}
		if list := a.seen().kinds("m.typing"); len(list) != 0 {
			t.Errorf("typing %q", list)
		}
	})
}
