package event

import (
	"bytes"

	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// Relation is what an event says of another one of its room. Whether that one exists, and whether the rules of the type are kept, is not
// known here.
//
// Spec: cs Forming relationships between events
type Relation struct {
	// Type is the rel_type: one of the constants, or whatever else clients agree on. Never empty.
	Type   string
	Parent id.EventID
	// Key is what an annotation says; empty for others.
	Key string
}

// The relationship types of the specification.
//
// Spec: cs Relationship types
const (
	Replaces   = "m.replace"
	Annotates  = "m.annotation"
	InThread   = "m.thread"
	References = "m.reference"
)

// maxRelType bounds the type of a relation, in bytes, like the event's own type.
const maxRelType = MaxField

var relatesTo = []byte(`"m.relates_to"`)

// Relation returns the event's relation. It is false where there is none, as in a reply, which has no type of relation, and where it
// doesn't match the schema: such are ignored.
//
// Spec: cs Forming relationships between events
func (p *PDU) Relation() (Relation, bool) { return RelationOf(p.Content()) }

// RelationOf is Relation for the content of an event that is yet to be made: a valid JSON object, where keys are written without escapes.
func RelationOf(content []byte) (Relation, bool) {
	if !bytes.Contains(content, relatesTo) {
		return Relation{}, false
	}
	raw, _ := canon.Get(content, "m.relates_to")
	var r Relation
	r.Type, _ = canon.GetText(raw, "rel_type")
	parent, _ := canon.GetText(raw, "event_id")
	if r.Type == "" || len(r.Type) > maxRelType || containsNUL(r.Type) {
		return Relation{}, false
	}
	var err error
	if r.Parent, err = id.ParseEventID(parent); err != nil {
		return Relation{}, false
	}
	if r.Type == Annotates {
		r.Key, _ = canon.GetText(raw, "key")
	}
	return r, true
}
