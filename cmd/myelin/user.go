package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"myelin/internal/server"
)

// with runs fn with the server's data, whether or not the server runs.
func (p *program) with(c *cobra.Command, fn func(context.Context, *server.Commands) error) (err error) {
	cfg, _, err := p.load()
	if err != nil {
		return err
	}
	// What the database has to say matters to a server, not to a command.
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
	data, err := server.OpenCommands(c.Context(), cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	return fn(c.Context(), data)
}

func (p *program) userCommand() *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Make, list and change accounts"}
	c.AddCommand(p.userCreate(), p.userList(), p.userDeactivate(), p.userPassword())
	c.AddCommand(p.userFlags()...)
	return c
}

func (p *program) userCreate() *cobra.Command {
	var n server.NewUser
	var fromStdin bool
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an account",
		Long: "Make an account. NAME is what stands before the colon of its user ID: alice makes @alice:example.org.\n" +
			"Without a password flag the password is asked for; with no terminal to ask on, one is made up and printed.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			n.Name = args[0]
			if n.Password, err = choosePassword(c, n.Password, fromStdin); err != nil {
				return err
			}
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				var made server.UserMade
				if err := data.Do(ctx, http.MethodPost, "/users", n, &made); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s can sign in now.\n", made.User)
				return tellPassword(c, made)
			})
		},
	}
	c.Flags().StringVar(&n.Password, "password", "", "the password; other users of this machine may see it while the command runs")
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	c.Flags().BoolVar(&n.Admin, "admin", false, "make the user an administrator of this server")
	return c
}

// tellPassword prints a password that was made up. It is shown once and kept nowhere.
func tellPassword(c *cobra.Command, made server.UserMade) error {
	if made.Password == "" {
		return nil
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "Password: %s\n", made.Password)
	return err
}

// choosePassword finds out the password: from a flag, from standard input, or from whoever sits at the
// terminal. Empty means that one is to be made up.
func choosePassword(c *cobra.Command, flag string, fromStdin bool) (string, error) {
	stdin := c.InOrStdin()
	terminal, isTerminal := stdin.(*os.File)
	isTerminal = isTerminal && term.IsTerminal(int(terminal.Fd()))
	switch {
	case flag != "":
		return flag, nil
	case fromStdin:
		line, err := bufio.NewReader(io.LimitReader(stdin, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", errors.New("there is no password on standard input")
		}
		return line, nil
	case !isTerminal:
		return "", nil
	}
	first, err := ask(c, terminal, "Password (empty: one is made up): ")
	if err != nil || first == "" {
		return "", err
	}
	second, err := ask(c, terminal, "Again: ")
	if err == nil && second != first {
		err = errors.New("the two passwords differ")
	}
	return first, err
}

func ask(c *cobra.Command, terminal *os.File, what string) (string, error) {
	fmt.Fprint(c.ErrOrStderr(), what)
	text, err := term.ReadPassword(int(terminal.Fd()))
	fmt.Fprintln(c.ErrOrStderr())
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(text), nil
}

func (p *program) userList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all accounts",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				for after := ""; ; {
					var page server.Users
					if err := data.Do(ctx, http.MethodGet, "/users?after="+url.QueryEscape(after), nil, &page); err != nil {
						return err
					}
					for _, u := range page.Users {
						after = string(u.ID)
						fmt.Fprintf(c.OutOrStdout(), "%s  made %s%s\n", u.ID, day(u.CreatedTS), marks(u))
					}
					if len(page.Users) < server.UsersPage {
						return nil
					}
				}
			})
		},
	}
}

// marks lists what is special about an account.
func marks(u server.User) string {
	var words []string
	for _, m := range []struct {
		set  bool
		word string
	}{{u.Admin, "administrator"}, {u.Guest, "guest"}, {u.Locked, "locked"}, {u.Suspended, "suspended"}} {
		if m.set {
			words = append(words, m.word)
		}
	}
	if u.DeactivatedTS != 0 {
		words = append(words, "deactivated "+day(u.DeactivatedTS))
	}
	if words == nil {
		return ""
	}
	return "  " + strings.Join(words, ", ")
}

func day(ms int64) string { return time.UnixMilli(ms).Format(time.DateOnly) }

func (p *program) userDeactivate() *cobra.Command {
	var d server.Deactivation
	c := &cobra.Command{
		Use:   "deactivate USER",
		Short: "End an account for ever",
		Long: "End an account for ever: nobody can sign in to it again, and nobody can take its name. Identity servers where the user has published\n" +
			"addresses are asked to withdraw them. USER is a name or a user ID.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				var ended server.Deactivated
				if err := data.Do(ctx, http.MethodPost, "/users/"+url.PathEscape(args[0])+"/deactivate", d, &ended); err != nil {
					return err
				}
				text := args[0] + " is deactivated."
				if ended.Published {
					text += " An identity server has not withdrawn the user's addresses; give the command again later to have it asked again."
				}
				_, err := fmt.Fprintln(c.OutOrStdout(), text)
				return err
			})
		},
	}
	c.Flags().BoolVar(&d.Erase, "erase", false, "delete the profile and hide what the user wrote from newcomers")
	return c
}

func (p *program) userPassword() *cobra.Command {
	var n server.NewPassword
	var fromStdin bool
	c := &cobra.Command{
		Use:   "password USER",
		Short: "Give an account another password",
		Long: "Give an account another password and sign it out everywhere. USER is a name or a user ID.\n" +
			"Without a password flag the password is asked for; with no terminal to ask on, one is made up and printed.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if n.Password, err = choosePassword(c, n.Password, fromStdin); err != nil {
				return err
			}
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				var made server.UserMade
				if err := data.Do(ctx, http.MethodPost, "/users/"+url.PathEscape(args[0])+"/password", n, &made); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s has a new password.\n", made.User)
				return tellPassword(c, made)
			})
		},
	}
	c.Flags().StringVar(&n.Password, "password", "", "the password; other users of this machine may see it while the command runs")
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	c.Flags().BoolVar(&n.KeepDevices, "keep-devices", false, "leave the user signed in where they are")
	return c
}
