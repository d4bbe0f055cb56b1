package account

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/mxerr"
)

// Registration with a shared secret is not in the specification. Outside tools speak it at
// /_synapse/admin/v1/register: they fetch a nonce and send the account's data with a keyed hash of it.

// SharedRegistration is what such a tool sends.
type SharedRegistration struct {
	Nonce       string `json:"nonce"`
	Username    string `json:"username"`
	DisplayName string `json:"displayname"`
	Password    string `json:"password"`
	Admin       bool   `json:"admin"`
	UserType    string `json:"user_type"`
	// MAC is HMAC-SHA1 in hexadecimal, under the secret, over nonce, username, password and "admin" or "notadmin", and
	// the user type where there is one, with NUL bytes between them.
	MAC string `json:"mac"`
}

// SharedSecretNonce makes a nonce that is good for one registration within a minute.
func (a *Accounts) SharedSecretNonce(ctx context.Context) (string, error) {
	if a.cfg.SharedSecret == "" {
		return "", errNoSharedSecret
	}
	return a.addOneTime(ctx, "", purposeNonce, "", nonceLifetime)
}

var errNoSharedSecret = mxerr.New(mxerr.CodeUnrecognized, "Registration with a shared secret is not configured on this server.")

// CheckSharedSecret spends the nonce and checks the keyed hash.
func (a *Accounts) CheckSharedSecret(ctx context.Context, r SharedRegistration) error {
	if a.cfg.SharedSecret == "" {
		return errNoSharedSecret
	}
	err := a.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, found, err := takeOneTime(tx, purposeNonce, r.Nonce)
		if err == nil && !found {
			err = mxerr.InvalidParam("The nonce is not known or has expired.")
		}
		return err
	})
	if err != nil {
		return err
	}
	got, err := hex.DecodeString(r.MAC)
	if err != nil || !hmac.Equal(got, r.sum(a.cfg.SharedSecret)) {
		return mxerr.Forbidden("The keyed hash is wrong.")
	}
	return nil
}

func (r SharedRegistration) sum(secret string) []byte {
	admin := "notadmin"
	if r.Admin {
		admin = "admin"
	}
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(r.Nonce + "\x00" + r.Username + "\x00" + r.Password + "\x00" + admin))
	if r.UserType != "" {
		mac.Write([]byte("\x00" + r.UserType))
	}
	return mac.Sum(nil)
}

// RegisterShared makes an account for a tool that knows the shared secret, and logs it in.
func (a *Accounts) RegisterShared(ctx context.Context, r SharedRegistration) (*Login, error) {
	if err := a.CheckSharedSecret(ctx, r); err != nil {
		return nil, err
	}
	if r.Password == "" {
		return nil, mxerr.MissingParam(`"password" is missing.`)
	}
	user, err := a.CheckAvailable(ctx, r.Username)
	if err != nil {
		return nil, err
	}
	if err := a.Create(ctx, NewUser{ID: user, Password: r.Password, Admin: r.Admin, DisplayName: r.DisplayName}); err != nil {
		return nil, fmt.Errorf("register %s: %w", user, err)
	}
	return a.OpenSession(ctx, user, "", "", false)
}
