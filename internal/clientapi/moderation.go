package clientapi

import (
	"context"
	"encoding/json"

	"myelin/internal/account"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// moderationRoutes is what administrators do to accounts.
//
// Spec: cs Server Administration
func (a *API) moderationRoutes() []web.Route {
	const v1 = "/_matrix/client/v1/admin"
	return []web.Route{
		{Method: "GET", Path: "/_matrix/client/v3/admin/whois/{userId}", Op: "getWhoIs", Handle: a.whois},
		{Method: "GET", Path: v1 + "/lock/{userId}", Op: "getAdminLockUser", Auth: web.Admin, Handle: a.locked},
		{Method: "PUT", Path: v1 + "/lock/{userId}", Op: "setAdminLockUser", Auth: web.Admin, Handle: a.setLocked},
		{Method: "GET", Path: v1 + "/suspend/{userId}", Op: "getAdminSuspendUser", Auth: web.Admin, Handle: a.suspended},
		{Method: "PUT", Path: v1 + "/suspend/{userId}", Op: "setAdminSuspendUser", Auth: web.Admin, Handle: a.setSuspended},
	}
}

// connection is where a device was last seen.
type connection struct {
	IP       string `json:"ip"`
	LastSeen int64  `json:"last_seen"`
}

// Spec: cs getWhoIs
func (a *API) whois(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := r.UserID("userId")
	if err != nil {
		return nil, err
	}
	if user != r.Caller.User && !r.Caller.Admin {
		return nil, mxerr.Forbidden("only administrators may look at the sessions of others")
	}
	list, err := a.Accounts.Devices(ctx, user)
	if err != nil {
		return nil, err
	}
	devices := make(map[id.DeviceID]any, len(list))
	for _, d := range list {
		connections := []connection{}
		if d.LastSeenTS != 0 {
			connections = append(connections, connection{IP: d.LastSeenIP, LastSeen: d.LastSeenTS})
		}
		session := map[string]any{"connections": connections}
		devices[d.ID] = map[string]any{"sessions": []any{session}}
	}
	return web.JSON(map[string]any{"user_id": user, "devices": devices}), nil
}

// moderated returns the account that an administrator asks about. Other administrators
// are not to be moderated.
func (a *API) moderated(ctx context.Context, r *web.Request) (account.User, error) {
	user, err := r.UserID("userId")
	switch {
	case err != nil:
		return account.User{}, err
	case !a.Ours.Is(user.Domain()):
		return account.User{}, mxerr.InvalidParam("%s is a user of another server", user)
	}
	u, err := a.Accounts.User(ctx, user)
	switch {
	case err != nil:
		return account.User{}, err
	case u.DeactivatedTS != 0:
		return account.User{}, mxerr.NotFound("%s has been deactivated", user)
	case u.Admin && user != r.Caller.User:
		return account.User{}, mxerr.Forbidden("%s is an administrator, too", user)
	}
	return u, nil
}

// flag reads the one boolean of a request's body.
func flag(r *web.Request, name string) (bool, error) {
	var body map[string]json.RawMessage
	if err := r.Decode(&body); err != nil {
		return false, err
	}
	switch string(body[name]) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	case "":
		return false, mxerr.MissingParam("%q is missing", name)
	}
	return false, mxerr.BadJSON("%q must be true or false", name)
}

// Spec: cs getAdminLockUser
func (a *API) locked(ctx context.Context, r *web.Request) (*web.Response, error) {
	u, err := a.moderated(ctx, r)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]bool{"locked": u.Locked}), nil
}

// Spec: cs setAdminLockUser
func (a *API) setLocked(ctx context.Context, r *web.Request) (*web.Response, error) {
	lock, err := flag(r, "locked")
	if err != nil {
		return nil, err
	}
	u, err := a.moderated(ctx, r)
	if err != nil {
		return nil, err
	}
	if u.ID == r.Caller.User {
		return nil, mxerr.Forbidden("this would lock you out")
	}
	if err := a.Accounts.SetFlags(ctx, u.ID, account.Flags{Locked: &lock}); err != nil {
		return nil, err
	}
	return web.JSON(map[string]bool{"locked": lock}), nil
}

// Spec: cs getAdminSuspendUser
func (a *API) suspended(ctx context.Context, r *web.Request) (*web.Response, error) {
	u, err := a.moderated(ctx, r)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]bool{"suspended": u.Suspended}), nil
}

// Spec: cs setAdminSuspendUser
func (a *API) setSuspended(ctx context.Context, r *web.Request) (*web.Response, error) {
	suspend, err := flag(r, "suspended")
	if err != nil {
		return nil, err
	}
	u, err := a.moderated(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := a.Accounts.SetFlags(ctx, u.ID, account.Flags{Suspended: &suspend}); err != nil {
		return nil, err
	}
	return web.JSON(map[string]bool{"suspended": suspend}), nil
}
