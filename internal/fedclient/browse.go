package fedclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// plainTimeout is how long one address may take to accept a connection without TLS.
const plainTimeout = 4 * time.Second

// Browser returns a transport for pages of the web: HTTPS and plain HTTP, with no private address unless it is allowed, whatever names or
// redirects lead there. It keeps no connections, since a page is seldom asked for twice, and uses no proxy.
func (o Outbound) Browser() *http.Transport {
	c := o.client()
	t := c.transport(o.Roots)
	t.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) { return c.dialPlain(ctx, addr) }
	t.DisableKeepAlives = true
	return t
}

// dialPlain connects to a host and port without TLS, by the first of its permitted addresses that answers.
func (c *Client) dialPlain(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("read an address: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("read a port: %w", err)
	}
	addresses, err := c.addresses(ctx, []Target{{host, uint16(n)}})
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, a := range addresses {
		try, done := context.WithTimeout(ctx, plainTimeout)
		conn, err := c.dialTo(try, "tcp", a.String())
		done()
		if err == nil {
			return conn, nil
		}
		if failures = append(failures, fmt.Errorf("connect to %s: %w", a, err)); ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failures...)
}
