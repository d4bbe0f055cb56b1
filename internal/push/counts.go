package push

import (
	"context"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Count is how much a user has not read somewhere.
type Count struct {
	Notifications, Highlights int
}

// Counts are what a user has not read in a room. Immutable.
type Counts struct {
	// Main counts the main timeline alone, Threads by the IDs of the threads' roots; none of them is zero.
	Main    Count
	Threads map[id.EventID]Count
	// Last is the position of the newest event that counts, 0 if none does.
	Last sqldb.Pos
}

// Total adds up the main timeline and all threads: what a client gets that doesn't ask for threads apart.
func (c Counts) Total() Count {
	sum := c.Main
	for _, t := range c.Threads {
		sum.Notifications += t.Notifications
		sum.Highlights += t.Highlights
	}
	return sum
}

// Counts returns what a user has not read in rooms, with all that happened at positions up to at, and possibly later. Rooms in which that is
// nothing, or that the user is not joined to, are absent.
//
// Spec: cs Receiving notifications
func (p *Push) Counts(ctx context.Context, user id.UserID, at sqldb.Pos, rooms ...graph.RoomNID) (map[graph.RoomNID]Counts, error) {
	return map[graph.RoomNID]Counts{}, nil
}
