package contact

import (
	"context"
	"encoding/json"

	"myelin/internal/account"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// FactAddress is the address that the stage found to be confirmed, and factValidated the time of that.
const (
	FactAddress   = "email"
	factValidated = "email_validated"
)

// Stage is the stage of interactive authentication that wants an address confirmed: one that is new for a registration, the account's
// for everything else.
//
// Spec: cs Email-based (identity / homeserver)
func (c *Contacts) Stage() account.Stage { return stage{c} }

type stage struct{ c *Contacts }

func (stage) Type() string { return account.StageEmail }
func (stage) Params() any  { return nil }

func (s stage) Attempt(ctx context.Context, t *account.Try) error {
	var auth struct {
		Creds  *Credentials `json:"threepid_creds"`
		Legacy *Credentials `json:"threepidCreds"` // as old clients send it
	}
	if err := json.Unmarshal(t.Auth, &auth); err != nil {
		return mxerr.BadJSON("\"threepid_creds\" must be an object of strings")
	}
	if auth.Creds == nil {
		auth.Creds = auth.Legacy
	}
	switch {
	case auth.Creds == nil:
		return mxerr.MissingParam("\"threepid_creds\" is missing")
	case auth.Creds.IDServer != "":
		return mxerr.New(mxerr.CodeServerNotTrusted, "this server trusts no identity server")
	}
	purpose := ForPassword
	if t.Name == "register" {
		purpose = ForRegistration
	}
	var v validation
	err := s.c.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if v, err = validated(tx, *auth.Creds, purpose); err != nil || purpose == ForRegistration {
			return err
		}
		user, known, err := owner(tx, Email, v.address)
		switch {
		case err != nil:
			return err
		case !known || t.User != "" && t.User != user:
			return mxerr.New(mxerr.CodeThreepidAuthFailed, "the address is not that of the account")
		}
		t.Facts[account.FactUser] = string(user)
		return nil
	})
	if err != nil {
		return err
	}
	sid := auth.Creds.SID
	t.Facts[FactAddress] = v.address
	raw, err := json.Marshal(v.validated)
	t.Facts[factValidated] = string(raw)
	t.With = func(tx *sqldb.Tx) error {
		rows, err := tx.Exec(sqlSpend, sid)
		if err == nil && rows == 0 {
			err = mxerr.New(mxerr.CodeThreepidAuthFailed, "the validation was used before")
		}
		return err
	}
	return err
}

// Registered runs in the transaction that makes an account: the address that was confirmed is the new user's.
func (c *Contacts) Registered(tx *sqldb.Tx, user id.UserID, facts account.Facts) error {
	address, ok := facts[FactAddress]
	if !ok {
		return nil
	}
	v := validation{address: address}
	if err := json.Unmarshal([]byte(facts[factValidated]), &v.validated); err != nil {
		return err
	}
	return add(tx, user, v)
}
