// Package nettest is a network in memory, with names, addresses and faults, for tests that need several servers.
//
// It owns hosts that listen and dial, the resolver of their names, connections whose bytes travel for a while, get lost with
// their connection or wait at a partition, and an authority that certifies names.
//
// # Invariants
//
//   - It is made of channels, timers and mutexes that are held for moments, so it works inside a testing/synctest bubble and
//     its delays cost nothing there.
//   - What happens to the n-th write on the m-th connection from one host to another is a function of the seed and of these
//     names and numbers, not of the order in which goroutines run: a run with the same seed meets the same faults.
//   - Bytes of one direction of a connection arrive in their order or not at all, as with TCP. What is reordered is
//     connections; what is lost is lost with its connection, before or after the other side read it.
//
// # What it refuses
//
// It knows nothing of HTTP or Matrix. It is for tests only.
//
// # Locks
//
// Network.mu guards hosts, groups and faults; each direction of a connection has a mutex of its own, taken after Network.mu
// if both are.
package nettest
