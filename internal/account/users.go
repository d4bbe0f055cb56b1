package account

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Kind tells accounts apart by what they are for.
type Kind int64

// The kinds are stored; their numbers don't change.
const (
	KindUser       Kind = 0
	KindGuest      Kind = 1
	KindAppservice Kind = 2
)

// User is an account. Times are milliseconds since the epoch.
type User struct {
	ID          id.UserID
	Kind        Kind
	HasPassword bool
	Admin       bool
	// Locked and Suspended are set by administrators.
	//
	// Spec: cs Account moderation
	Locked    bool
	Suspended bool
	// DeactivatedTS is 0 for an account that is in use.
	DeactivatedTS int64
	// Erased is the position at which the user asked for what they wrote to be hidden from newcomers, 0 for never.
	//
	// Spec: cs deactivateAccount
	Erased    sqldb.Pos
	CreatedTS int64
	// Pos is the position of the last change of these fields.
	Pos sqldb.Pos

	password string
}

// NewUser describes an account to make.
type NewUser struct {
	ID   id.UserID
	Kind Kind
	// Password may be empty: then nobody can log in by password.
	Password    string
	Admin       bool
	DisplayName string
}

const userColumns = `user_id, kind, password, admin, locked, suspended, deactivated, erased, created, pos`

var (
	sqlUser = sqldb.SQL(`SELECT ` + userColumns + ` FROM users WHERE user_id = $1`)

	sqlListUsers = sqldb.SQL(`SELECT ` + userColumns + ` FROM users WHERE user_id > $1 ORDER BY user_id LIMIT $2`)

	sqlListGuests = sqldb.SQL(`SELECT ` + userColumns + ` FROM users WHERE kind = 1 AND deactivated = 0 AND user_id > $1 ORDER BY user_id LIMIT $2`)

	sqlUsersChanged = sqldb.SQL(`SELECT ` + userColumns + ` FROM users WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)

	sqlAddUser = sqldb.SQL(`INSERT INTO users (` + userColumns + `)
		VALUES ($1, $2, $3, $4, 0, 0, 0, 0, $5, $6) ON CONFLICT (user_id) DO NOTHING`)

	sqlSetFlags = sqldb.SQL(`UPDATE users SET admin = $2, locked = $3, suspended = $4, pos = $5 WHERE user_id = $1`)

	sqlSetPassword = sqldb.SQL(`UPDATE users SET password = $2 WHERE user_id = $1 AND deactivated = 0`)

	sqlRehash = sqldb.SQL(`UPDATE users SET password = $3 WHERE user_id = $1 AND password = $2`)

	sqlUpgradeGuest = sqldb.SQL(`UPDATE users SET kind = 0, password = $2, pos = $3 WHERE user_id = $1 AND kind = 1 AND deactivated = 0`)

	sqlDeactivate = sqldb.SQL(`UPDATE users SET password = '', admin = 0, deactivated = $2, erased = $3, pos = $4 WHERE user_id = $1`)

	sqlErased = sqldb.SQL(`SELECT user_id, erased FROM users WHERE erased > 0 AND user_id = ANY($1)`)

	sqlCountUsers = sqldb.SQL(`SELECT COUNT(*) FROM users WHERE deactivated = 0`)
)

func scanUser(r *sqldb.Row, u *User) error {
	err := r.Scan(&u.ID, &u.Kind, &u.password, &u.Admin, &u.Locked, &u.Suspended, &u.DeactivatedTS, &u.Erased, &u.CreatedTS, &u.Pos)
	u.HasPassword = u.password != ""
	return err
}

func getUser(tx *sqldb.Tx, user id.UserID) (u User, found bool, err error) {
	err = tx.Query(sqlUser, func(r *sqldb.Row) error {
		found = true
		return scanUser(r, &u)
	}, user)
	if err != nil {
		return User{}, false, fmt.Errorf("load user %s: %w", user, err)
	}
	return u, found, nil
}

// User returns an account, and M_NOT_FOUND where there is none. Deactivated accounts exist.
func (a *Accounts) User(ctx context.Context, user id.UserID) (User, error) {
	var u User
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		var found bool
		var err error
		if u, found, err = getUser(tx, user); err == nil && !found {
			err = mxerr.NotFound("There is no user %s here.", user)
		}
		return err
	})
	return u, err
}

// Users lists accounts by user ID, those after the given one, at most limit of them.
func (a *Accounts) Users(ctx context.Context, after id.UserID, limit int) ([]User, error) {
	return a.users(ctx, sqlListUsers, after, limit)
}

// Guests is Users for the guest accounts in use.
func (a *Accounts) Guests(ctx context.Context, after id.UserID, limit int) ([]User, error) {
	return a.users(ctx, sqlListGuests, after, limit)
}

// UsersChanged lists the accounts that were made, flagged or deactivated in (from, to], by position.
func (a *Accounts) UsersChanged(ctx context.Context, from, to sqldb.Pos, limit int) ([]User, error) {
	return a.users(ctx, sqlUsersChanged, from, to, limit)
}

func (a *Accounts) users(ctx context.Context, stmt *sqldb.Stmt, args ...any) ([]User, error) {
	var list []User
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = nil
		return tx.Query(stmt, func(r *sqldb.Row) error {
			var u User
			if err := scanUser(r, &u); err != nil {
				return err
			}
			list = append(list, u)
			return nil
		}, args...)
	})
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return list, nil
}

// Count returns how many accounts are in use.
func (a *Accounts) Count(ctx context.Context) (n int64, err error) {
	err = a.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(sqlCountUsers, nil, &n)
		return err
	})
	return n, err
}

// Exists reports whether an account of ours has this ID and is in use. An application service may make it to be so.
func (a *Accounts) Exists(ctx context.Context, user id.UserID) (bool, error) {
	var u User
	err := a.known(ctx, user, func() (err error) {
		u, err = a.User(ctx, user)
		return err
	})
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return false, nil
	}
	return err == nil && u.DeactivatedTS == 0, err
}

// UserID makes the user ID of a name that somebody asks for: A-Z become a-z, the rest must
// keep to the grammar.
//
// Spec: cs register
// Spec: appendices User Identifiers
func (a *Accounts) UserID(username string) (id.UserID, error) {
	user, err := id.NewUserID(lower(username), a.ours.Primary())
	if err != nil {
		return "", mxerr.New(mxerr.CodeInvalidUsername, "This user name can't be used: %s.", err)
	}
	return user, nil
}

// lower maps A-Z to a-z and leaves everything else, so that look-alikes of ASCII letters stay what
// they are and are refused.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// CheckAvailable reports why nobody can register the name: M_INVALID_USERNAME, M_EXCLUSIVE or M_USER_IN_USE.
//
// Spec: cs checkUsernameAvailability
func (a *Accounts) CheckAvailable(ctx context.Context, username string) (id.UserID, error) {
	user, err := a.UserID(username)
	if err != nil {
		return "", err
	}
	if a.cfg.Exclusive != nil && a.cfg.Exclusive(user) {
		return "", mxerr.New(mxerr.CodeExclusive, "This user name is reserved.")
	}
	switch _, err := a.User(ctx, user); {
	case err == nil:
		return "", errUserInUse
	case !mxerr.Is(err, mxerr.CodeNotFound):
		return "", err
	}
	return user, nil
}

var errUserInUse = mxerr.New(mxerr.CodeUserInUse, "This user name is taken.")

// Create makes an account without any ceremony: for administrators, and for application services.
// The domain must be ours. It answers M_USER_IN_USE, M_WEAK_PASSWORD or M_INVALID_USERNAME.
func (a *Accounts) Create(ctx context.Context, n NewUser) error {
	if !a.ours.Is(n.ID.Domain()) || n.ID.IsHistorical() {
		return mxerr.New(mxerr.CodeInvalidUsername, "%s can't be a user of this server.", n.ID)
	}
	var hash string
	if n.Password != "" {
		if err := a.CheckPassword(n.Password); err != nil {
			return err
		}
		var err error
		if hash, err = a.hasher.hash(ctx, n.Password); err != nil {
			return err
		}
	}
	return a.db.Write(ctx, func(tx *sqldb.Tx) error { return addUser(tx, n, hash) })
}

func addUser(tx *sqldb.Tx, n NewUser, hash string) error {
	pos, err := tx.Pos()
	if err != nil {
		return err
	}
	rows, err := tx.Exec(sqlAddUser, n.ID, n.Kind, hash, n.Admin, now(), pos)
	if err != nil {
		return fmt.Errorf("add user %s: %w", n.ID, err)
	}
	if rows == 0 {
		return errUserInUse
	}
	tx.Emit(entry(pos, bus.UserChanged, n.ID, nil))
	if n.DisplayName == "" {
		return nil
	}
	return putProfileField(tx, n.ID, "displayname", quote(text(n.DisplayName, maxNameRunes)))
}

// Flags are what an administrator may set of an account; nil leaves a flag as it is.
type Flags struct{ Admin, Locked, Suspended *bool }

// SetFlags changes flags of an account, at once for every device of the user.
//
// Spec: cs Account moderation
func (a *Accounts) SetFlags(ctx context.Context, user id.UserID, f Flags) error {
	return a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		u, found, err := getUser(tx, user)
		if err != nil {
			return err
		}
		if !found || u.DeactivatedTS != 0 {
			return mxerr.NotFound("There is no active user %s here.", user)
		}
		for _, x := range []struct {
			flag *bool
			to   *bool
		}{{&u.Admin, f.Admin}, {&u.Locked, f.Locked}, {&u.Suspended, f.Suspended}} {
			if x.to != nil {
				*x.flag = *x.to
			}
		}
		if _, err := tx.Exec(sqlSetFlags, user, u.Admin, u.Locked, u.Suspended, c.pos); err != nil {
			return fmt.Errorf("set flags of %s: %w", user, err)
		}
		return c.flagged(tx, user)
	})
}

// SetPassword gives an account a new password, without asking for the old one. Devices other than
// keep are deleted where logout says so.
//
// Spec: cs changePassword
func (a *Accounts) SetPassword(ctx context.Context, user id.UserID, password string, logout bool, keep id.DeviceID) error {
	if err := a.CheckPassword(password); err != nil {
		return err
	}
	hash, err := a.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	return a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		rows, err := tx.Exec(sqlSetPassword, user, hash)
		if err != nil {
			return fmt.Errorf("set password of %s: %w", user, err)
		}
		if rows == 0 {
			return mxerr.NotFound("There is no active user %s here.", user)
		}
		if err := dropOneTimeTokens(tx, user); err != nil || !logout {
			return err
		}
		devices, err := deviceIDs(tx, user)
		if err != nil {
			return err
		}
		devices = slices.DeleteFunc(devices, func(d id.DeviceID) bool { return d == keep })
		return a.deleteDevices(tx, c, user, devices)
	})
}

// Deactivate ends an account for ever: its password, devices, tokens and, where erase is set, its account data
// and profile are deleted. What the user did in rooms is not touched: followers of
// UsersChanged see to that.
//
// Spec: cs deactivateAccount
func (a *Accounts) Deactivate(ctx context.Context, user id.UserID, erase bool) error {
	return a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		u, found, err := getUser(tx, user)
		if err != nil {
			return err
		}
		if !found {
			return mxerr.NotFound("There is no user %s here.", user)
		}
		devices, err := deviceIDs(tx, user)
		if err != nil {
			return err
		}
		if err := a.deleteDevices(tx, c, user, devices); err != nil {
			return err
		}
		if err := dropOneTimeTokens(tx, user); err != nil {
			return err
		}
		if erase {
			if err := eraseData(tx, user); err != nil {
				return err
			}
		}
		at := u.DeactivatedTS
		if at == 0 {
			at = now()
		}
		if erase && u.Erased == 0 {
			u.Erased = c.pos
		}
		if _, err := tx.Exec(sqlDeactivate, user, at, u.Erased, c.pos); err != nil {
			return fmt.Errorf("deactivate %s: %w", user, err)
		}
		if err := c.flagged(tx, user); err != nil {
			return err
		}
		if a.cfg.Deactivated == nil {
			return nil
		}
		return a.cfg.Deactivated(tx, c.pos, user, erase)
	})
}

// Erased returns those of some users who asked for what they wrote to be hidden from newcomers, with the position at which they did.
//
// Spec: cs deactivateAccount
func (a *Accounts) Erased(ctx context.Context, users []id.UserID) (found map[id.UserID]sqldb.Pos, err error) {
	names := make([]string, len(users))
	for i, u := range users {
		names[i] = string(u)
	}
	err = a.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = make(map[id.UserID]sqldb.Pos)
		return tx.Query(sqlErased, func(r *sqldb.Row) error {
			var u id.UserID
			var at sqldb.Pos
			err := r.Scan(&u, &at)
			found[u] = at
			return err
		}, names)
	})
	if err != nil {
		return nil, fmt.Errorf("find erased users: %w", err)
	}
	return found, nil
}

// verifyPassword checks the password of an account and freshens its hash. ok is false, without
// an error, for a wrong password and for a user that does not exist.
func (a *Accounts) verifyPassword(ctx context.Context, user id.UserID, password string) (u User, ok bool, err error) {
	u, err = a.User(ctx, user)
	if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) {
		return User{}, false, err
	}
	ok, stale, err := a.hasher.verify(ctx, password, u.password)
	if err != nil || !ok {
		return u, false, err
	}
	if !stale {
		return u, true, nil
	}
	hash, err := a.hasher.hash(ctx, password)
	if err != nil {
		return u, false, err
	}
	err = a.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlRehash, user, u.password, hash)
		return err
	})
	return u, err == nil, err
}
