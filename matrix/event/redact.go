package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"slices"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// hashIDLength is the length of "$" and 32 bytes in unpadded base64.
const hashIDLength = 1 + 43

// appendRedacted appends the canonical event without what a redaction removes, and without
// signatures if those are not wanted.
//
// Spec: rooms/v1 Redactions, rooms/v6 Redactions, rooms/v8 Redactions, rooms/v9 Redactions, rooms/v11 Redactions
func appendRedacted(dst []byte, v *roomver.Version, event []byte, signatures bool) []byte {
	rules := v.Redaction
	typ, _ := canon.GetText(event, "type")
	dst = append(dst, '{')
	start := len(dst)
	for key, value := range canon.Fields(event) {
		if !rules.Has(key) || key == "signatures" && !signatures || dropped(v, key) {
			continue
		}
		dst = appendKey(dst, start, key)
		if key == "content" {
			dst = appendKept(dst, value, rules.Content[typ])
		} else {
			dst = append(dst, value...)
		}
	}
	return append(dst, '}')
}

// appendKept appends the part of a canonical object that survives.
func appendKept(dst, object []byte, keep roomver.Keep) []byte {
	if keep.All || object[0] != '{' {
		return append(dst, object...)
	}
	dst = append(dst, '{')
	start := len(dst)
	for key, value := range canon.Fields(object) {
		if slices.Contains(keep.Keys, key) {
			dst = append(appendKey(dst, start, key), value...)
		} else if nested, ok := keep.Nested[key]; ok && value[0] == '{' {
			dst = appendKept(appendKey(dst, start, key), value, roomver.Keep{Keys: nested})
		}
	}
	return append(dst, '}')
}

// appendKey appends `"key":` and, unless the object begins at start, a comma before it.
func appendKey(dst []byte, start int, key string) []byte {
	if len(dst) > start {
		dst = append(dst, ',')
	}
	return append(canon.AppendString(dst, key), ':')
}

// Redacted returns the event as its room version's redaction leaves it, with the same ID.
//
// Spec: cs Redactions
func (p *PDU) Redacted() (*PDU, error) {
	var raw []byte
	withBuffer(func(buf []byte) []byte {
		buf = appendRedacted(buf, p.version, p.raw, true)
		raw = bytes.Clone(buf)
		return buf
	})
	return Trusted(p.version, cloneID(p.id), raw)
}

// referenceHash hashes the canonical event's essential fields.
//
// Spec: ss Calculating the reference hash for an event
func referenceHash(v *roomver.Version, event []byte) (sum [sha256.Size]byte) {
	withBuffer(func(buf []byte) []byte {
		buf = appendRedacted(buf, v, event, false)
		sum = sha256.Sum256(buf)
		return buf
	})
	return sum
}

// ReferenceHash returns the reference hash in unpadded base64, as it stands beside the event's ID in edges
// of versions 1 and 2.
func (p *PDU) ReferenceHash() string {
	sum := referenceHash(p.version, p.raw)
	return sign.EncodeBase64(sum[:])
}

// appendHashID appends the event ID that the reference hash gives.
//
// Spec: rooms/v3 Event IDs, rooms/v4 Event IDs
func (p *PDU) appendHashID(dst []byte) []byte {
	sum := referenceHash(p.version, p.raw)
	dst = append(dst, '$')
	if p.version.EventIDs == roomver.EventIDHashStd {
		return base64.RawStdEncoding.AppendEncode(dst, sum[:])
	}
	return base64.RawURLEncoding.AppendEncode(dst, sum[:])
}

// contentHash hashes the whole canonical event but for its hashes and signatures.
//
// Spec: ss Calculating the content hash for an event
func contentHash(event []byte) (sum [sha256.Size]byte) {
	withBuffer(func(buf []byte) []byte {
		buf = canon.Without(buf, event, "hashes", "signatures", "unsigned")
		sum = sha256.Sum256(buf)
		return buf
	})
	return sum
}

// HashOK reports whether the content hash is right. If not, the event must be treated as
// redacted. It computes the hash anew at each call.
//
// Spec: ss Validating hashes and signatures on received events
func (p *PDU) HashOK() bool {
	hashes, _ := canon.Get(p.raw, "hashes")
	text, _ := canon.GetText(hashes, "sha256")
	claimed, err := sign.DecodeBase64(text)
	sum := contentHash(p.raw)
	return err == nil && bytes.Equal(claimed, sum[:])
}

// appendID appends an event ID as a JSON string.
func appendID(dst []byte, e id.EventID) []byte { return canon.AppendString(dst, string(e)) }
