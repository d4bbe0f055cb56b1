// Package appservice is about the programs that work beside the server with more rights than a user: bridges and bots. It knows
// them by their registrations, lets them act in the name of their users, asks them about users, aliases and third-party networks
// that they stand for, and brings them what happens in their part of the server.
//
// # Owns
//
// The tables appservices (registrations that were added while the server ran) and appservice_queues (how far each application
// service has got, and the transaction that is under way to it). In memory, the registrations in force and, on the node that
// sends, the newest part of the stream and which rooms each application service is interested in.
//
// # Registrations
//
// They come from files that the configuration names, and from the table. Both kinds are checked together before any takes effect: IDs,
// tokens and users are unique, and no two exclusive namespaces can hold the same name. That is decided for the expressions
// themselves (see overlap), not for names that exist.
//
// The regular expressions are those of RE2, so matching takes time in proportion to the name. They are anchored at their beginning
// and not at their end, as bridges expect. An as_token is stored as a hash; the hs_token must be said, so it is stored as it is.
//
// # Transactions
//
// Each application service has a place in the stream. What lies after it and concerns the application service makes a transaction: its
// bytes are written down before they are sent, under an ID that no other has, and are sent until the application service says that it has them. Only
// then the next one is made, and writing that down is what says that the former arrived. So order is kept, and a crash of either side
// repeats a transaction and never changes one. An application service that is away costs its row.
//
// Whether a room concerns an application service is counted: how many of its members are in the namespace, by a state of the room, and from there on by what
// differs between states. An event costs the same in a room of any size.
//
// # Invariants
//
//   - One node sends, under one lease; a queue moves only in a transaction that holds it.
//   - An answer is read up to a bound and for a bounded time, and one application service has a bounded number of questions under way:
//     none can make others wait.
//   - Messages to devices are taken from the inbox of a device, and handed over, only where an exclusive namespace has its user.
//
// # Refuses
//
// To change rooms or accounts: what an application service wants done it does by the client-server API. To believe what it answers
// beyond the shape that the specification gives it.
//
// # Locks
//
// Registry.mu orders changes of the registrations and is held during calls to the database. feed.mu and Service.mu are leaves. The bus holds its own
// lock while it calls feed.hear, which takes feed.mu.
//
// Spec: as Application Services
package appservice
