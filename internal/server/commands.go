package server

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"time"

	"myelin/internal/account"
	"myelin/internal/fedroom"
	"myelin/internal/fedsend"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// The bodies of the requests and answers between commands and the server. They are no public
// interface: both sides are the same program, and a server refuses a command of another version.
type (
	// NewUser asks for an account. Without Password one is made up.
	NewUser struct {
		Name     string `json:"name"`
		Password string `json:"password,omitempty"`
		Admin    bool   `json:"admin,omitempty"`
	}
	// UserMade is the answer to NewUser. Password is set where it was made up.
	UserMade struct {
		User     id.UserID `json:"user"`
		Password string    `json:"password,omitempty"`
	}
	// User is an account in a listing. Times are milliseconds since the epoch.
	User struct {
		ID            id.UserID `json:"id"`
		Admin         bool      `json:"admin,omitempty"`
		Guest         bool      `json:"guest,omitempty"`
		Locked        bool      `json:"locked,omitempty"`
		Suspended     bool      `json:"suspended,omitempty"`
		CreatedTS     int64     `json:"created_ts"`
		DeactivatedTS int64     `json:"deactivated_ts,omitempty"`
	}
	// Users is a page of accounts.
	Users struct {
		Users []User `json:"users"`
	}
	// Deactivation ends an account.
	Deactivation struct {
		Erase bool `json:"erase,omitempty"`
	}
	// Deactivated is the answer to Deactivation. Published is set where identity servers may still say whose the addresses of the user are.
	Deactivated struct {
		Published bool `json:"published,omitempty"`
	}
	// Flags change what an account is and may do; what is absent stays.
	Flags struct {
		Admin     *bool `json:"admin,omitempty"`
		Locked    *bool `json:"locked,omitempty"`
		Suspended *bool `json:"suspended,omitempty"`
	}
	// NewPassword replaces a password. Without Password one is made up; KeepDevices leaves the
	// user signed in.
	NewPassword struct {
		Password    string `json:"password,omitempty"`
		KeepDevices bool   `json:"keep_devices,omitempty"`
	}
	// NewToken asks for a registration token. Without Token one is made up; Uses nil allows any number.
	NewToken struct {
		Token      string `json:"token,omitempty"`
		Uses       *int64 `json:"uses,omitempty"`
		LifetimeMS int64  `json:"lifetime_ms,omitempty"`
	}
	// NewNotice tells a user something. With Skip it is no error that they can't be told.
	NewNotice struct {
		User string `json:"user"`
		Text string `json:"text"`
		Skip bool   `json:"skip,omitempty"`
	}
	// Tokens is all registration tokens.
	Tokens struct {
		Tokens []account.InviteToken `json:"tokens"`
	}
)

// Troubles is what is wrong between this server and others: events that were given up, and servers that can't be told anything at the moment.
type Troubles struct {
	Events  []fedroom.Trouble `json:"events"`
	Servers []fedsend.Trouble `json:"servers"`
}

// maxTroubles bounds each list of Troubles.
const maxTroubles = 10

// UsersPage is the most users that one answer lists.
const UsersPage = 1000

// commands is the API on the socket. Who can open the socket may do everything, so nothing
// asks for a token.
func (k *core) commands() (*web.Mux, error) {
	routes := []web.Route{
		{Method: http.MethodPost, Path: "/users", Op: "createUser", Handle: k.createUser},
		{Method: http.MethodGet, Path: "/users", Op: "listUsers", Handle: k.listUsers},
		{Method: http.MethodPost, Path: "/users/{user}/deactivate", Op: "deactivateUser", Handle: k.deactivateUser},
		{Method: http.MethodPost, Path: "/users/{user}/flags", Op: "setUserFlags", Handle: k.setUserFlags},
		{Method: http.MethodPost, Path: "/users/{user}/password", Op: "setUserPassword", Handle: k.setUserPassword},
		{Method: http.MethodPost, Path: "/tokens", Op: "createRegistrationToken", Handle: k.createToken},
		{Method: http.MethodGet, Path: "/tokens", Op: "listRegistrationTokens", Handle: k.listTokens},
		{Method: http.MethodGet, Path: "/federation/{server}", Op: "examineServer", Handle: k.examineServer},
		{Method: http.MethodPost, Path: "/keys/{server}/rotate", Op: "rotateKey", Handle: k.rotateKey},
		{Method: http.MethodPost, Path: "/notices", Op: "sendNotice", Handle: k.sendNotice},
		{Method: http.MethodGet, Path: "/troubles", Op: "listTroubles", Handle: k.listTroubles},
		{Method: http.MethodGet, Path: "/reports", Op: "listReports", Handle: k.listReports},
		{Method: http.MethodDelete, Path: "/reports/{number}", Op: "deleteReport", Handle: k.deleteReport},
	}
	routes = append(append(routes, k.appserviceCommands()...), k.mediaCommands()...)
	for i := range routes {
		routes[i].Auth, routes[i].Rate = web.None, web.RateNone
	}
	return web.New(web.Config{Routes: routes, Translate: translate, Log: k.log})
}

// listTroubles lists what is wrong between this server and others. Its tables are those of a server that has run.
func (k *core) listTroubles(ctx context.Context, _ *web.Request) (*web.Response, error) {
	var found Troubles
	var err error
	if found.Events, err = fedroom.Troubles(ctx, k.db, maxTroubles); err != nil {
		return nil, err
	}
	if found.Servers, err = fedsend.Troubles(ctx, k.db, maxTroubles); err != nil {
		return nil, err
	}
	return web.JSON(found), nil
}

// sendNotice tells a user something.
func (k *core) sendNotice(ctx context.Context, r *web.Request) (*web.Response, error) {
	var n NewNotice
	if err := r.Decode(&n); err != nil {
		return nil, err
	}
	if k.notify == nil {
		return nil, mxerr.New(mxerr.CodeUnknown, "Notices are sent by a running server, and there is none.")
	}
	user, err := k.user(n.User)
	if err != nil {
		return nil, err
	}
	_, err = k.notify(ctx, user, n.Text)
	if n.Skip && (mxerr.Is(err, mxerr.CodeNotFound) || mxerr.Is(err, mxerr.CodeInviteBlocked)) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return web.Empty, nil
}

// createUser makes an account.
func (k *core) createUser(ctx context.Context, r *web.Request) (*web.Response, error) {
	var n NewUser
	if err := r.Decode(&n); err != nil {
		return nil, err
	}
	user, err := k.user(n.Name)
	if err != nil {
		return nil, err
	}
	made := UserMade{User: user}
	if n.Password == "" {
		made.Password = newPassword()
		n.Password = made.Password
	}
	if err := k.accounts.Create(ctx, account.NewUser{ID: user, Password: n.Password, Admin: n.Admin}); err != nil {
		return nil, err
	}
	return web.JSON(made), nil
}

// user reads a user ID, or makes one of a bare name.
func (k *core) user(name string) (id.UserID, error) {
	if !strings.HasPrefix(name, "@") {
		return k.accounts.UserID(name)
	}
	user, err := id.ParseUserID(name)
	if err != nil {
		return "", mxerr.InvalidParam("%s", err)
	}
	return user, nil
}

// newPassword makes up a password that people can copy: 130 random bits.
func newPassword() string { return strings.ToLower(rand.Text()) }

// listUsers lists accounts by user ID, those after the query parameter "after".
func (k *core) listUsers(ctx context.Context, r *web.Request) (*web.Response, error) {
	found, err := k.accounts.Users(ctx, id.UserID(r.Query("after")), UsersPage)
	if err != nil {
		return nil, err
	}
	page := Users{Users: make([]User, len(found))}
	for i, u := range found {
		page.Users[i] = User{
			ID: u.ID, Admin: u.Admin, Guest: u.Kind == account.KindGuest, Locked: u.Locked, Suspended: u.Suspended,
			CreatedTS: u.CreatedTS, DeactivatedTS: u.DeactivatedTS,
		}
	}
	return web.JSON(page), nil
}

// withdrawTime bounds how long a command waits for identity servers. It is less than commandTime, so that the command learns what became of the account.
const withdrawTime = 20 * time.Second

// deactivateUser ends an account for ever, and withdraws what its user has published at identity servers. What wasn't withdrawn is tried again when the same
// account is deactivated again.
func (k *core) deactivateUser(ctx context.Context, r *web.Request) (*web.Response, error) {
	var d Deactivation
	if err := r.Decode(&d); err != nil {
		return nil, err
	}
	user, err := k.user(r.Path("user"))
	if err != nil {
		return nil, err
	}
	if err := k.accounts.Deactivate(ctx, user, d.Erase); err != nil {
		return nil, err
	}
	// The account is gone, whatever an identity server says.
	short, cancel := context.WithTimeout(ctx, withdrawTime)
	defer cancel()
	done, err := k.identity.UnbindAll(short, user, "")
	if err != nil {
		k.log.Warn("the addresses of a user who is gone are still published", "user", user, "error", err)
	}
	return web.JSON(Deactivated{Published: !done || err != nil}), nil
}

// setUserFlags locks, suspends and appoints, or takes that back.
func (k *core) setUserFlags(ctx context.Context, r *web.Request) (*web.Response, error) {
	var f Flags
	if err := r.Decode(&f); err != nil {
		return nil, err
	}
	user, err := k.user(r.Path("user"))
	if err != nil {
		return nil, err
	}
	return web.Empty, k.accounts.SetFlags(ctx, user, account.Flags{Admin: f.Admin, Locked: f.Locked, Suspended: f.Suspended})
}

// setUserPassword gives an account another password.
func (k *core) setUserPassword(ctx context.Context, r *web.Request) (*web.Response, error) {
	var n NewPassword
	if err := r.Decode(&n); err != nil {
		return nil, err
	}
	user, err := k.user(r.Path("user"))
	if err != nil {
		return nil, err
	}
	made := UserMade{User: user}
	if n.Password == "" {
		made.Password = newPassword()
		n.Password = made.Password
	}
	if err := k.accounts.SetPassword(ctx, user, n.Password, !n.KeepDevices, ""); err != nil {
		return nil, err
	}
	return web.JSON(made), nil
}

// createToken makes a registration token.
func (k *core) createToken(ctx context.Context, r *web.Request) (*web.Response, error) {
	var n NewToken
	if err := r.Decode(&n); err != nil {
		return nil, err
	}
	if n.LifetimeMS < 0 {
		return nil, mxerr.InvalidParam("A token cannot live for less than no time.")
	}
	token, err := k.accounts.NewRegistrationToken(ctx, n.Token, n.Uses, time.Duration(n.LifetimeMS)*time.Millisecond)
	if err != nil {
		return nil, err
	}
	return web.JSON(token), nil
}

// listTokens lists the registration tokens.
func (k *core) listTokens(ctx context.Context, _ *web.Request) (*web.Response, error) {
	list, err := k.accounts.RegistrationTokens(ctx)
	if err != nil {
		return nil, err
	}
	return web.JSON(Tokens{list}), nil
}
