package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"myelin/internal/fedclient"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Verdict is what a finding means.
type Verdict string

const (
	Good  Verdict = "good"
	Think Verdict = "think" // it deserves a thought
	Wrong Verdict = "wrong" // it does not work
)

// Finding is one sentence about another server.
type Finding struct {
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"`
}

// Examination is all findings, in the order in which a request would meet them.
type Examination struct {
	Findings []Finding `json:"findings"`
}

// examiner looks at another server from outside, as any server would.
type examiner struct {
	*core
	name id.ServerName
	Examination
}

func (x *examiner) say(v Verdict, format string, args ...any) {
	x.Findings = append(x.Findings, Finding{v, fmt.Sprintf(format, args...)})
}

// Bounds of an examination.
const (
	examineTime  = 25 * time.Second
	connectTime  = 5 * time.Second
	clockOff     = 30 * time.Second // deserves a thought
	clockWrong   = 10 * time.Minute // makes keys invalid
	renewTime    = 7 * 24 * time.Hour
	maxExamined  = 6 // addresses
	keysHoldTime = 5 * time.Minute
)

// examineServer resolves and contacts another server, and says what works.
func (k *core) examineServer(ctx context.Context, r *web.Request) (*web.Response, error) {
	name, err := id.ParseServerName(r.Path("server"))
	if err != nil {
		return nil, mxerr.InvalidParam("%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, examineTime)
	defer cancel()
	x := &examiner{core: k, name: name}
	x.examine(ctx)
	return web.JSON(x.Examination), nil
}

func (x *examiner) examine(ctx context.Context) {
	switch {
	case x.ours.Is(x.name):
		x.say(Think, "%s is this server. How others see it is for another server to say.", x.name)
		return
	case !x.config.Federation.Enabled:
		x.say(Wrong, "This server talks to no other: federation.enabled is false.")
		return
	case !x.client.Permitted(x.name):
		x.say(Wrong, "The configuration (federation.allow, federation.deny) keeps this server from talking to %s.", x.name)
		return
	}
	// What was found earlier may be what is wrong.
	x.client.Rediscover(x.name)
	found, err := x.client.Resolve(ctx, x.name)
	for _, step := range found.Steps {
		x.say(Good, "%s", sentence(step))
	}
	for _, doubt := range found.Doubts {
		x.say(Think, "%s", sentence(doubt))
	}
	if err != nil {
		x.say(Wrong, "It can't be found out where %s is: %v.", x.name, err)
		return
	}
	if !x.connections(ctx, &found) {
		return
	}
	if x.software(ctx) && x.keys(ctx) {
		x.signature(ctx)
	}
}

// sentence gives a clause a capital, unless it begins with a name, and a full stop.
func sentence(s string) string {
	if first, _, _ := strings.Cut(s, " "); first != "" && !strings.ContainsAny(first, ".:/") {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// connections looks at each address, for one that does not work makes every other request slow. It reports whether one works.
func (x *examiner) connections(ctx context.Context, found *fedclient.Resolution) bool {
	works := 0
	if len(found.Addresses) == 0 {
		x.say(Wrong, "No address of %s may be contacted. Private ones need federation.allow_networks.", x.name)
	}
	for i, at := range found.Addresses {
		if i == maxExamined {
			x.say(Think, "There are %d more addresses, which were not looked at.", len(found.Addresses)-i)
			break
		}
		date, until, err := x.connect(ctx, found, at)
		if err != nil {
			x.say(Wrong, "%s: %s.", at, connectFault(err, found.TLSName))
			continue
		}
		works++
		if left := time.Until(until); left < renewTime {
			x.say(Think, "%s answers, and its certificate for %s runs out on %s.", at, found.TLSName, until.UTC().Format(time.DateOnly))
		} else {
			x.say(Good, "%s answers with a certificate for %s that holds until %s.", at, found.TLSName, until.UTC().Format(time.DateOnly))
		}
		if works == 1 {
			x.clock(date)
		}
	}
	return works > 0
}

// connect asks for the server's version over a connection of its own and returns the answer's date, and when the certificate runs out.
//
// Spec: ss getVersion
func (x *examiner) connect(ctx context.Context, found *fedclient.Resolution, at netip.AddrPort) (date, until time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	dial := x.own.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", at.String())
	if err != nil {
		return date, until, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	roots, err := x.config.Federation.Roots()
	if err != nil {
		return date, until, err
	}
	secure := tls.Client(conn, &tls.Config{ServerName: found.TLSName, RootCAs: roots, MinVersion: tls.VersionTLS12})
	if err := secure.HandshakeContext(ctx); err != nil {
		return date, until, fmt.Errorf("speak TLS: %w", err)
	}
	until = secure.ConnectionState().PeerCertificates[0].NotAfter
	transport := &http.Transport{
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return secure, nil },
		DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+found.Host+"/_matrix/federation/v1/version", nil)
	if err != nil {
		return date, until, fmt.Errorf("make a request: %w", err)
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return date, until, fmt.Errorf("ask: %w", err)
	}
	defer resp.Body.Close()
	if date, err = http.ParseTime(resp.Header.Get("Date")); err != nil {
		date = time.Time{}
	}
	return date, until, nil
}

// connectFault is a clause about what keeps a connection from being made.
func connectFault(err error, name string) string {
	var host x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var timeout net.Error
	switch {
	case errors.As(err, &host):
		return fmt.Sprintf("the certificate is not for %s: %v", name, host)
	case errors.As(err, &unknown):
		return "the certificate is signed by an authority that this machine doesn't know; if it is meant to, federation.ca_file can name it"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("the certificate holds from %s until %s, and the clock here says %s", invalid.Cert.NotBefore.UTC().Format(time.DateOnly),
			invalid.Cert.NotAfter.UTC().Format(time.DateOnly), time.Now().UTC().Format(time.DateOnly))
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "there is no answer; a firewall may drop the packets"
	}
	return err.Error()
}

// clock compares the other server's clock with ours.
func (x *examiner) clock(date time.Time) {
	if date.IsZero() {
		return
	}
	// The header has whole seconds, and the answer has travelled.
	off := time.Since(date).Round(time.Second)
	what := "behind"
	if off < 0 {
		what = "ahead of"
	}
	switch {
	case off.Abs() > clockWrong:
		x.say(Wrong, "Its clock is %s %s ours. One of the two is wrong, and keys and events will be judged by it.", off.Abs(), what)
	case off.Abs() > clockOff:
		x.say(Think, "Its clock is %s %s ours.", off.Abs(), what)
	default:
		x.say(Good, "Its clock agrees with ours.")
	}
}

func (x *examiner) call() fedclient.Call {
	return fedclient.Call{Origin: x.ours.Primary(), Destination: x.name, Urgent: true}
}

// software asks what runs there.
func (x *examiner) software(ctx context.Context) bool {
	runs, err := x.client.Version(ctx, x.call())
	if err != nil {
		x.say(Wrong, "What answers at %s is no Matrix server, or a proxy in front of it does not pass requests on: %v.", x.name, err)
		return false
	}
	x.say(Good, "It runs %s %s.", runs.Name, runs.Version)
	return true
}

// keys looks at the keys that the server publishes.
//
// Spec: ss getServerKey
func (x *examiner) keys(ctx context.Context) bool {
	// What was had of them before says nothing about now.
	raw, err := x.client.Published(ctx, x.name)
	if err != nil {
		x.say(Wrong, "Its keys can't be had, so nothing that it sends can be believed: %v.", err)
		return false
	}
	var object struct {
		ValidUntil int64                      `json:"valid_until_ts"`
		Keys       map[string]json.RawMessage `json:"verify_keys"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		x.say(Wrong, "Its keys can't be read: %v.", err)
		return false
	}
	until := time.UnixMilli(object.ValidUntil)
	if left := time.Until(until); left < keysHoldTime {
		x.say(Wrong, "Its keys hold until %s only: it publishes old ones, or its clock or ours is wrong.", until.UTC().Format(time.DateTime+" UTC"))
		return false
	}
	x.say(Good, "It publishes %s, signed and valid until %s.", count(len(object.Keys), "key"), until.UTC().Format(time.DateTime+" UTC"))
	return true
}

func count(n int, what string) string {
	if n == 1 {
		return "one " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// signature sends a signed request, which the other server can only take if it can fetch our keys: so it is a test of the way back.
// Whether it knows the user does not matter.
//
// Spec: ss queryProfile
func (x *examiner) signature(ctx context.Context) {
	_, err := x.client.QueryProfile(ctx, x.call(), id.UserID("@doctor:"+string(x.name)), "displayname")
	var refused *fedclient.RemoteError
	switch {
	case err == nil, errors.As(err, &refused) && refused.Status != http.StatusUnauthorized && refused.Status < http.StatusInternalServerError:
		x.say(Good, "It takes requests that we sign, so it can reach this server for its keys.")
	case refused != nil && refused.Status == http.StatusUnauthorized:
		x.say(Wrong, "It refuses requests that we sign (%q). It may be unable to reach this server as %s to fetch its keys; try myelin doctor there, or look at the port, the proxy and the delegation of %s.",
			refused.Err.Text, x.ours.Primary(), x.ours.Primary())
	default:
		x.say(Wrong, "It does not answer requests that we sign: %v.", err)
	}
}
