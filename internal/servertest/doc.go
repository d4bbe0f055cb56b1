// Package servertest runs real servers in the test's process and talks to them over HTTP as clients do.
//
// It owns the frame of the behaviour tests: a server per test and engine (Each, Start) that can be
// restarted, a client that signs in, sends, syncs and reads JSON, and the check of every
// response against the specification's OpenAPI document. The behaviour tests themselves stand in
// the _test files, one for each chapter of the client-server API.
//
// # Invariants
//
//   - Each answer is checked by its operation and status, if the document is there: at ../shared next to
//     the repository. Without it the check is left out, or fails where MYELIN_REQUIRE=all.
//   - A test fails whose server logs an error: a 500 that nobody looked at is still one.
//   - What runs is what "myelin serve" runs, listeners, jobs and shutdown included.
//
// # What it refuses
//
// It is for tests only, mocks nothing and sleeps nowhere: who waits for something syncs.
//
// # Locks
//
// The checker and the record of exercised operations have a mutex each, held for no call into another.
package servertest
