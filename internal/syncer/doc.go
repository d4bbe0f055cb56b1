// Package syncer answers /sync, and sliding sync: what is new for a user since a position of the stream.
//
// # Owns
//
// The tokens of /sync, the memory of what happened lately (the hub), and the memory of which
// members each device has been told of. Of sliding sync: the tables sliding_conns and sliding_steps.
//
// # One answer
//
// An answer covers the half-open range (since, to] of the stream, where to is a position whose
// commits are all visible. It is a function of that range, the filter and the
// database: events and states at positions up to to never change. The hub only saves reading: when it knows
// all that happened after since, an answer reads no database.
//
// For each joined room the timeline holds the newest events of the range that the filter
// selects and the user may see. The state section makes up for what the
// timeline doesn't show: it is computed from what this server held to be the room's state at three
// places (graph.Event.HeadState): at since, before the timeline's first event, and at to.
// So it is right after gaps, in forked rooms, and with filters that hide state events:
// a key that the timeline shows gets the value before the timeline, any other key the value at to.
//
// A state event in the timeline may have lost against another branch of the room. A
// client that applies it then believes something that isn't so. With state_after the question
// does not arise. Without, a timeline that is limited anyway begins after such
// an event, and otherwise the token says "s<to>_<from>": the next answer also
// confirms the current value of what state events in (from, to] touched.
//
// # The hub
//
// The hub is fed by the bus. It keeps a feed for each user who syncs: their memberships as of a known
// position, and their rooms in the order of last activity; and for each room of a feed its
// latest events. A commit costs in proportion to the feeds of the rooms that it touches. A piece
// of the stream that another node wrote empties the hub: it fills again from the database.
//
// # The pace
//
// A client that was idle is answered at once. One that polls gets its answers 10 ms apart at least, and up to 100 ms while
// more goroutines want to run than processors can: messages that share an answer are less work.
//
// # Sections
//
// What else belongs into answers comes in as a [Section] of Config, so that nothing here knows its tables. Whoever
// writes one gives each change a position of the stream, emits a bus entry that names the user concerned (ToDevice and
// OneTimeKeys with the device too, DeviceListLocal with the user whose keys changed), and answers for a range
// (from, to]: what has a position after to is left for the next answer, and from 0 asks for
// all that is current.
//
// # Sliding sync
//
// A connection has a ledger: for each room that the client was told of, up to where it was told of the events, the account data, the receipts
// and the typing, under which configuration, and how long a timeline it has. An answer covers what its rules select, up to one position; what
// happened elsewhere in rooms that the client knows stays behind, at the position up to which it was told, until a rule selects the room
// again. Mostly nothing stays behind: then an answer changes no ledger, its token differs from the last one in the position only, and
// nothing is written. Otherwise the change is durable before the answer leaves. A token names the version of the ledger that it stands for, so a
// request that is repeated, or that comes after a restart or to another node, is answered from there; what other answers
// noted after that version is dropped. Tokens of versions that are gone are refused with M_UNKNOWN_POS.
//
// The shelf of a feed has the user's rooms in the order of their last activity, with what filters ask for. It is filled by one query and follows
// the bus. A request looks it through from the top, once; after that, while its rules stay the same and no room changes its place but by rising
// to the top, requests look only at rooms in which something happened: their cost doesn't depend on how many rooms there are.
//
// # Invariants
//
//   - Positions in a token are visible in the database when the token is given out.
//   - Nothing is told of a room that the user is not, or was not at the time, allowed to see; of a room that
//     the user left, nothing later than the departure but the user's own member events.
//   - That a member was told of counts only for requests whose since proves that the answer arrived.
//
// # Refuses
//
// Tokens that it didn't make, to wait longer than MaxTimeout, timelines of more than MaxTimeline events; more than so many lists, room
// subscriptions and entries of required_state; more than so many connections of a device, of which the one that was unused for longest gives way.
//
// # Locks
//
// hub.mu is held by the bus's callback and for operations in memory; no database is read under it. lazyMemory.mu, introduced.mu and slide.mu
// are leaves; connection.mu comes before introduced.mu.
//
// Spec: cs sync
// Spec: cs Lazy-loading room members
// Spec: cs Ignoring Users
//
// MSC4186: Simplified Sliding Sync
package syncer
