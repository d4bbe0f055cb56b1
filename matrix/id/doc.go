// Package id holds the identifiers of Matrix as types of their own, and the only functions
// that take them apart.
//
// It owns the grammar of user IDs, room IDs, room aliases, event IDs, server names and device
// IDs. (Key IDs belong to package sign.) A value of one of these types that came out of a Parse function is well formed;
// everything outside matrix/* treats it as opaque.
//
// Invariants: a parsed identifier is at most 255 bytes, valid UTF-8 and without NUL.
//
// The package refuses to guess: a malformed identifier is an error that names the identifier's
// kind and what is wrong with it, never a silently corrected value.
//
// Spec: appendices Identifier Grammar
package id
