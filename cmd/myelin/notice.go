package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"myelin/internal/server"
)

func (p *program) noticeCommand() *cobra.Command {
	c := &cobra.Command{Use: "notice", Short: "Tell users something in the name of the server"}
	c.AddCommand(p.noticeSend())
	return c
}

func (p *program) noticeSend() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "send [USER] TEXT",
		Short: "Send a notice to a user, or to all with --all",
		Long:  "Send a notice. Users get it in a room that they have for notices alone. The server must be running.",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if all != (len(args) == 1) {
				return errors.New("say USER and TEXT, or --all and TEXT")
			}
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				if !all {
					return data.Do(ctx, http.MethodPost, "/notices", server.NewNotice{User: args[0], Text: args[1]}, nil)
				}
				told, err := tellAll(ctx, data, args[0])
				fmt.Fprintf(c.OutOrStdout(), "%d users were told.\n", told)
				return err
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "tell every user of this server")
	return c
}

// tellAll tells every user of the server, and returns how many were told.
func tellAll(ctx context.Context, data *server.Commands, text string) (told int, err error) {
	for after := ""; ; {
		var page server.Users
		if err := data.Do(ctx, http.MethodGet, "/users?after="+url.QueryEscape(after), nil, &page); err != nil {
			return told, err
		}
		for _, u := range page.Users {
			after = string(u.ID)
			if u.Guest || u.DeactivatedTS != 0 {
				continue
			}
			if err := data.Do(ctx, http.MethodPost, "/notices", server.NewNotice{User: after, Text: text, Skip: true}, nil); err != nil {
				return told, fmt.Errorf("tell %s: %w", after, err)
			}
			told++
		}
		if len(page.Users) < server.UsersPage {
			return told, nil
		}
	}
}
