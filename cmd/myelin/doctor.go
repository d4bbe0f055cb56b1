package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"myelin/internal/config"
	"myelin/internal/server"
	"myelin/matrix/id"
)

func (p *program) doctorCommand() *cobra.Command {
	doctorCommand := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with the configuration, the database and the network",
		Long: "Look at everything the server needs and say, in sentences, what is good (+), what deserves a thought (?)\n" +
			"and what does not work (-). The exit code is 1 where something does not work. Where no server runs, the database\n" +
			"is opened as the server would open it, which brings its tables up to date; nothing else is changed.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d := &doctor{out: c.OutOrStdout(), client: &http.Client{Timeout: 5 * time.Second}}
			d.examine(c.Context(), p)
			return d.verdict()
		},
	}
	doctorCommand.AddCommand(p.doctorFederationCommand())
	return doctorCommand
}

// doctor writes down what it finds.
type doctor struct {
	out    io.Writer
	client *http.Client
	bad    int
}

func (d *doctor) good(format string, args ...any)  { fmt.Fprintf(d.out, "+ "+format+"\n", args...) }
func (d *doctor) think(format string, args ...any) { fmt.Fprintf(d.out, "? "+format+"\n", args...) }
func (d *doctor) wrong(format string, args ...any) {
	d.bad++
	fmt.Fprintf(d.out, "- "+format+"\n", args...)
}

// verdict is an error where something does not work.
func (d *doctor) verdict() error {
	if d.bad > 0 {
		return fmt.Errorf("%d of these do not work", d.bad)
	}
	return nil
}

func (d *doctor) examine(ctx context.Context, p *program) {
	c, _, err := p.load()
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			d.wrong("%s", line)
		}
		return
	}
	if err := c.CheckFiles(); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			d.wrong("%s", line)
		}
		return
	}
	d.good("The configuration is valid.")
	d.choices(c)
	d.certificate(c)
	d.folder(c)
	running := d.database(ctx, c)
	d.port(ctx, "client.listen", c.Client.Listen, running)
	if c.Federation.Enabled && c.Federation.Listen != "" {
		d.port(ctx, "federation.listen", c.Federation.Listen, running)
	}
	d.clients(ctx, c, running)
	d.wellKnown(ctx, c)
	d.clock()
}

// choices looks at values that are allowed and may not be meant.
func (d *doctor) choices(c *config.Config) {
	if c.ServerName == "localhost" {
		d.think("The server name is localhost, which is good for trying things out only: it can never be changed once there are users.")
	} else if _, hasPort := c.Name().Port(); hasPort {
		d.think("The server name %s has a port in it, which will be in every user ID for ever. Leave it out unless you know why.", c.ServerName)
	}
	if c.Registration == "open" {
		d.think("Registration is open: anybody who reaches the server can make accounts, and spammers will. Think of registration = \"token\".")
	}
	if c.RateLimits == "off" {
		d.think("Rate limits are off: one client can keep the server busy, and passwords can be guessed quickly.")
	}
	if strings.HasPrefix(c.S3.Endpoint, "http:") {
		if u, err := url.Parse(c.S3.Endpoint); err == nil && !loopback(u.Hostname()) {
			d.think("s3.endpoint is an http URL: whoever is on the way between this machine and the store can read the files of users.")
		}
	}
	if c.Metrics.Listen != "" {
		if host, _, err := net.SplitHostPort(c.Metrics.Listen); err == nil && !loopback(host) {
			d.think("metrics.listen is %s: whoever reaches that port can read profiles of the server. See that only you can.", c.Metrics.Listen)
		}
	}
}

// certificate looks at the one that other servers are shown. That its files are right is known.
//
// Spec: ss Resolving server names
func (d *doctor) certificate(c *config.Config) {
	f := &c.Federation
	if !f.Enabled || f.TLSCert == "" {
		return
	}
	pair, err := f.Certificate()
	if err != nil {
		d.wrong("%v", err)
		return
	}
	from, until := pair.Leaf.NotBefore.UTC().Format(time.DateOnly), pair.Leaf.NotAfter.UTC().Format(time.DateOnly)
	host := strings.Trim(c.Name().Host(), "[]")
	switch {
	case time.Now().After(pair.Leaf.NotAfter), time.Now().Before(pair.Leaf.NotBefore):
		d.wrong("The certificate in %s (federation.tls_cert) holds from %s until %s only, so no other server talks to this one. Renew it.", f.TLSCert, from, until)
		return
	case time.Until(pair.Leaf.NotAfter) < 7*24*time.Hour:
		d.think("The certificate in %s (federation.tls_cert) runs out on %s.", f.TLSCert, until)
	}
	if pair.Leaf.VerifyHostname(host) != nil {
		d.think("The certificate in %s (federation.tls_cert) is not for %s. That is right only where https://%s/.well-known/matrix/server sends other servers to a name that it is for.",
			f.TLSCert, host, host)
		return
	}
	d.good("The certificate for other servers is for %s and holds until %s.", host, until)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// folder looks at the data folder and the disk beneath it.
func (d *doctor) folder(c *config.Config) {
	info, err := os.Stat(c.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.good("The data folder %s does not exist yet; the server will make it.", c.DataDir)
		return
	case err != nil:
		d.wrong("The data folder %s cannot be looked at: %v.", c.DataDir, err)
		return
	case !info.IsDir():
		d.wrong("The data folder %s (data_dir) is no folder.", c.DataDir)
		return
	case info.Mode().Perm()&0o077 != 0:
		d.think("The data folder %s can be opened by other users of this machine. Close it with: chmod 700 %s", c.DataDir, c.DataDir)
	}
	median, err := fsyncTime(c.DataDir)
	switch {
	case err != nil:
		d.wrong("Nothing can be written to the data folder %s: %v.", c.DataDir, err)
	case c.Database != "":
		d.good("The data folder %s can be written to.", c.DataDir)
	case median > 20*time.Millisecond:
		d.think("The disk of %s takes %s to store a block for good, so each message takes at least that long. An SSD would help.", c.DataDir, median.Round(time.Millisecond))
	default:
		d.good("The data folder %s can be written to; its disk stores a block for good within %s.", c.DataDir, median.Round(10*time.Microsecond))
	}
}

// fsyncTime measures the median time that the disk takes to keep a small write.
func fsyncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "doctor-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	times := make([]time.Duration, 15)
	block := make([]byte, 4096)
	for i := range times {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times[i] = time.Since(start)
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// database opens the database, unless a running server has it, and repeats the warnings.
func (d *doctor) database(ctx context.Context, c *config.Config) (running bool) {
	if _, err := os.Stat(c.DataDir); errors.Is(err, fs.ErrNotExist) && c.Database == "" {
		d.good("There is no database yet; the server will make it in %s.", filepath.Join(c.DataDir, "myelin.db"))
		return false
	}
	var warnings strings.Builder
	log := slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: messageOnly}))
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	data, err := server.OpenCommands(ctx, c, log)
	if err != nil {
		d.wrong("The database cannot be used: %v.", err)
		return false
	}
	defer data.Close()
	var users server.Users
	if err := data.Do(ctx, http.MethodGet, "/users", nil, &users); err != nil {
		d.wrong("The accounts cannot be read: %v.", err)
		return data.Running()
	}
	for line := range strings.Lines(warnings.String()) {
		d.think("The database warns: %s.", strings.TrimSpace(line))
	}
	if data.Running() {
		d.good("A server runs on the data folder and answers.")
	} else {
		d.good("The database can be opened. No server runs on it.")
	}
	if len(users.Users) == 0 {
		d.think("There is no account. Make one with: myelin user create")
	}
	d.files(ctx, data)
	if data.Running() {
		d.troubles(ctx, data)
	}
	return data.Running()
}

// files says whether files of users can be stored.
func (d *doctor) files(ctx context.Context, data *server.Commands) {
	var found server.FilesCheck
	err := data.Do(ctx, http.MethodGet, "/media/store", nil, &found)
	switch {
	case err != nil:
		d.wrong("Whether files can be stored can't be found out: %v.", err)
	case found.Problem != "":
		d.wrong("Files can't be stored in %s: %s.", found.Place, found.Problem)
	default:
		d.good("Files can be stored in %s.", found.Place)
	}
}

// troubles says which rooms lack events that could not be had, and which servers are out of reach.
func (d *doctor) troubles(ctx context.Context, data *server.Commands) {
	var found server.Troubles
	if err := data.Do(ctx, http.MethodGet, "/troubles", nil, &found); err != nil {
		d.wrong("What is wrong with other servers can't be read: %v.", err)
		return
	}
	for _, t := range found.Events {
		d.think("The room %s lacks the event %s of %s since %s, and what follows it: %s.", t.Room, t.Event, t.Origin, time.UnixMilli(t.Since).UTC().Format(time.DateTime), t.Reason)
	}
	for _, t := range found.Servers {
		d.think("%s can't be told anything since %s: %s. The next attempt is at %s.", t.Server, t.Since.UTC().Format(time.DateTime), t.Reason, t.Retry.UTC().Format(time.DateTime))
	}
}

// messageOnly leaves of a log line what a person wants to read.
func messageOnly(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
		return slog.Attr{}
	}
	return a
}

// port looks whether a port is ours or free.
func (d *doctor) port(ctx context.Context, key, address string, running bool) {
	if running {
		return // it answers for itself below
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		d.wrong("Another program has %s (%s), or this machine has no such address: %v.", address, key, err)
		return
	}
	l.Close()
	d.good("The port %s (%s) is free.", address, key)
}

// versionsPath answers on every homeserver, without a token.
//
// Spec: cs getVersions
const versionsPath = "/_matrix/client/versions"

// clients looks whether clients find the server where the configuration says they do.
func (d *doctor) clients(ctx context.Context, c *config.Config, running bool) {
	if c.Client.BaseURL == "" && c.ServerName != "localhost" {
		d.think("client.base_url is empty, so clients on other machines are not told where the server is. Set it to the URL that your reverse proxy serves.")
	}
	if !running {
		d.think("No server runs, so whether clients can reach it was not looked at. Start it and call the doctor again.")
		return
	}
	url := c.BaseURL(nil) + versionsPath
	var answer struct {
		Versions []string `json:"versions"`
	}
	header, err := d.fetch(ctx, url, &answer)
	switch {
	case err != nil:
		d.wrong("Clients cannot reach the server: %v.", err)
		return
	case len(answer.Versions) == 0:
		d.wrong("%s is answered by something that is no Matrix homeserver.", url)
		return
	case header.Get("Access-Control-Allow-Origin") != "*":
		d.wrong("%s is answered without the header Access-Control-Allow-Origin, so clients in browsers cannot use it. Does a proxy remove it?", url)
	default:
		d.good("Clients can reach the server at %s.", c.BaseURL(nil))
	}
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		if off := time.Since(date).Abs(); off > 10*time.Second {
			d.think("The clock of what answers at %s differs from ours by %s.", c.BaseURL(nil), off.Round(time.Second))
		}
	}
}

// fetch gets JSON. Its errors are clauses for a sentence.
func (d *doctor) fetch(ctx context.Context, url string, into any) (http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("%s is no URL: %w", url, err)
	}
	resp, err := d.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("there is no answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s is answered with %s", url, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into); err != nil {
		return nil, fmt.Errorf("%s is answered with something that is not JSON", url)
	}
	return resp.Header, nil
}

// wellKnown looks whether clients find the server by its name alone.
//
// Spec: cs Well-known URIs
func (d *doctor) wellKnown(ctx context.Context, c *config.Config) {
	if c.ServerName == "localhost" || id.ServerName(c.ServerName).IsIPLiteral() || c.Client.BaseURL == "" {
		return
	}
	url := "https://" + c.Name().Host() + "/.well-known/matrix/client"
	var answer struct {
		Homeserver struct {
			BaseURL string `json:"base_url"`
		} `json:"m.homeserver"`
	}
	header, err := d.fetch(ctx, url, &answer)
	want := c.BaseURL(nil)
	switch got := strings.TrimRight(answer.Homeserver.BaseURL, "/"); {
	case err != nil:
		d.think("Clients cannot find the server by its name: %v. Let your web server pass %s on to Myelin.", err, url)
	case got != want:
		d.wrong("%s sends clients to %q, and client.base_url is %q.", url, got, want)
	case header.Get("Access-Control-Allow-Origin") != "*":
		d.wrong("%s is answered without the header Access-Control-Allow-Origin: *, so clients in browsers cannot read it.", url)
	default:
		d.good("Clients find the server by its name %s.", c.ServerName)
	}
}

// clock looks whether the time can be true: events are stamped with it for ever.
func (d *doctor) clock() {
	now := time.Now()
	exe, err := os.Executable()
	if err != nil {
		return
	}
	if info, err := os.Stat(exe); err == nil && now.Before(info.ModTime().Add(-24*time.Hour)) {
		d.wrong("The clock says %s, which is before this program was made.", now.Format(time.DateTime))
		return
	}
	d.good("The clock says %s.", now.UTC().Format(time.DateTime+" UTC"))
}
