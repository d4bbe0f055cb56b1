// Package graph keeps rooms on disk: their events, the order of the events, the state before each of them, and who is a
// member of what.
//
// # Owns
//
// The tables rooms, events, states, state_keys, memberships, txns, gaps and awaited, and the index of relations (relations, aggregates, thread_users,
// annotations); all SQL on them, and the caches of what they hold.
// It decides nothing: whether an event may be sent is for package room, whether a user may see it is for package view.
//
// # The head
//
// A [Head] is everything that the next event of a room depends on: forward extremities, the state after them, kept
// counts of members, and a revision. It is immutable. [Head.Advance] makes the head after one more event, without
// touching the disk, so a writer can run ahead of the disk; [Graph.Commit] makes the events between two heads
// durable, by a compare-and-swap on the revision. A revision is a hash over all that was committed to the room, so equal
// revisions mean equal histories: a commit built on a head that never became durable can't be mistaken for one that did.
//
// # Order
//
// Each event that is part of the room's graph has an ord: its position in the stream (sqldb) if it arrived live, and
// descending from -1 if it was backfilled. Outliers, known only because others refer to them, have none. Rejected and
// soft-failed events have an ord and are left out of timelines.
//
// # State
//
// State is a persistent map (package statemap) from small integers, which stand for the room's (type, state key) pairs, to events.
// The value of a member entry holds the membership too, so counts and membership lists need no events.
// On disk a snapshot is a delta against an earlier one. Snapshots are numbered within their room. Snapshot n after a
// checkpoint refers to the snapshot at n with its lowest set bit cleared, as in a Fenwick tree: a
// change is stored about log(n)/2 times, and a chain has at most log(n) links. A checkpoint holds the whole state, and a delta
// against the checkpoint before it, so any two snapshots can be compared by their deltas.
//
// # Invariants
//
//   - A row of events never changes, except that an outlier may join the graph, that an event which sticks and was soft-failed may be taken in after all, at
//     a new position, and that a redaction prunes the event.
//   - Every snapshot that an event or head refers to can be loaded, with every event that it names.
//   - memberships holds, for each user and room, what the room's current state says; and for rooms this server is not part
//     of, the last invite, knock or rejection that it was told of.
//   - One transaction ID of one device in one scope makes one event.
//   - Each event that is neither hidden nor redacted, and that relates to another one, stands in the index of relations from its own commit on. Nothing
//     there asks whether the other event is stored: it may come later.
//   - The order of a room's events by time is completed in the background ([Graph.Followers]); what it lacks is found by the events' own order, so that
//     no answer depends on how far it is.
//   - A user of ours annotates an event once with one type and key ([ErrAnnotated]).
//
// # Refuses
//
// To overwrite a head that another writer moved ([ErrConflict]), to apply a client's transaction twice ([ErrTxn]), to list
// the whole state on the path of one event.
//
// # Ahead of the disk
//
// What is queued and not yet durable can be seen only by those who hold a head that was advanced over it: state events by [Graph.Events].
// Everything else, look-ups by ID included, shows what is durable. Every [Ticket] must be waited for.
//
// # Other nodes
//
// Events in memory change only by redaction and when an outlier joins its room's graph. [Graph.Follow] reads what other nodes wrote and drops
// such events; heads in memory are compared with the disk by revision each time. Chains of snapshots change when they are
// reclaimed, which moves the room's revision and epoch: a head then reads its chain again.
//
// # Who meets whom
//
// [Circles] remembers who shares rooms, for slices that ask so for each change of something that belongs to a user.
//
// # Locks
//
// Circles.mu is a leaf. room.mu before roomKeys.mu; Graph.fill alone. roster.mu is held while states are compared, before any other. The others guard memory for single operations and are never held during a call of the
// database.
//
// Spec: ss PDUs
// Spec: ss Room State Resolution
// Spec: cs Transaction identifiers
package graph
