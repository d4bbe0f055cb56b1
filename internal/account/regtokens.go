package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/mxerr"
)

// InviteToken is a registration token. It is stored in the clear: administrators look it up to hand
// it out again.
//
// Spec: cs Token-authenticated registration
type InviteToken struct {
	Token string `json:"token"`
	// UsesAllowed is nil for any number of uses.
	UsesAllowed *int64 `json:"uses_allowed"`
	// Pending counts registrations under way, Completed those that made an account.
	Pending   int64 `json:"pending"`
	Completed int64 `json:"completed"`
	CreatedTS int64 `json:"created_ts"`
	// ExpiryTS is 0 for a token that does not expire. Milliseconds since the epoch.
	ExpiryTS int64 `json:"expiry_time"`
}

const maxRegistrationToken = 64 // bytes

var (
	sqlAddRegistrationToken = sqldb.SQL(`INSERT INTO registration_tokens (token, uses_allowed, pending, completed, created, expires)
		VALUES ($1, $2, 0, 0, $3, $4) ON CONFLICT (token) DO NOTHING`)

	sqlRegistrationTokens = sqldb.SQL(`SELECT token, uses_allowed, pending, completed, created, expires FROM registration_tokens ORDER BY created, token`)

	sqlDropRegistrationToken = sqldb.SQL(`DELETE FROM registration_tokens WHERE token = $1`)

	sqlHoldRegistrationToken = sqldb.SQL(`UPDATE registration_tokens SET pending = pending + 1
		WHERE token = $1 AND (expires = 0 OR expires > $2) AND (uses_allowed IS NULL OR pending + completed < uses_allowed)`)

	sqlUsableRegistrationToken = sqldb.SQL(`SELECT 1 FROM registration_tokens
		WHERE token = $1 AND (expires = 0 OR expires > $2) AND (uses_allowed IS NULL OR pending + completed < uses_allowed)`)

	sqlSpendRegistrationToken = sqldb.SQL(`UPDATE registration_tokens SET pending = pending - 1, completed = completed + 1 WHERE token = $1`)

	sqlReleaseRegistrationToken = sqldb.SQL(`UPDATE registration_tokens SET pending = pending - 1 WHERE token = $1 AND pending > 0`)
)

// checkRegistrationToken checks the grammar of opaque identifiers.
//
// Spec: appendices Opaque Identifiers
func checkRegistrationToken(token string) error {
	if token == "" || len(token) > maxRegistrationToken {
		return errors.New("a registration token has 1 to 64 characters")
	}
	for _, c := range []byte(token) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' {
			continue
		}
		return errors.New("a registration token may hold only letters, digits and -._~")
	}
	return nil
}

// NewRegistrationToken adds a token that lets people register. An empty token makes a random one; uses nil
// allows any number; a lifetime of 0 means for ever.
func (a *Accounts) NewRegistrationToken(ctx context.Context, token string, uses *int64, lifetime time.Duration) (InviteToken, error) {
	if token == "" {
		token = randomName()
	}
	if err := checkRegistrationToken(token); err != nil {
		return InviteToken{}, mxerr.InvalidParam("This token can't be used: %s.", err)
	}
	if uses != nil && *uses < 0 {
		return InviteToken{}, mxerr.InvalidParam("A token can't have fewer than 0 uses.")
	}
	at := now()
	t := InviteToken{Token: token, UsesAllowed: uses, CreatedTS: at, ExpiryTS: after(at, lifetime)}
	allowed := sql.Null[int64]{}
	if uses != nil {
		allowed = sql.Null[int64]{V: *uses, Valid: true}
	}
	err := a.db.Write(ctx, func(tx *sqldb.Tx) error {
		rows, err := tx.Exec(sqlAddRegistrationToken, token, allowed, at, t.ExpiryTS)
		if err != nil {
			return fmt.Errorf("add registration token: %w", err)
		}
		if rows == 0 {
			return mxerr.InvalidParam("This token exists already.")
		}
		return nil
	})
	return t, err
}

// RegistrationTokens lists all tokens, oldest first.
func (a *Accounts) RegistrationTokens(ctx context.Context) ([]InviteToken, error) {
	list := []InviteToken{}
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = list[:0]
		return tx.Query(sqlRegistrationTokens, func(r *sqldb.Row) error {
			var t InviteToken
			var allowed sql.Null[int64]
			if err := r.Scan(&t.Token, &allowed, &t.Pending, &t.Completed, &t.CreatedTS, &t.ExpiryTS); err != nil {
				return err
			}
			if allowed.Valid {
				t.UsesAllowed = &allowed.V
			}
			list = append(list, t)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list registration tokens: %w", err)
	}
	return list, nil
}

// DeleteRegistrationToken ends a token. Registrations that have completed its stage go on.
func (a *Accounts) DeleteRegistrationToken(ctx context.Context, token string) error {
	if checkRegistrationToken(token) != nil {
		return errNoRegistrationToken
	}
	return a.db.Write(ctx, func(tx *sqldb.Tx) error {
		rows, err := tx.Exec(sqlDropRegistrationToken, token)
		if err == nil && rows == 0 {
			err = errNoRegistrationToken
		}
		return err
	})
}

var errNoRegistrationToken = mxerr.NotFound("There is no such registration token.")

// RegistrationTokenValid reports whether somebody could register with the token now.
//
// Spec: cs registrationTokenValidity
func (a *Accounts) RegistrationTokenValid(ctx context.Context, token string) (valid bool, err error) {
	if a.cfg.Registration == RegistrationClosed {
		return false, errRegistrationClosed
	}
	if checkRegistrationToken(token) != nil {
		return false, nil
	}
	err = a.db.Read(ctx, func(tx *sqldb.Tx) error {
		var one int
		valid, err = tx.Get(sqlUsableRegistrationToken, []any{token, now()}, &one)
		return err
	})
	return valid, err
}

// spendRegistrationToken turns a use that is held into one that made an account.
func spendRegistrationToken(tx *sqldb.Tx, token string) error {
	if token == "" {
		return nil
	}
	if _, err := tx.Exec(sqlSpendRegistrationToken, token); err != nil {
		return fmt.Errorf("spend registration token: %w", err)
	}
	return nil
}
