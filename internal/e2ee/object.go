package e2ee

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

// Bounds of what clients upload, far above what they do: a client of today has two identity keys, and signs with two or three.
const (
	maxDeviceKeys = 16 << 10 // bytes of a device's identity keys, with their signatures
	maxKeyObject  = 4 << 10  // bytes of a one-time or fallback key
	maxKeyName    = 255      // bytes of an algorithm, and of a key ID
)

// deviceKeys are the identity keys of a device.
//
// Spec: cs Device keys
type deviceKeys struct {
	// raw is canonical and has no "unsigned".
	raw []byte
	// signer is the key that signs one-time keys, nil where there is none of a kind that is known here.
	signer ed25519.PublicKey
}

// signingKeyID names the key that a device signs with.
func signingKeyID(device id.DeviceID) sign.KeyID { return sign.KeyID("ed25519:" + string(device)) }

// parseDeviceKeys reads what a device uploads about itself. A signature of its own must be right, if it is there.
//
// Spec: cs uploadKeys
func parseDeviceKeys(raw []byte, user id.UserID, device id.DeviceID) (*deviceKeys, error) {
	if len(raw) > maxDeviceKeys {
		return nil, mxerr.TooLarge("\"device_keys\" has more than %d bytes.", maxDeviceKeys)
	}
	var o struct {
		Algorithms []string                     `json:"algorithms"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, mxerr.BadJSON("\"device_keys\" is not the identity keys of a device: %v.", err)
	}
	d, err := readDeviceKeys(raw, device)
	if err != nil {
		return nil, err
	}
	if name, _ := canon.GetText(d.raw, "user_id"); name != string(user) {
		return nil, mxerr.InvalidParam("\"device_keys.user_id\" must be your user ID.")
	}
	if name, _ := canon.GetText(d.raw, "device_id"); name != string(device) {
		return nil, mxerr.InvalidParam("\"device_keys.device_id\" must be the ID of the device that uploads the keys.")
	}
	if o.Algorithms == nil || o.Keys == nil || o.Signatures == nil {
		return nil, mxerr.BadJSON("\"device_keys\" needs \"algorithms\", \"keys\" and \"signatures\".")
	}
	if _, signed := sign.Find(d.raw, string(user), signingKeyID(device)); signed {
		if d.signer == nil || sign.Verify(d.raw, string(user), signingKeyID(device), d.signer) != nil {
			return nil, mxerr.New(mxerr.CodeInvalidSignature, "The signature of \"device_keys\" by its own key is wrong.")
		}
	}
	return d, nil
}

// readDeviceKeys makes valid JSON canonical and finds the signing key.
func readDeviceKeys(raw []byte, device id.DeviceID) (*deviceKeys, error) {
	object, err := canonicalObject(raw)
	if err != nil {
		return nil, err
	}
	d := &deviceKeys{raw: object}
	keys, _ := canon.Get(object, "keys")
	if text, ok := canon.GetText(keys, string(signingKeyID(device))); ok {
		d.signer = publicKey(text)
	}
	return d, nil
}

// canonicalObject makes an object canonical, without what nobody signs.
func canonicalObject(raw []byte) ([]byte, error) {
	object, err := canon.Canonicalize(make([]byte, 0, len(raw)), raw, canon.Integral)
	if err != nil {
		return nil, err
	}
	if object[0] != '{' {
		return nil, mxerr.BadJSON("A key must be an object.")
	}
	if _, there := canon.Get(object, "unsigned"); there {
		object = canon.Without(nil, object, "unsigned")
	}
	return object, nil
}

// publicKey decodes an Ed25519 key; nil for what is none.
func publicKey(text string) ed25519.PublicKey {
	key, err := sign.DecodeBase64(text)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil
	}
	return key
}

// preKey is a one-time or fallback key.
//
// Spec: cs One-time and fallback keys
type preKey struct {
	algorithm, id string
	// content is canonical JSON: an object, or, for algorithms without signatures, a string.
	content string
}

func (k *preKey) name() string { return k.algorithm + ":" + k.id }

// parsePreKey reads a key that stands in a body as "algorithm:id". A signature of the device's must be right, if it is there and the device's
// key, signer, is known.
func parsePreKey(name string, raw []byte, user id.UserID, device id.DeviceID, signer ed25519.PublicKey) (*preKey, error) {
	algorithm, keyID, ok := strings.Cut(name, ":")
	switch {
	case !ok || algorithm == "" || keyID == "":
		return nil, mxerr.InvalidParam("%.40q names no key: it must be an algorithm, a colon and an ID.", name)
	case len(algorithm) > maxKeyName || len(keyID) > maxKeyName || !utf8.ValidString(name) || strings.IndexByte(name, 0) >= 0:
		return nil, mxerr.InvalidParam("%.40q is too long, or no text, for the name of a key.", name)
	case len(raw) > maxKeyObject:
		return nil, mxerr.TooLarge("The key %.40q has more than %d bytes.", name, maxKeyObject)
	}
	content, err := canon.Canonicalize(make([]byte, 0, len(raw)), raw, canon.Integral)
	if err != nil {
		return nil, err
	}
	switch {
	case content[0] == '"':
	case content[0] != '{':
		return nil, mxerr.BadJSON("The key %.40q must be an object or a string.", name)
	default:
		if _, ok := canon.GetText(content, "key"); !ok {
			return nil, mxerr.BadJSON("The key %.40q lacks \"key\".", name)
		}
		if _, signed := sign.Find(content, string(user), signingKeyID(device)); signed && signer != nil {
			if sign.Verify(content, string(user), signingKeyID(device), signer) != nil {
				return nil, mxerr.New(mxerr.CodeInvalidSignature, "The device's signature of the key %.40q is wrong.", name)
			}
		}
	}
	return &preKey{algorithm, keyID, string(content)}, nil
}
