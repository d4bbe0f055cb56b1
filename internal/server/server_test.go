package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"myelin/internal/config"
	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

func testConfig(t *testing.T) *config.Config {
	t.Helper()
	c := config.Default()
	c.DataDir = filepath.Join(t.TempDir(), "data")
	c.Client.Listen = "127.0.0.1:0"
	c.Metrics.Listen = "127.0.0.1:0"
	return c
}

// running is a server under test.
type running struct {
	clients, metrics string // URLs
	hello            bytes.Buffer
	stop             func() error // and wait
}

func start(t *testing.T, c *config.Config) *running {
	t.Helper()
	r := new(running)
	var bound []net.Addr
	ready := make(chan struct{})
	s, err := New(t.Context(), Config{
		Config: c, Version: "test", Hello: &r.hello, Command: "myelin",
		Listen: func(network, address string) (net.Listener, error) {
			l, err := net.Listen(network, address)
			if err == nil {
				bound = append(bound, l.Addr())
			}
			return l, err
		},
		Ready: func(net.Addr) { close(ready) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r.stop = func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() { r.stop() })
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatal(err)
	}
	r.clients, r.metrics = "http://"+bound[0].String(), "http://"+bound[1].String()
	return r
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServesAndStops(t *testing.T) {
	c := testConfig(t)
	r := start(t, c)
	if status, body := get(t, r.clients+"/"); status != 200 || !strings.Contains(body, "Matrix") {
		t.Errorf("welcome: %d %s", status, body)
	}
	if status, body := get(t, r.clients+"/_matrix/nothing"); status != 404 || !strings.Contains(body, "M_UNRECOGNIZED") {
		t.Errorf("unknown path: %d %s", status, body)
	}
	if status, body := get(t, r.metrics+"/metrics"); status != 200 || !strings.Contains(body, `myelin_http_requests_total{class="2xx",op="welcome",port="client"} 1`) {
		t.Errorf("metrics: %d %.300s", status, body)
	}
	if status, _ := get(t, r.metrics+"/debug/pprof/goroutine?debug=1"); status != 200 {
		t.Errorf("profiles: %d", status)
	}
	if status, _ := get(t, r.clients+"/metrics"); status != 404 {
		t.Errorf("clients can read metrics: %d", status)
	}

	// A second process is refused, and told of whom.
	_, err := New(t.Context(), Config{Config: c})
	if want := fmt.Sprintf("(process %d)", os.Getpid()); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), c.DataDir) {
		t.Errorf("a second server: %v", err)
	}

	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.hello.String(), "myelin user create") || !strings.Contains(r.hello.String(), "localhost") {
		t.Errorf("hello: %s", &r.hello)
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, socketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
	again := start(t, c)
	if err := again.stop(); err != nil {
		t.Error(err)
	}
}

// TestCommands: the same commands do the same with a running server and without.
func TestCommands(t *testing.T) {
	c := testConfig(t)
	use := func(running bool) {
		data, err := OpenCommands(t.Context(), c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer data.Close()
		if data.Running() != running {
			t.Errorf("running: %v", data.Running())
		}
		name := fmt.Sprintf("user-%v", running)
		do := func(method, path string, body, answer any, refusal string) {
			t.Helper()
			err := data.Do(t.Context(), method, path, body, answer)
			if refusal == "" && err != nil || refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)) {
				t.Errorf("%s %s: %v", method, path, err)
			}
		}
		var made UserMade
		do("POST", "/users", NewUser{Name: name, Admin: true}, &made, "")
		if want := "@" + name + ":localhost"; string(made.User) != want || len(made.Password) < 20 {
			t.Errorf("made %+v", made)
		}
		do("POST", "/users", NewUser{Name: name, Password: "correct horse"}, nil, "taken")
		do("POST", "/users", NewUser{Name: "@x:elsewhere.org", Password: "correct horse"}, nil, "can't be a user of this server")
		do("POST", "/users", NewUser{Name: "no spaces"}, nil, "user name")
		var changed UserMade
		do("POST", "/users/"+name+"/password", NewPassword{Password: "battery staple"}, &changed, "")
		if changed.User != made.User || changed.Password != "" {
			t.Errorf("a chosen password is repeated")
		}
		do("POST", "/users/"+name+"/deactivate", Deactivation{}, nil, "")
		do("POST", "/users/nobody/deactivate", Deactivation{}, nil, "no user")
		var users Users
		do("GET", "/users?after=", nil, &users, "")
		found := false
		for _, u := range users.Users {
			found = found || string(u.ID) == "@"+name+":localhost" && u.DeactivatedTS != 0
		}
		if !found {
			t.Errorf("users: %+v", users)
		}
		if running { // the tables are those of a server that has run
			var troubles Troubles
			do("GET", "/troubles", nil, &troubles, "")
			if len(troubles.Events)+len(troubles.Servers) > 0 {
				t.Errorf("troubles: %+v", troubles)
			}
		}
		var tokens Tokens
		do("POST", "/tokens", NewToken{Token: name}, nil, "")
		do("POST", "/tokens", NewToken{LifetimeMS: -1}, nil, "token")
		do("GET", "/tokens", nil, &tokens, "")
		if n := len(tokens.Tokens); n == 0 || tokens.Tokens[n-1].Token != name {
			t.Errorf("tokens: %+v", tokens)
		}
	}
	use(false)
	r := start(t, c)
	use(true)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}

	// The database knows whose it is.
	c.ServerName = "example.org"
	if _, err := OpenCommands(t.Context(), c, nil); err == nil || !strings.Contains(err.Error(), "belongs to localhost") {
		t.Errorf("another server name: %v", err)
	}
}

func TestSocketIsPrivate(t *testing.T) {
	c := testConfig(t)
	start(t, c)
	info, err := os.Stat(filepath.Join(c.DataDir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if info, err = os.Stat(c.DataDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder: %v %v", info.Mode(), err)
	}
}

func TestSocketInDeepFolder(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", maxSocketPath))
	if _, err := socketPath(deep); err == nil || !strings.Contains(err.Error(), "data_dir") {
		t.Errorf("path too long: %v", err)
	}
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(deep)
	l, err := listenSocket(deep)
	if err != nil {
		t.Fatalf("seen from within the folder: %v", err)
	}
	l.Close()
}

func TestBusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := testConfig(t)
	c.Client.Listen = l.Addr().String()
	s, err := New(t.Context(), Config{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "client.listen") {
		t.Errorf("a busy port: %v", err)
	}
}

// TestDrain: long polls answer at once, requests under way finish, and those that never would are
// ended at the deadline.
func TestDrain(t *testing.T) {
	draining, release := make(chan struct{}), make(chan struct{})
	entered := make(chan struct{}, 3)
	wait := func(until func(context.Context, *web.Request)) web.Handler {
		return func(ctx context.Context, r *web.Request) (*web.Response, error) {
			entered <- struct{}{}
			until(ctx, r)
			return web.Empty, ctx.Err()
		}
	}
	mux, err := web.New(web.Config{Draining: draining, Routes: []web.Route{
		{Method: "GET", Path: "/poll", Op: "poll", Auth: web.None, Handle: wait(func(_ context.Context, r *web.Request) { <-r.Draining() })},
		{Method: "GET", Path: "/send", Op: "send", Auth: web.None, Handle: wait(func(context.Context, *web.Request) { <-release })},
		{Method: "GET", Path: "/stuck", Op: "stuck", Auth: web.None, Handle: wait(func(ctx context.Context, _ *web.Request) { <-ctx.Done() })},
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newPort(l, mux, slog.New(slog.DiscardHandler))
	go p.serve()
	answers := make(map[string]chan int)
	for _, path := range []string{"/poll", "/send", "/stuck"} {
		status := make(chan int, 1)
		answers[path] = status
		go func() {
			resp, err := http.Get("http://" + l.Addr().String() + path)
			if err != nil {
				status <- 0
				return
			}
			resp.Body.Close()
			status <- resp.StatusCode
		}()
		<-entered
	}
	close(draining)
	if got := <-answers["/poll"]; got != 200 {
		t.Errorf("a waiting poll got %d", got)
	}
	go func() {
		close(release)
	}()
	if err := drain([]*port{p}, time.Now().Add(200*time.Millisecond)); err != nil {
		t.Error(err)
	}
	if got := <-answers["/send"]; got != 200 {
		t.Errorf("a request under way got %d", got)
	}
	if got := <-answers["/stuck"]; got != 0 {
		t.Errorf("a request without end got %d", got)
	}
}

func TestTranslate(t *testing.T) {
	if err := translate(fmt.Errorf("store: %w", sqldb.ErrText)); !mxerr.Is(err, mxerr.CodeInvalidParam) {
		t.Error(err)
	}
	if err := errors.New("other"); translate(err) != err {
		t.Error("an unknown error changes")
	}
}
