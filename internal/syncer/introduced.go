package syncer

import (
	"sync"

	"myelin/internal/graph"
	"myelin/matrix/id"
)

// maxIntroduced bounds the members that are remembered of one connection.
const maxIntroduced = 20_000

// acquaintances are the member events that a client was told of, in one room.
type acquaintances map[id.UserID]graph.EventNID

// introduction is what one answer tells of members. In the rooms of fresh the client knows nobody else any more.
type introduction struct {
	rooms map[graph.RoomNID]acquaintances
	fresh map[graph.RoomNID]bool
}

// introduced remembers which member events a client that loads members lazily was told of. An answer counts once the client comes back with
// that answer's token. Whatever is lost is told again.
//
// MSC4186: Lazy loaded memberships
type introduced struct {
	mu      sync.Mutex // guards all below
	known   map[graph.RoomNID]acquaintances
	count   int
	answer  int64 // the newest answer that known holds
	pending *introduction
	next    int64 // the answer that pending belongs to
}

// begin notes which answer the client has.
func (n *introduced) begin(answer int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case answer != 0 && answer == n.answer:
		// It asks once more.
	case answer != 0 && answer == n.next:
		n.accept()
		n.answer = answer
	default: // an answer that this node didn't give, or has forgotten
		n.known, n.count, n.answer = nil, 0, answer
	}
	n.pending, n.next = nil, 0
}

func (n *introduced) accept() {
	if n.known == nil || n.count > maxIntroduced {
		n.known, n.count = make(map[graph.RoomNID]acquaintances), 0
	}
	for room := range n.pending.fresh {
		n.count -= len(n.known[room])
		delete(n.known, room)
	}
	for room, members := range n.pending.rooms {
		was := n.known[room]
		if was == nil {
			n.known[room] = members
			n.count += len(members)
			continue
		}
		n.count -= len(was)
		for user, nid := range members {
			was[user] = nid
		}
		n.count += len(was)
	}
}

// knows reports whether the client was told of a member event.
func (n *introduced) knows(room graph.RoomNID, user id.UserID, nid graph.EventNID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return nid != 0 && n.known[room][user] == nid
}

// tell notes the members that an answer tells.
func (n *introduced) tell(answer int64, in *introduction) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending, n.next = in, answer
}

func (n *introduced) size() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.count
}
