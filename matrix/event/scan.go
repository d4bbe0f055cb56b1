package event

import (
	"bytes"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// fields is a set of the fields that a format may require.
type fields uint16

const (
	hasAuthEvents fields = 1 << iota
	hasContent
	hasDepth
	hasEventID
	hasHashes
	hasTS
	hasPrevEvents
	hasRoomID
	hasSender
	hasSignatures
	hasType

	hasAlways = hasAuthEvents | hasContent | hasDepth | hasHashes | hasTS | hasPrevEvents | hasSender | hasSignatures | hasType
)

// fieldNames lists the fields in the order of their bits.
var fieldNames = [...]string{
	"auth_events", "content", "depth", "event_id", "hashes", "origin_server_ts", "prev_events", "room_id",
	"sender", "signatures", "type",
}

// scanner fills a PDU from its canonical bytes.
type scanner struct {
	p     *PDU
	found fields
	// bad is the first thing wrong with the event. Scanning goes on: what the database holds
	// is read as far as it goes.
	bad error
	// Raw values that are read when all fields are known.
	prev, auth, redacts []byte
}

// scan reads the fields of p.raw. Its error says what is wrong with the event's format.
//
// Spec: rooms/v1 Event format, rooms/v3 Event format, rooms/v12 Event format
func (p *PDU) scan() error {
	s := scanner{p: p}
	for key, value := range canon.Fields(p.raw) {
		s.field(key, value)
	}
	p.edges = make([]id.EventID, 0, count(s.prev)+count(s.auth))
	s.edges(hasPrevEvents, s.prev, MaxPrevEvents)
	p.prev = uint16(len(p.edges))
	s.edges(hasAuthEvents, s.auth, MaxAuthEvents)
	s.content()
	s.required()
	return s.bad
}

func (s *scanner) field(key string, value []byte) {
	p := s.p
	switch key {
	case "auth_events":
		s.auth = value
	case "prev_events":
		s.prev = value
	case "content":
		if s.object(hasContent, value) {
			at := uintptr(unsafe.Pointer(&value[0])) - uintptr(unsafe.Pointer(&p.raw[0]))
			p.contentAt, p.contentEnd = uint32(at), uint32(at)+uint32(len(value))
		}
	case "depth":
		p.depth = s.integer(hasDepth, value)
		if p.depth < 0 || p.depth > p.version.MaxDepth {
			s.fail("depth is out of range")
		}
	case "event_id":
		if p.version.EventIDs == roomver.EventIDDomain {
			text := s.text(hasEventID, "event_id", value)
			p.id = id.EventID(text)
			_, err := id.ParseEventID(text)
			if domain, _ := p.id.Domain(); err == nil {
				_, err = id.ParseServerName(string(domain))
			}
			s.check("event_id", err)
		}
	case "hashes":
		if s.object(hasHashes, value) {
			if _, ok := canon.GetText(value, "sha256"); !ok {
				s.fail("hashes has no sha256")
			}
		}
	case stickyField:
		p.sticky = stickyFor(value)
	case "origin_server_ts":
		p.ts = s.integer(hasTS, value)
	case "redacts":
		s.redacts = value
	case "room_id":
		text := s.text(hasRoomID, "room_id", value)
		p.roomID = id.RoomID(text)
		_, err := id.ParseRoomID(text)
		s.check("room_id", err)
	case "sender":
		text := s.text(hasSender, "sender", value)
		p.sender = id.UserID(text)
		_, err := id.ParseUserID(text)
		s.check("sender", err)
	case "signatures":
		s.object(hasSignatures, value)
	case "state_key":
		p.stateKey, p.isState = s.name("state_key", value), true
	case "type":
		s.found |= hasType
		p.typ = s.name("type", value)
	}
}

// content reads what other fields decide where to find.
func (s *scanner) content() {
	p := s.p
	switch p.typ {
	case "m.room.member":
		p.membership, _ = canon.GetText(p.Content(), "membership")
	case "m.room.redaction":
		if p.version.RedactsInContent {
			s.redacts, _ = canon.Get(p.Content(), "redacts")
		}
		if text, ok := canon.Text(s.redacts); ok {
			p.redacts, _ = id.ParseEventID(text)
		}
	}
}

// required checks that nothing is missing, and that a room ID is absent where it must be.
func (s *scanner) required() {
	v := s.p.version
	want := hasAlways
	if v.EventIDs == roomver.EventIDDomain {
		want |= hasEventID
	}
	if !s.p.namesRoom() {
		want |= hasRoomID
	} else if s.found&hasRoomID != 0 {
		s.fail("room_id must not stand in the create event of this room version")
	}
	for i, name := range fieldNames {
		if bit := fields(1) << i; want&bit != 0 && s.found&bit == 0 {
			s.fail(name + " is missing")
		}
	}
}

// namesRoom reports whether the room's ID is made from this event's ID. The event has no room_id then.
//
// Spec: rooms/v12 Event format
func (p *PDU) namesRoom() bool {
	return p.version.CreateAsRoomID && p.typ == "m.room.create"
}

func (s *scanner) fail(text string) {
	if s.bad == nil {
		s.bad = mxerr.BadJSON("This is not a valid event: %s.", text)
	}
}

func (s *scanner) check(field string, err error) {
	if err != nil && s.bad == nil {
		s.bad = mxerr.BadJSON("This is not a valid event: %s: %v.", field, err)
	}
}

func (s *scanner) object(bit fields, value []byte) bool {
	s.found |= bit
	if value[0] != '{' {
		s.fail(fieldNames[bitIndex(bit)] + " is not an object")
		return false
	}
	return true
}

func (s *scanner) text(bit fields, field string, value []byte) string {
	text := s.unbounded(bit, field, value)
	if len(text) > MaxField && s.bad == nil {
		s.bad = tooLong(field)
	}
	return text
}

func (s *scanner) unbounded(bit fields, field string, value []byte) string {
	s.found |= bit
	text, ok := canon.Text(value)
	if !ok {
		s.fail(field + " is not a string")
	}
	return text
}

// name reads the type or the state key.
//
// Deviates: cs Size limits: in rooms of versions before 11 servers counted code points, and a room can't do without what they took.
func (s *scanner) name(field string, value []byte) string {
	text := s.unbounded(0, field, value)
	if len(text) > MaxField && s.bad == nil && (s.p.version.FieldsInBytes || utf8.RuneCountInString(text) > MaxField) {
		s.bad = tooLong(field)
	}
	// Deviates: rooms/v1 Event format: a NUL is legal there, but no PostgreSQL text can hold it.
	if len(text) <= MaxField*utf8.UTFMax && bytes.IndexByte(value, '\\') >= 0 && containsNUL(text) {
		s.fail(field + " contains a NUL character")
	}
	return text
}

// integer reads an int64. Room versions 1 to 5 let any number through to here.
func (s *scanner) integer(bit fields, value []byte) int64 {
	s.found |= bit
	n, err := strconv.ParseInt(unsafe.String(&value[0], len(value)), 10, 64)
	if err != nil {
		s.fail(fieldNames[bitIndex(bit)] + " is not an integer in range")
	}
	return n
}

// edges appends a list of event IDs, or of pairs of an event ID and a hash in versions 1 and 2.
func (s *scanner) edges(bit fields, list []byte, most int) {
	if list == nil {
		return
	}
	s.found |= bit
	name := fieldNames[bitIndex(bit)]
	if list[0] != '[' {
		s.fail(name + " is not a list")
	}
	n := 0
	for element := range canon.Elements(list) {
		n++
		if s.p.version.EventIDs == roomver.EventIDDomain {
			if element = first(element); element == nil {
				s.fail(name + " must hold pairs of an event ID and an object")
				continue
			}
		}
		text, ok := canon.Text(element)
		if !ok {
			s.fail(name + " must hold event IDs")
			continue
		}
		_, err := id.ParseEventID(text)
		s.check(name, err)
		s.p.edges = append(s.p.edges, id.EventID(text))
	}
	if n > most {
		s.fail(name + " is longer than " + strconv.Itoa(most))
	}
}

// count returns how many elements a list has.
func count(list []byte) (n int) {
	for range canon.Elements(list) {
		n++
	}
	return n
}

// first returns the ID in a pair of an ID and a hash, and nil for anything else.
func first(pair []byte) (element []byte) {
	if pair[0] != '[' {
		return nil
	}
	n := 0
	for e := range canon.Elements(pair) {
		switch n++; {
		case n == 1:
			element = e
		case n > 2 || e[0] != '{':
			return nil
		}
	}
	if n != 2 {
		return nil
	}
	return element
}

func bitIndex(bit fields) int {
	n := 0
	for bit > 1 {
		bit >>= 1
		n++
	}
	return n
}

func containsNUL(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == 0 {
			return true
		}
	}
	return false
}

func tooLong(field string) error {
	return mxerr.TooLarge("The event's %s is longer than %d bytes.", field, MaxField)
}
