package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"myelin/internal/server"
)

// userFlags are the commands that change what an account may do.
func (p *program) userFlags() []*cobra.Command {
	yes, no := new(bool), new(bool)
	*yes = true
	var list []*cobra.Command
	for _, f := range []struct {
		name, short, long, done string
		flags                   server.Flags
	}{
		{"lock", "Keep a user out until the account is unlocked",
			"Keep a user out: nobody can use the account until it is unlocked. Sessions stay, and work again afterwards.", "locked", server.Flags{Locked: yes}},
		{"unlock", "Let a locked user in again", "Let a locked user in again.", "unlocked", server.Flags{Locked: no}},
		{"suspend", "Let a user read and leave, and nothing else",
			"Suspend an account: its user can read, redact messages of their own and leave rooms, but not write, join or invite.", "suspended", server.Flags{Suspended: yes}},
		{"unsuspend", "Let a suspended user do everything again", "Let a suspended user do everything again.", "no longer suspended", server.Flags{Suspended: no}},
		{"promote", "Make a user an administrator of this server", "Make a user an administrator of this server.", "an administrator", server.Flags{Admin: yes}},
		{"demote", "Make an administrator a user like others", "Make an administrator a user like others.", "no administrator", server.Flags{Admin: no}},
	} {
		list = append(list, &cobra.Command{
			Use: f.name + " USER", Short: f.short, Long: f.long + " USER is a name or a user ID.",
			Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return p.with(c, func(ctx context.Context, data *server.Commands) error {
					if err := data.Do(ctx, http.MethodPost, "/users/"+url.PathEscape(args[0])+"/flags", f.flags, nil); err != nil {
						return err
					}
					_, err := fmt.Fprintf(c.OutOrStdout(), "%s is %s.\n", args[0], f.done)
					return err
				})
			},
		})
	}
	return list
}
