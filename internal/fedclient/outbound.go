package fedclient

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Outbound says how to reach hosts that users name and that are no servers of Matrix, such as push gateways.
type Outbound struct {
	// Dial and Lookup are those of Config.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Lookup Resolver
	// Roots are believed as issuers of certificates; nil: those of the machine.
	Roots *x509.CertPool
	// AllowNetworks are private networks that may be contacted.
	AllowNetworks []netip.Prefix
}

// Transport returns a transport that speaks HTTPS only, and connects to no private address unless it is allowed, whatever names lead there.
func (o Outbound) Transport() *http.Transport { return o.client().transport(o.Roots) }

// client is one for its guard and its way of connecting only.
func (o Outbound) client() *Client {
	c := &Client{guard: guard{allow: o.AllowNetworks}, lookup: o.Lookup, dialTo: o.Dial, ctx: context.Background()}
	if c.lookup == nil {
		c.lookup = net.DefaultResolver
	}
	if c.dialTo == nil {
		dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}
		c.dialTo = dialer.DialContext
	}
	return c
}
