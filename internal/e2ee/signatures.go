package e2ee

import (
	"context"
	"encoding/json"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

// maxSignatures bounds the objects of one upload. Clients sign one or a few.
const maxSignatures = 200

// Signatures are signed objects: the keys of devices, by their IDs, and master keys, by their public keys.
//
// Spec: cs uploadCrossSigningSignatures
type Signatures map[id.UserID]map[string]json.RawMessage

// Refusals say what was wrong with objects.
type Refusals map[id.UserID]map[string]Refusal

// Refusal is an error about one object.
type Refusal struct {
	Code mxerr.Code `json:"errcode"`
	Text string     `json:"error"`
}

// signature is a signature of a key.
type signature struct {
	target    id.UserID
	targetKey string
	signer    id.UserID
	signerKey sign.KeyID
	text      string
}

var (
	stmtSignatures = sqldb.SQL(`SELECT target, target_key, signer, signer_key, signature FROM key_signatures
		WHERE target = ANY($1) AND (signer = target OR signer = $2)`)
	stmtSign = sqldb.SQL(`INSERT INTO key_signatures (target, target_key, signer, signer_key, signature, pos) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (target, target_key, signer, signer_key) DO UPDATE SET signature = excluded.signature, pos = excluded.pos`)
	stmtSignedSince  = sqldb.SQL(`SELECT DISTINCT target FROM key_signatures WHERE signer = $1 AND pos > $2`)
	stmtTouchDevice  = sqldb.SQL(`UPDATE crypto_devices SET pos = $3 WHERE user_id = $1 AND device_id = $2`)
	stmtTouchCrossed = sqldb.SQL(`UPDATE cross_keys SET pos = $3 WHERE user_id = $1 AND purpose = $2`)
)

// signed are signatures by whose key they are of.
type signed map[id.UserID]map[string][]signature

// signaturesOf reads the signatures of users' keys that a viewer may see: the users' own, and the viewer's. Other servers see the users' own only:
// viewer is "" then.
//
// Spec: cs Key and signature security
func signaturesOf(tx *sqldb.Tx, users []string, viewer id.UserID) (signed, error) {
	found := make(signed)
	err := tx.Query(stmtSignatures, func(r *sqldb.Row) error {
		var s signature
		err := r.Scan(&s.target, &s.targetKey, &s.signer, &s.signerKey, &s.text)
		if found[s.target] == nil {
			found[s.target] = make(map[string][]signature)
		}
		found[s.target][s.targetKey] = append(found[s.target][s.targetKey], s)
		return err
	}, users, viewer)
	return found, err
}

// on adds signatures to a key.
func (s signed) on(raw []byte, user id.UserID, key string) []byte {
	for _, one := range s[user][key] {
		if with, err := sign.AddSignature(raw, string(one.signer), one.signerKey, one.text); err == nil {
			raw = with
		}
	}
	return raw
}

// UploadSignatures stores signatures that a user made, and returns those objects that were refused.
//
// Spec: cs uploadCrossSigningSignatures
func (e *Encryption) UploadSignatures(ctx context.Context, user id.UserID, up Signatures) (Refusals, error) {
	n := 0
	targets := []string{string(user)}
	for target, objects := range up {
		if _, err := id.ParseUserID(string(target)); err != nil {
			return nil, mxerr.InvalidParam("%v.", err)
		}
		n += len(objects)
		targets = append(targets, string(target))
	}
	if n > maxSignatures {
		return nil, mxerr.TooLarge("An upload has at most %d signed objects.", maxSignatures)
	}
	var refused Refusals
	err := e.db.Write(ctx, func(tx *sqldb.Tx) error {
		refused = make(Refusals)
		pos, err := tx.Pos()
		if err != nil {
			return err
		}
		keys, err := crossKeysOf(tx, targets)
		if err != nil {
			return err
		}
		w := &signer{tx: tx, pos: pos, user: user, keys: keys}
		for target, objects := range up {
			for key, raw := range objects {
				err := w.take(target, key, raw)
				if problem, ok := mxerr.Of(err); ok {
					if refused[target] == nil {
						refused[target] = make(map[string]Refusal)
					}
					refused[target][key] = Refusal{problem.Code, problem.Text}
				} else if err != nil {
					return err
				}
			}
		}
		if w.public {
			return tellLocal(tx, w.pos, user)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store signatures of %s: %w", user, err)
	}
	return refused, nil
}

// signer takes the signatures of one upload.
type signer struct {
	tx     *sqldb.Tx
	pos    sqldb.Pos
	user   id.UserID
	keys   map[id.UserID]crossKeys
	public bool // others see some of it
}

// take judges one object: which key of whom it is about decides who must have signed it.
func (w *signer) take(target id.UserID, key string, raw json.RawMessage) error {
	if len(raw) > maxDeviceKeys || !storable(key) {
		return mxerr.TooLarge("The object has more than %d bytes.", maxDeviceKeys)
	}
	object, err := canonicalObject(raw)
	if err != nil {
		return err
	}
	theirs := w.keys[target][master]
	switch {
	case target != w.user:
		if theirs == nil || theirs.text != key {
			return mxerr.NotFound("This is not the master key of %s.", target)
		}
		return w.signOther(theirs, target, object)
	case theirs != nil && theirs.text == key:
		return w.signMaster(theirs, object)
	}
	return w.signDevice(id.DeviceID(key), object)
}

// signOther stores that the user vouches for somebody else.
func (w *signer) signOther(theirs *crossKey, target id.UserID, object []byte) error {
	own := w.keys[w.user][userSigning]
	if own == nil {
		return mxerr.New(mxerr.CodeInvalidSignature, "You have no user-signing key.")
	}
	if err := w.store(theirs.raw, object, target, theirs.text, own); err != nil {
		return err
	}
	tellOwn(w.tx, w.pos, w.user, target)
	return nil
}

// signDevice stores that the user vouches for a device.
func (w *signer) signDevice(device id.DeviceID, object []byte) error {
	own := w.keys[w.user][selfSigning]
	var stored string
	found, err := w.tx.Get(stmtDeviceKeys, []any{w.user, device}, &stored)
	switch {
	case err != nil:
		return err
	case !found || stored == "":
		return mxerr.NotFound("You have no device and no master key of this name.")
	case own == nil:
		return mxerr.New(mxerr.CodeInvalidSignature, "You have no self-signing key.")
	}
	if err := w.store([]byte(stored), object, w.user, string(device), own); err != nil {
		return err
	}
	w.public = true
	w.tx.Queue(stmtTouchDevice, w.user, device, w.pos)
	if w.pos, err = w.tx.Pos(); err != nil { // each change of a device has an ID of its own
		return err
	}
	return nil
}

// signMaster stores that devices of the user vouch for the master key.
func (w *signer) signMaster(m *crossKey, object []byte) error {
	done := false
	for _, keyID := range sign.KeyIDs(object, string(w.user)) {
		var stored string
		device := id.DeviceID(keyID.Version())
		if found, err := w.tx.Get(stmtDeviceKeys, []any{w.user, device}, &stored); err != nil {
			return err
		} else if !found || stored == "" {
			continue
		}
		d, err := readDeviceKeys([]byte(stored), device)
		if err != nil {
			return err
		}
		if err := w.store(m.raw, object, w.user, m.text, &crossKey{text: string(device), public: d.signer}); err != nil {
			return err
		}
		done = true
	}
	if !done {
		return mxerr.New(mxerr.CodeInvalidSignature, "None of your devices signed the master key.")
	}
	w.public = true
	w.tx.Queue(stmtTouchCrossed, w.user, master, w.pos)
	return nil
}

// store keeps the signature that a key made of an object, which must be the one that is stored.
func (w *signer) store(stored, object []byte, target id.UserID, targetKey string, by *crossKey) error {
	if string(canon.Without(nil, stored, "signatures")) != string(canon.Without(nil, object, "signatures")) {
		return mxerr.New(mxerr.CodeInvalidSignature, "What was signed is not the key that is published.")
	}
	if by.public == nil || sign.Verify(object, string(w.user), by.id(), by.public) != nil {
		return mxerr.New(mxerr.CodeInvalidSignature, "The signature is missing or wrong.")
	}
	text, _ := sign.Find(object, string(w.user), by.id())
	w.tx.Queue(stmtSign, target, targetKey, w.user, by.id(), text, w.pos)
	return nil
}
