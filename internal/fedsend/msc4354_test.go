package fedsend_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// call sends an event that sticks for an hour.
func (n *node) call(r id.RoomID, text string) id.EventID {
	n.tb.Helper()
	sent, err := n.rooms.Send(n.ctx, room.Message{Room: r, Proposal: room.Proposal{
		Sender: alice, Type: "org.example.call", Content: fmt.Appendf(nil, `{"body":%q}`, text), Sticky: time.Hour.Milliseconds(),
	}})
	ok(n.tb, err)
	return sent
}

// A server that comes into a room is sent what sticks there, more than fits into one transaction, once it has the room; also where the sender is
// restarted meanwhile. A server that has somebody there already is not.
func TestStickyForNewcomers(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a, b := w.server("a"), w.server("b")
		n := w.node(open).start()
		r := n.create()
		n.join(r, b)
		n.call(r, "over")
		time.Sleep(2 * time.Hour)
		var want []string
		var sent []id.EventID
		for _, text := range numbered("call", 0, 120) {
			sent = append(sent, n.call(r, text))
			want = append(want, text)
		}
		n.say(r, "before")
		b.has(t, "before")
		seen := len(b.texts())
		a.unwilling(sent[0]) // it is not in the room yet
		n.join(r, a)
		n.say(r, "live")
		a.has(t, "live")
		time.Sleep(2 * time.Second)
		n.work.Stop()
		n.start()
		time.Sleep(20 * time.Second)
		if got := a.texts(); !slices.Equal(got, []string{"live"}) {
			t.Fatalf("before it has the room it takes %q", got)
		}
		a.unwilling("")
		time.Sleep(10 * time.Minute)
		same(t, a, append([]string{"live"}, want...))
		n.member(r, a, a.user(2), "join")
		n.member(r, b, b.user(2), "join")
		time.Sleep(time.Minute)
		same(t, a, append([]string{"live"}, want...))
		if got := b.texts()[seen:]; !slices.Equal(got, []string{"live"}) {
			t.Errorf("who was there is sent %q", got)
		}
	})
}

// After an outage that is too long for everything, what sticks is sent before the newest events.
func TestStickyAfterAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T, open sqldbtest.Open) {
		w := newWorld(t)
		a := w.server("a")
		n := w.node(open).start()
		r := n.create()
		n.join(r, a)
		n.say(r, "zero")
		a.has(t, "zero")
		a.set(http.StatusBadGateway, nil)
		n.call(r, "over")
		time.Sleep(40 * time.Minute)
		n.call(r, "call")
		for _, text := range numbered("busy", 0, 200) {
			n.say(r, text)
		}
		time.Sleep(30 * time.Minute)
		n.say(r, "last")
		time.Sleep(time.Second)
		a.set(0, nil)
		n.Heard(a.name)
		time.Sleep(time.Minute)
		same(t, a, slices.Concat([]string{"zero", "call"}, numbered("busy", 151, 200), []string{"last"}))
	})
}
