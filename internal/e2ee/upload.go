package e2ee

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxUpload bounds the one-time keys of one upload, and the fallback keys. Clients send up to 100.
	maxUpload = 500
	// maxOneTimeKeys bounds those that a device has here, claimed ones aside. Clients keep 50 to 100.
	maxOneTimeKeys = 1000
	// maxFallbacks bounds the algorithms that a device has a fallback key for. There is one algorithm today.
	maxFallbacks = 20
)

// Upload is what a device publishes. Everything may be missing.
//
// Spec: cs uploadKeys
type Upload struct {
	DeviceKeys   json.RawMessage            `json:"device_keys"`
	OneTimeKeys  map[string]json.RawMessage `json:"one_time_keys"`
	FallbackKeys map[string]json.RawMessage `json:"fallback_keys"`
}

// parsedUpload is an Upload that is in order.
type parsedUpload struct {
	identity           *deviceKeys // nil for none
	oneTime, fallbacks []*preKey
}

var (
	stmtDeviceKeys = sqldb.SQL(`SELECT COALESCE(keys, '') FROM crypto_devices WHERE user_id = $1 AND device_id = $2`)
	stmtSetKeys    = sqldb.SQL(`UPDATE crypto_devices SET keys = $3, pos = $4 WHERE user_id = $1 AND device_id = $2`)
	stmtAddOneTime = sqldb.SQL(`INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, pos, content, claimed)
		VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT (user_id, device_id, algorithm, key_id) DO NOTHING`)
	stmtOneTime = sqldb.SQL(`SELECT content, claimed FROM one_time_keys
		WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id = $4`)
	stmtNewOneTime = sqldb.SQL(`UPDATE one_time_keys SET pos = $5, content = $6, claimed = 0
		WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id = $4`)
	stmtCounts = sqldb.SQL(`SELECT algorithm, COUNT(*) FROM one_time_keys
		WHERE user_id = $1 AND device_id = $2 AND claimed = 0 GROUP BY algorithm ORDER BY algorithm`)
	stmtFallback = sqldb.SQL(`SELECT key_id, content, used FROM fallback_keys
		WHERE user_id = $1 AND device_id = $2 AND algorithm = $3`)
	stmtSetFallback = sqldb.SQL(`INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, content, used) VALUES ($1, $2, $3, $4, $5, 0)
		ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, content = excluded.content, used = 0`)
	stmtCountFallbacks = sqldb.SQL(`SELECT COUNT(*) FROM fallback_keys WHERE user_id = $1 AND device_id = $2`)
	stmtNote           = sqldb.SQL(`INSERT INTO crypto_notes (user_id, device_id, pos) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, device_id) DO UPDATE SET pos = excluded.pos`)
)

var errNoDevice = mxerr.NotFound("You have no device with this ID.")

// Upload publishes keys of a device, all or nothing, and returns how many one-time keys of each algorithm it has left.
//
// Spec: cs uploadKeys
func (e *Encryption) Upload(ctx context.Context, user id.UserID, device id.DeviceID, up Upload) (map[string]int64, error) {
	p, err := e.parse(ctx, user, device, up)
	if err != nil {
		return nil, err
	}
	if p.identity == nil && len(p.oneTime)+len(p.fallbacks) == 0 {
		s, err := e.stock(ctx, deviceKey{user, device})
		if err != nil {
			return nil, err
		}
		return s.counts, nil
	}
	var counts map[string]int64
	err = e.db.Write(ctx, func(tx *sqldb.Tx) (err error) {
		pos, err := tx.Pos()
		if err != nil {
			return err
		}
		if err := p.write(tx, pos, user, device); err != nil {
			return err
		}
		counts, err = countOneTime(tx, user, device)
		return err
	})
	return counts, err
}

// parse checks an upload outside of the transaction.
func (e *Encryption) parse(ctx context.Context, user id.UserID, device id.DeviceID, up Upload) (*parsedUpload, error) {
	if len(up.OneTimeKeys) > maxUpload || len(up.FallbackKeys) > maxFallbacks {
		return nil, mxerr.TooLarge("An upload has at most %d one-time keys and %d fallback keys.", maxUpload, maxFallbacks)
	}
	p := new(parsedUpload)
	var signer ed25519.PublicKey
	var err error
	if len(up.DeviceKeys) > 0 && string(up.DeviceKeys) != "null" {
		if p.identity, err = parseDeviceKeys(up.DeviceKeys, user, device); err != nil {
			return nil, err
		}
		signer = p.identity.signer
	} else if len(up.OneTimeKeys)+len(up.FallbackKeys) > 0 {
		if signer, err = e.signer(ctx, user, device); err != nil {
			return nil, err
		}
	}
	if p.oneTime, err = parsePreKeys(up.OneTimeKeys, user, device, signer); err != nil {
		return nil, err
	}
	if p.fallbacks, err = parsePreKeys(up.FallbackKeys, user, device, signer); err != nil {
		return nil, err
	}
	algorithms := make(map[string]bool)
	for _, k := range p.fallbacks {
		if algorithms[k.algorithm] {
			return nil, mxerr.InvalidParam("\"fallback_keys\" has more than one key of %.40q.", k.algorithm)
		}
		algorithms[k.algorithm] = true
	}
	return p, nil
}

func parsePreKeys(keys map[string]json.RawMessage, user id.UserID, device id.DeviceID, signer ed25519.PublicKey) ([]*preKey, error) {
	parsed := make([]*preKey, 0, len(keys))
	for name, raw := range keys {
		k, err := parsePreKey(name, raw, user, device, signer)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, k)
	}
	return parsed, nil
}

// signer returns the key that a device signs with; nil where none was uploaded.
func (e *Encryption) signer(ctx context.Context, user id.UserID, device id.DeviceID) (ed25519.PublicKey, error) {
	var raw string
	err := e.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(stmtDeviceKeys, []any{user, device}, &raw)
		return err
	})
	if err != nil || raw == "" {
		return nil, err
	}
	d, err := readDeviceKeys([]byte(raw), device)
	if err != nil {
		return nil, err
	}
	return d.signer, nil
}

// write stores what is new.
func (p *parsedUpload) write(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID, device id.DeviceID) error {
	var stored string
	found, err := tx.Get(stmtDeviceKeys, []any{user, device}, &stored)
	if err != nil {
		return fmt.Errorf("load keys of a device of %s: %w", user, err)
	}
	if !found {
		return errNoDevice
	}
	if p.identity != nil && stored != string(p.identity.raw) {
		tx.Queue(stmtSetKeys, user, device, string(p.identity.raw), pos)
		tx.Queue(stmtDropDeviceSigned, user, device) // signatures were made of what it was
		if stored != "" && !sameKeys([]byte(stored), p.identity.raw) {
			tx.Queue(stmtDropOneTime, user, device)
			tx.Queue(stmtDropFallbacks, user, device)
		}
		if err := tellLocal(tx, pos, user); err != nil {
			return err
		}
	}
	for _, k := range p.oneTime {
		if err := k.add(tx, pos, user, device); err != nil {
			return err
		}
	}
	for _, k := range p.fallbacks {
		if err := k.setFallback(tx, user, device); err != nil {
			return err
		}
	}
	if len(p.fallbacks) > 0 {
		var n int
		if _, err := tx.Get(stmtCountFallbacks, []any{user, device}, &n); err != nil || n > maxFallbacks {
			return orTooMany(err, maxFallbacks, "fallback")
		}
	}
	note(tx, pos, user, device)
	return nil
}

// sameKeys reports whether two descriptions of a device name the same keys.
func sameKeys(a, b []byte) bool {
	x, _ := canon.Get(a, "keys")
	y, _ := canon.Get(b, "keys")
	return string(x) == string(y)
}

func orTooMany(err error, limit int, kind string) error {
	if err != nil {
		return err
	}
	return mxerr.TooLarge("A device has at most %d %s keys.", limit, kind)
}

// add stores a one-time key. One that is there already must be the same; one that was claimed under this name stays claimed if it is.
func (k *preKey) add(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID, device id.DeviceID) error {
	n, err := tx.Exec(stmtAddOneTime, user, device, k.algorithm, k.id, pos, k.content)
	if err != nil || n > 0 {
		return err
	}
	var content string
	var claimed int64
	if _, err := tx.Get(stmtOneTime, []any{user, device, k.algorithm, k.id}, &content, &claimed); err != nil {
		return err
	}
	switch {
	case content == k.content:
	case claimed == 0:
		return mxerr.InvalidParam("Another one-time key is here under the name %.40q.", k.name())
	default:
		tx.Queue(stmtNewOneTime, user, device, k.algorithm, k.id, pos, k.content)
	}
	return nil
}

// setFallback stores a fallback key. The same one again doesn't become unused by that.
func (k *preKey) setFallback(tx *sqldb.Tx, user id.UserID, device id.DeviceID) error {
	var keyID, content string
	var used int64
	found, err := tx.Get(stmtFallback, []any{user, device, k.algorithm}, &keyID, &content, &used)
	if err == nil && !(found && keyID == k.id && content == k.content) {
		tx.Queue(stmtSetFallback, user, device, k.algorithm, k.id, k.content)
	}
	return err
}

// note says that the number of a device's keys changed.
func note(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID, device id.DeviceID) {
	tx.Queue(stmtNote, user, device, pos)
	tx.Emit(bus.Entry{Pos: pos, Kind: bus.OneTimeKeys, User: user, Device: device})
}

// countOneTime counts the keys that are left, and refuses what brings them beyond the limit.
func countOneTime(tx *sqldb.Tx, user id.UserID, device id.DeviceID) (map[string]int64, error) {
	counts := make(map[string]int64)
	var sum int64
	err := tx.Query(stmtCounts, func(r *sqldb.Row) error {
		var algorithm string
		var n int64
		err := r.Scan(&algorithm, &n)
		counts[algorithm] = n
		sum += n
		return err
	}, user, device)
	if err != nil || sum > maxOneTimeKeys {
		return nil, orTooMany(err, maxOneTimeKeys, "one-time")
	}
	return counts, nil
}
