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

	"myelin/internal/config"
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
	own     Config
	clients http.Handler
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
	s := &Server{own: c, draining: make(chan struct{}), started: time.Now()}
	if s.core, err = openCore(ctx, c.Config, c.Log); err != nil {
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
	s.clients, err = web.New(web.Config{
		Routes:         s.routes(),
		Authenticate:   s.authenticate,
		Translate:      translate,
		Limits:         s.limits(),
		TrustedProxies: c.Config.ProxyNetworks(),
		Log:            c.Log,
		QuietRequests:  c.Config.Log.Requests == "off",
		Metrics:        s.registry,
		Draining:       s.draining,
	})
	if err != nil {
		return nil, fmt.Errorf("build the route table: %w", err)
	}
	return s, nil
}

// routes is the whole route table of the port for clients.
func (s *Server) routes() []web.Route {
	return append(s.clientAPI.Routes(), s.welcome())
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
