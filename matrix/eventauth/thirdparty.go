package eventauth

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"

	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/sign"
)

// maxVerifications bounds the work that one third-party invite can cause: 128 of them take some 8 ms. Identity
// servers sign once, and events name two keys.
const maxVerifications = 128

// anySignature reports whether any of the signatures in a signed object was made with any of
// the keys. The names of entities and keys mean nothing here: the room's members chose the keys.
func anySignature(signed []byte, keys []ed25519.PublicKey) bool {
	signatures, ok := get(signed, "signatures")
	if !ok || !isObject(signatures) {
		return false
	}
	tries := 0
	for entity := range canon.Fields(signatures) {
		for _, name := range sign.KeyIDs(signed, entity) {
			for _, key := range keys {
				if tries++; tries > maxVerifications {
					return false
				}
				if sign.Verify(signed, entity, name, key) == nil {
					return true
				}
			}
		}
	}
	return false
}

// publicKeys lists the keys of an m.room.third_party_invite event.
//
// Spec: cs m.room.third_party_invite
func publicKeys(invite *event.PDU) []ed25519.PublicKey {
	content := invite.Content()
	var keys []ed25519.PublicKey
	if key, ok := publicKey(content); ok {
		keys = append(keys, key)
	}
	raw, _ := get(content, "public_keys")
	list, _ := elements(raw)
	for _, e := range list {
		if key, ok := publicKey(e); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// publicKey reads a key in either alphabet of base64, padded or not.
func publicKey(object []byte) (ed25519.PublicKey, bool) {
	s, ok := getText(object, "public_key")
	if !ok {
		return nil, false
	}
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	key, err := base64.RawStdEncoding.DecodeString(s)
	return key, err == nil && len(key) == ed25519.PublicKeySize
}
