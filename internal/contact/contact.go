package contact

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/text/cases"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Email is the medium of e-mail addresses.
const Email = "email"

// maxPerUser bounds the addresses of one account.
const maxPerUser = 20

// Config is what Open needs.
type Config struct {
	DB *sqldb.DB
	// Mail sends mail; nil where there is no mail server.
	Mail *Mail
	// Link makes the address of the page that confirms a validation, out of its query.
	Link func(query string) string
	Log  *slog.Logger // nil discards
}

// Contacts is the door to everything in this package. It is safe for concurrent use.
type Contacts struct {
	cfg Config
	db  *sqldb.DB
}

// Open migrates the tables.
func Open(ctx context.Context, cfg Config) (*Contacts, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("migrate contacts: %w", err)
	}
	return &Contacts{cfg: cfg, db: cfg.DB}, nil
}

// Mails reports whether this server can confirm e-mail addresses.
func (c *Contacts) Mails() bool { return c != nil && c.cfg.Mail != nil }

func now() int64 { return time.Now().UnixMilli() }

// ThirdParty is an identifier of an account. Times are milliseconds since the epoch.
//
// Spec: cs getAccount3PIDs
type ThirdParty struct {
	Medium    string `json:"medium"`
	Address   string `json:"address"`
	Validated int64  `json:"validated_at"`
	Added     int64  `json:"added_at"`
}

// Owner returns the account that an address belongs to, false where it belongs to none. Any form of the address will do.
func (c *Contacts) Owner(ctx context.Context, medium, address string) (user id.UserID, ok bool, err error) {
	err = c.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		user, ok, err = owner(tx, medium, address)
		return err
	})
	return user, ok, err
}

// folded is the form in which addresses are compared.
//
// Spec: appendices E-Mail
func folded(address string) string { return cases.Fold().String(address) }

func owner(tx *sqldb.Tx, medium, address string) (user id.UserID, ok bool, err error) {
	ok, err = tx.Get(sqlOwner, []any{medium, folded(address)}, &user)
	if err != nil {
		return "", false, fmt.Errorf("look up an address: %w", err)
	}
	return user, ok, nil
}

// List returns a user's identifiers.
func (c *Contacts) List(ctx context.Context, user id.UserID) ([]ThirdParty, error) {
	var list []ThirdParty
	err := c.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = []ThirdParty{}
		return tx.Query(sqlList, func(r *sqldb.Row) error {
			var t ThirdParty
			err := r.Scan(&t.Medium, &t.Address, &t.Validated, &t.Added)
			list = append(list, t)
			return err
		}, user)
	})
	return list, err
}

// Add gives a user the address of a validation. The errors are M_THREEPID_AUTH_FAILED where nothing was confirmed, and
// M_THREEPID_IN_USE.
//
// Spec: cs add3PID
func (c *Contacts) Add(ctx context.Context, user id.UserID, creds Credentials) error {
	return c.db.Write(ctx, func(tx *sqldb.Tx) error {
		v, err := validated(tx, creds, ForAccount)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(sqlSpend, creds.SID); err != nil {
			return err
		}
		return add(tx, user, v)
	})
}

func add(tx *sqldb.Tx, user id.UserID, v validation) error {
	var count int
	if _, err := tx.Get(sqlCount, []any{user}, &count); err != nil {
		return err
	}
	if count >= maxPerUser {
		return mxerr.TooLarge("an account can have %d addresses at most", maxPerUser)
	}
	rows, err := tx.Exec(sqlAdd, Email, v.address, user, v.validated, now())
	if err != nil || rows > 0 {
		return err
	}
	holder, _, err := owner(tx, Email, v.address)
	if err == nil && holder != user {
		err = errInUse
	}
	return err
}

var errInUse = mxerr.New(mxerr.CodeThreepidInUse, "this address belongs to another account")

// Remove takes an address away from a user; one that isn't the user's is not touched.
//
// Spec: cs delete3pidFromAccount
func (c *Contacts) Remove(ctx context.Context, user id.UserID, medium, address string) error {
	return c.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlRemove, medium, folded(address), user)
		return err
	})
}

// Deactivated runs in the transaction that ends an account.
func (c *Contacts) Deactivated(tx *sqldb.Tx, user id.UserID) error {
	_, err := tx.Exec(sqlRemoveAll, user)
	return err
}

// Sweep deletes validations that have expired. The server runs it now and then.
func (c *Contacts) Sweep(ctx context.Context) error {
	return c.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlSweep, now(), now()-mailWindow.Milliseconds())
		return err
	})
}
