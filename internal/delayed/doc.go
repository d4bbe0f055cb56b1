// Package delayed keeps events that users want sent later, and sends them when their time has come.
//
// # Owns
//
// The table delayed_events, and the loop that sends what is due.
//
// # Invariants
//
//   - What was scheduled is sent once, after its time and never before it, however often the server restarts: the room takes the delayed event's
//     ID as the transaction of the event, so that a second attempt finds the event of the first.
//   - An event that is being sent can be neither cancelled nor restarted: who cancelled one is sure that it was not sent.
//   - What is due for one user is sent in the order of its times, and waits for nobody else's for long: users take turns in
//     a bounded number at a time.
//   - A user has at most MaxScheduled events waiting, none of which waits longer than MaxDelay. What has become of an event is
//     kept for Retention, the newest maxFinalised of a user, without the content of what was sent: that is in the room, until it is redacted.
//   - Nothing of an account that was deactivated is kept.
//
// # What it refuses
//
// To judge events: whether its sender may send it is for package room, at the moment of sending. How events of each type are sent
// comes in as a function of Config.
//
// # Locks
//
// There are none. The channel that wakes the loop only shortens its wait; the loop finds what is due in the table.
//
// MSC4140: cancellable delayed events.
package delayed
