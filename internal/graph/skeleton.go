package graph

import (
	"context"
	"errors"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

var errUnfinished = errors.New("unfinished")

// Open prepares the tables and returns the store.
func Open(ctx context.Context, c Config) (*Graph, error) { return nil, errUnfinished }

// Ticket is the promise of a commit's outcome.
type Ticket struct{ t *sqldb.Ticket }

// Wait returns nil once the commit is durable, ErrConflict, ErrTxn, or another error. If ctx ends before the commit was taken up it is
// withdrawn, and what was built on it will fail with ErrConflict.
func (t *Ticket) Wait(ctx context.Context) error { return errUnfinished }

// Commit queues a commit and returns at once.
func (g *Graph) Commit(c *Commit) *Ticket { return nil }

// TxnEvent returns the event that a client's transaction made.
func (g *Graph) TxnEvent(ctx context.Context, txn TxnRef) (id.EventID, bool, error) {
	return "", false, errUnfinished
}

// NewHead returns the head of a room that has no events yet. Nothing is stored until the first commit.
// It returns ErrConflict for a room that has events.
func (g *Graph) NewHead(ctx context.Context, room id.RoomID, v *roomver.Version) (*Head, error) {
	return nil, errUnfinished
}

// Head returns the newest durable head of a room, M_NOT_FOUND if there is none.
func (g *Graph) Head(ctx context.Context, room id.RoomID) (*Head, error) { return nil, errUnfinished }

// RoomNID returns the number of a room, also of one known only from outside.
func (g *Graph) RoomNID(ctx context.Context, room id.RoomID) (RoomNID, bool, error) {
	return 0, false, errUnfinished
}

// RoomID returns the ID and the version of a room. The version is nil if this server doesn't know it.
func (g *Graph) RoomID(ctx context.Context, room RoomNID) (id.RoomID, *roomver.Version, error) {
	return "", nil, errUnfinished
}

// Event returns an event by its ID, and false where it is not stored. Outliers and rejected events are returned as well.
func (g *Graph) Event(ctx context.Context, event id.EventID) (*Event, bool, error) {
	return nil, false, errUnfinished
}

// EventsByID returns those of the events that are stored.
func (g *Graph) EventsByID(ctx context.Context, events []id.EventID) (map[id.EventID]*Event, error) {
	return nil, errUnfinished
}

// Events returns events of one room by number, in the order asked for. It is an error if one is not stored.
func (g *Graph) Events(ctx context.Context, room RoomNID, nids []EventNID) ([]*Event, error) {
	return nil, errUnfinished
}

// StateAt returns a snapshot of a room's state.
func (g *Graph) StateAt(ctx context.Context, room RoomNID, nid StateNID) (*State, error) {
	return nil, errUnfinished
}

// StateBefore returns the state before an event.
func (g *Graph) StateBefore(ctx context.Context, e *Event) (*State, error) { return nil, errUnfinished }

// StateAfter returns the state after an event: that before it, with the event applied if it is an accepted state event.
func (g *Graph) StateAfter(ctx context.Context, e *Event) (*State, error) { return nil, errUnfinished }

// StateDiff returns what must change to turn one snapshot into another, without loading them where that can be avoided.
func (g *Graph) StateDiff(ctx context.Context, room RoomNID, old, new StateNID) ([]StateDiff, error) {
	return nil, errUnfinished
}

// Timeline returns part of a room's timeline: no outliers, rejected or soft-failed events.
func (g *Graph) Timeline(ctx context.Context, room RoomNID, r Range) ([]*Event, error) {
	return nil, errUnfinished
}

// EventNearTime returns the visible event whose origin_server_ts is nearest to ts (milliseconds) in one direction: the first at or
// after it, or with backward the last at or before it; false if there is none.
func (g *Graph) EventNearTime(ctx context.Context, room RoomNID, ts int64, backward bool) (*Event, bool, error) {
	return nil, false, errUnfinished
}

// LastBefore returns the newest visible event of the room at or before an ord; false if there is none.
func (g *Graph) LastBefore(ctx context.Context, room RoomNID, ord int64) (*Event, bool, error) {
	return nil, false, errUnfinished
}

// EventsSince returns visible live events of all rooms in stream order: positions after from, up to to, at most limit of them.
func (g *Graph) EventsSince(ctx context.Context, from, to sqldb.Pos, limit int) ([]*Event, error) {
	return nil, errUnfinished
}

// MembershipIn returns a user's current membership, "" if there never was one.
func (g *Graph) MembershipIn(ctx context.Context, user id.UserID, room id.RoomID) (Membership, error) {
	return "", errUnfinished
}

// MembershipOf returns a user's row for a room; false if there is none.
func (g *Graph) MembershipOf(ctx context.Context, user id.UserID, room RoomNID) (MemberRow, bool, error) {
	return MemberRow{}, false, errUnfinished
}

// MembershipsOf returns a user's rows for all rooms, or with arguments those with one of these memberships.
func (g *Graph) MembershipsOf(ctx context.Context, user id.UserID, of ...Membership) ([]MemberRow, error) {
	return nil, errUnfinished
}

// MembershipsChanged returns the rows of a user that changed after a position.
func (g *Graph) MembershipsChanged(ctx context.Context, user id.UserID, after sqldb.Pos) ([]MemberRow, error) {
	return nil, errUnfinished
}

// Members returns current members of a room with one membership, those who came first first, at most limit of them.
func (g *Graph) Members(ctx context.Context, room RoomNID, of Membership, limit int) ([]MemberRow, error) {
	return nil, errUnfinished
}

// LocalMembers returns at most limit joined members whose server ours accepts, those who came first first.
func (g *Graph) LocalMembers(ctx context.Context, room RoomNID, ours func(id.ServerName) bool, limit int) ([]id.UserID, error) {
	return nil, errUnfinished
}

// SharedRooms returns the rooms that both users are joined to.
func (g *Graph) SharedRooms(ctx context.Context, a, b id.UserID) ([]RoomNID, error) {
	return nil, errUnfinished
}

// Forget marks a room as forgotten by a user. It returns M_UNKNOWN if the user is still in it or invited.
//
// Spec: cs forgetRoom
func (g *Graph) Forget(ctx context.Context, user id.UserID, room id.RoomID) error {
	return errUnfinished
}

// SetOutOfBand stores what another server told of a membership in a room that this server has no part in. It does nothing if this
// server is part of the room.
func (g *Graph) SetOutOfBand(ctx context.Context, o OutOfBand) error { return errUnfinished }

// Gaps returns backward extremities of a room, at most limit of them.
func (g *Graph) Gaps(ctx context.Context, room RoomNID, limit int) ([]Gap, error) {
	return nil, errUnfinished
}

// ReclaimStates removes snapshots that nothing refers to and returns how many. It works in bounded transactions and may be ended by its
// context at any time.
func (g *Graph) ReclaimStates(ctx context.Context, room RoomNID) (int, error) {
	return 0, errUnfinished
}

// ReclaimTxns forgets transactions of clients from before a time in milliseconds.
func (g *Graph) ReclaimTxns(ctx context.Context, before int64) (int, error) { return 0, errUnfinished }
