// Package sign signs JSON objects with Ed25519 and checks such signatures.
//
// It owns the form of signing keys, key identifiers and the `signatures` member. It does not know where
// keys come from, whom they belong to or how long they are valid: package fedclient's key ring does.
//
// Invariants: a signature covers the canonical form of the object without `signatures` and `unsigned`,
// and nothing else; signing never drops another's signature.
//
// The package refuses algorithms other than ed25519, and verifies singly: batch verification
// accepts crafted signatures that another server would refuse.
//
// Spec: appendices Signing JSON
package sign
