package directory

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// waysLast is how long a tour may rest before it is forgotten.
	waysLast = time.Hour
	// maxWays bounds the tours that one user has under way.
	maxWays = 20
)

var (
	stmtWay     = sqldb.SQL(`SELECT way FROM tours WHERE token = $1 AND user_id = $2 AND created > $3`)
	stmtKeepWay = sqldb.SQL(`INSERT INTO tours (token, user_id, created, way) VALUES ($1, $2, $3, $4)`)
	stmtOldWays = sqldb.SQL(`DELETE FROM tours WHERE created <= $1`)
	// What is left of a user's own tours are the newest ones.
	stmtOwnWays = sqldb.SQL(`DELETE FROM tours WHERE user_id = $1 AND token NOT IN (
		SELECT token FROM tours WHERE user_id = $1 ORDER BY created DESC, token LIMIT $2)`)
)

// way is where a tour goes on, or begins.
func (d *Directory) way(ctx context.Context, user id.UserID, t Tour) (*way, error) {
	depth := maxDepth
	if t.Depth >= 0 {
		depth = int(min(t.Depth, maxDepth))
	}
	w := &way{Space: t.Space, SuggestedOnly: t.SuggestedOnly, Depth: depth, Ahead: []step{{Room: t.Space}}, passed: make(map[id.RoomID]bool)}
	if t.From == "" {
		return w, nil
	}
	var raw []byte
	err := d.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := tx.Get(stmtWay, []any{t.From, user, now() - waysLast.Milliseconds()}, &raw)
		if err == nil && !found {
			err = mxerr.InvalidParam("The token is not one of yours, or too old.")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	kept := &way{passed: w.passed}
	if err := json.Unmarshal(raw, kept); err != nil {
		return nil, fmt.Errorf("read a tour of %s: %w", user, err)
	}
	if kept.Space != w.Space || kept.SuggestedOnly != w.SuggestedOnly || kept.Depth != w.Depth {
		return nil, mxerr.InvalidParam("The token belongs to a request with another room, \"suggested_only\" or \"max_depth\".")
	}
	for _, room := range kept.Passed {
		kept.passed[room] = true
	}
	return kept, nil
}

// keepWay keeps the rest of a tour and returns its token. The former one stays, so that the same page can be asked for again.
func (d *Directory) keepWay(ctx context.Context, user id.UserID, w *way) (string, error) {
	raw, err := json.Marshal(w)
	if err != nil {
		return "", fmt.Errorf("write a tour of %s: %w", user, err)
	}
	token, at := rand.Text(), now()
	err = d.db.Write(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(stmtOldWays, at-waysLast.Milliseconds()); err != nil {
			return err
		}
		if _, err := tx.Exec(stmtKeepWay, token, user, at, raw); err != nil {
			return err
		}
		_, err := tx.Exec(stmtOwnWays, user, maxWays)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("keep a tour of %s: %w", user, err)
	}
	return token, nil
}
