// Package room is the only writer of rooms. Whatever changes the graph of a room, a local
// user's message or another server's event, passes through the lane of that room:
// load the head, decide, commit with a compare-and-swap.
//
// It owns the decisions: who may send what (by matrix/eventauth), which events a new event
// follows, what the state of the room is after it (by matrix/stateres where the room has
// forked), and every composed operation of the client-server API on rooms: creation,
// membership, upgrades, redactions. It owns no table; package graph does.
//
// # The lane
//
// A lane is a mutex and the newest head of one room. decide is a pure function of that head
// and a proposal. The lane hands the commit to the group committer and moves on to the next
// proposal on top of the head that the commit will produce, before the disk has answered:
// so one busy room fills a transaction with many events. A caller is answered when its own
// commit is durable; one who is refused, or whose request changes nothing, when the head that
// says so is. Where a commit is refused (another node was faster), everything that
// was built on it is refused too, the lane forgets its head, and each caller decides anew.
//
// A received event that doesn't simply follow the head needs events and states that are on disk.
// It waits, in the lane, until the newest queued commit is.
//
// # Branches
//
// What we send follows all extremities of the room. Where there are more than an event may follow, it
// follows the deepest, is authorised by their state as other servers will judge it, and by that of the room;
// the next events tie up the others. The number of extremities that other servers can cause
// is not bounded here.
//
// # Invariants
//
//   - Nothing here is answered before it is durable.
//   - A lane is an optimisation. Two lanes of one room, on one node or on two, lose
//     time and nothing else.
//   - decide never loads the whole state: it looks up the handful of entries that authorise
//     the event.
//
// # What it refuses
//
// It does no network input or output: an event whose ancestors are missing comes back as
// Missing, and package fedapi fetches them. It sends nothing to clients: package syncer
// follows the stream.
//
// # Lock order
//
// lane.mu, then the locks of package graph. A lane may be held while waiting for a commit; commits
// take no lane. No two lanes are ever held at once.
//
// Spec: cs Events
// Spec: cs Room membership
// Spec: ss Authorization rules
package room
