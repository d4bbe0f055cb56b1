// Package spec holds what the pinned Matrix specification, version 1.19, contains: its list of
// operations and the names of its chapters. Tests measure the code against both.
//
// It owns two embedded files, made by "go run ./spec/cmd/extract" out of the specification's
// repository (https://github.com/matrix-org/matrix-spec, tag v1.19; Apache-2.0, copyright The
// Matrix.org Foundation C.I.C. and the authors named there):
//
//   - endpoints.csv: one row per operation. Columns: api, method, path, operationId, auth,
//     rate_limited, deprecated, uia, tag. Two rows may share a method and a path: the
//     specification then describes two operations that one route answers.
//   - headings.txt: one chapter, event type or numbered authorisation rule per line, as "api<TAB>name".
//     Facts only: no text of the specification is here.
//
// # Citations
//
// A comment line of the form
//
//	// Spec: <api> <name>
//
// says which part of the specification the code below it carries out. The api is one of cs, ss, as,
// is, pg, appendices, olm, index, rooms and rooms/v1 to rooms/v12. The name is an operationId of that
// api, a heading, an event type ("cs m.room.topic"), or for room versions "auth" and a rule's number
// as it is rendered ("rooms/v12 auth 5.3.7"). Case does not count, nor does markup. After the name
// may follow a remark, set off by a comma, a colon, a semicolon, a full stop or a parenthesis.
// Several citations on one line are set apart by "; ", each with its api.
//
// A test fails on a citation that names nothing.
//
// Where the code knowingly does otherwise, its comment says so in the same form, and why:
//
//	// Deviates: <api> <name>: <why>
//
// docs/deviations.md has a row for each; a test compares the two.
//
// # Coverage
//
// "go run ./spec/cmd/coverage" compares the routes in the source with the operations and prints, for
// each tag, how many are served, how many a test names, and which are missing. A route
// is any composite literal that holds both a path and an operationId, so the report needs no server.
// What the server asks of others, application services and push gateways among them, stands in a comment beside the code that does so:
//
//	// Calls: <api> <operationId>
//
// The package refuses to hold behaviour: nothing but tests and its own commands imports it.
package spec
