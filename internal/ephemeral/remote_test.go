package ephemeral

import (
	"crypto/rand"
	"testing"
	"time"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

const erin = id.UserID("@erin:there.example")

// comes lets a user of another server join or leave a room.
func (n *node) comes(name id.RoomID, user id.UserID, membership string) {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, name)
	n.ok(err)
	key, err := sign.Generate(rand.Reader, "x")
	n.ok(err)
	stateKey := string(user)
	d := event.Draft{RoomID: name, Type: "m.room.member", StateKey: &stateKey, Sender: user, Content: []byte(`{"membership":"` + membership + `"}`), OriginServerTS: now()}
	for _, x := range head.Extremities {
		d.PrevEvents, d.Depth = append(d.PrevEvents, x.ID), max(d.Depth, x.Depth+1)
	}
	for _, k := range eventauth.NeededFor(head.Version, d.Type, d.StateKey, d.Sender, d.Content) {
		if nid, ok := head.State.Get(k.Type, k.StateKey); ok {
			found, err := n.graph.Events(n.ctx, head.Room, []graph.EventNID{nid})
			n.ok(err)
			d.AuthEvents = append(d.AuthEvents, found[0].PDU.ID())
		}
	}
	pdu, err := d.Build(head.Version, user.Domain(), key, rand.Text)
	n.ok(err)
	if got := n.rooms.ReceiveAll(n.ctx, pdu.RoomID(), []*event.PDU{pdu})[0]; got.Err != nil || got.Verdict != room.Accepted {
		n.t.Fatalf("%s of %s: %+v", membership, user, got)
	}
}

func TestOtherServersUsersType(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, nid := n.room()
		n.refused(mxerr.CodeForbidden, n.RemoteTyping(n.ctx, erin, name, true))
		n.refused(mxerr.CodeForbidden, n.RemoteTyping(n.ctx, alice, name, true))
		n.refused(mxerr.CodeForbidden, n.RemoteTyping(n.ctx, erin, "!none:here.example", true))
		n.comes(name, erin, "join")
		n.took()
		n.ok(n.RemoteTyping(n.ctx, erin, name, true))
		n.ok(n.RemoteTyping(n.ctx, erin, name, true))
		news := n.took()
		if len(news) != 1 || news[0].Data.(*Typing).Room != nid || len(news[0].Data.(*Typing).Users) != 1 {
			t.Fatalf("the bus told %v", news)
		}
		n.ok(n.RemoteTyping(n.ctx, erin, name, false))
		if news = n.took(); len(news) != 1 || len(news[0].Data.(*Typing).Users) != 0 {
			t.Fatalf("the bus told %v", news)
		}
		// Their server may never say that they stopped.
		n.ok(n.RemoteTyping(n.ctx, erin, name, true))
		_, err := n.expireTyping(n.ctx, now()+remoteTyping.Milliseconds()+1)
		n.ok(err)
		if news = n.took(); len(news) != 2 || len(news[1].Data.(*Typing).Users) != 0 {
			t.Fatalf("the bus told %v", news)
		}
	})
}

func TestOtherServersUsersRead(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, _ := n.room()
		first, second := n.send(name, `{"body":"1"}`), n.send(name, `{"body":"2"}`)
		mark := func(event id.EventID, ts int64) Mark { return Mark{Type: Read, Event: event, TS: ts} }
		n.refused(mxerr.CodeForbidden, n.RemoteReceipt(n.ctx, erin, name, mark(first, 5)))
		n.comes(name, erin, "join")
		n.took()
		n.refused(mxerr.CodeInvalidParam, n.RemoteReceipt(n.ctx, erin, name, Mark{Type: ReadPrivate, Event: first}))
		n.refused(mxerr.CodeNotFound, n.RemoteReceipt(n.ctx, erin, name, mark("$none", 5)))
		n.refused(mxerr.CodeForbidden, n.RemoteReceipt(n.ctx, alice, name, mark(first, 5)))
		n.ok(n.RemoteReceipt(n.ctx, erin, name, mark(second, 5)))
		n.ok(n.RemoteReceipt(n.ctx, erin, name, mark(first, 6))) // backwards
		news := n.took()
		if len(news) != 1 {
			t.Fatalf("the bus told %v", news)
		}
		if r := news[0].Data.(*Receipt); r.Event != second || r.TS != 5 || r.User != erin {
			t.Errorf("the receipt is %+v", r)
		}
		third := n.send(name, `{"body":"3"}`)
		before := now()
		n.ok(n.RemoteReceipt(n.ctx, erin, name, mark(third, before+1_000_000)))
		if r := n.took()[0].Data.(*Receipt); r.TS < before || r.TS > now() {
			t.Errorf("read in the future: %d", r.TS)
		}
	})
}

func TestOtherServersUsersAreThere(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, _ := n.room(bob)
		is := func(user id.UserID, state State, active bool) []Presence {
			return []Presence{{User: user, State: state, CurrentlyActive: active, LastActive: now()}}
		}
		// Strangers aren't kept, and nobody speaks for our users.
		n.ok(n.RemotePresence(n.ctx, is(erin, Online, true)))
		n.ok(n.RemotePresence(n.ctx, is(alice, Online, true)))
		if news := n.took(); len(news) != 0 {
			t.Fatalf("the bus told %v", news)
		}
		n.comes(name, erin, "join")
		n.ok(n.RemotePresence(n.ctx, is(erin, Online, true)))
		n.ok(n.RemotePresence(n.ctx, is(erin, Online, true)))
		if news := n.took(); len(news) != 1 || news[0].Kind != bus.Presence || news[0].Pos != n.last() || len(news[0].Data.(*Presence).Rooms) != 1 {
			t.Fatalf("the bus told %v", news)
		}
		if got := n.sees(bob, erin); got != isActive {
			t.Errorf("bob sees %s", got)
		}
		// This node, started again, doesn't take their presence for that of its own clients.
		n.ok(n.renew(n.ctx, now(), true))
		n.tick(now() + time.Hour.Milliseconds())
		if got := n.sees(bob, erin); got != isActive {
			t.Errorf("after a restart bob sees %s", got)
		}
		n.ok(n.expireRemote(n.ctx, now()+remoteSilence.Milliseconds()/2))
		if got := n.sees(bob, erin); got != isActive {
			t.Errorf("after a while bob sees %s", got)
		}
		n.took()
		n.ok(n.expireRemote(n.ctx, now()+remoteSilence.Milliseconds()+1))
		if news := n.took(); len(news) != 1 || len(news[0].Data.(*Presence).Rooms) != 1 {
			t.Errorf("after a long silence the bus told %v", news)
		}
		if got := n.sees(bob, erin); got != isOffline {
			t.Errorf("after a long silence bob sees %s", got)
		}
		n.ok(n.RemotePresence(n.ctx, is(erin, Unavailable, true)))
		if got := n.sees(bob, erin); got != isUnavailable {
			t.Errorf("bob sees %s", got)
		}
	})
}
