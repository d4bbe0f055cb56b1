package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"myelin/internal/config"
	"myelin/internal/fedclient"
	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// DrainTime is how long requests under way may take once the server is told to stop.
const DrainTime = 3 * time.Second

// Config is what a Server is made of.
type Config struct {
	Config *config.Config
	// Version is shown to administrators and other servers.
	Version string
	Log     *slog.Logger
	// Listen opens a listener; nil means net.Listen. Tests put networks of their own here.
	Listen func(network, address string) (net.Listener, error)
	// Dial connects to an address, made of an IP address and a port, of another server; nil means net.Dialer. The guard of private
	// addresses comes before it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolver looks up the names of other servers; nil means the system's.
	Resolver fedclient.Resolver
	// NoCommands leaves out the socket for commands. Tests in synctest bubbles do: nothing there may wait for the
	// operating system.
	NoCommands bool
	// Hello gets a few sentences for people once the server is ready. May be nil.
	Hello io.Writer
	// Command is how this program is called, for the hints in Hello.
	Command string
	// Ready is called with the address for clients once the server is ready. May be nil.
	Ready func(net.Addr)
}

// Server is one node, built and not yet running.
type Server struct {
	*core
	slices
	clients http.Handler
	// servers serves other servers on federation.listen; nil where client.listen does, or nobody.
	servers http.Handler
	// draining is closed when the server is told to stop.
	draining chan struct{}
	started  time.Time
	// address is where clients are served, nil before that.
	address atomic.Pointer[net.Addr]
}

// New builds a server. It opens the database and binds no port. The caller calls Run, or Close.
func New(ctx context.Context, c Config) (_ *Server, err error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Listen == nil {
		c.Listen = net.Listen
	}
	s := &Server{draining: make(chan struct{}), started: time.Now()}
	if s.core, err = openCore(ctx, c); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()

	if err := s.openSlices(ctx); err != nil {
		return nil, err
	}
	if err := s.openHandlers(); err != nil {
		return nil, fmt.Errorf("build the route table: %w", err)
	}
	return s, nil
}

// openHandlers builds what the ports serve.
func (s *Server) openHandlers() (err error) {
	forClients, forServers := s.routes()
	if s.clients, err = s.handler("client", forClients, forServers); err != nil || forServers == nil {
		return err
	}
	s.servers, err = s.handler("federation", forServers, forClients)
	return err
}

// handler serves routes, and knows of those that are elsewhere. The port's metrics bear its name.
func (s *Server) handler(port string, routes, elsewhere []web.Route) (http.Handler, error) {
	return web.New(web.Config{
		Routes:       routes,
		Elsewhere:    elsewhere,
		Authenticate: s.authenticate,
		Exempt:       s.appservices.Exempt,

		AuthenticateServer: s.serverAPI.Authenticate,
		Translate:          translate,
		Limits:             s.limits(),
		TrustedProxies:     s.config.ProxyNetworks(),
		Log:                s.log,
		QuietRequests:      s.config.Log.Requests == "off",
		Metrics:            prometheus.WrapRegistererWith(prometheus.Labels{"port": port}, s.registry),
		Draining:           s.draining,
	})
}

// routes are the route tables of the port for clients and of the one for other servers. The latter is nil where there is
// no such port: then the former holds both, or there is no federation.
func (s *Server) routes() (forClients, forServers []web.Route) {
	forClients = append(s.clientAPI.Routes(), s.welcome())
	if !s.config.Federation.Enabled {
		return forClients, nil
	}
	if s.config.Federation.Listen == "" {
		return append(forClients, s.serverAPI.Routes()...), nil
	}
	// Other servers that know only the old endpoints of media look for them where they look for everything else.
	return forClients, append(append(s.serverAPI.Routes(), s.clientAPI.LegacyMediaRoutes()...), s.welcome())
}

// Handler serves clients without a network, for tests.
func (s *Server) Handler() http.Handler { return s.clients }

// Close stops a server that Run was not called on.
func (s *Server) Close() error { return s.close() }

func (s *Server) limits() *web.Limits {
	if s.config.RateLimits == "off" {
		return nil
	}
	limits := web.DefaultLimits()
	return &limits
}

// authenticate finds the caller of a request and notes where it was seen.
func (s *Server) authenticate(ctx context.Context, token string, r *web.Request) (web.Caller, error) {
	if service := s.appservices.ByToken(token); service != nil {
		return s.appservices.Act(ctx, service, r)
	}
	caller, err := s.accounts.Authenticate(ctx, token)
	if err == nil && r.RemoteAddr.IsValid() {
		s.accounts.Saw(caller, r.RemoteAddr.String())
	}
	return caller, err
}

// translate gives an errcode to what the database says of a client's input.
func translate(err error) error {
	switch {
	case errors.Is(err, sqldb.ErrText):
		return mxerr.InvalidParam("A text holds a NUL character or is not valid UTF-8.")
	case errors.Is(err, sqldb.ErrClosed):
		return web.Status(mxerr.New(mxerr.CodeUnknown, "The server is stopping. Try again in a moment."), http.StatusServiceUnavailable)
	}
	return err
}

// welcome is what a browser sees of a server that answers.
func (s *Server) welcome() web.Route {
	page := &web.Response{
		Raw: []byte("<!doctype html><meta charset=utf-8><title>Myelin</title>" +
			"<p>This is a <a href=https://matrix.org>Matrix</a> homeserver. It works. Sign in with a Matrix client.\n"),
		Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
	}
	return web.Route{Method: http.MethodGet, Path: "/", Op: "welcome", Auth: web.None,
		Handle: func(context.Context, *web.Request) (*web.Response, error) { return page, nil }}
}
