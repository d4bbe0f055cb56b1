package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"myelin/internal/server"
)

func (p *program) reportCommand() *cobra.Command {
	c := &cobra.Command{Use: "report", Short: "Read what users report",
		Long: "Users report events, rooms and other users that they find inappropriate. A report stays until it is deleted."}
	c.AddCommand(p.reportList(), p.reportDelete())
	return c
}

func (p *program) reportList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List reports",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				for after := int64(0); ; {
					var page server.Reports
					if err := data.Do(ctx, http.MethodGet, "/reports?after="+strconv.FormatInt(after, 10), nil, &page); err != nil {
						return err
					}
					for _, r := range page.Reports {
						after = r.ID
						what := string(r.User)
						switch {
						case r.Event != "":
							what = fmt.Sprintf("event %s in %s", r.Event, r.Room)
						case r.Room != "":
							what = "room " + string(r.Room)
						}
						// What strangers wrote must not move the cursor.
						fmt.Fprintf(c.OutOrStdout(), "%d  %s  %s reports %s: %q\n", r.ID, time.UnixMilli(r.TS).Format(time.DateTime), r.Reporter, what, r.Reason)
					}
					if len(page.Reports) < server.ReportsPage {
						return nil
					}
				}
			})
		},
	}
}

func (p *program) reportDelete() *cobra.Command {
	return &cobra.Command{
		Use:   "delete NUMBER...",
		Short: "Delete reports that have been dealt with",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c, func(ctx context.Context, data *server.Commands) error {
				for _, number := range args {
					if _, err := strconv.ParseInt(number, 10, 64); err != nil {
						return fmt.Errorf("%q is no number of a report", number)
					}
					if err := data.Do(ctx, http.MethodDelete, "/reports/"+number, nil, nil); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}
