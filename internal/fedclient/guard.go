package fedclient

import (
	"context"
	"fmt"
	"net/netip"
)

const (
	// maxTargets bounds the hosts that are tried for one server, maxAddresses the addresses of them.
	maxTargets   = 8
	maxAddresses = 12
)

// guard keeps requests away from addresses that are not public.
type guard struct{ allow []netip.Prefix }

// notPublic lists the networks of IPv4 that no public server can have: the machine, private networks, carriers' networks,
// link-local and cloud metadata, documentation, benchmarks, relays, multicast and what is reserved.
var notPublic = prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4")

// public6 is all of IPv6 that is given out; notPublic6 is what of it leads elsewhere: Teredo, documentation and other special uses.
var (
	public6    = netip.MustParsePrefix("2000::/3")
	notPublic6 = prefixes("2001::/23", "2001:db8::/32", "3fff::/20")
)

// Addresses of IPv6 that hold one of IPv4, which is then what counts.
var (
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixToV4 = netip.MustParsePrefix("2002::/16")
)

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}

// ok reports whether an address may be contacted.
func (g guard) ok(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if within(g.allow, a) {
		return true
	}
	if a.Is4() {
		return !within(notPublic, a)
	}
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return g.ok(netip.AddrFrom4([4]byte(b[12:16])))
	case sixToV4.Contains(a):
		return g.ok(netip.AddrFrom4([4]byte(b[2:6])))
	}
	return public6.Contains(a) && !within(notPublic6, a)
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// addresses resolves targets, in their order, and leaves out what may not be contacted.
func (c *Client) addresses(ctx context.Context, targets []Target) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	var failed error
	for i, t := range targets {
		if i == maxTargets || len(out) >= maxAddresses {
			break
		}
		found, err := c.lookupHost(ctx, t.Host)
		if err != nil {
			failed = fmt.Errorf("look up the address of %s: %w", t.Host, err)
			continue
		}
		for _, a := range found {
			switch {
			case !c.guard.ok(a):
				failed = fmt.Errorf("%s leads to %s: %w", t.Host, a, ErrPrivate)
			case len(out) < maxAddresses:
				out = append(out, netip.AddrPortFrom(a.Unmap(), t.Port))
			}
		}
	}
	if len(out) == 0 {
		if failed == nil {
			failed = fmt.Errorf("there is no address")
		}
		return nil, failed
	}
	return out, nil
}

func (c *Client) lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	return c.lookup.LookupNetIP(ctx, "ip", host)
}
