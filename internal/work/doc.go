// Package work runs what happens in the background: followers of the stream, periodic jobs, and any goroutine that must be
// supervised.
//
// # Owns
//
// Tables nodes (heartbeats), leases, cursors and jobs. The [Group] of goroutines.
//
// # Invariants
//
// A goroutine of a [Group] that fails or panics is logged and started again after a pause that grows from one second to
// one minute; Stop ends all of them and waits.
//
// A lease is held by at most one node as far as clocks agree. What is written under it is safe even when they do not: a
// [Follower]'s cursor moves only by compare-and-swap and only while the lease still carries the same fencing token, in the same
// transaction as the follower's effect. So an effect in the database happens once for each position; an effect outside of it can
// happen again after a crash or a lost lease and must be idempotent.
//
// A node proves that it lives by one row written every few seconds, whatever the number of its leases. A node that could not write it in
// time gives its leases up by itself. One that is started again under the same name takes its leases back at once.
//
// # Refuses
//
// Work that lives only in memory: what must survive is a position in the stream and a cursor.
//
// # Locks
//
// Runner.mu guards the set of leases held and is never held during a call to the database.
package work
