package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"myelin/internal/server"
)

func (p *program) appserviceCommand() *cobra.Command {
	c := &cobra.Command{Use: "appservice", Short: "Add, list, remove and test application services",
		Long: "Application services are bridges and bots with more rights than users. Each comes with a registration file, in YAML. Add it\n" +
			"here, with effect at once, or name it in the configuration (appservices)."}
	c.AddCommand(p.appserviceAdd(), p.appserviceList(), p.appserviceRemove(), p.appserviceTest())
	return c
}

func (p *program) appserviceAdd() *cobra.Command {
	return &cobra.Command{
		Use:   "add FILE",
		Short: "Put a registration into force",
		Long:  "Put a registration into force. The server keeps a copy: the file can go. To change it, remove the application service and add it again.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read the registration: %w", err)
			}
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				var made server.Appservice
				if err := data.Do(ctx, http.MethodPost, "/appservices", server.NewAppservice{Registration: string(text)}, &made); err != nil {
					return err
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s acts as %s\n", made.ID, made.User)
				return err
			})
		},
	}
}

func (p *program) appserviceList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List application services",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				var all server.Appservices
				if err := data.Do(ctx, http.MethodGet, "/appservices", nil, &all); err != nil {
					return err
				}
				for _, a := range all.Appservices {
					at, from, state := a.URL, "added by command", "up to date"
					if at == "" {
						at = "(no URL)"
					}
					if a.File != "" {
						from = a.File
					}
					if a.Waiting {
						state = fmt.Sprintf("%d positions behind", a.Behind)
					}
					fmt.Fprintf(c.OutOrStdout(), "%s  %s  %s  %s, %s\n", a.ID, at, a.User, from, state)
				}
				return nil
			})
		},
	}
}

func (p *program) appserviceRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Remove an application service that was added by command",
		Long:  "Remove an application service that was added by command. What waits for it is forgotten. Its users and rooms stay.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				return data.Do(ctx, http.MethodPost, "/appservices/"+url.PathEscape(args[0])+"/remove", struct{}{}, nil)
			})
		},
	}
}

func (p *program) appserviceTest() *cobra.Command {
	return &cobra.Command{
		Use:   "test ID|FILE",
		Short: "Ask an application service whether it is there",
		Long:  "Ask an application service whether it is there and takes the server's token. A registration file is compared with those in force\nfirst, and not put into force.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path, body := "/appservices/"+url.PathEscape(args[0])+"/test", any(struct{}{})
			if text, err := os.ReadFile(args[0]); err == nil {
				path, body = "/appservices-test", server.NewAppservice{Registration: string(text)}
			}
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				var t server.AppserviceTest
				if err := data.Do(ctx, http.MethodPost, path, body, &t); err != nil {
					return err
				}
				if t.Problem != "" {
					return fmt.Errorf("%s: %s", t.ID, t.Problem)
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s answered at %s after %.1f ms\n", t.ID, t.URL, t.Milliseconds)
				return err
			})
		},
	}
}
