// Package event holds the persistent data unit, the event as servers keep and exchange it.
//
// It owns the format of PDUs in every room version: parsing and building, the content hash, the
// reference hash and the event ID that comes from it, redaction, size limits, which
// signatures an event needs, and the form that clients see. Whether an event is allowed is
// decided elsewhere, by eventauth.
//
// Invariants: a PDU never changes once made, and may be shared between goroutines. Its bytes are canonical, as
// the room version defines it, and hold neither `unsigned` nor, from version 3 on, `event_id`: those
// are removed before anything is hashed. Slices and strings that a PDU hands out share its
// memory and must not be written to. Parse(v, p.Raw()) gives the same event again.
//
// The package refuses events over 65,536 bytes, identifiers over 255 bytes, fields of the wrong
// type, and types and state keys with a NUL, which no text column can hold.
//
// Spec: ss PDUs
// Spec: ss Signing Events
// Spec: cs Size limits
// Spec: cs Room event format
package event
