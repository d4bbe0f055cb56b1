package crashtest

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// build compiles the server once.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "myelin-crash")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "myelin")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	cmd := exec.Command("go", "build", "-o", binary, "myelin/cmd/myelin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return binary, cmd.Run()
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binary, err := build(); err == nil {
		os.RemoveAll(filepath.Dir(binary))
	}
	os.Exit(code)
}

// process is a server that can be killed.
type process struct {
	cmd *exec.Cmd
	log *tail
	// ready gets the URL, and is closed when the process ends.
	ready chan string
	ended chan struct{}
}

// patience is how long a server may take to start.
const patience = 30 * time.Second

var listens = regexp.MustCompile(`msg=ready .*listen=(\S+)`)

// spawn starts the server on a data folder.
func spawn(t *testing.T, options []string) *process {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatalf("build the server: %v", err)
	}
	p := &process{cmd: exec.Command(binary, options...), log: new(tail), ready: make(chan string, 1), ended: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.follow(stderr)
	return p
}

// follow reads the log until the process ends.
func (p *process) follow(stderr io.Reader) {
	defer close(p.ended)
	defer close(p.ready)
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	found := false
	for lines.Scan() {
		p.log.add(lines.Text())
		if m := listens.FindStringSubmatch(lines.Text()); m != nil && !found {
			found = true
			p.ready <- "http://" + m[1]
		}
	}
	_ = p.cmd.Wait() // it was killed
}

// kill ends the process at once and waits for it.
func (p *process) kill(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		t.Errorf("the server ended by itself:\n%s", p.log)
		return
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Errorf("kill the server: %v", err)
	}
	<-p.ended
}

// url waits until the server is ready.
func (p *process) url(t *testing.T) string {
	t.Helper()
	select {
	case url, ok := <-p.ready:
		if !ok {
			t.Fatalf("the server does not start:\n%s", p.log)
		}
		return url
	case <-time.After(patience):
		t.Fatalf("the server is not ready after %s:\n%s", patience, p.log)
	}
	return ""
}

// tail keeps the last lines of a log, and every error.
type tail struct {
	mu     sync.Mutex
	lines  []string // guarded by mu
	errors []string // guarded by mu
}

const tailLines = 30

func (l *tail) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	if len(l.lines) > 2*tailLines {
		l.lines = append(l.lines[:0], l.lines[len(l.lines)-tailLines:]...)
	}
	if strings.Contains(line, "level=ERROR") {
		l.errors = append(l.errors, line)
	}
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines[max(0, len(l.lines)-tailLines):], "\n")
}

// complaints returns the errors the server logged.
func (l *tail) complaints() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.errors...)
}
