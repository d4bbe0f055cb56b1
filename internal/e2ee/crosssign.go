package e2ee

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

// The purposes of cross-signing keys.
//
// Spec: cs Cross-signing
const (
	master      = "master"
	selfSigning = "self_signing"
	userSigning = "user_signing"
)

// SigningUpload are the keys that a user publishes. Each may be missing.
//
// Spec: cs uploadCrossSigningKeys
type SigningUpload struct {
	Master json.RawMessage `json:"master_key"`
	Self   json.RawMessage `json:"self_signing_key"`
	User   json.RawMessage `json:"user_signing_key"`
}

// crossKey is a cross-signing key.
type crossKey struct {
	purpose string
	// text is the public key as it stands in IDs.
	text   string
	public ed25519.PublicKey
	// raw is canonical and has no "unsigned".
	raw []byte
}

func (k *crossKey) id() sign.KeyID { return sign.KeyID("ed25519:" + k.text) }

// parseCrossKey reads a key and checks what can be seen of it alone.
//
// Spec: cs uploadCrossSigningKeys
func parseCrossKey(raw []byte, user id.UserID, purpose string) (*crossKey, error) {
	if len(raw) > maxDeviceKeys {
		return nil, mxerr.TooLarge("A cross-signing key has at most %d bytes.", maxDeviceKeys)
	}
	var o struct {
		Usage      []string                     `json:"usage"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, mxerr.BadJSON("The %s key is malformed: %v.", purpose, err)
	}
	object, err := canonicalObject(raw)
	if err != nil {
		return nil, err
	}
	k := &crossKey{purpose: purpose, raw: object}
	whose, _ := canon.GetText(object, "user_id")
	for name, text := range o.Keys {
		if k.text = text; name != string(k.id()) {
			return nil, mxerr.InvalidParam("The %s key's ID must be ed25519: and the key.", purpose)
		}
		k.public = publicKey(text)
	}
	switch {
	case whose != string(user):
		return nil, mxerr.InvalidParam("The %s key is not a key of %s.", purpose, user)
	case !slices.Contains(o.Usage, purpose):
		return nil, mxerr.InvalidParam("The %s key is for another use.", purpose)
	case len(o.Keys) != 1 || k.public == nil:
		return nil, mxerr.InvalidParam("The %s key must have one Ed25519 key.", purpose)
	}
	return k, nil
}

// parse reads all keys of an upload.
func (u *SigningUpload) parse(user id.UserID) ([]*crossKey, error) {
	var keys []*crossKey
	for _, x := range []struct {
		purpose string
		raw     json.RawMessage
	}{{master, u.Master}, {selfSigning, u.Self}, {userSigning, u.User}} {
		if len(x.raw) == 0 || string(x.raw) == "null" {
			continue
		}
		k, err := parseCrossKey(x.raw, user, x.purpose)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

var (
	stmtCrossKeys   = sqldb.SQL(`SELECT user_id, purpose, content FROM cross_keys WHERE user_id = ANY($1)`)
	stmtSetCrossKey = sqldb.SQL(`INSERT INTO cross_keys (user_id, purpose, public, content, pos) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id, purpose) DO UPDATE SET public = excluded.public, content = excluded.content, pos = excluded.pos`)
	stmtDropCrossKey   = sqldb.SQL(`DELETE FROM cross_keys WHERE user_id = $1 AND purpose = $2`)
	stmtDropSignatures = sqldb.SQL(`DELETE FROM key_signatures WHERE signer = $1 AND (signer_key = $2 OR target = $1 AND target_key = $3)`)
	stmtIsCrossKey     = sqldb.SQL(`SELECT 1 FROM cross_keys WHERE user_id = $1 AND public = $2 LIMIT 1`)
	stmtOwnChange      = sqldb.SQL(`INSERT INTO key_lists (user_id, pos, own_pos) VALUES ($1, 0, $2)
		ON CONFLICT (user_id) DO UPDATE SET own_pos = excluded.own_pos`)
)

// crossKeys are the keys of a user by their purpose.
type crossKeys map[string]*crossKey

// crossKeysOf reads the keys of users.
func crossKeysOf(tx *sqldb.Tx, users []string) (map[id.UserID]crossKeys, error) {
	found := make(map[id.UserID]crossKeys)
	var bad error
	err := tx.Query(stmtCrossKeys, func(r *sqldb.Row) error {
		var user id.UserID
		var purpose, content string
		if err := r.Scan(&user, &purpose, &content); err != nil {
			return err
		}
		k, err := parseCrossKey([]byte(content), user, purpose)
		if err != nil {
			bad = err
			return nil
		}
		if found[user] == nil {
			found[user] = make(crossKeys)
		}
		found[user][purpose] = k
		return nil
	}, users)
	if err == nil {
		err = bad
	}
	return found, err
}

// DeviceConflict reports whether a user has a key with this name: account.Config.DeviceConflict.
//
// Spec: cs Key and signature security
func DeviceConflict(tx *sqldb.Tx, user id.UserID, device id.DeviceID) (bool, error) {
	var one int
	return tx.Get(stmtIsCrossKey, []any{user, device}, &one)
}

// MustConfirm reports whether a user must prove again who they are before they publish keys: if they have a master key already, and
// the upload has anything new.
//
// Spec: cs uploadCrossSigningKeys
func (e *Encryption) MustConfirm(ctx context.Context, user id.UserID, u SigningUpload) (bool, error) {
	keys, err := u.parse(user)
	if err != nil {
		return false, err
	}
	var must bool
	err = e.db.Read(ctx, func(tx *sqldb.Tx) error {
		stored, err := crossKeysOf(tx, []string{string(user)})
		must = stored[user][master] != nil && len(stored[user].fresh(keys)) > 0
		return err
	})
	return must, err
}

// fresh returns the keys that are not those which are there.
func (c crossKeys) fresh(keys []*crossKey) (fresh []*crossKey) {
	for _, k := range keys {
		if old := c[k.purpose]; old == nil || old.text != k.text {
			fresh = append(fresh, k)
		}
	}
	return fresh
}

// UploadSigning publishes cross-signing keys. confirmed says that the user proved who they are.
//
// Spec: cs uploadCrossSigningKeys
func (e *Encryption) UploadSigning(ctx context.Context, user id.UserID, u SigningUpload, confirmed bool) error {
	keys, err := u.parse(user)
	if err != nil {
		return err
	}
	err = e.db.Write(ctx, func(tx *sqldb.Tx) error {
		pos, err := tx.Pos()
		if err != nil {
			return err
		}
		all, err := crossKeysOf(tx, []string{string(user)})
		if err != nil {
			return err
		}
		stored := all[user]
		if stored == nil {
			stored = make(crossKeys)
		}
		fresh := stored.fresh(keys)
		if len(fresh) == 0 {
			return nil
		}
		if stored[master] != nil && !confirmed {
			return mxerr.Forbidden("You have keys already. Prove who you are before you replace them.")
		}
		return stored.replace(tx, pos, user, fresh)
	})
	if err != nil {
		return fmt.Errorf("publish keys of %s: %w", user, err)
	}
	return nil
}

// replace stores new keys.
func (c crossKeys) replace(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID, fresh []*crossKey) error {
	public := false
	for _, k := range fresh {
		var raw string
		if conflict, err := tx.Get(stmtDeviceKeys, []any{user, k.text}, &raw); err != nil || conflict {
			return orConflict(err)
		}
		if k.purpose == master {
			// What the old one vouched for nobody vouches for any more.
			for _, purpose := range []string{selfSigning, userSigning} {
				if c[purpose] != nil {
					c.drop(tx, user, purpose)
				}
			}
		} else {
			m := c[master]
			if m == nil {
				return mxerr.MissingParam("There is no master key that could have signed the %s key.", k.purpose)
			}
			if sign.Verify(k.raw, string(user), m.id(), m.public) != nil {
				return mxerr.New(mxerr.CodeInvalidSignature, "The %s key is not signed by the master key.", k.purpose)
			}
		}
		c.drop(tx, user, k.purpose)
		c[k.purpose] = k
		tx.Queue(stmtSetCrossKey, user, k.purpose, k.text, string(k.raw), pos)
		public = public || k.purpose != userSigning
	}
	if public {
		return tellLocal(tx, pos, user)
	}
	tellOwn(tx, pos, user, user)
	return nil
}

func orConflict(err error) error {
	if err != nil {
		return err
	}
	return mxerr.Forbidden("One of the keys is the ID of a device of yours.")
}

// drop deletes a key with the signatures that it made, or got.
func (c crossKeys) drop(tx *sqldb.Tx, user id.UserID, purpose string) {
	if old := c[purpose]; old != nil {
		tx.Queue(stmtDropCrossKey, user, purpose)
		tx.Queue(stmtDropSignatures, user, old.id(), old.text)
		delete(c, purpose)
	}
}

// OwnChange is the Data of an entry of kind DeviceListLocal about keys, or signatures of keys, that only the user may see.
type OwnChange struct{ About id.UserID }

// tellOwn tells a user's devices that they see somebody's keys otherwise.
func tellOwn(tx *sqldb.Tx, pos sqldb.Pos, user, about id.UserID) {
	if user == about {
		tx.Queue(stmtOwnChange, user, pos)
	}
	tx.Emit(bus.Entry{Pos: pos, Kind: bus.DeviceListLocal, User: user, Data: OwnChange{about}})
}

// RemoteSigning takes the word of their server that the cross-signing keys of a user changed.
//
// Spec: ss End-to-End Encryption
func (e *Encryption) RemoteSigning(ctx context.Context, user id.UserID, u SigningUpload) error {
	u.User = nil
	keys, err := u.parse(user)
	if err != nil {
		return err
	}
	return e.remoteChange(ctx, user, func(tx *sqldb.Tx) (bool, error) {
		var stream, stale int64
		found, err := tx.Get(stmtRemoteList, []any{user}, &stream, &stale)
		if err != nil || !found || stale != 0 {
			return true, err
		}
		stored, err := crossKeysOf(tx, []string{string(user)})
		changed := false
		for _, k := range keys {
			if old := stored[user][k.purpose]; old == nil || string(old.raw) != string(k.raw) {
				changed = true
				tx.Queue(stmtSetCrossKey, user, k.purpose, k.text, string(k.raw), 0)
			}
		}
		return changed, err
	})
}
