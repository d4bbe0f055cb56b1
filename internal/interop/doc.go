// Package interop lets Myelin share rooms with other homeservers: Synapse and Dendrite, run as processes of their own.
//
// It owns the test that starts cmd/myelin and a peer on this machine, each with a certificate of an authority that
// the test makes and all of them trust, and has their users meet in rooms of versions 6, 10, 11 and 12, once with the room
// made on the one server and once on the other: joining, inviting, talking, redacting, kicking, banning, restricted
// joins, history from before the join, and catching up after either server was down while the other
// went on.
//
// # Invariants
//
//   - A scenario knows two homeservers by their client-server API and nothing else, so it is written once for all pairs and
//     directions. TestPeers runs the same scenarios between Synapse and Dendrite: what fails there isn't Myelin's fault.
//   - Nothing sleeps: who waits for something syncs, until a deadline.
//   - Every scenario makes rooms of its own, and most end with both servers naming the same events as the room's state.
//
// # What it needs
//
//   - MYELIN_SYNAPSE: a Python interpreter that has matrix-synapse; otherwise python3 in PATH is asked for it. ".ci/run" makes one.
//   - MYELIN_DENDRITE: a folder with the program dendrite.
//
// Who is missing is skipped with a line that says so. With MYELIN_REQUIRE=all the lack of Synapse is a failure, unless
// MYELIN_SYNAPSE_UNREACHABLE holds a sentence that says why it couldn't be had. Dendrite isn't required: no package registry has it.
//
// MYELIN_TEST_INTEROP_BINARY names a program to run as Myelin instead of one that is built from this source, and MYELIN_TEST_INTEROP_DATABASE
// its database, instead of SQLite. MYELIN_TEST_INTEROP_AWAY is how many messages of each room a server misses while it is down, 250 unless it is set. MYELIN_TEST_INTEROP_KEEP=1 leaves
// the servers' data and logs in the temporary folder, and has Myelin log its requests and what is
// of use for debugging.
//
// # What it refuses
//
// No code and no sample of configuration of the peers stands here. What the specification says in detail is for package servertest
// and the tests of single packages; this one shows that others understand us, and we them.
//
// # Locks
//
// There are none of its own.
package interop
