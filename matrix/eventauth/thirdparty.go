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

// inviteKey is a key that may sign a third-party invite, and the point of the rules by which.
type inviteKey struct {
	public ed25519.PublicKey
	rule   rule
}

// checkSignatures allows the invite if any of the signatures in its signed object was made with any of
// the keys. The names of entities and keys mean nothing here: a member of the room chose the keys.
func checkSignatures(signed []byte, keys []inviteKey) verdict {
	signatures, _ := get(signed, "signatures")
	if !isObject(signatures) {
		return reject(thirdPartyOtherwise)
	}
	tries := 0
	for entity := range canon.Fields(signatures) {
		for _, name := range sign.KeyIDs(signed, entity) {
			for _, key := range keys {
				if tries++; tries > maxVerifications {
					return reject(thirdPartyOtherwise).about("it has too many")
				}
				if sign.Verify(signed, entity, name, key.public) == nil {
					return allow(key.rule)
				}
			}
		}
	}
	return reject(thirdPartyOtherwise)
}

// inviteKeys lists the keys of an m.room.third_party_invite event.
//
// Spec: cs m.room.third_party_invite
func inviteKeys(invite *event.PDU) []inviteKey {
	content := invite.Content()
	var keys []inviteKey
	if key, ok := publicKey(content); ok {
		keys = append(keys, inviteKey{key, thirdPartyKey})
	}
	raw, _ := get(content, "public_keys")
	for e := range canon.Elements(raw) {
		if key, ok := publicKey(e); ok {
			keys = append(keys, inviteKey{key, thirdPartyKeys})
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
