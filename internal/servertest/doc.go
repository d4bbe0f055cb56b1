// Package servertest runs real servers in the test's process and talks to them over HTTP as clients do.
//
// It owns the frame of the behaviour tests: a server per test and engine (Each, Start) that can be
// restarted, several servers on a network in memory that can also be cut off and crash (Net, EachNet), and a client that signs in, sends, syncs and reads JSON, and has every answer checked by
// package spectest. The behaviour tests themselves stand in the _test files, one for each chapter of the
// client-server API.
//
// # Invariants
//
//   - A test fails whose server logs an error: a 500 that nobody looked at is still one.
//   - What runs is what "myelin serve" runs, listeners, jobs and shutdown included.
//   - After a crash a server finds its disk as it was when its network went, so all that it had acknowledged and nothing that
//     it did since.
//
// # What it refuses
//
// It is for tests only, mocks nothing and sleeps nowhere: who waits for something syncs.
//
// # Locks
//
// There are none of its own.
package servertest
