// Package server builds the whole server out of its configuration, runs it and stops it.
//
// It owns the data folder with its lock, the listeners, the order of starting and stopping, and the
// socket over which commands such as "myelin user create" talk to a running server. What the
// slices need of each other is tied together here and nowhere else: New has a section for each.
//
// # Invariants
//
//   - One process at a time uses a data folder. The operating system frees the lock of a process
//     that died, however it died.
//   - A port is bound only when the server can serve.
//   - Stopping takes at most DrainTime: waiting long polls answer at once, other requests are
//     waited for, then the slices stop in the reverse order of their start, the database last.
//   - The socket and everything else in the data folder are for the owner of the process alone.
//
// # What it refuses
//
// It holds no rule of the protocol and no SQL. It reads no configuration file: package config did.
//
// # Locks
//
// None. New and Run are called once each, by one goroutine.
package server
