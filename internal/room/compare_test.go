package room_test

import (
	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// wholeState returns the IDs of the current state's events.
func (n *node) wholeState(r id.RoomID) map[event.Key]id.EventID {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, r)
	must(n.t, err)
	return n.named(head.Room, head.State)
}

// named lists a state by IDs, which servers share.
func (n *node) named(r graph.RoomNID, s *graph.State) map[event.Key]id.EventID {
	n.t.Helper()
	out := make(map[event.Key]id.EventID)
	for k, nid := range s.All() {
		events, err := n.graph.Events(n.ctx, r, []graph.EventNID{nid})
		must(n.t, err)
		out[k] = events[0].PDU.ID()
		if events[0].PDU.Key() != k {
			n.t.Errorf("%v stands under %v", events[0].PDU.Key(), k)
		}
	}
	return out
}

// checkCounts compares what is kept about members with the state.
func (n *node) checkCounts(r id.RoomID) {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, r)
	must(n.t, err)
	var joined, invited int64
	for m := range head.State.Members() {
		switch m.Membership {
		case graph.Join:
			joined++
		case graph.Invite:
			invited++
		}
		got, err := n.graph.MembershipIn(n.ctx, m.User, r)
		must(n.t, err)
		if got != m.Membership {
			n.t.Errorf("%s is %q, and %q by the state", m.User, got, m.Membership)
		}
	}
	if joined != head.Joined || invited != head.Invited {
		n.t.Errorf("%d joined and %d invited by the head, %d and %d by the state", head.Joined, head.Invited, joined, invited)
	}
}
