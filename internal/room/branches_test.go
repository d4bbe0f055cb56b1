package room_test

import (
	"crypto/rand"
	"maps"
	"slices"
	"testing"

	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// TestStateAfterAFilledGap: a branch that turns out to lead to another one has no say of its own any more.
func TestStateAfterAFilledGap(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, version := range []string{"6", "11", "12"} {
			v, _ := roomver.Get(version)
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
			n.receive(n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r)))
			_, err := n.setState(r, alice, "m.room.power_levels", "", levels(v))
			must(t, err)
			base := n.newest(r)
			state := n.wholeState(r)
			before := slices.Collect(maps.Values(state))
			made := func(key *string, typ, content string, ts int64, prev *event.PDU) *event.PDU {
				d := event.Draft{
					RoomID: r, Type: typ, StateKey: key, Sender: erin, Content: []byte(content), OriginServerTS: ts,
					PrevEvents: []id.EventID{prev.ID()}, Depth: prev.Depth() + 1,
				}
				for _, k := range eventauth.NeededFor(v, typ, key, erin, d.Content) {
					if e, ok := state[k]; ok {
						d.AuthEvents = append(d.AuthEvents, e)
					}
				}
				p, err := d.Build(v, erin.Domain(), mustKey(t), rand.Text)
				must(t, err)
				return p
			}
			// Where they stand beside each other the first wins, which claims to be later.
			first := made(key(""), "org.example.x", `{"n":1}`, 10, base)
			second := made(key(""), "org.example.x", `{"n":2}`, 5, first)
			third := made(nil, "m.room.message", `{"body":"third"}`, 20, second)
			_, err = n.say(r, alice, "ours")
			must(t, err)

			must(t, n.Outliers(n.ctx, r, v, []*event.PDU{second}))
			if verdict, _, err := n.Graft(n.ctx, third, append(before, second.ID())); err != nil || verdict != room.Accepted {
				t.Fatalf("version %s: graft: %v %v", version, verdict, err)
			}
			for _, c := range []struct{ came, holds *event.PDU }{{first, first}, {second, second}} {
				if got := n.receive(c.came); got != room.Accepted {
					t.Fatalf("version %s: %v", version, got)
				}
				if got := n.stateID(r, "org.example.x", ""); got != c.holds.ID() {
					t.Errorf("version %s: after %s the state has %s, want %s", version, c.came.Content(), got, c.holds.ID())
				}
			}
			if got := n.extremities(r); got != 2 {
				t.Errorf("version %s: %d branches, want 2", version, got)
			}
		}
	})
}
