package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"myelin/internal/server"
	"myelin/matrix/id"
)

func (p *program) doctorFederationCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "federation NAME",
		Short: "Say what is wrong between this server and another one",
		Long: "Find out where another server is, connect to it, and look at its certificate, clock, software and keys, and whether it\n" +
			"takes requests that this server signs. Good is (+), what deserves a thought (?), what does not work (-). The exit code\n" +
			"is 1 where something does not work. It asks through the running server, if there is one; whether the other server can fetch our\n" +
			"keys can only be seen then.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d := &doctor{out: c.OutOrStdout()}
			if err := d.server(c.Context(), p, args[0]); err != nil {
				return err
			}
			return d.verdict()
		},
	}
}

// server looks at another server.
func (d *doctor) server(ctx context.Context, p *program, name string) error {
	if _, err := id.ParseServerName(name); err != nil {
		return fmt.Errorf("%w; write the name of a server such as example.org", err)
	}
	c, _, err := p.load()
	if err != nil {
		return err
	}
	data, err := server.OpenCommands(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer data.Close()
	var found server.Examination
	if err := data.Do(ctx, http.MethodGet, "/federation/"+url.PathEscape(name), nil, &found); err != nil {
		return err
	}
	d.tell(found.Findings)
	if !data.Running() {
		d.think("No server runs here, so others cannot fetch its keys. Start it and call the doctor again.")
	}
	return nil
}

// tell writes down what a server found.
func (d *doctor) tell(findings []server.Finding) {
	for _, f := range findings {
		switch f.Verdict {
		case server.Good:
			d.good("%s", f.Text)
		case server.Think:
			d.think("%s", f.Text)
		default:
			d.wrong("%s", f.Text)
		}
	}
}
