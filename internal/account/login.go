package account

import (
	"context"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// LoginRequest is the body of a login.
//
// Spec: cs login
type LoginRequest struct {
	Type       string      `json:"type"`
	Identifier *Identifier `json:"identifier"`
	User       string      `json:"user"` // before identifiers
	Medium     string      `json:"medium"`
	Address    string      `json:"address"`
	Password   string      `json:"password"`
	Token      string      `json:"token"`

	DeviceID     string `json:"device_id"`
	DisplayName  string `json:"initial_device_display_name"`
	RefreshToken bool   `json:"refresh_token"`
}

// Login types of this package.
const (
	TypePassword = "m.login.password"
	TypeToken    = "m.login.token"
)

// LoginFlow is one way to log in.
//
// Spec: cs getLoginFlows
type LoginFlow struct {
	Type          string `json:"type"`
	GetLoginToken bool   `json:"get_login_token,omitempty"`
}

// LoginFlows lists the ways to log in.
//
// Spec: cs getLoginFlows
func (a *Accounts) LoginFlows() []LoginFlow {
	return []LoginFlow{{Type: TypePassword}, {Type: TypeToken, GetLoginToken: true}, {Type: TypeAppservice}}
}

// Login checks credentials and opens a device. The errors are M_FORBIDDEN for credentials that are wrong,
// M_USER_DEACTIVATED, M_USER_LOCKED, and M_INVALID_PARAM for what can't be understood.
//
// Spec: cs login
// Spec: cs Login
func (a *Accounts) Login(ctx context.Context, r LoginRequest) (*Login, error) {
	switch r.Type {
	case TypePassword:
		user, err := a.loginPassword(ctx, r)
		if err != nil {
			return nil, err
		}
		return a.OpenSession(ctx, user, r.DeviceID, r.DisplayName, r.RefreshToken)
	case TypeToken:
		return a.loginToken(ctx, r)
	case "":
		return nil, mxerr.MissingParam(`"type" is missing.`)
	}
	return nil, mxerr.InvalidParam("The login type %.64q is not known.", r.Type)
}

func (a *Accounts) loginPassword(ctx context.Context, r LoginRequest) (id.UserID, error) {
	if r.Identifier == nil && r.User == "" && r.Medium != "" {
		r.Identifier = &Identifier{Type: "m.id.thirdparty", Medium: r.Medium, Address: r.Address}
	}
	if r.Password == "" {
		return "", mxerr.MissingParam(`"password" is missing.`)
	}
	user, err := a.identify(ctx, r.Identifier, r.User)
	if err != nil {
		return "", err
	}
	u, ok, err := a.verifyPassword(ctx, user, r.Password)
	switch {
	case err != nil:
		return "", err
	case u.DeactivatedTS != 0:
		// Its password is gone, so nobody can prove to be its user; that it is gone for ever helps
		// people more than "wrong password" would.
		return "", errDeactivated
	case !ok:
		return "", errWrongPassword
	}
	return user, nil
}

// loginToken spends the token in the transaction that opens the device, so that it works once even
// if it arrives twice at the same time.
func (a *Accounts) loginToken(ctx context.Context, r LoginRequest) (*Login, error) {
	if r.Token == "" {
		return nil, mxerr.MissingParam(`"token" is missing.`)
	}
	return a.openSession(ctx, sessionRequest{device: r.DeviceID, name: r.DisplayName, refresh: r.RefreshToken,
		user: func(tx *sqldb.Tx) (id.UserID, error) {
			user, found, err := takeOneTime(tx, purposeLogin, r.Token)
			if err == nil && !found {
				err = mxerr.Forbidden("The login token is not known, was used already or has expired.")
			}
			return user, err
		}})
}

// OpenSession opens a device of a user and gives it tokens, without asking for credentials. An empty device ID
// makes a new one. The display name counts for new devices only.
func (a *Accounts) OpenSession(ctx context.Context, user id.UserID, device, name string, refresh bool) (*Login, error) {
	return a.openSession(ctx, sessionRequest{device: device, name: name, refresh: refresh,
		user: func(*sqldb.Tx) (id.UserID, error) { return user, nil }})
}

// sessionRequest is a device to open.
type sessionRequest struct {
	device  string
	name    string
	refresh bool
	// user finds out whose it is, inside the transaction.
	user func(tx *sqldb.Tx) (id.UserID, error)
}

func (a *Accounts) openSession(ctx context.Context, r sessionRequest) (*Login, error) {
	device, err := checkDeviceID(r.device)
	if err != nil {
		return nil, err
	}
	p, err := a.newPair(ctx, "", device, r.refresh)
	if err != nil {
		return nil, err
	}
	err = a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		var err error
		if p.user, err = r.user(tx); err != nil {
			return err
		}
		u, found, err := getUser(tx, p.user)
		switch {
		case err != nil:
			return err
		case !found:
			return errWrongPassword
		case u.DeactivatedTS != 0:
			return errDeactivated
		case u.Locked:
			return errLocked
		}
		return a.startSession(tx, c, p, r.name)
	})
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	return p.login(), nil
}

// startSession opens the device of a pair of tokens and stores them.
func (a *Accounts) startSession(tx *sqldb.Tx, c *changes, p pair, name string) error {
	if err := a.openDevice(tx, c, p.user, p.device, text(name, maxNameRunes)); err != nil {
		return err
	}
	return a.store(tx, p, 0)
}

// checkDeviceID accepts what a client chose, or chooses.
func checkDeviceID(device string) (id.DeviceID, error) {
	if device == "" {
		return newDeviceID(), nil
	}
	if err := checkIdentifier("device ID", device); err != nil {
		return "", mxerr.InvalidParam("%s.", err)
	}
	return id.DeviceID(device), nil
}
