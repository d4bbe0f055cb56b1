// Package push finds out what of the stream deserves a user's attention: it counts what they have not read, lists what they were notified of, and
// tells push gateways.
//
// # Owns
//
// The tables push_state, push_events, push_threads, push_redacted, push_marks, push_bases, push_own, pushers and push_due.
//
// # What is counted
//
// An event counts for a user if their rules at the time say so, if it came after they joined the room, and if they have not read it: by a
// public or private receipt on it or on a later event, unthreaded or of the event's thread, or by a message of their own in the thread. It
// stops counting when it is redacted. What users change about their rules, or whom they ignore, holds for events from then on: [Push.Settle] is called
// before such a change, so that what was said before is judged by the rules of before. The number of members that a rule asks for is that of
// when the event is judged. Fully-read markers count for nothing.
//
// # How
//
// What an event means to users whose rules are the predefined ones, and whom it doesn't name, is the same for all of them: one row of
// push_events, with running numbers, so that a count is a difference of two rows whatever lies between. Users who changed rules, ignore
// somebody or have a pusher are judged one by one, and leave a mark only where the result is another one. Who muted a room would leave a mark
// for each event: their base in this room is silence instead. So a message in a room of thousands writes a few rows.
//
// All that is done by a follower of the stream. A count that is asked for judges the events that the follower has not come to by itself, or waits
// a moment where one of them takes back what is in the rows. Counts of users who sync are in memory, and move on with the events that the bus tells of.
//
// # What readers do
//
// Whoever answers /sync, in either form, calls [Push.Counts] with the position up to which the answer shows events, for the rooms that it shows.
// A change of counts always comes with something that wakes a waiting answer anyway: an event of the room, or the user's own receipt.
//
// # Gateways
//
// What a pusher is to be told is a row of push_due, written with the counts and deleted once the gateway has answered. So a crash repeats a message
// at worst, which gateways know by its event ID. A pusher that fails is left alone for longer and longer, and keeps the newest messages of a
// day. Requests are bounded in number, per host and per user, in time and in what is read of the answer.
//
// # Refuses
//
// Gateways without HTTPS, with another path than that of the specification, or at private addresses; e-mail.
//
// # Locks
//
// memory.mu, rulesCache.mu and dispatcher.mu are leaves: no database is read under them. The bus holds its own lock while it calls hear, which takes
// the first two.
//
// Spec: cs Receiving notifications
// Spec: cs Push Notifications
// Spec: cs getNotifications
// Spec: pg notify
package push
