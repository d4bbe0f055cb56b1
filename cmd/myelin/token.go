package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"myelin/internal/server"
)

func (p *program) tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Make and list registration tokens",
		Long: "Registration tokens let people make accounts where registration is \"token\"."}
	c.AddCommand(p.tokenCreate(), p.tokenList())
	return c
}

func (p *program) tokenCreate() *cobra.Command {
	var n server.NewToken
	var uses int64
	var lifetime time.Duration
	c := &cobra.Command{
		Use:   "create [TOKEN]",
		Short: "Make a registration token",
		Long:  "Make a registration token and print it. Without TOKEN one is made up.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				n.Token = args[0]
			}
			switch {
			case uses < 0 || lifetime < 0:
				return errors.New("--uses and --lifetime must not be negative")
			case uses > 0:
				n.Uses = &uses
			}
			n.LifetimeMS = lifetime.Milliseconds()
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				var made struct {
					Token string `json:"token"`
				}
				if err := data.Do(ctx, http.MethodPost, "/tokens", n, &made); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.OutOrStdout(), made.Token)
				return err
			})
		},
	}
	c.Flags().Int64Var(&uses, "uses", 1, "how many accounts it makes; 0 means any number")
	c.Flags().DurationVar(&lifetime, "lifetime", 0, "how long it is good for, such as 48h; 0 means for ever")
	return c
}

func (p *program) tokenList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List registration tokens",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				var all server.Tokens
				if err := data.Do(ctx, http.MethodGet, "/tokens", nil, &all); err != nil {
					return err
				}
				for _, t := range all.Tokens {
					of, until := "any number", "for ever"
					if t.UsesAllowed != nil {
						of = fmt.Sprint(*t.UsesAllowed)
					}
					if t.ExpiryTS != 0 {
						until = "until " + time.UnixMilli(t.ExpiryTS).Format(time.DateTime)
					}
					fmt.Fprintf(c.OutOrStdout(), "%s  used %d of %s, good %s\n", t.Token, t.Completed, of, until)
				}
				return nil
			})
		},
	}
}
