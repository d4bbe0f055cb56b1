package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxClaims bounds the devices of one claim: those of a room of a few thousand users. A client splits what is more.
	maxClaims = 10_000
	// claimsAtOnce bounds those of one transaction, so that others come in between.
	claimsAtOnce = 100
	// claimedKept is how long a claimed key is remembered, in case its upload is repeated.
	claimedKept = 30 * 24 * time.Hour
)

// Claims name an algorithm for each device that somebody wants a key of.
type Claims map[id.UserID]map[id.DeviceID]string

// Claimed are keys by their "algorithm:id", one for each device that had one.
type Claimed map[id.UserID]map[id.DeviceID]map[string]json.RawMessage

func (c Claimed) add(user id.UserID, device id.DeviceID, name string, key json.RawMessage) {
	if c[user] == nil {
		c[user] = make(map[id.DeviceID]map[string]json.RawMessage)
	}
	c[user][device] = map[string]json.RawMessage{name: key}
}

// claim is what somebody wants of one device, and what there was.
type claim struct {
	deviceKey
	algorithm string
	keyID     string
	content   string
}

var (
	stmtClaim = sqldb.SQL(`UPDATE one_time_keys SET claimed = $4 WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND claimed = 0
		AND key_id = (SELECT k.key_id FROM one_time_keys k WHERE k.user_id = $1 AND k.device_id = $2 AND k.algorithm = $3 AND k.claimed = 0
			ORDER BY k.pos LIMIT 1)
		RETURNING key_id, content`)
	stmtUseFallback   = sqldb.SQL(`UPDATE fallback_keys SET used = 1 WHERE user_id = $1 AND device_id = $2 AND algorithm = $3`)
	stmtForgetClaimed = sqldb.SQL(`DELETE FROM one_time_keys WHERE claimed > 0 AND claimed < $1`)
)

// check bounds claims.
func (c Claims) check() error {
	n := 0
	for user, devices := range c {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return mxerr.InvalidParam("\"one_time_keys\": %v.", err)
		}
		n += len(devices)
	}
	if n > maxClaims {
		return mxerr.TooLarge("A claim is for at most %d devices.", maxClaims)
	}
	return nil
}

// ClaimLocal takes one key of each device of our users: a one-time key while there is one, then the fallback key. Devices that don't exist, or
// have neither, are left out, and so are users of other servers.
//
// Spec: cs claimKeys
// Spec: ss claimUserEncryptionKeys
func (e *Encryption) ClaimLocal(ctx context.Context, want Claims) (Claimed, error) {
	if err := want.check(); err != nil {
		return nil, err
	}
	var list []*claim
	for user, devices := range want {
		if !e.cfg.Ours.Is(user.Domain()) {
			continue
		}
		for device, algorithm := range devices {
			if _, err := id.ParseDeviceID(string(device)); err == nil && storable(algorithm) {
				list = append(list, &claim{deviceKey: deviceKey{user, device}, algorithm: algorithm})
			}
		}
	}
	got := make(Claimed)
	for part := range slices.Chunk(list, claimsAtOnce) {
		if err := e.claims.Submit(part).Wait(ctx); err != nil {
			return nil, fmt.Errorf("claim keys: %w", err)
		}
		for _, c := range part {
			if c.keyID != "" {
				got.add(c.user, c.device, c.algorithm+":"+c.keyID, json.RawMessage(c.content))
			}
		}
	}
	return got, nil
}

// newClaims makes what claims keys, for all who want some while the last transaction ran.
func newClaims(db *sqldb.DB) *sqldb.Batcher[[]*claim] {
	return sqldb.NewBatcher(db, "claimed keys", func(tx *sqldb.Tx, wanted [][]*claim) []error {
		if err := takeKeys(tx, slices.Concat(wanted...)); err != nil {
			failed := make([]error, len(wanted))
			for i := range failed {
				failed[i] = err
			}
			return failed
		}
		return nil
	})
}

// takeKeys claims keys in one transaction. The position is taken first: other nodes wait until the keys are marked.
func takeKeys(tx *sqldb.Tx, list []*claim) error {
	pos, err := tx.Pos()
	if err != nil {
		return err
	}
	at := now()
	err = tx.Each(stmtClaim, len(list), func(i int) []any {
		c := list[i]
		c.keyID, c.content = "", ""
		return []any{c.user, c.device, c.algorithm, at}
	}, func(i int, r *sqldb.Row) error { return r.Scan(&list[i].keyID, &list[i].content) })
	if err != nil {
		return err
	}
	var without []*claim
	for _, c := range list {
		if c.keyID == "" {
			without = append(without, c)
			continue
		}
		note(tx, pos, c.user, c.device)
	}
	unused := make([]bool, len(without))
	err = tx.Each(stmtFallback, len(without), func(i int) []any {
		return []any{without[i].user, without[i].device, without[i].algorithm}
	}, func(i int, r *sqldb.Row) error {
		var used int64
		err := r.Scan(&without[i].keyID, &without[i].content, &used)
		unused[i] = used == 0
		return err
	})
	if err != nil {
		return err
	}
	for i, c := range without {
		if unused[i] {
			tx.Queue(stmtUseFallback, c.user, c.device, c.algorithm)
			note(tx, pos, c.user, c.device)
		}
	}
	return nil
}

// ForgetClaimed deletes keys that were claimed long ago.
func (e *Encryption) ForgetClaimed(ctx context.Context) error {
	return e.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(stmtForgetClaimed, now()-claimedKept.Milliseconds())
		return err
	})
}
