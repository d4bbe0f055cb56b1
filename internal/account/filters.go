package account

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const maxFilterSize = 64 << 10 // bytes

var (
	sqlFilter = sqldb.SQL(`SELECT content FROM filters WHERE user_id = $1 AND filter_id = $2`)

	sqlFilterByHash = sqldb.SQL(`SELECT filter_id FROM filters WHERE user_id = $1 AND hash = $2`)

	sqlLastFilter = sqldb.SQL(`SELECT COALESCE(MAX(filter_id), 0) FROM filters WHERE user_id = $1`)

	sqlAddFilter = sqldb.SQL(`INSERT INTO filters (user_id, filter_id, hash, content) VALUES ($1, $2, $3, $4)`)
)

// AddFilter stores a filter and returns its ID. The same filter gets the same ID again. The caller has
// checked its shape.
//
// Spec: cs defineFilter
func (a *Accounts) AddFilter(ctx context.Context, user id.UserID, filter []byte) (string, error) {
	content, err := compactObject(filter)
	if err != nil {
		return "", err
	}
	if len(content) > maxFilterSize {
		return "", mxerr.TooLarge("A filter has at most %d bytes.", maxFilterSize)
	}
	hash := hashToken(string(content))
	var filterID int64
	find := func(tx *sqldb.Tx) (bool, error) {
		return tx.Get(sqlFilterByHash, []any{user, hash}, &filterID)
	}
	// Clients upload the same filter at each start: that costs no write.
	var found bool
	err = a.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err = find(tx)
		return err
	})
	if err != nil || found {
		return strconv.FormatInt(filterID, 10), err
	}
	err = a.change(ctx, func(tx *sqldb.Tx, _ *changes) error {
		if found, err := find(tx); err != nil || found {
			return err
		}
		if _, err := tx.Get(sqlLastFilter, []any{user}, &filterID); err != nil {
			return err
		}
		if filterID++; filterID > maxFilters {
			return mxerr.TooLarge("You have %d filters, which is the limit.", maxFilters)
		}
		_, err := tx.Exec(sqlAddFilter, user, filterID, hash, string(content))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("add filter of %s: %w", user, err)
	}
	return strconv.FormatInt(filterID, 10), nil
}

// Filter returns a stored filter, and M_NOT_FOUND where the user has none with this ID.
//
// Spec: cs getFilter
func (a *Accounts) Filter(ctx context.Context, user id.UserID, filterID string) (json.RawMessage, error) {
	n, err := strconv.ParseInt(filterID, 10, 64)
	if err != nil || n < 1 {
		return nil, errNoFilter
	}
	var content string
	err = a.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := tx.Get(sqlFilter, []any{user, n}, &content)
		if err == nil && !found {
			err = errNoFilter
		}
		return err
	})
	return json.RawMessage(content), err
}

var errNoFilter = mxerr.NotFound("There is no such filter.")
