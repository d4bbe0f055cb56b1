package fedclient

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Resolver looks up names. *net.Resolver is one; a simulated network brings its own.
type Resolver interface {
	// LookupSRV returns the records by priority, and by weight within one.
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config is what Open needs.
type Config struct {
	DB   *sqldb.DB
	Ours *ours.Set
	// Log is for what an operator should know; nil discards.
	Log *slog.Logger
	// Metrics registers the package's collectors; nil keeps them private.
	Metrics prometheus.Registerer

	// Dial connects to an address that was resolved and found permitted; nil: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Lookup resolves names; nil: the system's resolver.
	Lookup Resolver
	// Roots are the issuers of certificates that are believed; nil: the system's.
	Roots *x509.CertPool
	// AllowNetworks are networks that are not public and may be contacted all the same.
	AllowNetworks []netip.Prefix
	// Allow and Deny are globs of server names ("*" for any letters, "?" for one). Deny wins; an empty Allow means all.
	Allow, Deny []string
	// Notaries are servers whose word is taken for keys that their owner no longer publishes. May be empty.
	Notaries []id.ServerName
	// UserAgent is sent with each request.
	UserAgent string
	// Heard, unless nil, is told of each authenticated request of another server. It must not block.
	Heard func(id.ServerName)
}

// Client speaks to other servers. All methods may be called from any goroutine.
type Client struct {
	db      *sqldb.DB
	ours    *ours.Set
	log     *slog.Logger
	metrics *metrics
	heard   func(id.ServerName)
	agent   string

	permit  permit
	guard   guard
	lookup  Resolver
	dialTo  func(ctx context.Context, network, address string) (net.Conn, error)
	http    *http.Transport
	servers servers
	found   *discoveries
	ring    *ring
	own     ownKeys
	// ctx ends with Close: it carries fetches that several callers wait for.
	ctx  context.Context
	stop context.CancelFunc
}

// Open prepares a client and the tables of its key ring.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.DB == nil || cfg.Ours == nil {
		return nil, errors.New("open the federation client: it needs a database and our names")
	}
	if err := cfg.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("migrate keys of other servers: %w", err)
	}
	c := &Client{
		db: cfg.DB, ours: cfg.Ours, log: cfg.Log, heard: cfg.Heard, agent: cfg.UserAgent,
		metrics: newMetrics(cfg.Metrics),
		permit:  newPermit(cfg.Allow, cfg.Deny),
		guard:   guard{allow: cfg.AllowNetworks},
		lookup:  cfg.Lookup, dialTo: cfg.Dial,
		found: newDiscoveries(),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.agent == "" {
		c.agent = "Myelin"
	}
	if c.lookup == nil {
		c.lookup = net.DefaultResolver
	}
	if c.dialTo == nil {
		dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}
		c.dialTo = dialer.DialContext
	}
	c.ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.servers.init()
	c.ring = newRing(cfg.Notaries)
	c.http = c.transport(cfg.Roots)
	return c, nil
}

// Close ends what is under way and closes idle connections. Calls fail from then on.
func (c *Client) Close() {
	c.stop()
	c.ring.close()
	c.http.CloseIdleConnections()
}

// Permitted reports whether federation.allow and federation.deny let this server speak with that one.
func (c *Client) Permitted(name id.ServerName) bool { return c.permit.ok(string(name)) }
