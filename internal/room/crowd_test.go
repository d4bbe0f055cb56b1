package room_test

import (
	"fmt"
	"maps"
	"sync"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// State changes and messages of many users pass through one lane, each on top of what is still on
// its way to the disk.
func TestStateAndMessagesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PublicChat})
		must(t, n.join(r, bob))
		var wg sync.WaitGroup
		for w := range 12 {
			wg.Go(func() {
				user := id.UserID(fmt.Sprintf("@user%d:here.example", w))
				for i := range 10 {
					var err error
					switch w % 4 {
					case 0:
						_, err = n.setState(r, alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d/%d"}`, w, i))
					case 1:
						_, err = n.setState(r, alice, "m.room.power_levels", "", fmt.Sprintf(`{"users":{"@bob:here.example":%d}}`, w+i))
					case 2:
						if err = n.join(r, user); err == nil {
							_, err = n.Leave(n.ctx, room.Membership{Room: r, Sender: user})
						}
					case 3:
						_, err = n.say(r, bob, fmt.Sprint(w, "/", i))
					}
					if err != nil {
						t.Errorf("worker %d: %v", w, err)
						return
					}
				}
			})
		}
		wg.Wait()
		n.checkCounts(r)
	})
}

// A room with more branches than one event can follow is tied up by what is sent next, and other
// servers come to the same state.
func TestManyBranches(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		here := start(t, open())
		otherDB, err := sqldb.Open(t.Context(), sqldb.Config{URL: sqldbtest.URL(t, sqldb.SQLite)})
		must(t, err)
		t.Cleanup(func() { must(t, otherDB.Close()) })
		other := startAs(t, otherDB, "other.example")
		for _, version := range []string{"1", "6", "12"} {
			v, _ := roomver.Get(version)
			r := here.create(room.Creation{Version: v, Preset: room.PublicChat, InitialState: []room.StateEntry{
				{Type: "m.room.history_visibility", Content: []byte(`{"history_visibility":"joined"}`)},
			}})
			var users []id.UserID
			for i := range 8 {
				u := id.UserID(fmt.Sprintf("@erin:there%d.example", i))
				here.receive(here.remote(r, u, "m.room.member", key(string(u)), joinContent, here.newest(r)))
				users = append(users, u)
			}
			_, err := here.setState(r, alice, "m.room.power_levels", "", levels(v))
			must(t, err)
			joins := here.newest(r)
			must(t, other.adopt(v, pdus(here.timeline(r))))
			var branches []*event.PDU
			for i := range 70 {
				typ, stateKey := "m.room.message", (*string)(nil)
				if i%3 == 0 {
					typ, stateKey = "org.example.branch", key(fmt.Sprint(i))
				}
				branches = append(branches, here.remote(r, users[i%8], typ, stateKey, fmt.Sprintf(`{"n":%d}`, i), joins))
			}
			for _, p := range branches {
				here.receive(p)
				other.receive(p)
			}
			rounds := 0
			for ; here.extremities(r) > 1 && rounds < 10; rounds++ {
				if rounds == 1 {
					_, err = here.setState(r, alice, "m.room.topic", "", `{"topic":"tying up"}`)
				} else {
					_, err = here.say(r, alice, "tying up")
				}
				must(t, err)
				last := here.newest(r)
				if got := len(last.PrevEvents()); got > event.MaxPrevEvents {
					t.Fatalf("version %s: an event follows %d", version, got)
				}
				if got := other.receive(last); got != room.Accepted {
					t.Fatalf("version %s: the other server says %v", version, got)
				}
				if a, b := here.stateBefore(last.ID()), other.stateBefore(last.ID()); !maps.Equal(a, b) {
					t.Errorf("version %s: %d entries of state before the event here, %d there", version, len(a), len(b))
				}
				for i := 0; i < 70; i += 3 {
					if here.state(r, "org.example.branch", fmt.Sprint(i)) == "" {
						t.Errorf("version %s: the state of branch %d is lost", version, i)
					}
				}
			}
			if got := here.extremities(r); got != 1 {
				t.Errorf("version %s: %d extremities after %d events", version, got, rounds)
			}
			want, got := here.wholeState(r), other.wholeState(r)
			for k, e := range want {
				if got[k] != e {
					t.Errorf("version %s: %v is %s here, %s there", version, k, e, got[k])
				}
			}
		}
	})
}

// levels gives everybody the power to change state.
func levels(v *roomver.Version) string {
	if v.PrivilegedCreators {
		return `{"users_default":50}`
	}
	return `{"users":{"@alice:here.example":100},"users_default":50}`
}

// stateBefore returns the IDs of the state before an event.
func (n *node) stateBefore(of id.EventID) map[event.Key]id.EventID {
	n.t.Helper()
	e, _, err := n.graph.Event(n.ctx, of)
	must(n.t, err)
	s, err := n.graph.StateBefore(n.ctx, e)
	must(n.t, err)
	return n.named(e.Room, s)
}

func (n *node) extremities(r id.RoomID) int {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, r)
	must(n.t, err)
	return len(head.Extremities)
}

func pdus(events []*graph.Event) []*event.PDU {
	var out []*event.PDU
	for _, e := range events {
		out = append(out, e.PDU)
	}
	return out
}

// A redaction may come before the event that it redacts.
func TestRedactionBeforeItsTarget(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, version := range []string{"1", "3", "11"} {
			v, _ := roomver.Get(version)
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
			joins := n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r))
			n.receive(joins)
			message := n.remote(r, erin, "m.room.message", nil, `{"body":"secret"}`, joins)
			redaction := n.remoteRedaction(r, erin, message.ID(), joins)
			if got := n.receive(redaction); got != room.Accepted {
				t.Fatalf("version %s: redaction: %v", version, got)
			}
			n.receive(message)
			e, _, err := n.graph.Event(n.ctx, message.ID())
			must(t, err)
			by, _, err := n.graph.Event(n.ctx, redaction.ID())
			must(t, err)
			if string(e.PDU.Content()) != "{}" || e.RedactedBy != by.NID {
				t.Errorf("version %s: %s, redacted by %d", version, e.PDU.Content(), e.RedactedBy)
			}
		}
	})
}

// An event that was known as an ancestor only joins the room when it comes itself.
func TestReceiveOutlier(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PublicChat})
		joins := n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r))
		head, err := n.Head(n.ctx, r)
		must(t, err)
		nid, err := n.graph.NextNID(n.ctx)
		must(t, err)
		must(t, n.graph.Commit(&graph.Commit{
			Room: head.Room, Events: []*graph.Event{{NID: nid, PDU: joins, Flags: graph.Outlier}},
		}).Wait(n.ctx))
		if got := n.receive(joins); got != room.Accepted {
			t.Fatalf("got %v", got)
		}
		e, _, err := n.graph.Event(n.ctx, joins.ID())
		must(t, err)
		if e.NID != nid || e.Flags != graph.Known || e.Ord == 0 {
			t.Errorf("stored as %+v", e)
		}
		if m, err := n.graph.MembershipIn(n.ctx, erin, r); err != nil || m != graph.Join {
			t.Errorf("erin is %q, %v", m, err)
		}
	})
}

// Only one event can begin a room.
func TestReceiveSecondBeginning(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		v, _ := roomver.Get("11")
		r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
		for _, d := range []event.Draft{
			{Type: "m.room.create", StateKey: key(""), Content: []byte(`{"room_version":"11"}`)},
			{Type: "m.room.message", Content: []byte(`{}`), AuthEvents: []id.EventID{n.stateID(r, "m.room.create", "")}},
		} {
			d.RoomID, d.Sender = r, "@mallory:here.example"
			p, err := d.Build(v, "here.example", mustKey(t), nil)
			must(t, err)
			if _, _, err := n.Receive(n.ctx, p); !mxerr.Is(err, mxerr.CodeInvalidParam) {
				t.Errorf("%s: got %v", d.Type, err)
			}
		}
		if got := n.extremities(r); got != 1 {
			t.Errorf("%d extremities", got)
		}
	})
}
