// Package crashtest kills a server under load, again and again, and looks whether anything that it had acknowledged
// is lost, doubled or half there.
//
// It owns the test that builds cmd/myelin, runs it as a process of its own, loads it through the client-server API
// with messages, state, account data and new rooms, kills it at a random instant (also while it
// starts), starts it again on the same data, and compares what it finds with what was promised:
//
//   - each acknowledged event is in its room's history exactly once, under the ID that was acknowledged;
//   - a request that got no answer, sent again under its transaction ID, is carried out exactly once;
//   - answered transaction IDs still get the same answer;
//   - a client that syncs on from its last token over all crashes sees each event exactly once,
//     and old tokens still work;
//   - each room that exists has all that createRoom gives a room, and the last acknowledged state.
//
// The power stays on: whether the disk keeps what it was told to is a matter of sqldb's fsync, which
// the test of that package looks at.
//
// It refuses to look into the database: what clients see is what counts.
package crashtest
