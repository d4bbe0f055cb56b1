package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// stock is how many keys a device has left and what waits for it. Immutable but for reaped.
type stock struct {
	epoch epoch
	// pos is where it changed last, 0 where that isn't known or never happened.
	pos    sqldb.Pos
	counts map[string]int64
	// countsJSON and unusedJSON are the fields of sync.
	countsJSON, unusedJSON json.RawMessage
	// first and last are the ends of the device's inbox, 0 where it is empty. What is up to reaped is being deleted.
	first, last sqldb.Pos
	reaped      atomic.Int64
}

var (
	stmtNotePos = sqldb.SQL(`SELECT pos FROM crypto_notes WHERE user_id = $1 AND device_id = $2`)
	stmtUnused  = sqldb.SQL(`SELECT algorithm FROM fallback_keys WHERE user_id = $1 AND device_id = $2 AND used = 0 ORDER BY algorithm`)
)

// usual is the algorithm of one-time keys that is counted even where there are none: some clients take a count that is missing for one
// that didn't change.
const usual = "signed_curve25519"

// stock returns what a device has left.
func (e *Encryption) stock(ctx context.Context, k deviceKey) (*stock, error) {
	current := e.epochs.of(k.text())
	if s, ok := e.stocks.GetIfPresent(k); ok && s.epoch == current {
		return s, nil
	}
	s := &stock{epoch: current}
	err := e.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if s.counts, err = countOneTime(tx, k.user, k.device); err != nil {
			return err
		}
		if _, err := tx.Get(stmtNotePos, []any{k.user, k.device}, &s.pos); err != nil {
			return err
		}
		if _, err := tx.Get(stmtInboxEnds, []any{k.user, k.device}, &s.first, &s.last); err != nil {
			return err
		}
		unused := []string{}
		err = tx.Query(stmtUnused, func(r *sqldb.Row) error {
			var algorithm string
			err := r.Scan(&algorithm)
			unused = append(unused, algorithm)
			return err
		}, k.user, k.device)
		if err == nil {
			s.unusedJSON, err = canon.Marshal(unused)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count keys of a device of %s: %w", k.user, err)
	}
	counts := map[string]int64{usual: 0}
	for algorithm, n := range s.counts {
		counts[algorithm] = n
	}
	if s.countsJSON, err = canon.Marshal(counts); err != nil {
		return nil, err
	}
	e.stocks.Set(k, s)
	return s, nil
}

// Stock returns how many one-time keys a device has left by algorithm, the algorithms whose fallback key is unused, and whether that changed
// after a position.
//
// Spec: cs Extensions to /sync
func (e *Encryption) Stock(ctx context.Context, user id.UserID, device id.DeviceID, after sqldb.Pos) (counts, unused json.RawMessage, changed bool, err error) {
	s, err := e.stock(ctx, deviceKey{user, device})
	if err != nil {
		return nil, nil, false, err
	}
	return s.countsJSON, s.unusedJSON, s.pos > after, nil
}
