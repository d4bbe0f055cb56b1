package clientapi

import (
	"context"
	"encoding/json"

	"myelin/internal/account"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// profileRoutes is the chapter on profiles. What is set here reaches the user's rooms by
// a follower of package room.
//
// Spec: cs Profiles
func (a *API) profileRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "GET", Path: v3 + "/profile/{userId}", Op: "getUserProfile", Auth: web.None, Handle: a.profile},
		{Method: "GET", Path: v3 + "/profile/{userId}/{keyName}", Op: "getProfileField", Auth: web.None, Handle: a.profileField},
		{Method: "PUT", Path: v3 + "/profile/{userId}/{keyName}", Op: "setProfileField", Auth: web.Guest, Rate: web.RateSend, NotSuspended: true, Handle: a.setProfileField},
		{Method: "DELETE", Path: v3 + "/profile/{userId}/{keyName}", Op: "deleteProfileField", Auth: web.Guest, Rate: web.RateSend, EmptyBody: true, NotSuspended: true, Handle: a.deleteProfileField},
	}
}

// Spec: cs getUserProfile
func (a *API) profile(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := r.UserID("userId")
	if err != nil {
		return nil, err
	}
	if !a.Ours.Is(user.Domain()) {
		profile, err := a.Federated.Profile(ctx, user, "")
		if err != nil {
			return nil, err
		}
		return web.JSON(profile), nil
	}
	profile, err := a.Accounts.Profile(ctx, user)
	if err != nil {
		return nil, err
	}
	return web.Raw(profile), nil
}

// Spec: cs getProfileField
func (a *API) profileField(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, err := r.UserID("userId")
	if err != nil {
		return nil, err
	}
	field := r.Path("keyName")
	if !a.Ours.Is(user.Domain()) {
		profile, err := a.Federated.Profile(ctx, user, field)
		if err != nil {
			return nil, err
		}
		return web.JSON(map[string]json.RawMessage{field: profile[field]}), nil
	}
	value, err := a.Accounts.ProfileField(ctx, user, field)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]json.RawMessage{field: value}), nil
}

// profileToChange returns whose profile a request wants to change, and in which field.
func profileToChange(r *web.Request) (user id.UserID, field string, err error) {
	if user, err = self(r, "userId"); err != nil {
		return "", "", err
	}
	field = r.Path("keyName")
	if r.Caller.Guest && field != account.FieldDisplayName {
		return "", "", mxerr.New(mxerr.CodeGuestAccessForbidden, "guests may change nothing but their display name")
	}
	return user, field, nil
}

// Spec: cs setProfileField
func (a *API) setProfileField(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, field, err := profileToChange(r)
	if err != nil {
		return nil, err
	}
	body, err := r.Object()
	if err != nil {
		return nil, err
	}
	return web.Empty, a.Accounts.SetProfileField(ctx, user, field, body)
}

// Spec: cs deleteProfileField
func (a *API) deleteProfileField(ctx context.Context, r *web.Request) (*web.Response, error) {
	user, field, err := profileToChange(r)
	if err != nil {
		return nil, err
	}
	return web.Empty, a.Accounts.DeleteProfileField(ctx, user, field)
}
