package fedclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"myelin/matrix/id"
)

const (
	defaultPort = 8448
	// maxDiscoveries bounds the names whose well-known file, and those whose SRV records, are remembered.
	maxDiscoveries = 20_000
	// The system's resolver doesn't tell how long a record lives.
	srvLifetime     = 5 * time.Minute
	srvErrorPause   = 30 * time.Second
	lookupTimeout   = 10 * time.Second
	resolverTimeout = 10 * time.Second
)

// Resolution is where a server was found.
type Resolution struct {
	// Host is the Host header of requests; TLSName is the DNS name or address that the certificate must be for.
	Host, TLSName string
	// Targets are tried in their order; Addresses are those of them that may be contacted.
	Targets   []Target
	Addresses []netip.AddrPort
	// WellKnown is the name that the server delegates to; empty if it does not.
	WellKnown id.ServerName
	// Steps says in words how this was found out.
	Steps []string
	// Doubts are those of the steps that the operator of the server can't have meant.
	Doubts []string

	// port tells pools of connections apart: the explicit one, or 0 where SRV records or the default decide.
	port uint16
}

// Target is a DNS name or an address without brackets, and a port.
type Target struct {
	Host string
	Port uint16
}

func (r *Resolution) route() route { return route{tlsName: r.TLSName, targets: r.Targets} }

func (r *Resolution) step(format string, args ...any) {
	r.Steps = append(r.Steps, fmt.Sprintf(format, args...))
}

// discoveries remembers what DNS and well-known files said.
type discoveries struct {
	wellKnown *otter.Cache[string, wellKnown]
	srv       *otter.Cache[string, srvAnswer]
	flights   singleflight.Group
}

// srvAnswer is what the two SRV records of a host lead to; no targets where there is none.
type srvAnswer struct {
	service string
	targets []Target
	err     error
	expires time.Time
}

func newDiscoveries() *discoveries {
	return &discoveries{
		wellKnown: otter.Must(&otter.Options[string, wellKnown]{MaximumSize: maxDiscoveries}),
		srv:       otter.Must(&otter.Options[string, srvAnswer]{MaximumSize: maxDiscoveries}),
	}
}

// Resolve finds a server and resolves its addresses. The Resolution tells how far it got even where an error is returned.
//
// Spec: ss Resolving server names
func (c *Client) Resolve(ctx context.Context, name id.ServerName) (Resolution, error) {
	found, err := c.locate(ctx, name)
	if err != nil {
		return found, err
	}
	ctx, cancel := context.WithTimeout(ctx, resolverTimeout)
	defer cancel()
	found.Addresses, err = c.addresses(ctx, found.Targets)
	if err != nil {
		found.step("No address can be contacted: %v.", err)
		return found, fmt.Errorf("resolve %s: %w", name, err)
	}
	return found, nil
}

// locate finds where to connect for a server name, without resolving addresses. Numbers in the comments are those of the specification.
//
// Spec: ss Resolving server names
func (c *Client) locate(ctx context.Context, name id.ServerName) (Resolution, error) {
	if _, err := id.ParseServerName(string(name)); err != nil {
		return Resolution{}, fmt.Errorf("resolve: %w", err)
	}
	var r Resolution
	// 1 and 2
	if r.direct(name, "The server name") {
		return r, nil
	}
	// 3
	host := name.Host()
	known, err := c.wellKnown(ctx, host)
	if err != nil {
		return r, fmt.Errorf("resolve %s: %w", name, err)
	}
	if known.delegate != "" {
		r.WellKnown = known.delegate
		r.step("https://%s/.well-known/matrix/server delegates to %s.", host, known.delegate)
		// 3.1 and 3.2
		if r.direct(known.delegate, "The delegated name") {
			return r, nil
		}
		host = known.delegate.Host()
	} else {
		const file = "https://%s/.well-known/matrix/server gives no answer that counts: %v."
		if errors.Is(known.err, errMisread) {
			r.Doubts = append(r.Doubts, fmt.Sprintf(file, host, known.err))
		} else {
			r.step(file, host, known.err)
		}
	}
	// 3.3 to 3.5, or 4 to 6
	r.Host, r.TLSName = host, host
	srv, err := c.lookupSRV(ctx, host)
	if err != nil {
		return r, fmt.Errorf("resolve %s: %w", name, err)
	}
	if len(srv.targets) > 0 {
		r.Targets = srv.targets
		r.step("The SRV record _%s._tcp.%s names %v.", srv.service, host, srv.targets)
		return r, nil
	}
	if srv.err != nil {
		r.step("SRV records of %s can't be looked up: %v.", host, srv.err)
	} else {
		r.step("%s has no SRV records.", host)
	}
	r.Targets = []Target{{host, defaultPort}}
	r.step("The address of %s and port %d are used.", host, defaultPort)
	return r, nil
}

// direct handles names that say where the server is: an address, or a host with a port.
func (r *Resolution) direct(name id.ServerName, what string) bool {
	port, explicit := name.Port()
	if !explicit {
		port = defaultPort
	}
	host := unbracket(name.Host())
	switch {
	case name.IsIPLiteral():
		r.step("%s is an address; the certificate must be for it.", what)
	case explicit:
		r.step("%s has a port, so that the address of %s is used.", what, host)
	default:
		return false
	}
	r.Host, r.TLSName, r.Targets, r.port = string(name), host, []Target{{host, port}}, port
	return true
}

// lookupSRV looks for the records of both services. The error is that of a caller who gave up.
func (c *Client) lookupSRV(ctx context.Context, host string) (srvAnswer, error) {
	host = strings.ToLower(host)
	if a, ok := c.found.srv.GetIfPresent(host); ok && time.Now().Before(a.expires) {
		return a, nil
	}
	return shared(ctx, c, "srv "+host, func(ctx context.Context) srvAnswer {
		a := c.askSRV(ctx, host)
		c.found.srv.Set(host, a)
		return a
	})
}

func (c *Client) askSRV(ctx context.Context, host string) srvAnswer {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	a := srvAnswer{expires: time.Now().Add(srvLifetime)}
	for _, service := range []string{"matrix-fed", "matrix"} {
		_, records, err := c.lookup.LookupSRV(ctx, service, "tcp", host)
		if dns, ok := errors.AsType[*net.DNSError](err); err != nil && !(ok && dns.IsNotFound) {
			a.err, a.expires = err, time.Now().Add(srvErrorPause)
		}
		for _, r := range records {
			// A target of "." says that there is no such service.
			if target := strings.TrimSuffix(r.Target, "."); target != "" && r.Port != 0 && len(a.targets) < maxTargets {
				a.targets = append(a.targets, Target{target, r.Port})
			}
		}
		if len(a.targets) > 0 {
			a.service = service
			break
		}
	}
	return a
}

// shared runs a look-up once for all who want it at the same time. It goes on when one of them gives up.
func shared[T any](ctx context.Context, c *Client, key string, run func(context.Context) T) (T, error) {
	result := c.found.flights.DoChan(key, func() (any, error) { return run(c.ctx), nil })
	select {
	case r := <-result:
		return r.Val.(T), nil
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// Rediscover forgets what discovery said about a server, for an operator who has just changed it.
func (c *Client) Rediscover(name id.ServerName) {
	hosts := []string{strings.ToLower(name.Host())}
	if known, ok := c.found.wellKnown.GetIfPresent(hosts[0]); ok && known.delegate != "" {
		hosts = append(hosts, strings.ToLower(known.delegate.Host()))
	}
	for _, host := range slices.Compact(hosts) {
		c.found.wellKnown.Invalidate(host)
		c.found.srv.Invalidate(host)
	}
}
