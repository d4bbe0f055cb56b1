// Package server builds the whole server out of its configuration, runs it and stops it.
//
// It owns the data folder with its lock, the listeners with their certificate and their bounds, the order of starting and stopping, and the
// socket over which commands such as "myelin user create" talk to a running server, and the examination of another server for the doctor. What the
// slices need of each other is tied together here and nowhere else: New has a section for each.
//
// # Invariants
//
//   - One process at a time uses a data folder. The operating system frees the lock of a process
//     that died, however it died.
//   - A port is bound only when the server can serve.
//   - Stopping takes at most DrainTime: waiting long polls answer at once, other requests are
//     waited for, then the slices stop in the reverse order of their start, the database last.
//   - On a port of their own, other servers get HTTP/2 and TLS if there is a certificate, which is read again when its files
//     change, and so many connections and no more. A connection that sends no headers in time is closed on every port.
//   - The socket and everything else in the data folder are for the owner of the process alone.
//
// # What it refuses
//
// It holds no rule of the protocol and no SQL. It reads no configuration file: package config did.
//
// # Locks
//
// New and Run are called once each, by one goroutine. The certificate and the count of connections have a mutex each, under which
// files are looked at, or nothing is called.
package server
