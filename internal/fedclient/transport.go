package fedclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// connectTimeout bounds looking up, connecting and the TLS handshake, over all addresses.
	connectTimeout = 10 * time.Second
	// nextAddress is how long an address may take before the next one is tried beside it.
	nextAddress = 300 * time.Millisecond

	maxIdle          = 1000
	maxIdlePerServer = 4
	idleTimeout      = 90 * time.Second
	maxHeader        = 64 << 10
)

// route is where a connection goes and whose certificate it must meet.
type route struct {
	// tlsName is a DNS name or an address without brackets.
	tlsName string
	targets []Target
}

// pool names the connections that may serve a route: those whose certificate was verified for the same name and that were made for
// the same port, or for SRV records and the default where the name has none. It is the authority of request URLs
// and never leaves this process.
func (r route) pool(port uint16) string {
	return net.JoinHostPort(r.tlsName, strconv.Itoa(int(port)))
}

type routeKey struct{}

// transport is the one pool of connections. Compression is ours, so that both sides of it are bounded.
func (c *Client) transport(roots *x509.CertPool) *http.Transport {
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(2000)}
	return &http.Transport{
		DialContext:    func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("only TLS is spoken") },
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return c.dial(ctx, config, addr) },

		DisableCompression: true, MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdlePerServer,
		IdleConnTimeout: idleTimeout, MaxResponseHeaderBytes: maxHeader,
	}
}

// dial connects by the route of the request, or straight to a host and port for what is no server: well-known files and media.
func (c *Client) dial(ctx context.Context, config *tls.Config, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	stop := context.AfterFunc(c.ctx, cancel)
	defer stop()
	r, ok := ctx.Value(routeKey{}).(route)
	if !ok {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, err
		}
		r = route{tlsName: host, targets: []Target{{host, uint16(n)}}}
	}
	config = config.Clone()
	config.ServerName = r.tlsName
	addresses, err := c.addresses(ctx, r.targets)
	if err != nil {
		return nil, err
	}
	return c.race(ctx, config, addresses)
}

// race connects to the first address that completes a handshake; each gets a head start before the next.
func (c *Client) race(ctx context.Context, config *tls.Config, addresses []netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, len(addresses))
	var wg sync.WaitGroup
	defer func() {
		// Those that are still trying give up, and what came in beside the winner is closed.
		cancel()
		wg.Wait()
		close(results)
		for r := range results {
			if r.conn != nil {
				r.conn.Close()
			}
		}
	}()
	next, pending := 0, 0
	var failures []error
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if next == len(addresses) {
				continue
			}
			addr := addresses[next]
			next++
			pending++
			wg.Go(func() {
				conn, err := c.handshake(ctx, config, addr)
				results <- result{conn, err}
			})
			timer.Reset(nextAddress)
		case r := <-results:
			pending--
			if r.err == nil {
				return r.conn, nil
			}
			failures = append(failures, r.err)
			if pending == 0 && next == len(addresses) {
				return nil, errors.Join(failures...)
			}
			timer.Reset(0)
		case <-ctx.Done():
			return nil, errors.Join(append(failures, fmt.Errorf("connect: %w", ctx.Err()))...)
		}
	}
}

func (c *Client) handshake(ctx context.Context, config *tls.Config, addr netip.AddrPort) (net.Conn, error) {
	raw, err := c.dialTo(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS handshake with %s for %s: %w", addr, config.ServerName, err)
	}
	return conn, nil
}

// unbracket turns the host of a server name into what DNS, TLS and netip know.
func unbracket(host string) string { return strings.Trim(host, "[]") }
