// Package report keeps what users report to those who run the server: events, rooms and other users.
//
// It owns the table reports. Who reports the same thing again replaces what they said of it before, and each user has a number of reports at most; so
// what somebody can make the server keep is bounded. A report stays until an administrator deletes it.
//
// It refuses to judge whether the reporter may see what they report: that is for its callers.
//
// Spec: cs Reporting Content
package report
