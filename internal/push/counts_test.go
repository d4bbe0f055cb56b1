package push

import (
	"testing"

	"myelin/internal/graph"
	"myelin/internal/sqldb/sqldbtest"
)

// BenchmarkCountsOfManyRooms counts what a user whom the server has not in memory has not read, in 1,000 rooms of which each has something.
func BenchmarkCountsOfManyRooms(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		n := start(b, open, nil)
		rooms := make([]graph.RoomNID, 1000)
		for i := range rooms {
			name, nid := n.room(bob)
			for range 3 {
				n.send(name, alice, "m.room.message", `{"msgtype":"m.text","body":"hello"}`)
			}
			rooms[i] = nid
		}
		n.ok(n.Settle(n.ctx))
		for b.Loop() {
			n.memory.mu.Lock()
			clear(n.memory.people)
			n.memory.mu.Unlock()
			found, err := n.Counts(n.ctx, bob, 0, rooms...)
			if n.ok(err); len(found) != len(rooms) {
				b.Fatalf("%d rooms have something unread", len(found))
			}
		}
	})
}
