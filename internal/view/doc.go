// Package view is what a user may see of rooms, and in which shape.
//
// It owns the rules of history visibility, the client format of events with everything that
// stands in their unsigned part, the filters of clients, and the reading operations over one
// room: timelines, context, members, state, what relates to an event, threads.
//
// Invariants:
//
//   - Nothing that a user may not see leaves this package: every function that takes a user
//     applies the visibility of each event at the time when it was sent, and treats a room that
//     the user has forgotten as one that doesn't exist.
//   - Events are copied from their stored bytes, not decoded and encoded again.
//   - Tokens of timelines are places in the order of one room ("t" and a number). A token of
//     /sync ("s" and a position) is accepted wherever the specification lets clients pass one.
//   - Another server gets whole only what one of its users may see; the rest of what it may ask for is pruned. What it is told of
//     large rooms passes through memory page by page.
//
// It refuses to change anything, and to answer for rooms this server is not in.
//
// Spec: cs Room History Visibility
// Spec: cs Room event format
// Spec: cs Filtering
// Spec: ss Backfilling and retrieving missing events
// Spec: ss Retrieving events
package view
