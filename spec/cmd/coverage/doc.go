// Command coverage prints how much of the pinned specification the source serves.
//
//	go run ./spec/cmd/coverage [-api client-server,server-server] [-missing] [-tested FILE] [-json]
//
// Without -api it reports on the APIs that the server serves, or asks others by. For each tag it counts the operations
// that have a route, those that the server asks others for, and those that a test names. -missing lists the operations that are neither served nor
// called. -tested names a file with one operationId per line, such as a run of the integration tests leaves behind; it
// then replaces what is read from the tests' source. It exits with status 1 if a route's method or path
// differs from those of its operation.
package main
