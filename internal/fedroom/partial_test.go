package fedroom_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
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
		hurried, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := b.fed.AwaitWhole(hurried, r); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the members are given before they are known: %v", err)
		}
		whole := make(chan error, 1)
		go func() { whole <- b.fed.AwaitWhole(t.Context(), r) }()
		must(t, b.fed.Complete(t.Context(), r))
		if b.head(r).Partial {
			t.Error("still partial")
		}
		must(t, <-whole)
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

// samePast checks that two servers hold events, and the same state before each.
func samePast(t *testing.T, a, b *server, events ...id.EventID) {
	t.Helper()
	for _, e := range events {
		if x, y := a.before(e), b.before(e); !slices.Equal(x, y) {
			t.Errorf("the state before %s is\n%v at %s\n%v at %s", e, x, a.name, y, b.name)
		}
		stored, _, err := b.graph.Event(t.Context(), e)
		must(t, err)
		if stored.Flags&(graph.Thin|graph.Rejected) != 0 {
			t.Errorf("%s has flags %b", e, stored.Flags)
		}
	}
}

// Two users join at once while nobody tells of the members. What was left out before the second join is not what was left out before the first, nor
// the members that are known of the room by then, and it is learned all the same: also where the room was complete for the first.
func TestPartialJoinsOfTwo(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) { partialJoinsOfTwo(t, open, whole) })
		})
	}
}

func partialJoinsOfTwo(t *testing.T, open sqldbtest.Open, whole bool) {
	w := newTown(t)
	a, b := w.server("a.example"), w.serverOn("b.example", open)
	alice, anna, bob, ben := a.user("alice"), a.user("anna"), b.user("bob"), b.user("ben")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	a.crowd(r, 3)
	joined := func(u id.UserID) id.EventID {
		e, err := b.fed.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: u}}, []id.ServerName{a.name})
		must(t, err)
		return e
	}
	var second id.EventID
	a.lies("send_join", func(status int, body []byte) (int, []byte) {
		a.honest()
		if !whole {
			a.refuses(500, "M_UNKNOWN", "state_ids")
		}
		_, err := a.rooms.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: anna}})
		must(t, err)
		_, err = a.rooms.Leave(t.Context(), room.Membership{Room: r, Sender: "@m1:a.example"})
		must(t, err)
		second = joined(ben)
		if b.head(r).Partial == whole {
			t.Errorf("after the other's join partial is %v", !whole)
		}
		a.refuses(500, "M_UNKNOWN", "state_ids")
		return status, body
	})
	first := joined(bob)
	said := b.say(r, bob, "so many, and I know none")
	if !b.head(r).Partial {
		t.Fatal("all members are known")
	}
	if refused := b.deliver(a, said); len(refused) > 0 {
		t.Error(refused)
	}
	a.honest()
	must(t, b.fed.Complete(t.Context(), r))
	if b.head(r).Partial {
		t.Error("still partial")
	}
	same(t, r, a, b)
	samePast(t, a, b, first, second, said)
}

// stay has a user join while nobody tells of the members, say something and leave again.
func (s *server) stay(r id.RoomID, u id.UserID, resident *server) []id.EventID {
	s.t.Helper()
	resident.refuses(500, "M_UNKNOWN", "state_ids")
	join, err := s.fed.Join(s.ctx, room.Join{Membership: room.Membership{Room: r, Sender: u}}, []id.ServerName{resident.name})
	must(s.t, err)
	if !s.head(r).Partial {
		s.t.Fatal("all members are known")
	}
	said := s.say(r, u, "nobody here?")
	leave, err := s.rooms.Leave(s.ctx, room.Membership{Room: r, Sender: u})
	must(s.t, err)
	if refused := s.deliver(resident, said, leave); len(refused) > 0 {
		s.t.Error(refused)
	}
	resident.honest()
	must(s.t, s.fed.Complete(s.ctx, r))
	if s.head(r).Partial {
		s.t.Error("nobody is in the room, and it waits for members")
	}
	return []id.EventID{join, said, leave}
}

// A user leaves before all members are known, when nobody tells any more. They are learned when somebody is in the room again.
func TestPartialStaysThatEnd(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newTown(t)
		a, b := w.server("a.example"), w.serverOn("b.example", open)
		alice, bob := a.user("alice"), b.user("bob")
		r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
		a.crowd(r, 3)
		first := b.stay(r, bob, a)
		a.say(r, alice, "he is gone")
		second := b.stay(r, bob, a)
		a.say(r, alice, "and again")
		must(t, b.join(r, bob, a.name))
		if b.head(r).Partial {
			t.Error("still partial")
		}
		same(t, r, a, b)
		samePast(t, a, b, append(append(first, second...), a.stateEvent(r, "m.room.member", string(bob)))...)
	})
}

// A stay of which nobody tells any more keeps a later one waiting only for a while.
func TestPartialStayThatIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		a, b := w.server("a.example"), w.server("b.example")
		alice, bob := a.user("alice"), b.user("bob")
		r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
		a.crowd(r, 3)
		forgotten := b.stay(r, bob, a)
		a.mu.Lock()
		a.lie = func(r *http.Request, status int, body []byte) (int, []byte) {
			if operation(r) == "state_ids" && r.URL.Query().Get("event_id") == string(forgotten[0]) {
				return http.StatusNotFound, []byte(`{"errcode":"M_NOT_FOUND","error":"What was that?"}`)
			}
			return status, body
		}
		a.mu.Unlock()
		b.background()
		join, err := b.fed.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: bob}}, []id.ServerName{a.name})
		must(t, err)
		time.Sleep(time.Hour)
		synctest.Wait()
		if b.head(r).Partial {
			t.Error("still partial")
		}
		same(t, r, a, b)
		samePast(t, a, b, join)
	})
}

// Members whose server is away for an hour, and its keys with it, are not left out of the state behind a join. Those whose keys nobody has for half a day are.
func TestPartialJoinWaitsForKeys(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprintf("gone=%v", gone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t)
				a, c, d := w.server("a.example"), w.server("c.example"), w.server("d.example")
				r := a.create(room.Creation{Creator: a.user("alice"), Preset: room.PublicChat})
				carol := c.user("carol")
				must(t, c.join(r, carol, a.name))
				c.refuses(500, "M_UNKNOWN", "server", "query")
				a.refuses(404, "M_UNRECOGNIZED", "query")
				_, err := d.fed.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: d.user("dora")}}, []id.ServerName{a.name})
				must(t, err)
				d.background()
				time.Sleep(90 * time.Minute)
				synctest.Wait()
				if !d.head(r).Partial {
					t.Error("the state is taken without a member")
				}
				if gone {
					time.Sleep(12 * time.Hour)
					synctest.Wait()
					if h := d.head(r); h.Partial || h.State.Membership(carol) != "" {
						t.Errorf("after half a day partial is %v, the member %q", h.Partial, h.State.Membership(carol))
					}
					return
				}
				a.honest()
				c.honest()
				time.Sleep(4 * time.Hour)
				synctest.Wait()
				if d.head(r).Partial {
					t.Error("still partial")
				}
				same(t, r, a, d)
			})
		})
	}
}
