package fedclient

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"myelin/matrix/id"
	"myelin/matrix/sign"
)

const (
	// maxKeyObject bounds an object of keys in bytes; a bound on the number of its keys follows from maxKeys.
	maxKeyObject = 128 << 10
	// maxKeys bounds the keys that are kept of one server, retired ones included.
	maxKeys = 256
	// maxCurrentKeys bounds those of them in use: each may cost a check of a signature.
	maxCurrentKeys = 16
	// keyHorizon is how far into the future a key can be valid, whatever its server says.
	//
	// Spec: rooms/v5 Signing key validity period
	keyHorizon = 7 * 24 * time.Hour
)

// serverKeys is what a server publishes, verified.
type serverKeys struct {
	server id.ServerName
	keys   map[sign.KeyID]remoteKey
	// validUntil is what the server says, in milliseconds since the epoch; the keys' own is capped.
	validUntil int64
	raw        json.RawMessage
}

// remoteKey is one key of another server.
type remoteKey struct {
	public ed25519.PublicKey
	// validUntil is when the key must have been confirmed again; expired is when it was retired, 0 for a key in use. Both in
	// milliseconds since the epoch.
	validUntil, expired int64
	// vouched is a later end of validity that a notary told of a key that the server itself gave; for events only.
	vouched int64
	// signed: the key signed the object it came with.
	signed bool
	// notary is who told us, empty where the server itself did; hearsay says that it is none that the operator trusts.
	notary  id.ServerName
	hearsay bool
}

// validAt says whether the key counts for something signed at a time. Lenient leaves valid_until_ts out, as room versions before 5 do.
// That a key was retired counts in all versions.
//
// Spec: ss Validating hashes and signatures on received events
// Spec: rooms/v5 Signing key validity period
func (k remoteKey) validAt(at int64, strict bool) bool {
	if k.expired != 0 {
		return at <= k.expired
	}
	return !strict || at <= max(k.validUntil, k.vouched)
}

// parseServerKeys reads and verifies an object of a server's keys. It must be signed with at least one of the keys in use, and no
// signature with one of these may be wrong.
//
// Spec: ss getServerKey
func parseServerKeys(raw []byte, server id.ServerName, now time.Time) (*serverKeys, error) {
	if len(raw) > maxKeyObject {
		return nil, fmt.Errorf("the object of keys: %w", ErrTooLarge)
	}
	var object struct {
		Server     id.ServerName `json:"server_name"`
		ValidUntil int64         `json:"valid_until_ts"`
		Verify     map[string]struct {
			Key string `json:"key"`
		} `json:"verify_keys"`
		Old map[string]struct {
			Key     string `json:"key"`
			Expired int64  `json:"expired_ts"`
		} `json:"old_verify_keys"`
	}
	if err := decodeJSON(raw, &object); err != nil {
		return nil, err
	}
	switch {
	case object.Server != server:
		return nil, fmt.Errorf("the keys are those of %.300q", object.Server)
	case len(object.Verify)+len(object.Old) > maxKeys || len(object.Verify) > maxCurrentKeys:
		return nil, fmt.Errorf("%d keys are too many", len(object.Verify)+len(object.Old))
	case object.ValidUntil <= 0:
		return nil, errors.New("valid_until_ts is missing")
	}
	out := &serverKeys{server: server, keys: make(map[sign.KeyID]remoteKey, len(object.Verify)+len(object.Old)), validUntil: object.ValidUntil, raw: raw}
	for name, old := range object.Old {
		if keyID, public, ok := parseKey(name, old.Key); ok && old.Expired > 0 {
			out.keys[keyID] = remoteKey{public: public, validUntil: old.Expired, expired: old.Expired}
		}
	}
	until := min(object.ValidUntil, now.Add(keyHorizon).UnixMilli())
	signed := false
	for name, current := range object.Verify {
		keyID, public, ok := parseKey(name, current.Key)
		if !ok {
			continue
		}
		out.keys[keyID] = remoteKey{public: public, validUntil: until}
		if _, claims := sign.Find(raw, string(server), keyID); !claims {
			continue
		}
		if err := sign.Verify(raw, string(server), keyID, public); err != nil {
			return nil, err
		}
		k := out.keys[keyID]
		k.signed, signed = true, true
		out.keys[keyID] = k
	}
	if !signed {
		return nil, errors.New("the keys are not signed with one of them")
	}
	return out, nil
}

// parseKey skips what this server can't use: other algorithms, and names that no database holds.
func parseKey(name, encoded string) (sign.KeyID, ed25519.PublicKey, bool) {
	keyID, err := sign.ParseKeyID(name)
	if err != nil || strings.ContainsRune(name, 0) || !utf8.ValidString(name) {
		return "", nil, false
	}
	public, err := sign.DecodeBase64(encoded)
	return keyID, public, err == nil && len(public) == ed25519.PublicKeySize
}
