package graph

import (
	"errors"
	"math"

	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

type (
	// RoomNID is the number of a room in this database.
	RoomNID int64
	// EventNID is the number of an event in this database: unique over all rooms, and known before the event is durable.
	EventNID int64
	// StateNID is the number of a state snapshot within its room. 0 is the empty state before the create event.
	StateNID int64
	// KeyNID is the number of a (type, state key) pair within its room.
	KeyNID int64
)

var (
	// ErrConflict says that the head that a commit was built on is not, or is no longer, the room's head, or that
	// something else that it refers to is gone. Whatever was read from the graph before is stale: start over from Graph.Head.
	ErrConflict = errors.New("graph: another writer moved the room")
	// ErrTxn says that the client's transaction was applied before: Graph.TxnEvent knows by which event.
	ErrTxn = errors.New("graph: the transaction was applied before")
)

// Membership is the membership of a user in a room: one of the constants, or "" for none ever.
type Membership string

// The memberships of the specification.
//
// Spec: cs Room membership
const (
	Join   Membership = "join"
	Invite Membership = "invite"
	Leave  Membership = "leave"
	Ban    Membership = "ban"
	Knock  Membership = "knock"
)

// Flags say what is special about an event.
type Flags uint16

const (
	// Outlier: known only because other events refer to it; not part of the room's order, and the state before it is unknown.
	Outlier Flags = 1 << iota
	// Rejected by the authorisation rules.
	Rejected
	// SoftFailed: allowed by the state before it but not by the current state when it arrived.
	SoftFailed
	// Backfilled: fetched from before what was known; never sent through /sync.
	Backfilled
	// Redacted: the PDU is the pruned one. Set by a commit's Redactions.
	Redacted
	// Local: made by this server, so no event with its ID can be stored yet. Saves a look-up when committed.
	Local
	// Relayed: made by another server, or with its consent, and brought into the room by this one, which must send it to the rest
	// of the room as it does with Local events.
	Relayed
	// Known: it was stored as an outlier before it joined the graph, so that older events may refer to it.
	Known
	// Torn: when it came, something that it follows was missing, so that the room's order has a gap before it. What fills the gap later has its
	// place before everything.
	Torn
	// Thin: it came while not all members of the room were known, and the state before it lacks them. Head.Place sets it. Where everybody of ours
	// left the room before the members came it stays until somebody is in the room again, and the members of that time are known.
	Thin
)

// hidden events are left out of timelines.
const hidden = Outlier | Rejected | SoftFailed

// TxnRef identifies a client's request across retransmissions.
//
// Spec: cs Transaction identifiers
type TxnRef struct {
	User   id.UserID
	Device id.DeviceID
	// Scope is whatever of the request's path tells it from other endpoints and rooms, such as "send/!room/m.room.message".
	Scope string
	ID    string
}

// DelayedDevice is the Device of a TxnRef whose ID is that of a delayed event, which the server sent in its user's name.
//
// MSC4140: cancellable delayed events.
const DelayedDevice id.DeviceID = "\x01delayed"

// MemberChange is a change of a user's current membership of a room. Old and New are equal when only the event changed, for
// instance with a new display name.
type MemberChange struct {
	User     id.UserID
	Old, New Membership
}

// Event is an event with its place in this database. It is immutable from the moment its commit is durable; until then Commit
// may set the fields that say so.
type Event struct {
	NID  EventNID
	Room RoomNID
	// Ord is the event's place in the room's order, 0 for outliers. Set by Commit.
	Ord int64
	// Pos is the event's position in the stream, 0 for outliers and backfilled events. Set by Commit.
	Pos   sqldb.Pos
	Flags Flags
	PDU   *event.PDU
	// RedactedBy is the redaction that pruned the event.
	RedactedBy EventNID
	// StateBefore is the state of the room before the event. Set by Head.Advance; meaningless for outliers.
	StateBefore StateNID
	// HeadBefore and HeadState are the state of the room's head before and after the step that brought the event: what the server held to
	// be the room's state then. They differ from the states before and after the event where the room had forked. Set by
	// Head.Place for events that are not backfilled; 0 for others. HeadBefore is set on events fresh from a commit only.
	HeadBefore, HeadState StateNID
	// Txn is set for events that a local client sent with a transaction ID. Events that come from the disk know Device and ID, and
	// User is their sender; the scope is not kept.
	Txn TxnRef
	// Replaces is the state event that stood in the state before this one. Set by Head.Advance.
	Replaces EventNID
	// Change is set on events fresh from a commit if the commit changed the current membership of the event's state key.
	// It is not kept on disk.
	Change *MemberChange
	// Pruned is set on events fresh from a commit: what this event redacted. It is not kept on disk.
	Pruned []EventNID

	// Restored says that the PDU is the whole event, of which only a pruned form was stored as an outlier. Not kept on disk.
	Restored bool

	stored bool // came from the disk: a commit updates it rather than inserts it
}

// Extremity is an event that no event in the room follows yet.
type Extremity struct {
	NID   EventNID
	ID    id.EventID
	Depth int64
}

// Redaction prunes an event in a commit.
type Redaction struct {
	Target EventNID
	By     EventNID
	// Was is the event as it was: what it related to is undone.
	Was, Pruned *event.PDU
}

// Gap is a backward extremity: an event that Child refers to and that is not stored.
type Gap struct {
	Missing id.EventID
	Child   EventNID
}

// Commit is a step of one room, applied as a whole or not at all.
type Commit struct {
	// Prev is the head that the step was built on; nil, or what NewHead returned, for a new room.
	Prev *Head
	// Next comes from Prev by Head.Advance with each of the live events, in order. Nil for a commit that only stores outliers and
	// for one that only fills gaps; then nothing is compared.
	Next *Head
	// Room is needed only where Next is nil.
	Room RoomNID
	// Events are stored in this order.
	Events []*Event
	// Redactions prune stored events, or events of this commit.
	Redactions []Redaction
	// Awaiting are redactions, of this commit, of events that are not stored. What waits for an event is forgotten with the event's
	// redaction.
	Awaiting []Awaited
	// Gaps are new backward extremities; Filled are events that are not missing any more. Events of the commit need not be in Filled.
	Gaps   []Gap
	Filled []id.EventID
	// Partial notes that this server joined the room without its members; Whole that these are known now. One of them goes with a change of
	// Partial from Prev to Next.
	Partial *PartialRoom
	Whole   bool
	// Waiting is an event of the commit that would stick, were it not soft-failed by the state of Next: it may be judged again once that is another.
	Waiting *Event
	// Rejudged are stored events whose flags and state before them, as set by Head.Whole, are others now.
	Rejudged []*Event
	// Also runs in the commit's transaction after all of it. Like every part of a group commit it may run several times, and a
	// failing statement fails all commits of the group: an error must mean that the database is broken.
	Also func(tx *sqldb.Tx) error
}

// Head is the newest state of affairs of a room. Immutable.
type Head struct {
	Room    RoomNID
	ID      id.RoomID
	Version *roomver.Version
	// Rev is 0 for a room that is not stored yet.
	Rev         int64
	Extremities []Extremity
	// StateNID and State are the state after all extremities.
	StateNID StateNID
	State    *State
	// Joined and Invited count the members by the current state.
	Joined, Invited int64
	// MinOrd is the ord of the oldest backfilled event, 0 if there is none.
	MinOrd int64
	// Partial: member events may be absent from the state, because a join brought only the rest of it. See PartialRoom.
	Partial bool

	epoch   int64    // counts what Reclaim did to the room's snapshots
	states  StateNID // the highest snapshot number in use
	settled bool     // the head is durable or submitted: heads advanced from it begin a new commit
	// The rest is meaningful for heads that are not settled.
	base   int64      // Rev of the settled head that this one was advanced from
	fresh  []*State   // snapshots made since base, in order
	reused []StateNID // older snapshots that events since base refer to
}

// MemberRow is a user's current relation to a room.
type MemberRow struct {
	User       id.UserID
	Room       RoomNID
	RoomID     id.RoomID
	Membership Membership
	// Event is the member event, 0 if the room is known only from outside (Stripped is set).
	Event EventNID
	// Pos is where Event became current; Since is where the user got this membership from another one.
	Pos, Since sqldb.Pos
	// Prev is the membership before Since.
	Prev      Membership
	Forgotten bool
	// Stripped is a JSON array of stripped state events, for an invite or knock in a room that this server has no part in; for the end of
	// one it holds the member event as clients see it, without room_id.
	Stripped []byte
}

// OutOfBand is what another server told of a user's membership in a room that this server has no part in.
type OutOfBand struct {
	Room       id.RoomID
	Version    *roomver.Version
	User       id.UserID
	Membership Membership
	// Stripped is a JSON array of stripped state events, with the member event among them. For a leave or a ban it is that event alone,
	// as clients see it.
	Stripped []byte
	// ID and TS are those of an invite or a knock, which Stripped doesn't say.
	ID id.EventID
	TS int64 // in milliseconds since the epoch
	// Rev is that of the room's head by which nobody of ours is in the room, 0 for a room without one.
	Rev int64
}

// Outside is a membership in a room that this server has no part in. Its event is not here; ID and TS are what its sender's server says.
type Outside struct {
	MemberRow
	ID id.EventID
	TS int64
}

// Range selects a part of a room's timeline.
type Range struct {
	// After and Before bound ord, both exclusive. 0 stands between backfilled and live events: an After of 0 leaves backfilled events
	// out, Beginning does not. A Before of 0 means End.
	After, Before int64
	// Backward lists the newest first.
	Backward bool
	// Limit is the most events to return; it must be positive.
	Limit int
}

// Bounds of a Range that lie outside of all events.
const (
	Beginning = math.MinInt64
	End       = math.MaxInt64
)
