// Package spectest compares the answers of a server with the specification's OpenAPI documents.
//
// It owns the reading of the documents and their schemas, and a record of which operations were answered how. It is shared by
// the tests of packages that serve an API and by those of whole servers.
//
// # Invariants
//
//   - An answer is checked by its operation and status: an error by the standard error body as well, a success against the
//     schema of the operation, the ephemeral events inside of it against theirs.
//   - The documents are at ../shared next to the repository. Without them only errors are checked, unless
//     MYELIN_REQUIRE=all, which makes their absence a failure.
//
// # What it refuses
//
// It is for tests only, sends nothing, and judges the form of an answer, never its truth.
//
// # Locks
//
// One mutex guards the compiled schemas and the record. It is held for no call into another package but the schemas' compiler.
//
// Spec: cs Standard error response
package spectest
