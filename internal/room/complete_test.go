package room_test

import (
	"crypto/rand"
	"fmt"
	"slices"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// pair starts two servers on databases of their own.
func pair(t *testing.T, d sqldb.Dialect) (here, there *node) {
	nodes := make([]*node, 2)
	for i, name := range []id.ServerName{"here.example", "there.example"} {
		db, err := sqldb.Open(t.Context(), sqldb.Config{URL: sqldbtest.URL(t, d)})
		must(t, err)
		t.Cleanup(func() { must(t, db.Close()) })
		nodes[i] = startAs(t, db, name)
	}
	return nodes[0], nodes[1]
}

// told returns the PDUs of the state before an event of a room, and all that authorises them.
func (n *node) told(e *graph.Event) (state, auth []*event.PDU) {
	n.t.Helper()
	s, err := n.graph.StateBefore(n.ctx, e)
	must(n.t, err)
	for _, nid := range s.All() {
		events, err := n.graph.Events(n.ctx, e.Room, []graph.EventNID{nid})
		must(n.t, err)
		state = append(state, events[0].PDU)
	}
	seen := map[id.EventID]bool{}
	for queue := append([]*event.PDU{e.PDU}, state...); len(queue) > 0; queue = queue[1:] {
		for _, x := range queue[0].AuthEvents() {
			if seen[x] {
				continue
			}
			seen[x] = true
			a, _, err := n.graph.Event(n.ctx, x)
			must(n.t, err)
			auth = append(auth, a.PDU)
			queue = append(queue, a.PDU)
		}
	}
	return state, auth
}

// enter has a user of there join a room of here. With partial the members stay out.
func enter(t *testing.T, here, there *node, r id.RoomID, user id.UserID, partial bool) *graph.Event {
	t.Helper()
	raw, v, err := here.Template(here.ctx, r, user, graph.Join, []string{"6", "10", "11", "12"})
	must(t, err)
	key, _ := there.ours.Key(user.Domain())
	join, err := event.Seal(v, raw, user.Domain(), key)
	must(t, err)
	accepted, err := here.Accept(here.ctx, join)
	must(t, err)
	state, auth := here.told(accepted)
	if partial {
		state = slices.DeleteFunc(state, func(p *event.PDU) bool { return p.Type() == "m.room.member" })
	}
	must(t, there.Outliers(there.ctx, r, v, append(slices.Clone(auth), state...)))
	ids := make([]id.EventID, len(state))
	for i, p := range state {
		ids[i] = p.ID()
	}
	must(t, there.Adopt(there.ctx, room.Adoption{
		Room: r, Version: v, Join: join, State: ids, Partial: partial, Servers: []id.ServerName{"here.example"},
	}))
	return accepted
}

// news gives there what here has from a position on.
func news(t *testing.T, here, there *node, r id.RoomID, after *graph.Event) []room.Result {
	t.Helper()
	head, err := here.Head(here.ctx, r)
	must(t, err)
	events, err := here.graph.Timeline(here.ctx, head.Room, graph.Range{After: after.Ord, Limit: 1000})
	must(t, err)
	pdus := make([]*event.PDU, len(events))
	for i, e := range events {
		pdus[i] = e.PDU
	}
	return there.ReceiveAll(there.ctx, r, pdus)
}

// view lists the current state of a room.
func (n *node) view(r id.RoomID) map[event.Key]id.EventID {
	n.t.Helper()
	head, err := n.Head(n.ctx, r)
	must(n.t, err)
	state := map[event.Key]id.EventID{}
	for key, nid := range head.State.All() {
		events, err := n.graph.Events(n.ctx, head.Room, []graph.EventNID{nid})
		must(n.t, err)
		state[key] = events[0].PDU.ID()
	}
	return state
}

func sameState(t *testing.T, a, b *node, r id.RoomID) {
	t.Helper()
	x, y := a.view(r), b.view(r)
	if fmt.Sprint(x) != fmt.Sprint(y) {
		t.Errorf("the states differ:\n%v\n%v", x, y)
	}
}

func TestJoinAndHistoryAcrossServers(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) {
			here, there := pair(t, d)
			for _, version := range []string{"6", "10", "11", "12"} {
				v, _ := roomver.Get(version)
				r := here.create(room.Creation{Version: v, Preset: room.PublicChat})
				must(t, here.join(r, bob))
				for i := range 20 {
					_, err := here.say(r, bob, fmt.Sprint(i))
					must(t, err)
				}
				join := enter(t, here, there, r, erin, false)
				for i := range 60 {
					_, err := here.say(r, alice, fmt.Sprint(i))
					must(t, err)
				}
				for i, res := range news(t, here, there, r, join) {
					if res.Err != nil || res.Verdict != room.Accepted {
						t.Fatalf("version %s: event %d: %+v", version, i, res)
					}
				}
				sameState(t, here, there, r)
				past := here.timeline(r)
				past = past[:slices.IndexFunc(past, func(e *graph.Event) bool { return e.NID == join.NID })]
				var asked []room.Past
				for _, e := range past {
					p := room.Past{PDU: e.PDU}
					if e.PDU.Type() == "m.room.create" {
						p.Before = []id.EventID{}
					}
					asked = append(asked, p)
				}
				for i, res := range there.Backfill(there.ctx, r, asked) {
					if res.Err != nil || res.Verdict != room.Accepted {
						t.Fatalf("version %s: past event %d: %+v", version, i, res)
					}
				}
				all, err := there.graph.Timeline(there.ctx, mustHead(t, there, r).Room, graph.Range{After: graph.Beginning, Limit: 1000})
				must(t, err)
				if want := here.timeline(r); len(all) != len(want) {
					t.Errorf("version %s: %d events there, %d here", version, len(all), len(want))
				} else {
					for i := range all {
						if all[i].PDU.ID() != want[i].PDU.ID() {
							t.Fatalf("version %s: event %d differs", version, i)
						}
					}
				}
				gaps, err := there.graph.Gaps(there.ctx, mustHead(t, there, r).Room, 10)
				must(t, err)
				if len(gaps) != 0 {
					t.Errorf("version %s: gaps are left: %v", version, gaps)
				}
			}
		})
	}
}

func mustHead(t *testing.T, n *node, r id.RoomID) *graph.Head {
	t.Helper()
	head, err := n.Head(n.ctx, r)
	must(t, err)
	return head
}

// A room joined without its members is of use at once, and ends in the same state as one joined with them. What could only be believed at first, and was a lie, is
// rejected in the end.
func TestPartialJoinIsCompleted(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) {
			here, there := pair(t, d)
			v, _ := roomver.Get("10")
			r := here.create(room.Creation{Version: v, Preset: room.PublicChat})
			for i := range 30 {
				must(t, here.join(r, id.UserID(fmt.Sprintf("@u%d:here.example", i))))
			}
			must(t, here.join(r, bob))
			bobJoined := here.newest(r)
			_, err := here.Kick(here.ctx, room.Membership{Room: r, Sender: alice, Target: bob})
			must(t, err)
			join := enter(t, here, there, r, erin, true)
			if !mustHead(t, there, r).Partial {
				t.Fatal("the room is not partial")
			}
			_, err = there.say(r, erin, "here I am")
			must(t, err)
			must(t, here.join(r, carol))
			_, err = here.say(r, carol, "hello")
			must(t, err)
			for _, res := range news(t, here, there, r, join) {
				if res.Err != nil || res.Verdict != room.Accepted {
					t.Fatalf("%+v", res)
				}
			}
			// Bob was kicked before the join, and names the join before that as his right to speak.
			key, _ := here.ours.Key("here.example")
			lie, err := event.Draft{
				RoomID: r, Type: "m.room.message", Sender: bob, Content: []byte(`{"body":"still here"}`), OriginServerTS: 3,
				PrevEvents: []id.EventID{join.PDU.ID()}, Depth: join.PDU.Depth() + 1,
				AuthEvents: []id.EventID{here.stateID(r, "m.room.create", ""), here.stateID(r, "m.room.power_levels", ""), bobJoined.ID()},
			}.Build(v, "here.example", key, rand.Text)
			must(t, err)
			if got := there.receive(lie); got != room.Accepted {
				t.Fatalf("a member that nobody knows to be gone: %v", got)
			}
			state, auth := here.told(join)
			must(t, there.Outliers(there.ctx, r, v, append(auth, state...)))
			ids := make([]id.EventID, len(state))
			for i, p := range state {
				ids[i] = p.ID()
			}
			must(t, there.Complete(there.ctx, r, map[id.EventID][]id.EventID{join.PDU.ID(): ids}))
			head := mustHead(t, there, r)
			if head.Partial || head.Joined != 33 {
				t.Errorf("partial %v, %d members", head.Partial, head.Joined)
			}
			if e, _, err := there.graph.Event(there.ctx, lie.ID()); err != nil || e.Flags&graph.Rejected == 0 {
				t.Errorf("the lie has flags %v, error %v", e.Flags, err)
			}
			sameState(t, here, there, r)
			if _, err := there.say(r, erin, "and now with everybody"); err != nil {
				t.Error(err)
			}
			must(t, there.Complete(there.ctx, r, map[id.EventID][]id.EventID{join.PDU.ID(): ids}))
		})
	}
}
