package event

import (
	"crypto/ed25519"
	"errors"

	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// Key is a place in the state of a room.
type Key struct{ Type, StateKey string }

// PDU is one event. Make one with Parse, Trusted or Draft.Build.
type PDU struct {
	version *roomver.Version
	// raw is canonical, without unsigned. The strings below point into it where they can.
	raw        []byte
	content    []byte
	id         id.EventID
	roomID     id.RoomID
	sender     id.UserID
	typ        string
	stateKey   string
	redacts    id.EventID
	membership string
	ts, depth  int64
	// edges holds prev_events and then auth_events.
	edges   []id.EventID
	prev    int32
	isState bool
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

// Depth returns the claimed distance from the create event.
func (p *PDU) Depth() int64 { return p.depth }

// PrevEvents returns the IDs of the event's parents.
func (p *PDU) PrevEvents() []id.EventID { return p.edges[:p.prev:p.prev] }

// AuthEvents returns the IDs of the events that claim to authorise this one.
func (p *PDU) AuthEvents() []id.EventID { return p.edges[p.prev:len(p.edges):len(p.edges)] }

// Content returns the content object, canonical.
func (p *PDU) Content() []byte { return p.content }

// Redacts returns the event that an m.room.redaction is about, from where the room version puts it.
func (p *PDU) Redacts() (id.EventID, bool) { return p.redacts, p.redacts != "" }

// Membership returns content.membership of an m.room.member event, or "".
func (p *PDU) Membership() string { return p.membership }

// Raw returns the canonical PDU as it goes to other servers.
func (p *PDU) Raw() []byte { return p.raw }

// HashOK reports whether the content hash is right. If not, the event must be treated as
// redacted. Spec: ss Validating hashes and signatures on received events
func (p *PDU) HashOK() bool { return false }

// Redacted returns the event as its room version's redaction leaves it, with the same ID.
func (p *PDU) Redacted() (*PDU, error) { return nil, errUnfinished }

// Parse reads an event from untrusted bytes.
func Parse(v *roomver.Version, raw []byte) (*PDU, error) { return nil, errUnfinished }

// Trusted reads an event from bytes that a PDU's Raw once gave, without checking them again.
func Trusted(v *roomver.Version, eventID id.EventID, raw []byte) (*PDU, error) {
	return nil, errUnfinished
}

// Draft is an event of ours that is yet to be hashed and signed.
type Draft struct {
	RoomID         id.RoomID
	Type           string
	StateKey       *string
	Sender         id.UserID
	Content        []byte
	OriginServerTS int64
	Depth          int64
	PrevEvents     []id.EventID
	AuthEvents     []id.EventID
	Redacts        id.EventID
}

// Build makes the event: hash, signature, ID.
func (d Draft) Build(v *roomver.Version, origin id.ServerName, key sign.Key, random func() string) (*PDU, error) {
	return nil, errUnfinished
}

// ClientFormat says how AppendClient shows an event.
type ClientFormat struct {
	OmitRoomID bool
	Unsigned   []byte
}

// AppendClient appends the event as clients see it.
func (p *PDU) AppendClient(dst []byte, f ClientFormat) []byte { return dst }

// AppendStripped appends the event as stripped state.
func (p *PDU) AppendStripped(dst []byte) []byte { return dst }

// VerifySignature checks one server's signature with one key.
func (p *PDU) VerifySignature(entity id.ServerName, key sign.KeyID, public ed25519.PublicKey) error {
	return errUnfinished
}

// RequiredSigners lists the servers whose signature the event needs.
func (p *PDU) RequiredSigners() []id.ServerName { return nil }

var errUnfinished = errors.New("unfinished")
