package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"myelin/internal/server"
)

func (p *program) mediaCommand() *cobra.Command {
	c := &cobra.Command{Use: "media", Short: "List, quarantine and remove files",
		Long: "Files have addresses such as mxc://example.org/abc. In quarantine a file stays where it is and nobody can get it; removed, it is\n" +
			"gone for good. Both take effect at once, and neither takes back what others have already."}
	c.AddCommand(p.mediaList(), p.mediaQuarantined(), p.mediaRelease(),
		p.mediaChange("quarantine", "Keep files from everybody",
			"Keep files from everybody: at their addresses, and at any other where the same content is, or will be uploaded. The content stays\n"+
				"on the disk. A file of another server is not fetched again.", "in quarantine"),
		p.mediaChange("remove", "Delete files for good",
			"Delete files for good. Of files of other servers the copy is deleted: it is fetched again when somebody asks for it, unless\n"+
				"it is in quarantine.", "removed"))
	return c
}

func (p *program) mediaList() *cobra.Command {
	return &cobra.Command{
		Use:   "list [USER]",
		Short: "List users who uploaded something, or the files of one",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				if len(args) == 0 {
					return listMediaUsers(ctx, c, data)
				}
				return listMediaFiles(ctx, c, data, args[0])
			})
		},
	}
}

func listMediaUsers(ctx context.Context, c *cobra.Command, data *server.Commands) error {
	for after := ""; ; {
		var page server.MediaUses
		if err := data.Do(ctx, http.MethodGet, "/media/users?after="+url.QueryEscape(after), nil, &page); err != nil {
			return err
		}
		for _, u := range page.Users {
			after = string(u.User)
			fmt.Fprintf(c.OutOrStdout(), "%s  %d files  %d bytes\n", u.User, u.Files, u.Bytes)
		}
		if len(page.Users) < server.MediaPage {
			return nil
		}
	}
}

func listMediaFiles(ctx context.Context, c *cobra.Command, data *server.Commands, user string) error {
	for after := ""; ; {
		var page server.MediaFiles
		if err := data.Do(ctx, http.MethodGet, "/media/files?user="+url.QueryEscape(user)+"&after="+url.QueryEscape(after), nil, &page); err != nil {
			return err
		}
		for _, f := range page.Files {
			after = lastPart(f.Address)
			// What users wrote must not move the cursor.
			fmt.Fprintf(c.OutOrStdout(), "%s  %s  %d bytes  %q  %q\n", f.Address, time.UnixMilli(f.TS).Format(time.DateTime), f.Size, f.ContentType, f.Name)
		}
		if len(page.Files) < server.MediaPage {
			return nil
		}
	}
}

// lastPart is what follows the last slash.
func lastPart(address string) string {
	for i := len(address) - 1; i >= 0; i-- {
		if address[i] == '/' {
			return address[i+1:]
		}
	}
	return address
}

func (p *program) mediaQuarantined() *cobra.Command {
	return &cobra.Command{
		Use:   "quarantined",
		Short: "List what is in quarantine",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				for after := ""; ; {
					var page server.MediaQuarantine
					if err := data.Do(ctx, http.MethodGet, "/media/quarantine?after="+url.QueryEscape(after), nil, &page); err != nil {
						return err
					}
					for _, f := range page.Files {
						after = f.Address
						fmt.Fprintf(c.OutOrStdout(), "%s  since %s\n", f.Address, time.UnixMilli(f.TS).Format(time.DateTime))
					}
					if len(page.Files) < server.MediaPage {
						return nil
					}
				}
			})
		},
	}
}

func (p *program) mediaRelease() *cobra.Command {
	return &cobra.Command{
		Use:   "release ADDRESS...",
		Short: "Take files out of quarantine",
		Long:  "Take files out of quarantine, with all others of the same content.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				for _, address := range args {
					if err := data.Do(ctx, http.MethodPost, "/media/release", server.MediaChoice{Address: address}, nil); err != nil {
						return err
					}
					fmt.Fprintf(c.OutOrStdout(), "%s can be had again.\n", address)
				}
				return nil
			})
		},
	}
}

// mediaChange is a command that does something to files, or to all of a user's.
func (p *program) mediaChange(name, short, long, done string) *cobra.Command {
	var user string
	c := &cobra.Command{
		Use:   name + " ADDRESS... | --user USER",
		Short: short,
		Long:  long,
		RunE: func(c *cobra.Command, args []string) error {
			if (user == "") == (len(args) == 0) {
				return errors.New("name files by their addresses, or a user with --user")
			}
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				for _, address := range args {
					if err := data.Do(ctx, http.MethodPost, "/media/"+name, server.MediaChoice{Address: address}, nil); err != nil {
						return err
					}
					fmt.Fprintf(c.OutOrStdout(), "%s is %s.\n", address, done)
				}
				if user == "" {
					return nil
				}
				total := 0
				for more := (server.MediaChoice{User: user}); ; {
					var page server.MediaDone
					if err := data.Do(ctx, http.MethodPost, "/media/"+name, more, &page); err != nil {
						return err
					}
					if total += page.Files; page.Files < server.MediaPage {
						break
					}
					more.After = page.Last
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "%d files of %s are %s.\n", total, user, done)
				return err
			})
		},
	}
	c.Flags().StringVar(&user, "user", "", "all files that this user uploaded")
	return c
}
