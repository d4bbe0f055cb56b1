package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"myelin/internal/config"
)

const (
	socketName = "myelin.sock"
	// maxSocketPath is the longest path that every system takes for a socket.
	maxSocketPath = 100
)

// socketPath is the path of the socket in a data folder, seen from here if that is shorter.
func socketPath(dataDir string) (string, error) {
	path, err := filepath.Abs(filepath.Join(dataDir, socketName))
	if err != nil {
		return "", fmt.Errorf("find the data folder: %w", err)
	}
	if here, err := os.Getwd(); err == nil && len(path) > maxSocketPath {
		if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) {
			path = rel
		}
	}
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("the path of the socket %s is longer than %d bytes; choose a shorter data_dir", path, maxSocketPath)
	}
	return path, nil
}

// listenSocket opens the socket. The caller holds the folder's lock, so what is left of an old
// socket is nobody's.
func listenSocket(dataDir string) (net.Listener, error) {
	path, err := socketPath(dataDir)
	if err != nil {
		return nil, err
	}
	// It gets its mode before its name, so that nobody else can connect in between, even in a folder that is
	// open to others.
	nameless := filepath.Join(filepath.Dir(path), "myelin.new")
	if err := os.Remove(nameless); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: nameless, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(nameless, 0o600), os.Rename(nameless, path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("name the socket: %w", err)
	}
	return &socket{l, path}, nil
}

// socket removes its name when it is closed.
type socket struct {
	net.Listener
	path string
}

func (s *socket) Close() error {
	err := s.Listener.Close()
	if err == nil {
		err = os.Remove(s.path)
	}
	return err
}

// Commands is the way of a command to the server's data: over the socket of the running server, or
// in this process if none runs.
type Commands struct {
	transport http.RoundTripper
	core      *core // nil where a server runs
}

// OpenCommands finds the running server or opens the data itself.
func OpenCommands(ctx context.Context, c *config.Config, log *slog.Logger) (*Commands, error) {
	k, err := openCore(ctx, Config{Config: c, Log: log, Version: "command"})
	if errors.Is(err, ErrInUse) {
		path, pathErr := socketPath(c.DataDir)
		if pathErr != nil {
			return nil, pathErr
		}
		var dialer net.Dialer
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }
		return &Commands{transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, nil
	} else if err != nil {
		return nil, err
	}
	h, err := k.commands()
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	return &Commands{transport: direct{h}, core: k}, nil
}

// Close lets go of the data.
func (c *Commands) Close() error {
	if c.core == nil {
		return nil
	}
	return c.core.close()
}

// Running reports whether a server runs on the data folder.
func (c *Commands) Running() bool { return c.core == nil }

// commandTime bounds one command. Hashing a password on a busy server takes a second at most.
const commandTime = 30 * time.Second

// Do sends a request and decodes its answer. Refusals are errors with the server's sentence.
func (c *Commands) Do(ctx context.Context, method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the command: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://myelin"+path, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("make the command: %w", err)
	}
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("a server holds the data folder and cannot be reached over its socket: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var refusal struct {
			Error string `json:"error"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&refusal); err != nil || refusal.Error == "" {
			return fmt.Errorf("the server answered %s", resp.Status)
		}
		return errors.New(refusal.Error)
	}
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// direct serves requests by a handler in this process.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &answer{header: make(http.Header), status: http.StatusOK}
	d.handler.ServeHTTP(w, r)
	return &http.Response{
		StatusCode: w.status, Status: http.StatusText(w.status), Header: w.header,
		Body: io.NopCloser(&w.body), Request: r,
	}, nil
}

// answer collects what a handler writes.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }
