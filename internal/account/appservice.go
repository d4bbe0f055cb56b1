package account

import (
	"context"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// TypeAppservice is the type of logins, and of registrations, by application services.
//
// Spec: as Server admin style permissions
const TypeAppservice = "m.login.application_service"

// Masquerade describes a user, and a device of theirs if one is named, in whose name an application service acts. It returns M_FORBIDDEN
// for a user who does not exist and M_UNKNOWN_DEVICE for a device that the user does not have.
//
// Spec: as Identity assertion
func (a *Accounts) Masquerade(ctx context.Context, user id.UserID, device id.DeviceID) (web.Caller, error) {
	if device != "" && checkIdentifier("device ID", string(device)) != nil {
		return web.Caller{}, errUnknownDevice
	}
	var u User
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		var found bool
		var err error
		if u, found, err = getUser(tx, user); err != nil {
			return err
		}
		switch {
		case !found:
			return mxerr.Forbidden("There is no user %s: the application service must register it first.", user)
		case u.DeactivatedTS != 0:
			return errDeactivated
		case device == "":
			return nil
		}
		found, err = tx.Get(sqlHasDevice, []any{user, device}, nil)
		if err == nil && !found {
			err = errUnknownDevice
		}
		return err
	})
	if err != nil {
		return web.Caller{}, err
	}
	return web.Caller{
		User: user, Device: device, Guest: u.Kind == KindGuest, Admin: u.Admin, Locked: u.Locked, Suspended: u.Suspended,
	}, nil
}

var (
	sqlHasDevice = sqldb.SQL(`SELECT 1 FROM devices WHERE user_id = $1 AND device_id = $2`)

	errUnknownDevice = mxerr.New(mxerr.CodeUnknownDevice, "The user has no such device.")
)

// RegisterAppservice makes a user without a password for an application service; mayHave says whether it may have that one. body is the whole
// request.
//
// Spec: as Server admin style permissions
func (a *Accounts) RegisterAppservice(ctx context.Context, body []byte, mayHave func(id.UserID) error) (*Login, error) {
	r, err := decodeRegister(body)
	if err != nil {
		return nil, err
	}
	if r.Username == "" {
		return nil, mxerr.MissingParam(`"username" is missing.`)
	}
	user, err := a.UserID(r.Username)
	if err != nil {
		return nil, err
	}
	if err := mayHave(user); err != nil {
		return nil, err
	}
	login := &Login{UserID: user, HomeServer: user.Domain()}
	var p pair
	if !r.InhibitLogin {
		device, err := checkDeviceID(r.DeviceID)
		if err != nil {
			return nil, err
		}
		if p, err = a.newPair(ctx, user, device, r.RefreshToken); err != nil {
			return nil, err
		}
		login = p.login()
	}
	err = a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		if err := addUser(tx, NewUser{ID: user, Kind: KindAppservice}, ""); err != nil || r.InhibitLogin {
			return err
		}
		return a.startSession(tx, c, p, r.DisplayName)
	})
	if err != nil {
		return nil, fmt.Errorf("register %s for an application service: %w", user, err)
	}
	return login, nil
}

// LoginAppservice opens a device of a user of an application service, which needs no password.
//
// Spec: as Server admin style permissions
func (a *Accounts) LoginAppservice(ctx context.Context, r LoginRequest, mayHave func(id.UserID) error) (*Login, error) {
	user, err := a.identify(ctx, r.Identifier, r.User)
	if err != nil {
		return nil, err
	}
	if err := mayHave(user); err != nil {
		return nil, err
	}
	return a.OpenSession(ctx, user, r.DeviceID, r.DisplayName, r.RefreshToken)
}

// PutDevice names a device, and makes it where the user has none of that ID. A name of nil leaves the name as it is. It reports whether the device
// was made.
//
// Spec: as Creating devices
func (a *Accounts) PutDevice(ctx context.Context, user id.UserID, device id.DeviceID, name *string) (made bool, err error) {
	if err := checkIdentifier("device ID", string(device)); err != nil {
		return false, mxerr.InvalidParam("%s.", err)
	}
	shown := ""
	if name != nil {
		shown = text(*name, maxNameRunes)
	}
	known := false
	err = a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		var err error
		if known, err = tx.Get(sqlHasDevice, []any{user, device}, nil); err != nil {
			return err
		}
		if known {
			return errUnchanged
		}
		return a.openDevice(tx, c, user, device, shown)
	})
	if err != nil || !known || name == nil {
		return err == nil && !known, err
	}
	return false, a.RenameDevice(ctx, user, device, *name)
}

// known runs a question about a user of ours, and runs it again if the answer was that there is no such user and an application service
// made it meanwhile.
//
// Spec: as Querying
func (a *Accounts) known(ctx context.Context, user id.UserID, ask func() error) error {
	err := ask()
	if a.cfg.Unknown == nil || !mxerr.Is(err, mxerr.CodeNotFound) || !a.ours.Is(user.Domain()) {
		return err
	}
	switch _, missing := a.User(ctx, user); {
	case missing == nil:
		return err // it is something of the user's that was not found
	case !mxerr.Is(missing, mxerr.CodeNotFound):
		return missing
	case !a.cfg.Unknown(ctx, user):
		return err
	}
	return ask()
}
