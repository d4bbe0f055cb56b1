package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"myelin/internal/server"
	"myelin/matrix/id"
)

func (p *program) keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Change the signing key",
		Long: "Other servers believe what this one sends because its signing key signed it."}
	c.AddCommand(p.keyRotate())
	return c
}

func (p *program) keyRotate() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Retire the signing key and make a new one",
		Long: "Retire the signing key and make a new one, as after somebody may have seen the old one. The server must not run meanwhile, on no\n" +
			"node. The old key stays published as a retired one, so that what it signed so far stays good.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, _, err := p.load()
			if err != nil {
				return err
			}
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				name, err := id.ParseServerName(loaded.ServerName)
				if err != nil {
					return err
				}
				var made server.KeyRotation
				if err := data.Do(ctx, http.MethodPost, "/keys/"+url.PathEscape(string(name))+"/rotate", nil, &made); err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "%s signs for %s from the next start on, and %s is retired.\n", made.New, made.Server, made.Old)
				return err
			})
		},
	}
}
