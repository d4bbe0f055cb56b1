package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
)

// options are the flags that all scenarios share.
type options struct {
	url          string
	label        string
	sharedSecret string
	tokens       string
	duration     time.Duration
	warmUp       time.Duration
	repeat       int
	size         int
	users        int
	pid          int
	baseline     bool
	row          int
	folder       string
	json         string
	quiet        bool
}

// bench is one invocation: the server, the users made so far and the results.
type bench struct {
	ctx  context.Context
	o    options
	at   endpoint
	run  string // makes names and transaction IDs of this invocation unique
	out  io.Writer
	logs io.Writer

	given    []user // from --tokens
	made     []user
	base     metrics
	results  []result
	preparer int // connections that prepare at once
}

func newBench(ctx context.Context, o options, out, logs io.Writer) (*bench, error) {
	at, err := parseEndpoint(o.url)
	if err != nil {
		return nil, err
	}
	if o.repeat < 1 || o.duration <= 0 || o.size < 64 || o.row < 16 || o.users < 1 {
		return nil, errors.New("--repeat, --duration and --users must be positive, --size at least 64, --row at least 16")
	}
	b := &bench{ctx: ctx, o: o, at: at, run: strings.ToLower(rand.Text()[:8]), out: out, logs: logs, preparer: 16}
	if o.tokens != "" {
		if b.given, err = readTokens(o.tokens); err != nil {
			return nil, err
		}
	}
	c := b.client(user{})
	defer c.close()
	if err := c.call(ctx, "GET", "/_matrix/client/versions", nil, nil); err != nil {
		return nil, fmt.Errorf("ask %s for its versions: %w", o.url, err)
	}
	if o.baseline {
		b.say("measuring what this disk can append")
		if b.base, err = measureBaseline(ctx, o); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bench) say(format string, args ...any) {
	if !b.o.quiet {
		fmt.Fprintf(b.logs, format+"\n", args...)
	}
}

// client makes a connection for a user. Close it.
func (b *bench) client(u user) *client {
	return &client{conn: conn{at: b.at, timeout: 2 * time.Minute}, user: u}
}

// each does n pieces of work over a few connections and shows how far it is.
func (b *bench) each(title string, n int, work func(c *client, i int) error) error {
	if n == 0 {
		return nil
	}
	writer := b.logs
	if b.o.quiet {
		writer = io.Discard
	}
	bar := progressbar.NewOptions(n, progressbar.OptionSetWriter(writer), progressbar.OptionSetDescription(title),
		progressbar.OptionShowCount(), progressbar.OptionSetWidth(20), progressbar.OptionThrottle(200*time.Millisecond),
		progressbar.OptionSetPredictTime(true), progressbar.OptionOnCompletion(func() { fmt.Fprintln(writer) }))
	var (
		wg    sync.WaitGroup
		next  atomic.Int64
		once  sync.Once
		first error
	)
	for range min(b.preparer, n) {
		wg.Go(func() {
			c := b.client(user{})
			defer c.close()
			for {
				i := int(next.Add(1)) - 1
				if i >= n || b.ctx.Err() != nil {
					return
				}
				if err := work(c, i); err != nil {
					once.Do(func() { first = err })
					next.Store(int64(n))
					return
				}
				_ = bar.Add(1) // A terminal that can't be written to is no reason to stop.
			}
		})
	}
	wg.Wait()
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	return first
}

// people returns n users, registering those that are missing.
func (b *bench) people(n int) ([]user, error) {
	if b.given != nil {
		if len(b.given) < n {
			return nil, fmt.Errorf("the file of --tokens has %d users, this scenario needs %d", len(b.given), n)
		}
		return b.given[:n], nil
	}
	from := len(b.made)
	more := make([]user, max(0, n-from))
	err := b.each("registering users", len(more), func(c *client, i int) (err error) {
		name := fmt.Sprintf("bench-%s-%d", b.run, from+i)
		c.user = user{}
		if b.o.sharedSecret != "" {
			more[i], err = c.registerShared(b.ctx, name, b.o.sharedSecret)
		} else {
			more[i], err = c.register(b.ctx, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b.made = append(b.made, more...)
	return b.made[:n], nil
}

// rooms makes rooms with the members given for each; the first member makes it.
func (b *bench) rooms(members [][]user) ([]*room, error) {
	out := make([]*room, len(members))
	type join struct{ room, member int }
	var joins []join
	for i, list := range members {
		for k := 1; k < len(list); k++ {
			joins = append(joins, join{i, k})
		}
	}
	err := b.each("creating rooms", len(out), func(c *client, i int) error {
		c.user = members[i][0]
		roomID, err := c.createRoom(b.ctx)
		out[i] = &room{id: roomID, members: members[i]}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, b.each("joining rooms", len(joins), func(c *client, i int) error {
		c.user = members[joins[i].room][joins[i].member]
		return c.join(b.ctx, out[joins[i].room].id)
	})
}

// measure repeats a measurement, and prints and keeps its median.
func (b *bench) measure(scenario string, settings []string, once func() (metrics, error)) error {
	r := result{Scenario: scenario, Server: b.o.label, Started: time.Now().UTC(), Runs: b.o.repeat, Settings: settings}
	if r.Server == "" {
		r.Server = b.o.url
	}
	var runs []metrics
	for i := range b.o.repeat {
		b.say("%s: run %d of %d", scenario, i+1, b.o.repeat)
		m, err := once()
		if err != nil {
			return fmt.Errorf("%s: %w", scenario, err)
		}
		runs = append(runs, m)
	}
	r.Metrics = median(runs)
	if len(runs) > 1 {
		r.Each = runs
	}
	if rate, ok := r.Metrics.get(sends); ok {
		for _, perCommit := range []int{1, 64} {
			if base, ok := b.base.get(baselineName(perCommit)); ok {
				r.Metrics.add(baselineName(perCommit), base, "rows/s")
				r.Metrics.add(fmt.Sprintf("sends per baseline row, %d", perCommit), rate/base, "ratio")
			}
		}
	}
	r.print(b.out)
	b.results = append(b.results, r)
	return nil
}
