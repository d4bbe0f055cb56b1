// Package eventauth decides whether an event may be in a room: the authorisation rules of room
// versions 1 to 12, each as a function of the event and of the state it is judged by.
//
// It owns the outline of the rules (rules.go), the selection of auth events, and the reading of
// power levels with every leniency that old room versions grant.
//
// One table holds all rules of all versions in the order of the text, with the versions in which each
// exists. Numbers are counted from it, as the reader of a rendered page counts them, and the
// evaluation asks the same table whether a rule exists: a version differs from another by data,
// never by a copy of the code. A Rejection says "v11 4.3.7", to be looked up in the text of
// that version. Two numbers of version 12 are misprinted in the source of the text (a list that skips
// from 3 to 5, and another with two items 10); what counts here is the position: 3.4 and 10.11.
//
// Invariants:
//   - The verdict depends on nothing but the event and the state entries of its Needed keys (and the
//     create event). It is the same on every server and at every time.
//   - The cost is bounded by the size of those events, at most 64 KiB each, whatever the
//     size of the room.
//   - An event that the rules do not allow in so many words is rejected.
//
// What it refuses to do: it neither fetches events nor remembers verdicts, it holds no keys of servers,
// and it never repairs content. Callers verify hashes and signatures before they call Check (rule
// "validly signed by the homeserver of the user" of version 8 and later needs
// event.PDU.RequiredSigners; Check itself only insists that a signature of that server is there),
// and report auth events that were rejected with RejectedAuthEvent.
//
// Where the text is silent, this is decided:
//   - A room without m.room.join_rules, or whose join_rules name no rule, is "invite".
//   - In an m.room.power_levels event, `users` may be absent.
//   - In versions 1 to 9 a level that is neither a number nor a string in the documented format,
//     in a property that the rules compare, rejects the event. So does an `events` property (from version 6
//     on also `notifications`) that is no object. No numbered rule says so; the
//     rejection names the chapter "Deprecated event content schemas".
//   - Levels beyond 64 bits, possible in versions 1 to 9, count as the greatest or the least level.
//   - At most 128 pairs of signature and key are tried for one third-party invite.
//
// There are no locks: everything is pure.
//
// Spec: rooms/v1 Authorisation rules
// Spec: rooms/v12 Authorisation rules
// Spec: ss Auth events selection
// Spec: ss Authorization rules
package eventauth
