package room_test

import (
	"testing"
	"time"

	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/roomver"
)

// sticks has the follower judge again what waits.
func (n *node) sticks() {
	n.t.Helper()
	for _, f := range n.Followers(nil) {
		if f.Name == "events that stick after all" {
			_, effect, err := f.Batch(n.ctx, 0, sqldb.Pos(1<<40))
			must(n.t, err)
			if effect != nil {
				n.t.Error("the follower has an effect")
			}
			return
		}
	}
	n.t.Fatal("nobody judges again")
}

// TestStickyIsJudgedAgain: an event that sticks, and that the state of the room forbade when it came, becomes part of the room once the
// state allows it; one that doesn't stick stays away.
func TestStickyIsJudgedAgain(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, version := range []string{"6", "11", "12"} {
			v, _ := roomver.Get(version)
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
			joins := n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r))
			n.receive(joins)
			fork := n.newest(r)
			_, err := n.Ban(n.ctx, room.Membership{Room: r, Sender: alice, Target: erin})
			must(t, err)
			says := func(sticky int64) *event.PDU {
				p, err := n.foreignDraft(event.Draft{
					RoomID: r, Type: "org.example.call", Sender: erin, Content: []byte(`{}`), OriginServerTS: time.Now().UnixMilli(), Sticky: sticky,
				}, []*event.PDU{fork}, mustKey(t))
				must(t, err)
				if got := n.receive(p); got != room.SoftFailed {
					t.Fatalf("version %s: a banned user's event: %v", version, got)
				}
				return p
			}
			brief, plain := says(600_000), says(0)
			shown := func(p *event.PDU) (times int) {
				for _, e := range n.timeline(r) {
					if e.PDU.ID() == p.ID() {
						times++
					}
				}
				return times
			}
			n.sticks()
			_, err = n.Unban(n.ctx, room.Membership{Room: r, Sender: alice, Target: erin})
			must(t, err)
			n.sticks()
			if shown(brief) != 0 {
				t.Errorf("version %s: it sticks while its sender is not in the room", version)
			}
			before := n.newest(r)
			n.receive(n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, before))
			n.sticks()
			n.sticks()
			if shown(brief) != 1 || shown(plain) != 0 {
				t.Errorf("version %s: what sticks is shown %d times, what doesn't %d times", version, shown(brief), shown(plain))
			}
			if got := n.receive(brief); got != room.Accepted {
				t.Errorf("version %s: received again it is %v", version, got)
			}
			here, err := n.graph.OwnSticky(n.ctx, 0, 0, 1<<40, 10)
			if err != nil || len(here) != 0 {
				t.Errorf("version %s: it counts as ours: %v, %v", version, here, err)
			}
			// The room goes on from it.
			if _, err := n.say(r, alice, "hello"); err != nil {
				t.Errorf("version %s: %v", version, err)
			}
			if waiting, err := n.graph.StickyWaiting(n.ctx, 10); err != nil || len(waiting) != 0 {
				t.Errorf("version %s: %d events wait on, %v", version, len(waiting), err)
			}
		}
	})
}
