// Package notice is what the operator of a server tells its users: messages in a room that each user has for this alone.
//
// It owns the table notice_rooms: the room of each user who was ever told something.
//
// # Invariants
//
//   - A user has one such room. It is made in the transaction that notes it and gives it its tag, so a crash leaves neither half.
//   - The user is invited, not joined, and can't reject the invite; who joined may leave, and is invited again by the next notice.
//   - The account that speaks has no password and no device: nobody can sign in with it. Nobody may register its name; where somebody had it
//     before, nothing is sent.
//   - A notice with a transaction ID is sent once.
//
// # Refuses
//
// To tell people of other servers, and guests, anything.
//
// # Locks
//
// Notices.mu is held while a notice is sent, so that two of them don't make two rooms; another node's attempt fails in the transaction.
//
// Spec: cs Server Notices
package notice
