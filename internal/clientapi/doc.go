// Package clientapi serves the client-server API: thin handlers over the slices below it.
//
// It owns the route table of the API and the translation between requests and calls: parse at
// the edge, call one method of a slice, shape the answer. A file holds a chapter of the
// specification: its routes as a table, then their handlers.
//
// Invariants: a handler holds no SQL, starts no goroutine, and parses every identifier before
// it passes it on. What the server doesn't do is answered M_UNRECOGNIZED by package web, never
// by an empty success.
//
// It refuses to decide anything about rooms (package room), visibility (package view) or
// accounts (package account).
//
// Spec: cs API Standards
package clientapi
