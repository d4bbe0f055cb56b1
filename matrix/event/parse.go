package event

import (
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// buffers are scratch space for one call each.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// withBuffer lends scratch space to f, which returns what became of it.
func withBuffer(f func(buf []byte) []byte) {
	b := buffers.Get().(*[]byte)
	if *b = f((*b)[:0]); cap(*b) <= 4*MaxSize {
		buffers.Put(b)
	}
}

// Parse reads an event from untrusted bytes, which it does not keep. What is not covered by
// hashes is left out: `unsigned`, and `event_id` in versions where the ID is the hash. It
// checks form and size, and neither the hash nor signatures: see HashOK and RequiredSigners.
//
// The error is an *mxerr.Error: M_NOT_JSON, M_BAD_JSON or M_TOO_LARGE.
//
// Spec: ss Checks performed on receipt of a PDU
func Parse(v *roomver.Version, raw []byte) (p *PDU, err error) {
	if len(raw) > maxRaw {
		return nil, mxerr.TooLarge("The event is larger than %d bytes.", MaxSize)
	}
	withBuffer(func(buf []byte) []byte {
		out, e := canon.Canonicalize(buf, raw, v.Canon)
		if e != nil {
			err = e
			return buf
		}
		p, err = parseCanonical(v, out)
		return out
	})
	return p, err
}

// parseCanonical copies what it keeps of object.
func parseCanonical(v *roomver.Version, object []byte) (*PDU, error) {
	if object[0] != '{' {
		return nil, mxerr.BadJSON("An event must be a JSON object.")
	}
	size, whole := len(object), true
	for key, value := range canon.Fields(object) {
		if dropped(v, key) {
			size -= len(key) + len(`"":,`) + len(value)
			whole = false
		}
	}
	if size > MaxSize {
		return nil, mxerr.TooLarge("The event is larger than %d bytes.", MaxSize)
	}
	// The ID, where it is a hash, lives behind the event in the same block of memory.
	block := make([]byte, 0, max(size, 2)+hashIDLength)
	switch {
	case whole:
		block = append(block, object...)
	case v.EventIDs == roomver.EventIDDomain:
		block = canon.Without(block, object, "unsigned")
	default:
		block = canon.Without(block, object, "event_id", "unsigned")
	}
	p := &PDU{version: v, raw: block[:len(block):len(block)]}
	if err := p.scan(); err != nil {
		return nil, err
	}
	if v.EventIDs != roomver.EventIDDomain {
		block = p.appendHashID(block)
		p.id = id.EventID(view(block[len(p.raw):]))
	}
	p.nameRoom()
	return p, nil
}

// dropped reports whether a field is no part of the event.
func dropped(v *roomver.Version, key string) bool {
	return key == "unsigned" || key == "event_id" && v.EventIDs != roomver.EventIDDomain
}

// Trusted reads an event from bytes that a PDU's Raw once gave, without checking them again. The event
// keeps raw.
func Trusted(v *roomver.Version, eventID id.EventID, raw []byte) (*PDU, error) {
	if len(raw) < 2 || raw[0] != '{' {
		return nil, fmt.Errorf("the stored bytes of event %s are not an object", eventID)
	}
	p := &PDU{version: v, raw: raw}
	// What was accepted once stays readable, even if this version would refuse it.
	_ = p.scan()
	if p.contentEnd == 0 {
		return nil, fmt.Errorf("the stored bytes of event %s have no content", eventID)
	}
	p.id = eventID
	p.nameRoom()
	return p, nil
}

// nameRoom gives a create event the room ID that follows from its event ID.
func (p *PDU) nameRoom() {
	if p.namesRoom() && p.id != "" {
		p.roomID = id.RoomID("!" + string(p.id[1:]))
	}
}

// Unsigned cuts the `unsigned` of an event that Parse accepts down to what another server may tell
// ours: the stripped state of an invite or a knock. It returns nil where there is none. Age and the
// rest are our own to say.
//
// Spec: cs Stripped state
func Unsigned(raw []byte) []byte {
	unsigned, _ := canon.Get(raw, "unsigned")
	unsigned, err := canon.Canonicalize(nil, unsigned, canon.Lax)
	if err != nil {
		return nil
	}
	var out []byte
	for _, key := range []string{"invite_room_state", "knock_room_state"} {
		if state, ok := canon.Get(unsigned, key); ok && state[0] == '[' {
			if out == nil {
				out = []byte("{}")
			}
			out = canon.With(nil, out, key, state)
		}
	}
	return out
}

// view shows bytes that will not change any more as a string.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// cloneID keeps an ID apart from the memory of its event.
func cloneID(e id.EventID) id.EventID { return id.EventID(strings.Clone(string(e))) }
