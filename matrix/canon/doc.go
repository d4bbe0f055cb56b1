// Package canon turns JSON into canonical JSON and edits canonical objects in place of a
// general JSON library.
//
// It owns the byte form that is hashed and signed: the shortest encoding, UTF-8 throughout,
// keys in the order of their code points.
//
// Invariants: Canonicalize is idempotent, its output is valid JSON without duplicate keys, and two
// inputs that mean the same value under a Mode give the same bytes. Nothing here keeps or
// changes its inputs; results that alias an input say so.
//
// The package refuses invalid UTF-8, lone surrogates, nesting deeper than MaxDepth and anything
// after the value. It never repairs a document.
//
// Spec: appendices Canonical JSON
package canon
