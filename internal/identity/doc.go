// Package identity speaks to identity servers, for users who name one: it finds out whose an address is, has invites of addresses kept
// there, and publishes and withdraws addresses.
//
// # Owns
//
// The table identity_bindings: which address of which user was published where, so that it can be withdrawn.
//
// # Invariants
//
//   - A user's own token goes to the server that the user named, and nowhere else; no token is kept.
//   - An address leaves this server hashed, but for the invite that the identity server is to mail.
//   - What an identity server says is passed on as far as it is an errcode and a short text. One that hangs costs its user's own request:
//     requests are bounded in time, the answers in size, and those under way in number, per user and altogether.
//   - No private address is contacted unless the configuration lists it, whatever names lead there.
//
// # Refuses
//
// To trust: whom an identity server names as an address's owner is only invited. To validate addresses, which is between the client and the
// identity server, and to hash in any way but SHA-256.
//
// # Locks
//
// Identity.mu guards the count of requests under way and is held for nothing else.
//
// Spec: is Association lookup
// Spec: is Invitation storage
// Spec: cs Third-party invites
package identity
