// Package ours knows which server names are ours and which key signs for each of them.
//
// It owns the table server_keys. No other code compares a domain with "the" server name: it asks
// a Set whether the domain is ours.
//
// Invariants: every name of the Set has exactly one current key; a key that was current once is
// kept for ever with the time it was retired, because events it signed must stay verifiable; a
// key ID is never given to a second key of the same server. Two processes that start at the same
// time on one database agree on the same key.
//
// It refuses to forget a key, to hold a private key for a name that is not configured, and to
// start with no name at all.
//
// A Set is immutable after Open and safe for concurrent use; it takes no locks.
//
// Spec: ss Publishing Keys
// Spec: appendices Server Name
package ours
