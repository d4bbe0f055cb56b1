package sign

import (
	"crypto/ed25519"
	"errors"
	"io"
)

// KeyID is an algorithm and a key's name, "ed25519:abc".
type KeyID string

// Key is a signing key of ours.
type Key struct {
	ID      KeyID
	Private ed25519.PrivateKey
}

// Public returns the half that others verify with.
func (k Key) Public() ed25519.PublicKey {
	return k.Private.Public().(ed25519.PublicKey)
}

// Generate makes a key named "ed25519:"+version.
func Generate(rand io.Reader, version string) (Key, error) {
	return Key{}, errors.New("not implemented")
}

// FromSeed makes the key of a 32-byte seed.
func FromSeed(id KeyID, seed []byte) (Key, error) {
	return Key{}, errors.New("not implemented")
}

// Sign returns the canonical form of a JSON object with the key's signature added under entity.
// Other signatures and unsigned stay.
func (k Key) Sign(object []byte, entity string) ([]byte, error) {
	return nil, errors.New("not implemented")
}

// Signature returns the key's signature of a JSON object in unpadded base64.
func (k Key) Signature(object []byte) (string, error) {
	return "", errors.New("not implemented")
}

// Verify checks the signature that entity made with the key of this ID.
func Verify(object []byte, entity string, key KeyID, public ed25519.PublicKey) error {
	return errors.New("not implemented")
}

// KeyIDs lists the ed25519 keys with which entity claims to have signed the object.
func KeyIDs(object []byte, entity string) []KeyID { return nil }
