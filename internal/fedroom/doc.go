// Package fedroom gets for rooms what they need of other servers: entrance, consent, and events that are missing.
//
// # Owns
//
// The tables staged, given_up and knocks. The question which server to ask, and which next; the checks of what comes that package fedclient can't make
// because it knows no rooms, and package room doesn't make because it asks nobody. What passes goes to package room, which decides.
//
// # Entrance
//
// [Federated.Join], Knock, Leave and Invite are what clients' requests call. Where this server is in the room they pass them on to package room;
// else they go through one server after the other, ten at most, five minutes in all. What concerns one user and room is done once at a time, and
// goes on when the client has gone: another server may have acted on it.
//
// A template of another server says what the event follows and what authorises it, and who vouches for a restricted join. Nothing else of it is signed. The
// state that comes with a join is checked while it arrives, and the room is adopted only if that state belongs to one room, of the ID and the
// version that were asked for, and allows the join by the rules. A server that fails in any of this is left for the next one; what it sent stays
// behind as outliers that nothing refers to.
//
// A server that lets us in may leave the members out, and the keys of some may be out of reach. The rest of the state before such a join comes in the
// background, or, where everybody left again before it came, when somebody is in the room once more. Until then events are
// judged by the members that they name themselves, and no other server is told of states that lack members.
//
// # Missing events
//
// An event that refers to what isn't here is staged: it is durable before the transaction is answered. One attempt at a room ([Federated.Repair]) asks for the
// ancestors, takes the state behind a gap that stays open, fetches auth events; all of it with bounds on rounds, events and time. Eight rooms
// are repaired at once, each by one attempt at a time, so a room that can't be repaired holds up nobody. After sixteen attempts, over hours, an
// event is given up with a reason that [Troubles] lists. Only ancestors of staged events are taken, so an answer can't fill the memory with others.
//
// Keys that are out of reach stage an event too. Of several copies of it the one of which most is proven stays, and one with a wrong
// signature is forgotten, so that nobody can spoil an event of others by being the first to send it.
//
// What waits is bounded by host, whatever its ports, and in all. A server with nobody in the room, as far as is known here, may have a few events
// wait, since it may just have joined; rooms where only such events wait get a small part of the repair.
//
// # Invariants
//
//   - What Receive has taken without an error is in the room, or staged, on disk.
//   - Nothing of another server is stored as part of a room before package fedclient has checked its signatures.
//   - No error of another server reaches a client with a code that means something else between client and server: see refusal.go.
//   - A user is rid of an invite that they reject, whatever other servers do.
//
// # Refuses
//
// To take guests into rooms that this server isn't in: whether the room admits guests is known too late. To take events of rooms that this server
// isn't in, except for the end of an invite or a knock.
//
// # Locks
//
// Federated.mu is a leaf, held for moments. Flights end with Close; everything else runs on a caller's goroutine or
// on those of package work.
//
// Spec: ss Joining Rooms
// Spec: ss Knocking upon a room
// Spec: ss Inviting to a room
// Spec: ss Leaving Rooms (Rejecting Invites)
// Spec: ss Backfilling and retrieving missing events
// Spec: ss Checks performed on receipt of a PDU
// Spec: ss Server Access Control Lists (ACLs)
package fedroom
