package sign

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

// Algorithm is the only one of the specification.
const Algorithm = "ed25519"

// KeyID is an algorithm and a key's name, "ed25519:abc".
type KeyID string

// Algorithm returns what stands before the colon.
func (k KeyID) Algorithm() string {
	algorithm, _, _ := strings.Cut(string(k), ":")
	return algorithm
}

// Version returns what stands behind the colon.
func (k KeyID) Version() string {
	_, version, _ := strings.Cut(string(k), ":")
	return version
}

// ParseKeyID checks an ed25519 key ID. Versions made by others may hold any characters.
//
// Spec: appendices Signing Details
func ParseKeyID(s string) (KeyID, error) {
	k := KeyID(s)
	if k.Algorithm() != Algorithm || k.Version() == "" || len(s) > 255 {
		return "", fmt.Errorf("%.64q is not the ID of an ed25519 key", s)
	}
	return k, nil
}

// Key is a signing key of ours.
type Key struct {
	ID      KeyID
	Private ed25519.PrivateKey
}

// Public returns the half that others verify with.
func (k Key) Public() ed25519.PublicKey {
	return k.Private.Public().(ed25519.PublicKey)
}

// String shows the ID alone, so that no key ends up in a log.
func (k Key) String() string { return string(k.ID) }

// GoString is String, for the same reason.
func (k Key) GoString() string { return "sign.Key(" + string(k.ID) + ")" }

// Generate makes a key named "ed25519:"+version. The version may hold letters, digits and "_".
func Generate(rand io.Reader, version string) (Key, error) {
	for i := 0; i < len(version); i++ {
		c := version[i]
		if c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return Key{}, fmt.Errorf("the version of a signing key may hold only letters, digits and '_', not %q", version)
		}
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return Key{}, fmt.Errorf("read a seed for a signing key: %w", err)
	}
	return FromSeed(KeyID(Algorithm+":"+version), seed)
}

// FromSeed makes the key of a 32-byte seed.
func FromSeed(id KeyID, seed []byte) (Key, error) {
	if _, err := ParseKeyID(string(id)); err != nil {
		return Key{}, err
	}
	if len(seed) != ed25519.SeedSize {
		return Key{}, fmt.Errorf("the seed of key %s has %d bytes, not %d", id, len(seed), ed25519.SeedSize)
	}
	return Key{ID: id, Private: ed25519.NewKeyFromSeed(seed)}, nil
}

// EncodeBase64 writes unpadded base64.
//
// Spec: appendices Unpadded Base64
func EncodeBase64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// DecodeBase64 reads base64 with or without padding, in the standard or the URL-safe alphabet:
// other servers have published all of these.
func DecodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "-_") {
		return base64.RawURLEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}
