package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Prefixes of tokens, so that a leaked one can be told for what it is.
const (
	prefixAccess  = "mat_"
	prefixRefresh = "mrt_"
	prefixLogin   = "mlt_"
	prefixOpenID  = "mot_"
)

// maxRefreshes is how many unused pairs of tokens one refresh token may have issued. A client
// that loses an answer asks again; more than this many answers are not under way.
const maxRefreshes = 4

// newToken makes a token of 130 random bits.
func newToken(prefix string) string { return prefix + rand.Text() }

// hashToken is how a token is stored and looked up. It needs no salt: tokens are random.
func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Login is what a client gets when it is logged in, in the shape of the answers of login and register.
//
// Spec: cs login
// Spec: cs register
type Login struct {
	UserID       id.UserID   `json:"user_id"`
	AccessToken  string      `json:"access_token,omitempty"`
	DeviceID     id.DeviceID `json:"device_id,omitempty"`
	RefreshToken string      `json:"refresh_token,omitempty"`
	// ExpiresInMS is 0 for an access token that does not expire.
	ExpiresInMS int64         `json:"expires_in_ms,omitempty"`
	HomeServer  id.ServerName `json:"home_server"`
}

// Refreshed is the answer of Refresh.
type Refreshed struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	ExpiresInMS  int64  `json:"expires_in_ms,omitempty"`
}

var (
	sqlAddAccess = sqldb.SQL(`INSERT INTO access_tokens (token_id, hash, user_id, device_id, refresh_id, created, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`)

	sqlAddRefresh = sqldb.SQL(`INSERT INTO refresh_tokens (token_id, hash, user_id, device_id, parent, created, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`)

	sqlTokensOfUser = sqldb.SQL(`SELECT hash FROM access_tokens WHERE user_id = $1`)

	sqlTokensOfDevice = sqldb.SQL(`DELETE FROM access_tokens WHERE user_id = $1 AND device_id = $2 RETURNING hash`)

	sqlDropRefreshOfDevice = sqldb.SQL(`DELETE FROM refresh_tokens WHERE user_id = $1 AND device_id = $2`)

	sqlRefresh = sqldb.SQL(`SELECT token_id, user_id, device_id, parent, expires FROM refresh_tokens WHERE hash = $1`)

	sqlParent = sqldb.SQL(`SELECT parent FROM refresh_tokens WHERE token_id = $1`)

	sqlChildren = sqldb.SQL(`SELECT token_id FROM refresh_tokens WHERE parent = $1 ORDER BY token_id`)

	sqlUseRefresh = sqldb.SQL(`UPDATE refresh_tokens SET parent = 0 WHERE token_id = $1`)

	sqlDropRefresh = sqldb.SQL(`DELETE FROM refresh_tokens WHERE token_id = $1`)

	sqlDropAccessOf = sqldb.SQL(`DELETE FROM access_tokens WHERE refresh_id = $1 RETURNING hash`)
)

// pair is an access token with the refresh token that goes with it, before they are stored. It is
// made outside of the transaction that stores it, which may run more than once.
type pair struct {
	user      id.UserID
	device    id.DeviceID
	access    string
	accessID  int64
	refresh   string // empty for a client that can't refresh
	refreshID int64
	lifetime  time.Duration
}

func (a *Accounts) newPair(ctx context.Context, user id.UserID, device id.DeviceID, refresh bool) (p pair, err error) {
	p = pair{user: user, device: device, access: newToken(prefixAccess), lifetime: a.cfg.TokenLifetime}
	if p.accessID, err = a.tokenIDs.Next(ctx); err != nil {
		return p, fmt.Errorf("number a token: %w", err)
	}
	if refresh {
		p.refresh, p.lifetime = newToken(prefixRefresh), a.cfg.RefreshableLifetime
		if p.refreshID, err = a.tokenIDs.Next(ctx); err != nil {
			return p, fmt.Errorf("number a token: %w", err)
		}
	}
	return p, nil
}

// store writes both tokens. parent is the refresh token that they replace, 0 for none.
func (a *Accounts) store(tx *sqldb.Tx, p pair, parent int64) error {
	at := now()
	if _, err := tx.Exec(sqlAddAccess, p.accessID, hashToken(p.access), p.user, p.device, p.refreshID, at, after(at, p.lifetime)); err != nil {
		return fmt.Errorf("add access token of %s: %w", p.user, err)
	}
	if p.refresh == "" {
		return nil
	}
	_, err := tx.Exec(sqlAddRefresh, p.refreshID, hashToken(p.refresh), p.user, p.device, parent, at, after(at, a.cfg.RefreshLifetime))
	if err != nil {
		return fmt.Errorf("add refresh token of %s: %w", p.user, err)
	}
	return nil
}

// after is a point in time, or 0 where d says for ever.
func after(at int64, d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return at + d.Milliseconds()
}

func (p pair) login() *Login {
	return &Login{
		UserID: p.user, DeviceID: p.device, AccessToken: p.access, RefreshToken: p.refresh,
		ExpiresInMS: p.lifetime.Milliseconds(), HomeServer: p.user.Domain(),
	}
}

// dropTokens deletes every token of a device and returns the hashes of its access tokens.
func dropTokens(tx *sqldb.Tx, user id.UserID, device id.DeviceID) ([]string, error) {
	dead, err := stringsOf(tx, sqlTokensOfDevice, user, device)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(sqlDropRefreshOfDevice, user, device)
	return dead, err
}

// Refresh exchanges a refresh token for a new pair of tokens. The old refresh token, and the access
// token that came with it, go on working until one of the new ones is used.
//
// Spec: cs refresh
// Spec: cs Refreshing access tokens
func (a *Accounts) Refresh(ctx context.Context, refreshToken string) (*Refreshed, error) {
	hash := hashToken(refreshToken)
	fresh, err := a.newPair(ctx, "", "", true)
	if err != nil {
		return nil, err
	}
	err = a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		var tokenID, parent, expires int64
		found, err := tx.Get(sqlRefresh, []any{hash}, &tokenID, &fresh.user, &fresh.device, &parent, &expires)
		switch {
		case err != nil:
			return fmt.Errorf("load refresh token: %w", err)
		case !found:
			return unknownToken("The refresh token is not known, or was used already.", false)
		case expires != 0 && expires <= now():
			return unknownToken("The refresh token has expired. Log in again.", true)
		}
		u, found, err := getUser(tx, fresh.user)
		switch {
		case err != nil:
			return err
		case !found || u.DeactivatedTS != 0:
			return unknownToken("The account does not exist any more.", false)
		case u.Locked:
			return errLocked
		}
		if parent != 0 {
			if err := confirm(tx, c, fresh.user, fresh.device, tokenID, parent); err != nil {
				return err
			}
		}
		if err := limitChildren(tx, c, fresh.user, fresh.device, tokenID); err != nil {
			return err
		}
		return a.store(tx, fresh, tokenID)
	})
	if err != nil {
		return nil, err
	}
	return &Refreshed{AccessToken: fresh.access, RefreshToken: fresh.refresh, ExpiresInMS: fresh.lifetime.Milliseconds()}, nil
}

// confirm is called when one of a pair of tokens is first used: what the pair replaced dies, and
// so do other pairs that were issued in its place.
func confirm(tx *sqldb.Tx, c *changes, user id.UserID, device id.DeviceID, tokenID, parent int64) error {
	if _, err := tx.Exec(sqlUseRefresh, tokenID); err != nil {
		return fmt.Errorf("confirm tokens of %s: %w", user, err)
	}
	siblings, err := childrenOf(tx, parent)
	if err != nil {
		return err
	}
	return dropPairs(tx, c, user, device, append(siblings, parent))
}

// limitChildren makes room for one more pair that replaces the refresh token.
func limitChildren(tx *sqldb.Tx, c *changes, user id.UserID, device id.DeviceID, tokenID int64) error {
	children, err := childrenOf(tx, tokenID)
	if err != nil || len(children) < maxRefreshes {
		return err
	}
	return dropPairs(tx, c, user, device, children[:len(children)-maxRefreshes+1])
}

func childrenOf(tx *sqldb.Tx, parent int64) ([]int64, error) {
	var list []int64
	err := tx.Query(sqlChildren, func(r *sqldb.Row) error {
		var n int64
		if err := r.Scan(&n); err != nil {
			return err
		}
		list = append(list, n)
		return nil
	}, parent)
	if err != nil {
		return nil, fmt.Errorf("list successors of a refresh token: %w", err)
	}
	return list, nil
}

// dropPairs deletes refresh tokens with their access tokens.
func dropPairs(tx *sqldb.Tx, c *changes, user id.UserID, device id.DeviceID, refreshIDs []int64) error {
	var dead []string
	for _, n := range refreshIDs {
		hashes, err := stringsOf(tx, sqlDropAccessOf, n)
		if err != nil {
			return fmt.Errorf("delete access tokens of %s: %w", user, err)
		}
		dead = append(dead, hashes...)
		if _, err := tx.Exec(sqlDropRefresh, n); err != nil {
			return fmt.Errorf("delete refresh token of %s: %w", user, err)
		}
	}
	c.revoked(tx, user, device, dead)
	return nil
}

// Logout deletes the caller's device with all its tokens.
//
// Spec: cs logout
func (a *Accounts) Logout(ctx context.Context, caller web.Caller) error {
	return a.DeleteDevices(ctx, caller.User, caller.Device)
}

// LogoutAll deletes every device of a user.
//
// Spec: cs logout_all
func (a *Accounts) LogoutAll(ctx context.Context, user id.UserID) error {
	return a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		devices, err := deviceIDs(tx, user)
		if err != nil {
			return err
		}
		return a.deleteDevices(tx, c, user, devices)
	})
}

// SoftLogout ends the access tokens of a device and keeps the device: the client is told that it may
// keep what it stores and log in again.
//
// Spec: cs Soft logout
func (a *Accounts) SoftLogout(ctx context.Context, user id.UserID, device id.DeviceID) error {
	return a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		hashes, err := stringsOf(tx, sqlExpireTokens, user, device, now())
		if err != nil {
			return fmt.Errorf("expire tokens of %s: %w", user, err)
		}
		if _, err := tx.Exec(sqlDropRefreshOfDevice, user, device); err != nil {
			return fmt.Errorf("delete refresh tokens of %s: %w", user, err)
		}
		c.revoked(tx, user, device, hashes)
		return nil
	})
}

var sqlExpireTokens = sqldb.SQL(`UPDATE access_tokens SET expires = $3 WHERE user_id = $1 AND device_id = $2 RETURNING hash`)

// unknownToken is M_UNKNOWN_TOKEN. soft says that the client may keep what it stores.
//
// Spec: cs Soft logout
func unknownToken(why string, soft bool) error {
	return mxerr.New(mxerr.CodeUnknownToken, "%s", why).With("soft_logout", soft)
}

// errLocked is what a locked account gets.
//
// Spec: cs Account locking
var errLocked = mxerr.New(mxerr.CodeUserLocked, "This account has been locked.").With("soft_logout", true)
