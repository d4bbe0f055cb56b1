// Package bus tells goroutines, and other nodes, that the stream has grown.
//
// # Owns
//
// The kinds of stream entries, the last position known to this node, and the list of subscribers. No table.
//
// # Invariants
//
// Every subscriber is told of every position exactly once, in order, without holes: the From of a [Range] is the To of the one before
// it. Positions that another node assigned, or that were assigned while nobody listened, come as a Range with
// Foreign set and without entries: the subscriber reads the database, which is the truth. So losing a hint between nodes
// delays and never loses: the next Range, from whatever node, covers the hole.
//
// Entries are delivered after they are durable and before their writer is answered. An entry without a position (Pos 0)
// reaches this node only.
//
// # Refuses
//
// Queues: subscribers are called one after another by whoever brings the news, mostly the committer, so they must be quick
// and must not call the database or Subscribe; they hand over to goroutines of their own.
//
// # Locks
//
// Bus.mu is held while subscribers are called.
package bus
