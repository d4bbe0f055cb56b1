// Package ephemeral keeps what users show of themselves besides events: how far they have read, that they are typing,
// and whether they are there.
//
// # Owns
//
// The tables receipts, typing, typing_changes, presence and presence_nodes; in memory, which devices are
// connected to this node and when their users were last active.
//
// # Invariants
//
//   - Whatever a client can see change takes a position of the stream and is told to the bus, with everything a
//     reader needs to show it: an incremental sync needs no database for it.
//   - A receipt never moves back in its room's order. A private one is given to nobody but its user.
//   - A row of typing that has expired is not shown, and a change is told as soon as it expires, also after
//     a restart. Nobody types in a room that they left.
//   - The presence table holds what others see. It is written when that changes and at no other time: the exact
//     time of the last activity of somebody who is active stays in memory.
//   - Presence is lowered only by the node that raised it, or in place of a node that is gone. That of users of other servers
//     is lowered by their servers, or once these have been silent about them for long.
//
// # What readers do
//
// Package syncer takes news out of bus entries: Data is a [*Receipt], a [*Typing] or a [*Presence].
// Where it has missed some it reads them with Receipts, TypingIn, PresenceSince and PresenceOf, in
// a read transaction of its own. AppendReceipts, AppendTyping and AppendPresence make events of them.
//
// # Refuses
//
// To let anybody but members of a room say something in it. That a server speaks for its own users only, and isn't shut out
// of the room, is for the caller of the Remote functions to check. Read markers live in account data
// (package account); this package only moves them.
//
// # Locks
//
// Ephemeral.mu is a leaf: it is held for operations on maps only. The bus holds its own lock while it calls
// follow, which takes mu; functions inside of transactions take it too.
//
// Spec: cs Receipts
// Spec: cs Typing Notifications
// Spec: cs Presence
// Spec: cs Fully read markers
package ephemeral
