// Package push finds out what of the stream deserves a user's attention: it counts what they have not read, keeps what they were notified of, and
// tells push gateways.
//
// # What readers do
//
// Whoever answers /sync, in either form, calls [Push.Counts] with the position up to which the answer shows events, for the rooms that it shows.
// A change of counts always comes with something that wakes a waiting answer anyway: an event of the room, or the user's own receipt.
//
// Spec: cs Receiving notifications
// Spec: cs Push Notifications
// Spec: cs getNotifications
package push
