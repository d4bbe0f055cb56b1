package account

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// RegisterRequest is the body of a registration, auth aside.
//
// Spec: cs register
type RegisterRequest struct {
	Username     string `json:"username"`
	Password     string `json:"password"`
	DeviceID     string `json:"device_id"`
	DisplayName  string `json:"initial_device_display_name"`
	InhibitLogin bool   `json:"inhibit_login"`
	RefreshToken bool   `json:"refresh_token"`
	// GuestAccessToken turns the guest account of this token into a full one.
	//
	// Spec: cs Guest Access
	GuestAccessToken string `json:"guest_access_token"`
}

// Register makes an account as far as this server's configuration lets anybody. body is the whole request,
// auth included. It answers a *web.InteractiveError until interactive authentication is complete. A client that
// repeats its last request gets the same answer again.
//
// Spec: cs register
func (a *Accounts) Register(ctx context.Context, body []byte) (*Login, error) {
	if a.cfg.Registration == RegistrationClosed {
		return nil, errRegistrationClosed
	}
	params, auth, err := splitAuth(body)
	if err != nil {
		return nil, err
	}
	// A request with nothing but auth repeats an earlier one, which has been looked at.
	if auth == nil || string(params) != "{}" {
		if err := a.precheck(ctx, params, auth); err != nil {
			return nil, err
		}
	}
	grant, err := a.Interact(ctx, Operation{Name: "register", Body: body, Flows: a.RegistrationFlows()})
	if err != nil {
		return nil, err
	}
	if grant.session.result != nil {
		return decodeLogin(grant.session.result)
	}
	req, err := decodeRegister(grant.Params)
	if err != nil {
		return nil, err
	}
	return a.register(ctx, req, grant)
}

var errRegistrationClosed = mxerr.Forbidden("Registration is closed on this server. Ask its administrator for an account.")

func decodeRegister(params json.RawMessage) (r RegisterRequest, err error) {
	if err := json.Unmarshal(params, &r); err != nil {
		return r, mxerr.BadJSON("A field of the request has the wrong type.")
	}
	return r, nil
}

func decodeLogin(raw json.RawMessage) (*Login, error) {
	var l Login
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, fmt.Errorf("decode the kept answer of a registration: %w", err)
	}
	return &l, nil
}

// precheck refuses before any authentication what would be refused after it. A name that is in use
// is no error for a session that has made it so.
func (a *Accounts) precheck(ctx context.Context, params, auth json.RawMessage) error {
	r, err := decodeRegister(params)
	if err != nil {
		return err
	}
	if r.Password != "" {
		if err := a.CheckPassword(r.Password); err != nil {
			return err
		}
	}
	if _, err := checkDeviceID(r.DeviceID); err != nil {
		return err
	}
	if r.GuestAccessToken != "" {
		_, err := a.guestToUpgrade(ctx, r)
		return err
	}
	if r.Username == "" {
		return nil
	}
	_, err = a.CheckAvailable(ctx, r.Username)
	if mxerr.Is(err, mxerr.CodeUserInUse) && auth != nil {
		var header authHeader
		if json.Unmarshal(auth, &header) == nil && header.Session != "" {
			s := &authSession{id: header.Session}
			lookup := a.db.Read(ctx, func(tx *sqldb.Tx) error {
				_, err := s.load(tx)
				return err
			})
			if lookup != nil {
				return lookup
			}
			if s.operation == "register" && s.result != nil {
				return nil
			}
		}
	}
	return err
}

// register makes the account, its first device and its tokens, spends the registration token and
// keeps the answer: all in one transaction.
func (a *Accounts) register(ctx context.Context, r RegisterRequest, grant *Grant) (*Login, error) {
	n, upgrade, err := a.newcomer(ctx, r)
	if err != nil {
		return nil, err
	}
	var hash string
	if r.Password != "" {
		if hash, err = a.hasher.hash(ctx, r.Password); err != nil {
			return nil, err
		}
	}
	login := &Login{UserID: n.ID, HomeServer: n.ID.Domain()}
	var p pair
	if !r.InhibitLogin {
		device, err := checkDeviceID(r.DeviceID)
		if err != nil {
			return nil, err
		}
		if p, err = a.newPair(ctx, n.ID, device, r.RefreshToken); err != nil {
			return nil, err
		}
		login = p.login()
	}
	raw, err := json.Marshal(login)
	if err != nil {
		return nil, fmt.Errorf("encode the answer of a registration: %w", err)
	}
	sealed := seal(grant.session.id, raw)
	var earlier json.RawMessage
	err = a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		var err error
		if earlier, err = grant.session.finished(tx); err != nil || earlier != nil {
			return err
		}
		if upgrade {
			err = upgradeGuest(tx, c, n.ID, hash)
		} else {
			err = addUser(tx, n, hash)
		}
		if err != nil {
			return err
		}
		if !r.InhibitLogin {
			if err := a.startSession(tx, c, p, r.DisplayName); err != nil {
				return err
			}
		}
		if a.cfg.Registered != nil {
			if err := a.cfg.Registered(tx, n.ID, grant.Facts); err != nil {
				return err
			}
		}
		if err := spendRegistrationToken(tx, grant.Facts[FactRegistrationToken]); err != nil {
			return err
		}
		return grant.session.finish(tx, sealed)
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("register %s: %w", n.ID, err)
	case earlier != nil:
		return decodeLogin(earlier)
	}
	return login, nil
}

// newcomer decides on the user ID. upgrade says that it is a guest's, whose account exists.
func (a *Accounts) newcomer(ctx context.Context, r RegisterRequest) (n NewUser, upgrade bool, err error) {
	switch {
	case r.GuestAccessToken != "":
		n.ID, err = a.guestToUpgrade(ctx, r)
		return n, true, err
	case r.Username != "":
		n.ID, err = a.CheckAvailable(ctx, r.Username)
		return n, false, err
	}
	n.ID, err = a.UserID("user-" + randomName())
	return n, false, err
}

// randomName makes the end of a user name that nobody chose.
func randomName() string { return strings.ToLower(rand.Text()[:12]) }

func (a *Accounts) guestToUpgrade(ctx context.Context, r RegisterRequest) (id.UserID, error) {
	caller, err := a.Authenticate(ctx, r.GuestAccessToken)
	switch {
	case err != nil:
		return "", fmt.Errorf("authenticate guest: %w", err)
	case !caller.Guest:
		return "", mxerr.Forbidden("The guest access token is not a guest's.")
	case lower(r.Username) != caller.User.Localpart():
		return "", mxerr.New(mxerr.CodeInvalidUsername, "A guest who registers keeps the user name %s.", caller.User.Localpart())
	}
	return caller.User, nil
}

func upgradeGuest(tx *sqldb.Tx, c *changes, user id.UserID, hash string) error {
	rows, err := tx.Exec(sqlUpgradeGuest, user, hash, c.pos)
	if err != nil {
		return fmt.Errorf("upgrade guest %s: %w", user, err)
	}
	if rows == 0 {
		return errUserInUse
	}
	return c.flagged(tx, user)
}

// RegisterGuest makes a guest account with one device. Of the request only the device's name counts.
//
// Spec: cs register
// Spec: cs Guest Access
func (a *Accounts) RegisterGuest(ctx context.Context, deviceName string) (*Login, error) {
	if !a.cfg.Guests {
		return nil, mxerr.New(mxerr.CodeGuestAccessForbidden, "This server has no guest accounts.")
	}
	user, err := a.UserID("guest-" + randomName())
	if err != nil {
		return nil, err
	}
	p, err := a.newPair(ctx, user, newDeviceID(), false)
	if err != nil {
		return nil, err
	}
	err = a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		if err := addUser(tx, NewUser{ID: user, Kind: KindGuest}, ""); err != nil {
			return err
		}
		return a.startSession(tx, c, p, deviceName)
	})
	if err != nil {
		return nil, fmt.Errorf("register guest: %w", err)
	}
	return p.login(), nil
}
