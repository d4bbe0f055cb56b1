// Package statemap is a persistent map from small integers to integers: each change makes a new map that shares all but a path
// of nodes with the old one, and two maps are compared in time proportional to where they differ.
//
// It owns nothing but the data structure; package graph gives keys and values their meaning.
//
// The map is a radix trie: leaves of 64 entries under nodes of 32 children, as tall as the largest key needs. Keys should be
// numbered densely from small integers on: then a map of n entries has about n/64 leaves. Sparse keys work and waste memory.
//
// Invariants: a [Map] never changes and may be shared between goroutines. A value of 0 means that the key is absent. No node is empty,
// and no map holds more than 2³¹-1 entries.
//
// A [Builder] makes many changes at once and copies each node at most once. It refuses nothing; it must be used by one goroutine.
package statemap
