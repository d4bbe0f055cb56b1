package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "myelin-bench:", err)
		stop()
		os.Exit(1)
	}
}

// scenario is a subcommand: its flags, and what it runs once they are parsed.
type scenario struct {
	use, short string
	flags      func(c *cobra.Command) func(b *bench) error
}

var scenarios = []scenario{
	{"load", "Everything at once: a mix of requests from many users, with listeners", func(c *cobra.Command) func(*bench) error {
		rooms := c.Flags().Int("rooms", 10, "rooms; every user is in all of them")
		concurrency := c.Flags().Int("concurrency", 64, "sending connections")
		listeners := c.Flags().Int("listeners", 16, "connections that wait in /sync")
		rate := c.Flags().Float64("rate", 0, "requests per second of all connections together; 0 is as fast as answers come")
		weights := c.Flags().String("mix", "message=100", "weights of message, reaction, state, receipt, typing")
		return func(b *bench) error {
			m, err := parseMix(*weights)
			if err != nil {
				return err
			}
			return b.mixed(*rooms, *concurrency, *listeners, *rate, m)
		}
	}},
	{"send-one-room", "Durable sends into one room", func(c *cobra.Command) func(*bench) error {
		connections := c.Flags().String("connections", "1,64", "numbers of connections to measure, one after another")
		return func(b *bench) error {
			numbers, err := parseNumbers(*connections)
			if err != nil {
				return err
			}
			return b.sendOneRoom(numbers)
		}
	}},
	{"send-64-rooms", "Durable sends spread over rooms, a connection each", func(c *cobra.Command) func(*bench) error {
		rooms := c.Flags().Int("rooms", 64, "rooms, and connections")
		return func(b *bench) error { return b.sendRooms(*rooms) }
	}},
	{"fan-out", "Delivery from a steady stream of sends to many who wait in one room", func(c *cobra.Command) func(*bench) error {
		waiters := c.Flags().Int("waiters", 100, "users who wait in /sync")
		rate := c.Flags().Float64("rate", 200, "sends per second")
		return func(b *bench) error { return b.fanOut(*waiters, *rate) }
	}},
	{"fan-out-heavy", "Delivery under as many sends as possible", func(c *cobra.Command) func(*bench) error {
		waiters := c.Flags().Int("waiters", 500, "users who wait in /sync")
		per := c.Flags().Int("deliveries", 5, "members of a room, all of whom wait")
		concurrency := c.Flags().Int("concurrency", 64, "sending connections")
		return func(b *bench) error {
			if *per < 1 || *waiters < *per {
				return fmt.Errorf("--waiters must be at least --deliveries, and that at least 1")
			}
			return b.fanOutHeavy(*waiters, *per, *concurrency)
		}
	}},
	{"initial-sync", "A first /sync of a user in many rooms", func(c *cobra.Command) func(*bench) error {
		rooms := c.Flags().Int("rooms", 1000, "rooms")
		members := c.Flags().Int("members", 50, "members of each")
		return func(b *bench) error { return b.initialSync(*rooms, *members) }
	}},
	{"idle-sync", "Many idle /sync connections: what they cost in memory (with --pid) and CPU", func(c *cobra.Command) func(*bench) error {
		connections := c.Flags().Int("connections", 10000, "waiting connections, spread over --users")
		return func(b *bench) error { return b.idleSync(*connections) }
	}},
	{"big-room", "Sends into a room with much state, against a room of two", func(c *cobra.Command) func(*bench) error {
		entries := c.Flags().Int("entries", 50000, "entries of state")
		fill := c.Flags().String("fill", "state", "what they are: state (events of one user), invites, or members (real users: slow to register)")
		concurrency := c.Flags().Int("concurrency", 16, "sending connections")
		return func(b *bench) error { return b.bigRoom(*entries, *fill, *concurrency) }
	}},
}

func command() *cobra.Command {
	var o options
	root := &cobra.Command{
		Use: "myelin-bench", Short: "Measures a Matrix homeserver through the client-server API",
		SilenceUsage: true, SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.StringVar(&o.url, "url", "http://127.0.0.1:8008", "base URL of the server")
	f.StringVar(&o.label, "label", "", "name of the server in the report")
	f.StringVar(&o.sharedSecret, "shared-secret", "", "registration shared secret; without it users register openly")
	f.StringVar(&o.tokens, "tokens", "", "file of lines \"@user:server token\" to use instead of registering")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "length of a measurement")
	f.DurationVar(&o.warmUp, "warm-up", time.Second, "time before it that does not count")
	f.IntVar(&o.repeat, "repeat", 1, "runs of each measurement; the median is reported")
	f.IntVar(&o.size, "size", 256, "bytes of a message's body")
	f.IntVar(&o.users, "users", 16, "users, where the scenario does not say")
	f.IntVar(&o.pid, "pid", 0, "process ID of the server on this machine, to report its CPU and memory")
	f.BoolVar(&o.baseline, "baseline", false, "measure what SQLite on this disk can append, and the ratio to it")
	f.IntVar(&o.row, "row", 1024, "bytes of a row of the baseline: the stored size of an event")
	f.StringVar(&o.folder, "folder", ".", "folder for the baseline's database: on the disk of the server's data")
	f.StringVar(&o.json, "json", "", "file to write the results to as JSON; \"-\" is the standard output instead of the table")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on the standard error")
	for _, s := range scenarios {
		c := &cobra.Command{Use: s.use, Short: s.short, Args: cobra.NoArgs}
		run := s.flags(c)
		c.RunE = func(c *cobra.Command, _ []string) error { return execute(c, o, run) }
		root.AddCommand(c)
	}
	root.AddCommand(&cobra.Command{
		Use: "baseline", Short: "Only what SQLite on this disk can append and sync", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := measureBaseline(c.Context(), o)
			if err != nil {
				return err
			}
			return output(c, o, []result{{Scenario: "baseline", Server: "none", Started: time.Now().UTC(), Runs: 1, Metrics: m}}, true)
		},
	})
	return root
}

func execute(c *cobra.Command, o options, run func(*bench) error) error {
	out := c.OutOrStdout()
	if o.json == "-" {
		out = io.Discard
	}
	b, err := newBench(c.Context(), o, out, c.ErrOrStderr())
	if err != nil {
		return err
	}
	if err := run(b); err != nil {
		return err
	}
	return output(c, o, b.results, false)
}

// output writes the JSON where it is wanted, and the table if that was not done along the way.
func output(c *cobra.Command, o options, results []result, table bool) error {
	switch o.json {
	case "-":
		return writeJSON(c.OutOrStdout(), results)
	case "":
	default:
		f, err := os.Create(o.json)
		if err != nil {
			return fmt.Errorf("write --json: %w", err)
		}
		if err := writeJSON(f, results); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	for _, r := range results {
		if table {
			r.print(c.OutOrStdout())
		}
	}
	return nil
}

func parseNumbers(s string) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 {
			return nil, fmt.Errorf("--connections must be like 1,64, not %q", s)
		}
		out = append(out, n)
	}
	return out, nil
}
