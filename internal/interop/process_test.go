package interop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const (
	// startPatience is how long a server may take to answer its first request, and stopPatience to end when it is asked to.
	startPatience = 90 * time.Second
	stopPatience  = 15 * time.Second
	// knockEvery is how often a starting server is tried: nothing tells when it will answer.
	knockEvery = 50 * time.Millisecond
)

// homeserver is a server that runs as a process on this machine. It may be shared by tests that run at once, but for start and
// stop.
type homeserver struct {
	// Such as "Synapse 1.163.2".
	product string
	// The server's name in the federation.
	name string
	// Where clients reach it, without a slash at its end.
	url string
	// command makes the process's command, anew for each start.
	command func() *exec.Cmd
	// abrupt servers are killed without a chance to put their things in order.
	abrupt bool
	// logFile keeps all of the log; empty for the end of it alone.
	logFile string

	// What is known to be wrong with the server, and not looked at: from version 11 on it keeps what was redacted, and it
	// answers requests that it refuses with any error.
	keepsRedacted, blunt bool

	http    *http.Client
	process *exec.Cmd
	ended   chan struct{} // closed when the process has ended
	log     tail
}

func (h *homeserver) String() string { return h.product + " (" + h.name + ")" }

// start runs the process and waits until it answers clients.
func (h *homeserver) start() error {
	h.http = &http.Client{Timeout: requestPatience, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	h.process = h.command()
	out, err := h.process.StderrPipe()
	if err != nil {
		return err
	}
	h.process.Stdout = h.process.Stderr
	if err := h.process.Start(); err != nil {
		return fmt.Errorf("start %s: %w", h, err)
	}
	h.ended = make(chan struct{})
	go h.follow(out)
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	again := time.NewTicker(knockEvery)
	defer again.Stop()
	for {
		if h.answers(ctx) {
			return nil
		}
		select {
		case <-h.ended:
			return fmt.Errorf("%s ended while it started; its log:\n%s", h, &h.log)
		case <-ctx.Done():
			h.stop()
			return fmt.Errorf("%s does not answer after %s; its log:\n%s", h, startPatience, &h.log)
		case <-again.C:
		}
	}
}

func (h *homeserver) answers(ctx context.Context) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/_matrix/client/versions", nil)
	if err != nil {
		return false
	}
	resp, err := h.http.Do(r)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// follow reads the log until the process ends.
func (h *homeserver) follow(out io.Reader) {
	defer close(h.ended)
	if h.logFile != "" {
		if file, err := os.OpenFile(h.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			defer file.Close()
			out = io.TeeReader(out, file)
		}
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		h.log.add(lines.Text())
	}
	_, _ = io.Copy(io.Discard, out) // a line too long for the scanner
	_ = h.process.Wait()            // how it ended is of no interest
}

// stop ends the process. One that isn't running stays as it is.
func (h *homeserver) stop() {
	if h.process == nil {
		return
	}
	if !h.abrupt {
		_ = h.process.Process.Signal(os.Interrupt) // if that fails, it is killed below
		late := time.NewTimer(stopPatience)
		defer late.Stop()
		select {
		case <-h.ended:
		case <-late.C:
		}
	}
	_ = h.process.Process.Kill() // it may have ended
	<-h.ended
	h.http.CloseIdleConnections()
	h.process = nil
}

// freePort finds a port of the loopback that nothing listens on. A server's name holds its port, so it must be known beforehand.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	at, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("a TCP listener without a port")
	}
	return at.Port, nil
}

// tail keeps the end of a log.
type tail struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

const tailLines = 400

func (l *tail) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	if len(l.lines) > 2*tailLines {
		l.lines = append(l.lines[:0], l.lines[len(l.lines)-tailLines:]...)
	}
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines[max(0, len(l.lines)-40):], "\n")
}

// complaints are the lines that speak of something amiss, the newest last; of a panic all that follows, as far as it stands there.
func (l *tail) complaints(most int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var bad []string
	for i, line := range l.lines {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return strings.Join(l.lines[i:min(i+60, len(l.lines))], "\n")
		}
		for _, word := range []string{"WARN", "ERROR", "level=error", "level=warn", "Traceback", "panic"} {
			if strings.Contains(line, word) {
				bad = append(bad, line)
				break
			}
		}
	}
	return strings.Join(bad[max(0, len(bad)-most):], "\n")
}
