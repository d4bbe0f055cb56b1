package clientapi

import (
	"context"

	"myelin/internal/delayed"
	"myelin/internal/web"
	"myelin/matrix/roomver"
)

// capabilityRoutes is about what a user can do here.
//
// Spec: cs Capabilities negotiation
func (a *API) capabilityRoutes() []web.Route {
	const v3 = "/_matrix/client/v3"
	return []web.Route{
		{Method: "GET", Path: v3 + "/capabilities", Op: "getCapabilities", Auth: web.Guest, Handle: a.capabilities},
	}
}

// enabled is the shape of most capabilities.
type enabled struct {
	Enabled bool `json:"enabled"`
}

// Spec: cs getCapabilities
func (a *API) capabilities(_ context.Context, r *web.Request) (*web.Response, error) {
	user := enabled{!r.Caller.Guest}
	profile := map[string]any{"enabled": true}
	if r.Caller.Guest {
		profile["allowed"] = []string{"displayname"}
	}
	capabilities := map[string]any{
		"m.change_password":          user,
		"m.forget_forced_upon_leave": enabled{a.Settings.ForgetLeft},
		"m.room_versions":            a.roomVersions(),
		"m.profile_fields":           profile,
		"m.set_displayname":          enabled{true},
		"m.set_avatar_url":           user,
		"m.3pid_changes":             enabled{a.Contacts.Mails() && !r.Caller.Guest},
		"m.get_login_token":          user,
	}
	// MSC4140: bounds on delayed events.
	capabilities["org.matrix.msc4140.delayed_events"] = map[string]any{
		"max_delay_ms": delayed.MaxDelay.Milliseconds(), "max_scheduled": delayed.MaxScheduled,
	}
	if r.Caller.Admin {
		capabilities["m.account_moderation"] = map[string]any{"lock": true, "suspend": true}
	}
	return web.JSON(map[string]any{"capabilities": capabilities}), nil
}

// roomVersions is the capability of that name.
func (a *API) roomVersions() map[string]any {
	available := make(map[string]string)
	for _, v := range roomver.All() {
		available[v.ID] = "unstable"
		if v.Stable {
			available[v.ID] = "stable"
		}
	}
	return map[string]any{"default": a.Settings.RoomVersion.ID, "available": available}
}
