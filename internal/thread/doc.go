// Package thread keeps which threads each user follows.
//
// It owns the table thread_subscriptions. A subscription is made by hand or automatically, by a client on account of an event that concerns the user;
// one that was ended stays as a row that says so, since an event from before must not begin it again.
//
// Invariants:
//
//   - Each change has a position in the stream, and is told on the bus ([bus.ThreadSubscription]) and kept as the last word on its thread only.
//   - What was asked for by hand is never changed by what is automatic.
//   - A request that changes nothing gets no position.
//
// It refuses to judge: that the thread exists, that the user may see it and that the cause is in it, is for its callers to find out (package view).
//
// MSC4306: thread subscriptions. MSC4308: their changes for sliding sync.
package thread
