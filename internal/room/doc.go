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
// is bounded (branches.go).
//
// # What a fork may cost
//
// A resolution loads the events on which the states differ and their auth chains, as far as it must look. Somebody who prepares a fork can make that
// many events, all of which they had to send. Three bounds hold, and none of them has a say in the result:
//
//   - The events of one resolution and their bytes (maxResolved). No honest room comes near: a room whose state and auth chain
//     held more could not be joined. Beyond, nothing is decided: an event that would need it is neither accepted nor rejected nor
//     soft-failed, since another server, with another bound, would decide otherwise, and the room would diverge for ever. The error comes to
//     the caller. Package fedroom writes the event down, says why in the log, tries again less and less often, and lists it in `myelin doctor` among what it gave
//     up. The room stays at the state it had, in which local users go on. A greater bound, set later, takes up the event where it waits.
//   - Large resolutions (largeResolved) run a few at a time, on half of the processors. Small ones, as those of honest rooms are, don't wait for
//     them, and neither do rooms without forks. A room that forks on purpose holds up its own lane.
//   - The number of branches, and of those of one server (branches.go).
//
// A bound in time would depend on the machine, and what it cut off would be judged by chance.
//
// The auth chains of what differs are loaded to their ends. With generations package stateres could stop where they meet what is shared. They
// would have to be kept for each event, outliers too, which every send would pay for. They save next to nothing: the history of the power levels, which is
// most of a chain, is read by the ordering in any case (BenchmarkForks there counts as many reads with them as without). The numbers of events are no generations: each node gives out its own, so an event may have a lower one
// than what it cites.
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
