package event

import (
	"fmt"
	"strconv"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// Draft is an event of ours that is yet to be hashed and signed.
type Draft struct {
	// RoomID stays empty for the create event of a version 12 room.
	RoomID id.RoomID
	Type   string
	// StateKey is nil for a message event.
	StateKey *string
	Sender   id.UserID
	// Content is a JSON object, canonical or not.
	Content []byte
	// OriginServerTS is in milliseconds since the epoch.
	OriginServerTS int64
	// Depth is cut to the largest depth of the room version.
	Depth      int64
	PrevEvents []id.EventID
	AuthEvents []id.EventID
	// Redacts is put where the room version has it, at the top level or into the content.
	Redacts id.EventID
	// EdgeHashes gives the reference hashes of prev_events and auth_events in versions 1 and 2. An edge
	// without one gets an empty object, which nobody checks.
	EdgeHashes map[id.EventID]string
	// Sticky is for how many milliseconds the event sticks; 0 for most.
	//
	// MSC4354: Sticky events
	Sticky int64
}

// Build makes the event: content hash, ID and the signature of origin. random gives the opaque part of
// an event ID and is called for versions 1 and 2 alone.
//
// Errors are of the content: M_NOT_JSON, M_BAD_JSON or M_TOO_LARGE.
//
// Spec: ss Adding hashes and signatures to outgoing events
func (d Draft) Build(v *roomver.Version, origin id.ServerName, key sign.Key, random func() string) (*PDU, error) {
	content, err := d.content(v)
	switch {
	case err != nil:
		return nil, err
	case len(d.Type) > MaxField:
		return nil, tooLong("type")
	case d.StateKey != nil && len(*d.StateKey) > MaxField:
		return nil, tooLong("state_key")
	}
	buf := make([]byte, 0, len(content)+1024)
	buf = append(buf, '{')
	buf = d.appendEdges(appendKey(buf, 1, "auth_events"), v, d.AuthEvents)
	buf = append(appendKey(buf, 1, "content"), content...)
	buf = strconv.AppendInt(appendKey(buf, 1, "depth"), min(d.Depth, v.MaxDepth), 10)
	if v.EventIDs == roomver.EventIDDomain {
		buf = canon.AppendString(appendKey(buf, 1, "event_id"), "$"+random()+":"+string(origin))
	}
	if d.Sticky > 0 {
		buf = appendSticky(appendKey(buf, 1, stickyField), d.Sticky)
	}
	buf = strconv.AppendInt(appendKey(buf, 1, "origin_server_ts"), d.OriginServerTS, 10)
	buf = d.appendEdges(appendKey(buf, 1, "prev_events"), v, d.PrevEvents)
	if d.Redacts != "" && !v.RedactsInContent {
		buf = appendID(appendKey(buf, 1, "redacts"), d.Redacts)
	}
	if d.RoomID != "" {
		buf = canon.AppendString(appendKey(buf, 1, "room_id"), string(d.RoomID))
	}
	buf = canon.AppendString(appendKey(buf, 1, "sender"), string(d.Sender))
	if d.StateKey != nil {
		buf = canon.AppendString(appendKey(buf, 1, "state_key"), *d.StateKey)
	}
	buf = canon.AppendString(appendKey(buf, 1, "type"), d.Type)
	buf = append(buf, '}')
	sealed, err := seal(v, buf, origin, key)
	if err != nil {
		return nil, err
	}
	return parseCanonical(v, sealed)
}

// content makes the draft's content canonical. Where the room version would let odd numbers pass, ours
// are still written in the shortest form if they are integers, so that every server hashes them alike.
func (d Draft) content(v *roomver.Version) ([]byte, error) {
	mode := v.Canon
	if mode == canon.Lax {
		mode = canon.Integral
	}
	content, err := canon.Canonicalize(nil, d.Content, mode)
	if err != nil && v.Canon == canon.Lax {
		content, err = canon.Canonicalize(nil, d.Content, canon.Lax)
	}
	if err != nil {
		return nil, err
	}
	if content[0] != '{' {
		return nil, mxerr.BadJSON("The content of an event must be a JSON object.")
	}
	if d.Redacts != "" && v.RedactsInContent {
		content = canon.With(nil, content, "redacts", appendID(nil, d.Redacts))
	}
	return content, nil
}

func (d Draft) appendEdges(dst []byte, v *roomver.Version, edges []id.EventID) []byte {
	dst = append(dst, '[')
	for i, e := range edges {
		if i > 0 {
			dst = append(dst, ',')
		}
		if v.EventIDs != roomver.EventIDDomain {
			dst = appendID(dst, e)
			continue
		}
		dst = append(appendID(append(dst, '['), e), ",{"...)
		if hash, ok := d.EdgeHashes[e]; ok {
			dst = canon.AppendString(append(dst, `"sha256":`...), hash)
		}
		dst = append(dst, "}]"...)
	}
	return append(dst, ']')
}

// Seal makes an event of a template that another server offered, such as the answer to make_join: it
// replaces hashes and signatures by our own and keeps every other field. The caller has checked that the
// template says what was asked for.
//
// Spec: ss Joining Rooms
func Seal(v *roomver.Version, template []byte, origin id.ServerName, key sign.Key) (*PDU, error) {
	if len(template) > maxRaw {
		return nil, mxerr.TooLarge("The event is larger than %d bytes.", MaxSize)
	}
	object, err := canon.Canonicalize(nil, template, v.Canon)
	if err != nil {
		return nil, err
	}
	if object[0] != '{' {
		return nil, mxerr.BadJSON("An event must be a JSON object.")
	}
	drop := []string{"hashes", "signatures", "unsigned"}
	if v.EventIDs != roomver.EventIDDomain {
		drop = append(drop, "event_id")
	}
	sealed, err := seal(v, canon.Without(nil, object, drop...), origin, key)
	if err != nil {
		return nil, err
	}
	return parseCanonical(v, sealed)
}

// seal hashes and signs a canonical event that has neither hashes nor signatures.
func seal(v *roomver.Version, event []byte, origin id.ServerName, key sign.Key) ([]byte, error) {
	sum := contentHash(event)
	hash := canon.AppendString([]byte(`{"sha256":`), sign.EncodeBase64(sum[:]))
	event = canon.With(make([]byte, 0, len(event)+256), event, "hashes", append(hash, '}'))
	var signature string
	withBuffer(func(buf []byte) []byte {
		buf = appendRedacted(buf, v, event, false)
		signature = key.SignBytes(buf)
		return buf
	})
	sealed, err := sign.AddSignature(event, string(origin), key.ID, signature)
	if err != nil {
		return nil, fmt.Errorf("sign as %s: %w", origin, err)
	}
	return sealed, nil
}
