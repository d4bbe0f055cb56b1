package event

import (
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// Limits on events. Sizes are in bytes.
const (
	// MaxSize bounds the canonical PDU with its signatures. Spec: cs Size limits
	MaxSize = 65536
	// MaxField bounds type and state key; identifiers have the same bound of their own.
	// Spec: cs Size limits
	MaxField = 255
	// MaxPrevEvents and MaxAuthEvents bound the edges. Spec: rooms/v1 Event format
	MaxPrevEvents = 20
	MaxAuthEvents = 10

	// maxRaw bounds what Parse reads at all: white space, escapes and unsigned included.
	maxRaw = 1 << 20
)

// Key is a place in the state of a room.
type Key struct{ Type, StateKey string }

// PDU is one event. Make one with Parse, Trusted, Seal or Draft.Build.
//
// Its strings share one block of memory with Raw: clone those that must outlive the event.
type PDU struct {
	version *roomver.Version
	// raw is canonical, without unsigned. The strings below point into it where they can.
	raw        []byte
	id         id.EventID
	roomID     id.RoomID
	sender     id.UserID
	typ        string
	stateKey   string
	redacts    id.EventID
	membership string
	ts, depth  int64
	sticky     int64 // milliseconds
	// edges holds prev_events and then auth_events.
	edges []id.EventID
	// raw[contentAt:contentEnd] is the content.
	contentAt, contentEnd uint32
	prev                  uint16
	isState               bool
}

// ID returns the event ID.
func (p *PDU) ID() id.EventID { return p.id }

// Version returns the version of the event's room.
func (p *PDU) Version() *roomver.Version { return p.version }

// RoomID returns the room; for the create event of a version 12 room that is "!" and its own hash.
func (p *PDU) RoomID() id.RoomID { return p.roomID }

// Type returns the event type, such as "m.room.message".
func (p *PDU) Type() string { return p.typ }

// StateKey returns the state key, and false for an event that is not a state event.
func (p *PDU) StateKey() (string, bool) { return p.stateKey, p.isState }

// IsState reports whether the event has a state key.
func (p *PDU) IsState() bool { return p.isState }

// Key returns the place in the state that the event takes. It means nothing for an event that is
// not a state event.
func (p *PDU) Key() Key { return Key{p.typ, p.stateKey} }

// Sender returns the user who sent the event.
func (p *PDU) Sender() id.UserID { return p.sender }

// OriginServerTS returns milliseconds since the epoch as the sender's server claims them. Never
// trust it for ordering.
func (p *PDU) OriginServerTS() int64 { return p.ts }

// Depth returns the claimed distance from the create event, never negative.
func (p *PDU) Depth() int64 { return p.depth }

// PrevEvents returns the IDs of the event's parents.
func (p *PDU) PrevEvents() []id.EventID { return p.edges[:p.prev:p.prev] }

// AuthEvents returns the IDs of the events that claim to authorise this one.
func (p *PDU) AuthEvents() []id.EventID { return p.edges[p.prev:len(p.edges):len(p.edges)] }

// Content returns the content object, canonical.
func (p *PDU) Content() []byte { return p.raw[p.contentAt:p.contentEnd:p.contentEnd] }

// Redacts returns the event that an m.room.redaction is about, from where the room version puts
// it, and false for any other event and where the field is not an event ID.
//
// Spec: rooms/v11 Moving the redacts property of m.room.redaction events to a content property
func (p *PDU) Redacts() (id.EventID, bool) { return p.redacts, p.redacts != "" }

// Membership returns content.membership of an m.room.member event, or "".
func (p *PDU) Membership() string { return p.membership }

// Raw returns the canonical PDU as it goes to other servers.
func (p *PDU) Raw() []byte { return p.raw }
