package event

import (
	"strconv"

	"myelin/matrix/canon"
)

// ClientFormat says how AppendClient shows an event.
type ClientFormat struct {
	// OmitRoomID leaves room_id out, as /sync does.
	OmitRoomID bool
	// Unsigned is the unsigned object to show, or nil for none.
	Unsigned []byte
}

// AppendClient appends the event as clients see it. A redaction names its target both at the top level
// and in the content, whichever of them the room version has.
//
// Spec: cs Room event format
// Spec: rooms/v11 Moving the redacts property of m.room.redaction events to a content property
func (p *PDU) AppendClient(dst []byte, f ClientFormat) []byte {
	dst = append(dst, `{"content":`...)
	if p.redacts != "" && !p.version.RedactsInContent {
		dst = canon.With(dst, p.Content(), "redacts", appendID(nil, p.redacts))
	} else {
		dst = append(dst, p.Content()...)
	}
	dst = appendID(append(dst, `,"event_id":`...), p.id)
	if p.sticky > 0 {
		dst = appendSticky(append(dst, `,"`+stickyField+`":`...), p.sticky)
	}
	dst = strconv.AppendInt(append(dst, `,"origin_server_ts":`...), p.ts, 10)
	if p.redacts != "" {
		dst = appendID(append(dst, `,"redacts":`...), p.redacts)
	}
	if !f.OmitRoomID {
		dst = canon.AppendString(append(dst, `,"room_id":`...), string(p.roomID))
	}
	dst = canon.AppendString(append(dst, `,"sender":`...), string(p.sender))
	if p.isState {
		dst = canon.AppendString(append(dst, `,"state_key":`...), p.stateKey)
	}
	dst = canon.AppendString(append(dst, `,"type":`...), p.typ)
	if f.Unsigned != nil {
		dst = append(append(dst, `,"unsigned":`...), f.Unsigned...)
	}
	return append(dst, '}')
}

// AppendStripped appends the event as stripped state.
//
// Spec: cs Stripped state
func (p *PDU) AppendStripped(dst []byte) []byte {
	dst = append(append(dst, `{"content":`...), p.Content()...)
	dst = canon.AppendString(append(dst, `,"sender":`...), string(p.sender))
	dst = canon.AppendString(append(dst, `,"state_key":`...), p.stateKey)
	dst = canon.AppendString(append(dst, `,"type":`...), p.typ)
	return append(dst, '}')
}
