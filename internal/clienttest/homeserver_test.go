//go:build goolm

package clienttest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"

	"myelin/internal/nettest"
	"myelin/internal/servertest"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

const (
	// startPatience is how long a server may take to answer its first request.
	startPatience = 60 * time.Second
	// knockEvery is how often a starting server is tried: nothing tells when it will answer.
	knockEvery = 50 * time.Millisecond
)

// homeserver is Myelin as a process of its own, which can be killed and started again at the same addresses.
type homeserver struct {
	t       *testing.T
	url     string
	binary  string
	options []string

	process *exec.Cmd
	log     *output
}

// build compiles the server, or takes the program that MYELIN_TEST_CLIENT_BINARY names.
func build(t *testing.T) string {
	t.Helper()
	if binary := os.Getenv("MYELIN_TEST_CLIENT_BINARY"); binary != "" {
		return binary
	}
	binary := filepath.Join(t.TempDir(), "myelin")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	build := exec.Command("go", "build", "-o", binary, "myelin/cmd/myelin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the server: %v\n%s", err, out)
	}
	return binary
}

// federate starts servers that trust each other's certificates.
func federate(t *testing.T, binary string, d sqldb.Dialect, count int) []*homeserver {
	t.Helper()
	dir := t.TempDir()
	authority, err := nettest.NewAuthority()
	must(t, err)
	ca := filepath.Join(dir, "authority.pem")
	must(t, authority.Write(ca))
	servers := make([]*homeserver, count)
	for i := range servers {
		site := filepath.Join(dir, fmt.Sprint(i))
		must(t, os.Mkdir(site, 0o700))
		cert, key := filepath.Join(site, "tls.crt"), filepath.Join(site, "tls.key")
		must(t, authority.Certify("127.0.0.1", cert, key))
		clients, federation := freeAddress(t), freeAddress(t)
		h := &homeserver{t: t, url: "http://" + clients, binary: binary, log: new(output)}
		for key, value := range map[string]string{
			"server_name": federation, "data_dir": filepath.Join(site, "data"), "registration": "open", "rate_limits": "off", "log.requests": "off",
			"client.listen": clients, "federation.listen": federation, "federation.tls_cert": cert, "federation.tls_key": key,
			"federation.ca_file": ca, "federation.allow_networks": "127.0.0.0/8",
		} {
			h.options = append(h.options, "-o", key+"="+value)
		}
		if d == sqldb.PostgreSQL {
			h.options = append(h.options, "-o", "database="+sqldbtest.URL(t, d))
		}
		t.Cleanup(func() { h.kill() })
		h.start()
		servers[i] = h
	}
	return servers
}

// start runs the process and waits until it answers clients.
func (h *homeserver) start() {
	h.t.Helper()
	h.process = exec.Command(h.binary, h.options...)
	h.process.Stderr = h.log
	must(h.t, h.process.Start())
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	again := time.NewTicker(knockEvery)
	defer again.Stop()
	for !h.answers(ctx) {
		select {
		case <-again.C:
		case <-ctx.Done():
			h.t.Fatalf("the server does not start:\n%s", h.log)
		}
	}
}

func (h *homeserver) answers(ctx context.Context) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/_matrix/client/versions", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// kill ends the process without a warning.
func (h *homeserver) kill() {
	if h.process == nil {
		return
	}
	_ = h.process.Process.Kill() // it may have ended by itself
	_ = h.process.Wait()         // it was killed
	h.process = nil
}

// register makes a user without a device and returns its name.
func (h *homeserver) register(name string) string {
	h.t.Helper()
	name = servertest.Unique(name)
	c, err := mautrix.NewClient(h.url, "", "")
	must(h.t, err)
	_, err = c.RegisterDummy(h.t.Context(), &mautrix.ReqRegister[any]{Username: name, Password: servertest.Password, InhibitLogin: true})
	must(h.t, err)
	return name
}

// output keeps the end of what a process writes.
type output struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

const outputKept = 16 << 10

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if len(o.text) > 2*outputKept {
		o.text = bytes.Clone(o.text[len(o.text)-outputKept:])
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}
