package servertest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"myelin/internal/config"
	"myelin/internal/server"
	"myelin/internal/sqldb"
)

// Server is a running server with a database of its own. It stops when its test ends.
type Server struct {
	// URL is where clients reach it, without a slash at its end. It changes with a restart.
	URL string
	// Config may be changed before a restart.
	Config *config.Config

	tb      testing.TB
	log     *watch // of the run under way
	handler http.Handler
	http    *http.Client
	stop    func() error
	// member is what the server has as part of a Net; nil without one.
	member *member
}

// Each runs a subtest on each engine.
func Each(t *testing.T, run func(t *testing.T, s *Server), configure ...func(*config.Config)) {
	t.Helper()
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) { run(t, Start(t, d, configure...)) })
	}
}

// Start runs a server with open registration and without rate limits, unless configure says otherwise.
func Start(tb testing.TB, d sqldb.Dialect, configure ...func(*config.Config)) *Server {
	tb.Helper()
	c := configuration(tb, d)
	c.DataDir = filepath.Join(tb.TempDir(), "data")
	c.Client.Listen = "127.0.0.1:0"
	for _, f := range configure {
		f(c)
	}
	s := &Server{Config: c, tb: tb}
	tb.Cleanup(s.Stop)
	s.start()
	return s
}

func (s *Server) start() {
	s.tb.Helper()
	ready := make(chan net.Addr, 1)
	s.log = newWatch(s.tb, s.Config.ServerName)
	own := server.Config{Config: s.Config, Version: "test", Log: slog.New(s.log), Ready: func(a net.Addr) { ready <- a }}
	s.http = newHTTP()
	if s.member != nil {
		s.member.join(&own)
		s.http.Transport.(*http.Transport).DialContext = s.member.net.clients.Dial
	}
	srv, err := server.New(s.tb.Context(), own)
	if err != nil {
		s.tb.Fatalf("build the server: %v", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.tb.Context()))
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	client := s.http
	s.stop = func() error {
		cancel()
		err := <-done
		client.CloseIdleConnections()
		return err
	}
	select {
	case at := <-ready:
		s.URL = "http://" + at.String()
		s.handler = srv.Handler()
	case err := <-done:
		s.stop = nil
		s.tb.Fatalf("run the server: %v", err)
	}
}

// External returns a server that somebody else runs, such as another process. It can't be stopped or restarted from here; Moved
// says that it has another address.
func External(tb testing.TB, url string) *Server {
	return &Server{URL: url, tb: tb, http: newHTTP()}
}

// Moved gives a server that somebody else runs its new address. No request may be under way.
func (s *Server) Moved(url string) {
	s.http.CloseIdleConnections()
	s.URL, s.http = url, newHTTP()
}

func newHTTP() *http.Client {
	return &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
		Timeout:   time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// Stop drains and stops the server. Stopping twice does nothing.
func (s *Server) Stop() {
	s.tb.Helper()
	if s.stop == nil {
		return
	}
	stop := s.stop
	s.stop = nil
	if err := stop(); err != nil {
		s.tb.Errorf("stop the server: %v", err)
	}
}

// Restart stops the server and starts it on the same data.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	s.start()
}

// Handler serves clients without a network.
func (s *Server) Handler() http.Handler { return s.handler }

// watch is a log that fails the test at the first error.
type watch struct {
	tb     testing.TB
	server string
	with   string

	mu       *sync.Mutex
	over     *bool   // guarded by mu: the test has ended, and may not be talked to
	expected *string // guarded by mu: errors with this text are what the test wants
}

func newWatch(tb testing.TB, server string) *watch {
	w := &watch{tb: tb, server: server, mu: new(sync.Mutex), over: new(bool), expected: new(string)}
	tb.Cleanup(w.mute)
	return w
}

// mute ends the watching: what is logged from now on is nobody's failure.
func (w *watch) mute() {
	w.mu.Lock()
	defer w.mu.Unlock()
	*w.over = true
}

// Expect says that the run under way may log errors with this text.
func (s *Server) Expect(text string) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	*s.log.expected = text
}

func (w *watch) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (w *watch) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString(r.Message + w.with)
	r.Attrs(func(a slog.Attr) bool {
		line.WriteString(" " + a.String())
		return true
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case *w.over:
	case r.Level >= slog.LevelError && (*w.expected == "" || !strings.Contains(line.String(), *w.expected)):
		w.tb.Errorf("%s logs an error: %s", w.server, &line)
	default:
		w.tb.Logf("%s warns: %s", w.server, &line)
	}
	return nil
}

func (w *watch) WithAttrs(as []slog.Attr) slog.Handler {
	next := *w
	for _, a := range as {
		next.with += " " + a.String()
	}
	return &next
}

func (w *watch) WithGroup(string) slog.Handler { return w }
