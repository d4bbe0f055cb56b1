package fedroom_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// crowd fills a room with members of the server.
func (s *server) crowd(r id.RoomID, n int) {
	s.t.Helper()
	for i := range n {
		u := id.UserID(fmt.Sprintf("@m%d:%s", i, s.name))
		_, err := s.rooms.Join(s.ctx, room.Join{Membership: room.Membership{Room: r, Sender: u}})
		must(s.t, err)
	}
}

// A large room can be used before all of its members are known.
func TestPartialJoin(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newTown(t)
		a, b := w.server("a.example"), w.serverOn("b.example", open)
		alice, bob := a.user("alice"), b.user("bob")
		r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
		a.crowd(r, 700)
		_, err := b.fed.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: bob}}, []id.ServerName{a.name})
		must(t, err)
		if head := b.head(r); !head.Partial || head.State.Membership(bob) != graph.Join {
			t.Fatalf("partial is %v, membership %q", head.Partial, head.State.Membership(bob))
		}
		// Both sides speak.
		if refused := b.deliver(a, b.say(r, bob, "hello everybody")); len(refused) > 0 {
			t.Error(refused)
		}
		member := id.UserID("@m7:a.example")
		said := a.say(r, member, "hello")
		if refused := a.deliver(b, said); len(refused) > 0 {
			t.Error(refused)
		}
		leave, err := a.rooms.Leave(t.Context(), room.Membership{Room: r, Sender: "@m8:a.example"})
		must(t, err)
		if refused := a.deliver(b, leave); len(refused) > 0 {
			t.Error(refused)
		}
		must(t, b.fed.Repair(t.Context(), r))
		a.refuses(500, "M_UNKNOWN", "state_ids")
		if err := b.fed.Complete(t.Context(), r); err == nil {
			t.Error("completed from nothing")
		}
		a.honest()
		must(t, b.fed.Complete(t.Context(), r))
		if b.head(r).Partial {
			t.Error("still partial")
		}
		same(t, r, a, b)
		if e, ok, _ := b.graph.Event(t.Context(), said); !ok || e.Flags&(graph.Outlier|graph.Rejected|graph.SoftFailed) != 0 {
			t.Error("a message of the time between is not part of the room")
		}
	})
}

// Servers of a room that don't answer hold up neither other rooms nor this one for ever, and a join isn't believed to name any number of them.
func TestPartialJoinAmongTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		a, b := w.server("a.example"), w.server("b.example")
		alice, bob := a.user("alice"), b.user("bob")
		var names []any
		for i := range 30 {
			names = append(names, fmt.Sprintf("gone%d.example", i), fmt.Sprintf("busy.example:%d", 2000+i))
		}
		a.lies("*", func(status int, body []byte) (int, []byte) {
			return object(func(o map[string]any) {
				if o["servers_in_room"] != nil {
					o["servers_in_room"] = names
				}
				if o["pdu_ids"] != nil {
					clear(o)
				}
			})(status, body)
		})
		var rooms []id.RoomID
		for range 3 {
			r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
			a.crowd(r, 3)
			_, err := b.fed.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: bob}}, []id.ServerName{a.name})
			must(t, err)
			if !b.head(r).Partial {
				t.Fatal("the join told of all members")
			}
			rooms = append(rooms, r)
		}
		servers, _, err := b.graph.ServersTold(t.Context(), b.head(rooms[0]).Room)
		must(t, err)
		busy := 0
		for _, s := range servers {
			if s.Host() == "busy.example" {
				busy++
			}
		}
		if busy != 5 || len(servers) != 36 {
			t.Errorf("%d servers are remembered, %d of one host", len(servers), busy)
		}
		a.honest()
		b.background()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		for _, r := range rooms {
			if b.head(r).Partial {
				t.Error("a room is still partial")
			}
			same(t, r, a, b)
		}
	})
}
