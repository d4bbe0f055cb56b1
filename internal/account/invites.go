package account

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// The account data by which users say who may invite them. The first is the specification's; the others are those of the proposals, of
// which MSC4155 knows lists.
//
// Spec: cs Invite permission
// MSC4155: invite filtering.
// MSC4380: invite blocking, before it became part of the specification.
var inviteTypes = []string{
	"m.invite_permission_config", "org.matrix.msc4380.invite_permission_config", "org.matrix.msc4155.invite_permission_config",
}

// SaysWhoMayInvite reports whether account data of a type says who may invite its user.
func SaysWhoMayInvite(typ string) bool { return slices.Contains(inviteTypes, typ) }

// Welcome is what a user thinks of invites by somebody.
type Welcome int

// The values of Welcome, from the friendliest to the harshest.
const (
	InviteAllowed Welcome = iota
	// InviteIgnored lets the invite happen, and its user hears nothing of it.
	InviteIgnored
	// InviteBlocked refuses the invite.
	InviteBlocked
)

// InviteRules are what one user wants of invites. The zero value allows all.
type InviteRules struct{ rules []inviteRules }

// inviteRules is one entry of account data.
type inviteRules struct {
	Default        string   `json:"default_action"`
	Enabled        *bool    `json:"enabled"`
	AllowedUsers   []string `json:"allowed_users"`
	IgnoredUsers   []string `json:"ignored_users"`
	BlockedUsers   []string `json:"blocked_users"`
	AllowedServers []string `json:"allowed_servers"`
	IgnoredServers []string `json:"ignored_servers"`
	BlockedServers []string `json:"blocked_servers"`
}

// InviteRules returns what a user wants of invites. An entry of another shape than it should have says nothing.
func (a *Accounts) InviteRules(ctx context.Context, user id.UserID) (InviteRules, error) {
	var found InviteRules
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		found.rules = nil
		for _, typ := range inviteTypes {
			d, ok, err := getDatum(tx, user, "", typ)
			if err != nil {
				return err
			}
			var r inviteRules
			if !ok || d.Deleted || json.Unmarshal(d.Content, &r) != nil {
				continue
			}
			found.rules = append(found.rules, r)
		}
		return nil
	})
	return found, err
}

// Judge says what becomes of an invite by a sender: the harshest that any of the entries says.
func (r InviteRules) Judge(sender id.UserID) Welcome {
	harshest := InviteAllowed
	for _, one := range r.rules {
		harshest = max(harshest, one.judge(sender))
	}
	return harshest
}

func (r inviteRules) judge(sender id.UserID) Welcome {
	if r.Default == "block" {
		return InviteBlocked
	}
	if r.Enabled != nil && !*r.Enabled {
		return InviteAllowed
	}
	// The port is no part of what globs of servers are compared with, as in access control lists.
	host := sender.Domain().Host()
	for _, rule := range []struct {
		globs []string
		of    string
		means Welcome
	}{
		{r.AllowedUsers, string(sender), InviteAllowed},
		{r.IgnoredUsers, string(sender), InviteIgnored},
		{r.BlockedUsers, string(sender), InviteBlocked},
		{r.AllowedServers, host, InviteAllowed},
		{r.IgnoredServers, host, InviteIgnored},
		{r.BlockedServers, host, InviteBlocked},
	} {
		if slices.ContainsFunc(rule.globs, func(glob string) bool { return id.MatchGlob(strings.ToLower(glob), strings.ToLower(rule.of)) }) {
			return rule.means
		}
	}
	return InviteAllowed
}
