// Package fedapi serves the server-server API: thin handlers over the slices below it.
//
// It owns the route table of the API, the translation between requests and calls, and what is decided from the request
// alone: that a server speaks for its own users only, and for which rooms it is shut out. A file
// holds a chapter of the specification: its routes as a table, then their handlers.
//
// # Who is asking
//
// Package web hands a request over once its signature was checked; Request.Origin signed it, and Request.Destination is the name of
// ours that it was meant for. Every operation on a room asks the room's access control list first. What of a room a server may
// read is package view's to say: all of what its users may see, and the rest pruned, if it is in the room.
//
// # Transactions
//
// A transaction is idempotent by its parts, not by its ID: an event that is known already is not judged again, a receipt
// doesn't move back, and typing and presence are what they were said to be last. So nothing is remembered of transactions, and one that
// is repeated after we crashed, or to another node, or with other contents under the same ID, does what it would have done anyway.
// It is answered once everything in it is durable: as part of a room, or staged by package fedroom until its ancestors are here.
// What can never be accepted is named in the answer. Anything that failed for a reason of ours fails the transaction, so that the other
// server sends it again.
//
// One server's transactions are handled one after another; others don't wait for them.
//
// # Invariants
//
//   - A handler holds no SQL, starts no goroutine that outlives it, and parses every identifier before it passes it on.
//   - An answer that holds the state of a room is written piece by piece: of a room of 20,000 members no more than
//     its numbers and IDs and a page of events are in memory. Few such answers are under way at once, and fewer to one server.
//   - No request makes this server ask another one that asks back: a notary query goes to the server that it is about.
//
// # What it refuses
//
// To sign for rooms as a policy server: package web answers M_UNRECOGNIZED. EDUs of unknown types are passed over. It decides nothing about rooms (packages room and fedroom).
//
// # Locks
//
// turns.mu is a leaf, held for operations on a map.
//
// Spec: ss API standards
// Spec: ss Transactions
// Spec: ss Server Access Control Lists (ACLs)
package fedapi
