package account

import (
	"context"
	"encoding/json"
	"fmt"

	"myelin/internal/sqldb"
)

// sweepBatch is how many sessions one transaction of Sweep ends.
const sweepBatch = 500

var (
	sqlExpiredSessions = sqldb.SQL(`SELECT hash, facts, result FROM auth_sessions WHERE expires <= $1 ORDER BY expires LIMIT $2`)

	sqlDropAuthSession = sqldb.SQL(`DELETE FROM auth_sessions WHERE hash = $1`)
)

// Sweep deletes what has expired: one-time tokens, old rows of cache_changes, and interactive sessions, whose
// hold on a registration token is released. The server runs it every few minutes; it may run on every node.
//
// Expired access tokens stay: only they can tell their client that it is logged out softly. There is at most
// a handful per device.
func (a *Accounts) Sweep(ctx context.Context) error {
	err := a.db.Write(ctx, func(tx *sqldb.Tx) error {
		at := now()
		if _, err := tx.Exec(sqlSweepOneTime, at); err != nil {
			return err
		}
		_, err := tx.Exec(sqlSweepCacheChanges, at-keepChanges.Milliseconds())
		return err
	})
	if err != nil {
		return fmt.Errorf("sweep expired tokens: %w", err)
	}
	for {
		n, err := a.sweepSessions(ctx)
		if err != nil {
			return fmt.Errorf("sweep authentication sessions: %w", err)
		}
		if n < sweepBatch {
			return nil
		}
	}
}

func (a *Accounts) sweepSessions(ctx context.Context) (n int, err error) {
	err = a.db.Write(ctx, func(tx *sqldb.Tx) error {
		n = 0
		var hashes, tokens []string // token: what the session of the same index holds, or empty
		err := tx.Query(sqlExpiredSessions, func(r *sqldb.Row) error {
			var hash, raw, result string
			if err := r.Scan(&hash, &raw, &result); err != nil {
				return err
			}
			hashes = append(hashes, hash)
			var facts Facts
			if err := json.Unmarshal([]byte(raw), &facts); err != nil {
				return fmt.Errorf("read facts: %w", err)
			}
			token := facts[FactRegistrationToken]
			if result != "" {
				token = "" // spent
			}
			tokens = append(tokens, token)
			return nil
		}, now(), sweepBatch)
		if err != nil {
			return err
		}
		for i, hash := range hashes {
			rows, err := tx.Exec(sqlDropAuthSession, hash)
			if err != nil {
				return err
			}
			if rows == 0 || tokens[i] == "" { // another node was faster, or nothing is held
				continue
			}
			if _, err := tx.Exec(sqlReleaseRegistrationToken, tokens[i]); err != nil {
				return err
			}
		}
		n = len(hashes)
		return nil
	})
	return n, err
}
