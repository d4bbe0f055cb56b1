package pushrule

import (
	"strconv"
	"strings"

	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// Event is what rules see of an event. Make one per event and evaluate all users' rules on it: it remembers the
// properties it looked up. It belongs to one goroutine at a time.
type Event struct {
	ID             id.EventID
	RoomID         id.RoomID
	Type           string
	Sender         id.UserID
	StateKey       *string // nil for an event that is no state
	OriginServerTS int64   // milliseconds since the epoch
	Content        []byte  // canonical JSON object; shared, not copied

	seen   []property
	fields []field // the first of the content, made on first use
	more   bool    // the content has fields beyond these
}

// field is a member of the content.
type field struct {
	name string
	raw  []byte
}

// These bound what an Event remembers: rules may name any property, and senders may write any.
const (
	maxSeen   = 24
	maxFields = 16
)

// valueKind tells values apart. Compound ones can't be compared.
type valueKind uint8

const (
	absentValue valueKind = iota
	textValue
	integerValue
	boolValue
	nullValue
	arrayValue
	otherValue
)

// value is a JSON value as conditions compare it.
type value struct {
	kind   valueKind
	text   string
	number int64 // of an integer; 0 and 1 for booleans
}

// property is a value of the event under its dotted path.
type property struct {
	key   string
	value value
	raw   []byte // of an array
	lower string // folded text, made on first use
	// lowered tells a folded empty text from one that was not made.
	lowered bool
}

// property finds the value at a path. The result is valid until the next call.
func (e *Event) property(key string, path []string) *property {
	for i := range e.seen {
		if e.seen[i].key == key {
			return &e.seen[i]
		}
	}
	p := e.look(path)
	p.key = key
	if len(e.seen) == maxSeen {
		e.seen[maxSeen-1] = p
		return &e.seen[maxSeen-1]
	}
	e.seen = append(e.seen, p)
	return &e.seen[len(e.seen)-1]
}

func (e *Event) look(path []string) property {
	if path[0] == "content" {
		if len(path) == 1 {
			return property{value: parseValue(e.Content), raw: e.Content}
		}
		raw, ok := e.field(path[1])
		for _, name := range path[2:] {
			if !ok || raw[0] != '{' {
				return property{}
			}
			raw, ok = canon.Get(raw, name)
		}
		if !ok {
			return property{}
		}
		return property{value: parseValue(raw), raw: raw}
	}
	if len(path) > 1 {
		return property{}
	}
	switch path[0] {
	case "type":
		return textProperty(e.Type)
	case "sender":
		return textProperty(string(e.Sender))
	case "room_id":
		return textProperty(string(e.RoomID))
	case "event_id":
		return textProperty(string(e.ID))
	case "state_key":
		if e.StateKey != nil {
			return textProperty(*e.StateKey)
		}
	case "origin_server_ts":
		return property{value: value{kind: integerValue, number: e.OriginServerTS}}
	}
	return property{}
}

// field finds a member of the content.
func (e *Event) field(name string) ([]byte, bool) {
	if e.fields == nil {
		e.fields = make([]field, 0, 8)
		for name, raw := range canon.Fields(e.Content) {
			if len(e.fields) == maxFields {
				e.more = true
				break
			}
			e.fields = append(e.fields, field{name, raw})
		}
	}
	for i := range e.fields {
		if e.fields[i].name == name {
			return e.fields[i].raw, true
		}
	}
	if e.more {
		return canon.Get(e.Content, name)
	}
	return nil, false
}

func textProperty(s string) property { return property{value: value{kind: textValue, text: s}} }

// folded returns the text in lower case.
func (p *property) folded() string {
	if !p.lowered {
		p.lower, p.lowered = fold(p.value.text), true
	}
	return p.lower
}

// parseValue classifies valid JSON.
func parseValue(raw []byte) value {
	if len(raw) == 0 {
		return value{}
	}
	switch raw[0] {
	case '"':
		s, _ := canon.Text(raw)
		return value{kind: textValue, text: s}
	case '{':
		return value{kind: otherValue}
	case '[':
		return value{kind: arrayValue}
	case 't':
		return value{kind: boolValue, number: 1}
	case 'f':
		return value{kind: boolValue}
	case 'n':
		return value{kind: nullValue}
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n > maxInteger || n < -maxInteger {
		return value{kind: otherValue}
	}
	return value{kind: integerValue, number: n}
}

const maxInteger = 1<<53 - 1

// simple reports whether the value is one that conditions can compare.
func (v value) simple() bool {
	return v.kind == textValue || v.kind == integerValue || v.kind == boolValue || v.kind == nullValue
}

// parsePath takes a dotted path apart. A backslash protects a dot and a backslash; before anything else it
// stands for itself.
//
// Spec: appendices Dot-separated property paths
func parsePath(key string) []string {
	var (
		path []string
		part strings.Builder
	)
	for i := 0; i < len(key); i++ {
		switch {
		case key[i] == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			part.WriteByte(key[i])
		case key[i] == '.':
			path = append(path, part.String())
			part.Reset()
		default:
			part.WriteByte(key[i])
		}
	}
	return append(path, part.String())
}
