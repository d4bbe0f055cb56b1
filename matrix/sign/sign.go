package sign

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"myelin/matrix/canon"
	"myelin/matrix/mxerr"
)

// Why a signature does not count. Verify wraps one of these.
var (
	// ErrMissing: the entity has not signed with this key.
	ErrMissing = errors.New("there is no such signature")
	// ErrWrong: there is a signature and it does not fit.
	ErrWrong = errors.New("the signature is wrong")
)

// Sign returns the canonical form of a JSON object with the key's signature added under entity.
// Other signatures, and unsigned, stay.
//
// Spec: appendices Signing Details
func (k Key) Sign(object []byte, entity string) ([]byte, error) {
	object, err := canonical(object)
	if err != nil {
		return nil, err
	}
	signature := k.SignBytes(signed(object))
	return AddSignature(object, entity, k.ID, signature)
}

// Signature returns the key's signature of a JSON object in unpadded base64.
func (k Key) Signature(object []byte) (string, error) {
	object, err := canonical(object)
	if err != nil {
		return "", err
	}
	return k.SignBytes(signed(object)), nil
}

// SignBytes signs bytes as they are and returns the signature in unpadded base64.
func (k Key) SignBytes(message []byte) string {
	return EncodeBase64(ed25519.Sign(k.Private, message))
}

// AddSignature puts a signature into a canonical object; the result is canonical. It fails where the
// object's signatures are not the objects they must be.
func AddSignature(object []byte, entity string, key KeyID, signature string) ([]byte, error) {
	all, ok := canon.Get(object, "signatures")
	if !ok {
		all = []byte("{}")
	}
	of, ok := canon.Get(all, entity)
	if !ok {
		of = []byte("{}")
	}
	if all[0] != '{' || of[0] != '{' {
		return nil, mxerr.BadJSON("signatures must be an object of objects")
	}
	of = canon.With(nil, of, string(key), canon.AppendString(nil, signature))
	all = canon.With(nil, all, entity, of)
	return canon.With(make([]byte, 0, len(object)+len(all)+len(`,"signatures":`)), object, "signatures", all), nil
}

// Verify checks the signature that entity made with the key of this ID. The error wraps ErrMissing or
// ErrWrong, or says that the object is no JSON.
//
// Spec: appendices Checking for a Signature
func Verify(object []byte, entity string, key KeyID, public ed25519.PublicKey) error {
	object, err := canonical(object)
	if err != nil {
		return err
	}
	signature, ok := Find(object, entity, key)
	if !ok {
		return fmt.Errorf("verify %s of %s: %w", key, entity, ErrMissing)
	}
	return VerifyBytes(signed(object), signature, entity, key, public)
}

// VerifyBytes checks a signature of exactly these bytes. Entity and key are for the error alone.
func VerifyBytes(message []byte, signature, entity string, key KeyID, public ed25519.PublicKey) error {
	raw, err := DecodeBase64(signature)
	if err != nil || len(raw) != ed25519.SignatureSize || len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, message, raw) {
		return fmt.Errorf("verify %s of %s: %w", key, entity, ErrWrong)
	}
	return nil
}

// Find returns a signature as it stands in a valid object.
func Find(object []byte, entity string, key KeyID) (string, bool) {
	all, _ := canon.Get(object, "signatures")
	of, _ := canon.Get(all, entity)
	return canon.GetText(of, string(key))
}

// KeyIDs lists the ed25519 keys with which entity claims to have signed a valid object.
func KeyIDs(object []byte, entity string) []KeyID {
	all, _ := canon.Get(object, "signatures")
	of, _ := canon.Get(all, entity)
	var ids []KeyID
	for name := range canon.Fields(of) {
		if id, err := ParseKeyID(name); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// canonical also makes sure that it is an object.
func canonical(object []byte) ([]byte, error) {
	out, err := canon.Canonicalize(make([]byte, 0, len(object)), object, canon.Integral)
	if err != nil {
		return nil, err
	}
	if out[0] != '{' {
		return nil, mxerr.BadJSON("only a JSON object can be signed")
	}
	return out, nil
}

// signed cuts a canonical object down to what a signature covers.
func signed(object []byte) []byte {
	return canon.Without(make([]byte, 0, len(object)), object, "signatures", "unsigned")
}
