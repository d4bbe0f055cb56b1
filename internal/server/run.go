package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"myelin/internal/sqldb"
)

// Run serves until ctx ends, then drains and stops everything. It returns nil where that was all.
func (s *Server) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	ports, err := s.listen()
	if err != nil {
		return err
	}
	// What runs in the background outlives the requests, which may wait for it; both end before the database.
	s.startBackground()
	at := ports[0].listener.Addr()
	s.address.Store(&at)
	failed := make(chan error, len(ports))
	for _, p := range ports {
		go func() { failed <- p.serve() }()
	}
	s.hello(ctx, at)

	select {
	case <-ctx.Done():
		s.log.Info("stopping")
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	}
	close(s.draining)
	return errors.Join(err, drain(ports, time.Now().Add(DrainTime)))
}

// port is a listener with what serves it.
type port struct {
	http     *http.Server
	listener net.Listener
	// cancel ends the contexts of its requests.
	cancel context.CancelFunc
}

func (p *port) serve() error {
	serve := p.http.Serve
	if p.http.TLSConfig != nil {
		serve = func(l net.Listener) error { return p.http.ServeTLS(l, "", "") }
	}
	if err := serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listen binds the port for clients, which comes first, and the others that are configured.
func (s *Server) listen() (ports []*port, err error) {
	defer func() {
		if err != nil {
			for _, p := range ports {
				p.cancel()
				p.listener.Close()
			}
		}
	}()
	add := func(key, address string, h http.Handler) (*port, error) {
		l, err := s.own.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("%s: nothing can listen on %s: %w; stop the program that has the port, or write another address of this machine or another port", key, address, err)
		}
		p := newPort(l, h, s.log)
		ports = append(ports, p)
		return p, nil
	}
	if _, err := add("client.listen", s.config.Client.Listen, s.clients); err != nil {
		return ports, err
	}
	if s.servers != nil {
		p, err := add("federation.listen", s.config.Federation.Listen, s.servers)
		if err != nil {
			return ports, err
		}
		if err := s.forServers(p); err != nil {
			return ports, err
		}
	}
	if at := s.config.Metrics.Listen; at != "" {
		if _, err := add("metrics.listen", at, s.operators()); err != nil {
			return ports, err
		}
	}
	if s.own.NoCommands {
		return ports, nil
	}
	l, err := listenSocket(s.folder.path)
	if err != nil {
		// The server is of use without it: users can register, with tokens made beforehand.
		s.log.Warn("commands cannot reach this server", slog.String("error", err.Error()))
		return ports, nil
	}
	h, err := s.commands()
	if err != nil {
		l.Close()
		return ports, err
	}
	return append(ports, newPort(l, h, s.log)), nil
}

// forServers makes a port one for other servers: with a bound on connections, and TLS where it is configured.
func (s *Server) forServers(p *port) error {
	p.listener = bound(p.listener, maxServerConns, maxAddressConns, s.config.ProxyNetworks())
	f := &s.config.Federation
	if f.TLSCert == "" {
		return nil
	}
	c, err := openCertificate(f, s.log)
	if err != nil {
		return err
	}
	p.http.TLSConfig = c.tlsConfig()
	p.http.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxServerStreams}
	return nil
}

// maxServerStreams is how many requests another server may have under way on one connection.
const maxServerStreams = 64

func newPort(l net.Listener, h http.Handler, log *slog.Logger) *port {
	requests, cancel := context.WithCancel(context.Background())
	return &port{
		listener: l,
		cancel:   cancel,
		http: &http.Server{
			Handler:           h,
			BaseContext:       func(net.Listener) context.Context { return requests },
			ReadHeaderTimeout: 15 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
}

// drain stops accepting, waits for the requests under way until the deadline, and ends those that are left.
func drain(ports []*port, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	var problems []error
	for _, p := range ports {
		err := p.http.Shutdown(ctx)
		p.cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			err = p.http.Close()
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("stop serving %s: %w", p.listener.Addr(), err))
		}
	}
	return errors.Join(problems...)
}

// operators serves metrics and profiles.
func (s *Server) operators() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// hello tells people where the server is and how to go on.
func (s *Server) hello(ctx context.Context, at net.Addr) {
	url := s.config.BaseURL(at)
	s.log.Info("ready", slog.String("server", s.config.ServerName), slog.String("listen", at.String()),
		slog.String("database", s.db.Dialect().String()), slog.Float64("ms", float64(time.Since(s.started).Milliseconds())))
	if s.own.Ready != nil {
		s.own.Ready(at)
	}
	if s.own.Hello == nil {
		return
	}
	keeps := s.config.DataDir
	if s.db.Dialect() == sqldb.PostgreSQL {
		keeps = "PostgreSQL"
	}
	fmt.Fprintf(s.own.Hello, "\nMyelin serves %s at %s and keeps its data in %s.\n", s.config.ServerName, url, keeps)
	if n, err := s.accounts.Count(ctx); err == nil && n == 0 {
		fmt.Fprintf(s.own.Hello, "There is no account yet. Make the first one, in another terminal, with:\n\n    %s user create --admin alice\n", s.own.Command)
		if s.config.Registration == "token" {
			fmt.Fprintf(s.own.Hello, "\nOthers can register themselves with a token from:\n\n    %s token create\n", s.own.Command)
		}
	}
	fmt.Fprintln(s.own.Hello)
}
