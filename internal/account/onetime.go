package account

import (
	"context"
	"fmt"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Purposes of short-lived tokens. They are stored.
const (
	purposeLogin  = "login"
	purposeOpenID = "openid"
	purposeNonce  = "nonce"
)

// How long each kind lives.
const (
	loginTokenLifetime  = 2 * time.Minute // what the specification recommends
	openIDTokenLifetime = time.Hour
	nonceLifetime       = time.Minute
)

var (
	sqlAddOneTime = sqldb.SQL(`INSERT INTO one_time_tokens (hash, purpose, user_id, expires) VALUES ($1, $2, $3, $4)`)

	sqlOneTime = sqldb.SQL(`SELECT user_id FROM one_time_tokens WHERE hash = $1 AND purpose = $2 AND expires > $3`)

	sqlTakeOneTime = sqldb.SQL(`DELETE FROM one_time_tokens WHERE hash = $1 AND purpose = $2 AND expires > $3 RETURNING user_id`)

	sqlDropOneTime = sqldb.SQL(`DELETE FROM one_time_tokens WHERE user_id = $1`)

	sqlSweepOneTime = sqldb.SQL(`DELETE FROM one_time_tokens WHERE expires <= $1`)
)

func (a *Accounts) addOneTime(ctx context.Context, prefix, purpose string, user id.UserID, lifetime time.Duration) (string, error) {
	token := newToken(prefix)
	err := a.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlAddOneTime, hashToken(token), purpose, user, after(now(), lifetime))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("add %s token of %s: %w", purpose, user, err)
	}
	return token, nil
}

// takeOneTime spends a token inside the transaction of its effect.
func takeOneTime(tx *sqldb.Tx, purpose, token string) (user id.UserID, found bool, err error) {
	found, err = tx.Get(sqlTakeOneTime, []any{hashToken(token), purpose, now()}, &user)
	if err != nil {
		return "", false, fmt.Errorf("spend %s token: %w", purpose, err)
	}
	return user, found, nil
}

func dropOneTimeTokens(tx *sqldb.Tx, user id.UserID) error {
	if _, err := tx.Exec(sqlDropOneTime, user); err != nil {
		return fmt.Errorf("delete one-time tokens of %s: %w", user, err)
	}
	return nil
}

// LoginToken is the answer of NewLoginToken.
type LoginToken struct {
	Token       string `json:"login_token"`
	ExpiresInMS int64  `json:"expires_in_ms"`
}

// NewLoginToken makes a token that logs the user in once, within two minutes.
//
// Spec: cs generateLoginToken
func (a *Accounts) NewLoginToken(ctx context.Context, user id.UserID) (*LoginToken, error) {
	token, err := a.addOneTime(ctx, prefixLogin, purposeLogin, user, loginTokenLifetime)
	if err != nil {
		return nil, err
	}
	return &LoginToken{token, loginTokenLifetime.Milliseconds()}, nil
}

// OpenIDToken is the answer of NewOpenIDToken.
type OpenIDToken struct {
	AccessToken string        `json:"access_token"`
	TokenType   string        `json:"token_type"`
	ServerName  id.ServerName `json:"matrix_server_name"`
	ExpiresIn   int64         `json:"expires_in"` // seconds
}

// NewOpenIDToken makes a token that proves to a third party who the user is, and nothing else.
//
// Spec: cs requestOpenIdToken
func (a *Accounts) NewOpenIDToken(ctx context.Context, user id.UserID) (*OpenIDToken, error) {
	token, err := a.addOneTime(ctx, prefixOpenID, purposeOpenID, user, openIDTokenLifetime)
	if err != nil {
		return nil, err
	}
	return &OpenIDToken{token, "Bearer", user.Domain(), int64(openIDTokenLifetime.Seconds())}, nil
}

// OpenIDUser returns the user that an OpenID token proves, and M_UNKNOWN_TOKEN where it
// proves none.
//
// Spec: ss exchangeOpenIdToken
func (a *Accounts) OpenIDUser(ctx context.Context, token string) (user id.UserID, err error) {
	err = a.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := tx.Get(sqlOneTime, []any{hashToken(token), purposeOpenID, now()}, &user)
		if err != nil {
			return fmt.Errorf("load openid token: %w", err)
		}
		if !found {
			return mxerr.New(mxerr.CodeUnknownToken, "The token is not known or has expired.")
		}
		return nil
	})
	return user, err
}
