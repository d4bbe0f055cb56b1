package canon

// Mode says which numbers are acceptable, and how they are written.
type Mode uint8

const (
	// Strict accepts integers of magnitude at most 2^53-1, written without fraction, exponent
	// or negative zero. It is what room versions from 6 on enforce.
	//
	// Spec: rooms/v6 Canonical JSON
	Strict Mode = iota
	// Lax keeps every JSON number as it is written, except that -0 becomes 0. Room versions 1
	// to 5 must not enforce the canonical range, and a number that we rewrote would no longer
	// fit its sender's hash.
	//
	// Spec: rooms/v1 Canonical JSON
	Lax
	// Integral accepts any number whose value is an integer of magnitude at most 2^53-1 and
	// writes it in the shortest form: 1e10 becomes 10000000000, 1.0 becomes 1, -0 becomes 0.
	// It is the transformation of the specification's examples, used to sign
	// and verify JSON that is not an event.
	//
	// Spec: appendices Canonical JSON
	Integral
)

// MaxDepth bounds how deeply arrays and objects may nest. The specification has no bound; every
// server has one, and this is near the largest in use.
const MaxDepth = 1000

// MaxInt is the largest integer of canonical JSON; -MaxInt is the smallest.
const MaxInt = 1<<53 - 1
