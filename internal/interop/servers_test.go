package interop

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// scratch is the folder of the whole run, with an authority in it.
var scratch = sync.OnceValues(func() (*authority, error) {
	dir, err := os.MkdirTemp("", "myelin-interop")
	if err != nil {
		return nil, err
	}
	return newAuthority(dir)
})

// running are the servers of this run: each is started once, by the first test that needs it.
var running struct {
	mu      sync.Mutex
	servers []*homeserver // guarded by mu
}

func TestMain(m *testing.M) {
	code := m.Run()
	running.mu.Lock()
	for _, h := range running.servers {
		h.stop()
	}
	running.mu.Unlock()
	if a, err := scratch(); err == nil && !keep() {
		os.RemoveAll(filepath.Dir(a.file))
	}
	os.Exit(code)
}

// keep reports whether data and logs of the servers are to be looked at after the run.
func keep() bool { return os.Getenv("MYELIN_TEST_INTEROP_KEEP") != "" }

// site is what every server needs: a folder, a certificate and two ports.
type site struct {
	authority        *authority
	dir              string
	certificate, key string
	federation       int
	clients          int
}

func newSite(product string) (*site, error) {
	a, err := scratch()
	if err != nil {
		return nil, err
	}
	s := &site{authority: a, dir: filepath.Join(filepath.Dir(a.file), product)}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	if s.certificate, s.key, err = a.issue(s.dir); err != nil {
		return nil, err
	}
	if s.federation, err = freePort(); err != nil {
		return nil, err
	}
	s.clients, err = freePort()
	return s, err
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

// write puts a configuration into the folder as JSON, which is YAML too.
func (s *site) write(name string, configuration map[string]any) (string, error) {
	text, err := json.MarshalIndent(configuration, "", "  ")
	if err != nil {
		return "", err
	}
	return s.file(name), os.WriteFile(s.file(name), text, 0o600)
}

// open starts a server at the site.
func (s *site) open(h *homeserver) (*homeserver, error) {
	h.url = "http://127.0.0.1:" + strconv.Itoa(s.clients)
	if keep() {
		h.logFile = s.file("log")
	}
	if err := h.start(); err != nil {
		return nil, err
	}
	running.mu.Lock()
	running.servers = append(running.servers, h)
	running.mu.Unlock()
	return h, nil
}

// missing is why a server can't be run here, as opposed to one that fails.
type missing struct{ error }

// need returns a server or ends the test: skipped where it is missing and not required.
func need(t *testing.T, server func() (*homeserver, error), required bool) *homeserver {
	t.Helper()
	h, err := server()
	var lack missing
	switch {
	case err == nil:
		return h
	case errors.As(err, &lack) && !(required && os.Getenv("MYELIN_REQUIRE") == "all"):
		t.Skip(err)
	}
	t.Fatal(err)
	return nil
}

// build returns our program: the one that MYELIN_TEST_INTEROP_BINARY names, or one made from this source.
func (s *site) build() (string, error) {
	if binary := os.Getenv("MYELIN_TEST_INTEROP_BINARY"); binary != "" {
		return binary, nil
	}
	binary := s.file("myelin")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	build := exec.Command("go", "build", "-o", binary, "myelin/cmd/myelin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build Myelin: %w\n%s", err, out)
	}
	return binary, nil
}

// myelin is ours, killed without warning where it has to go down.
var myelin = sync.OnceValues(func() (*homeserver, error) {
	s, err := newSite("myelin")
	if err != nil {
		return nil, err
	}
	binary, err := s.build()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("localhost:%d", s.federation)
	var options []string
	for key, value := range map[string]string{
		"server_name": name, "data_dir": s.file("data"), "registration": "open", "rate_limits": "off", "log.requests": map[bool]string{true: "on", false: "off"}[keep()],
		"log.level": map[bool]string{true: "debug", false: "info"}[keep()],
		"database":  os.Getenv("MYELIN_TEST_INTEROP_DATABASE"), "client.listen": fmt.Sprintf("127.0.0.1:%d", s.clients),
		"federation.listen": fmt.Sprintf("127.0.0.1:%d", s.federation), "federation.tls_cert": s.certificate, "federation.tls_key": s.key,
		"federation.ca_file": s.authority.file, "federation.allow_networks": "127.0.0.0/8,::1/128",
	} {
		options = append(options, "-o", key+"="+value)
	}
	return s.open(&homeserver{
		product: "Myelin", name: name, abrupt: true,
		command: func() *exec.Cmd { return exec.Command(binary, options...) },
	})
})

// synapse runs from its Python package.
var synapse = sync.OnceValues(func() (*homeserver, error) {
	python, version, err := findSynapse()
	if err != nil {
		return nil, missing{err}
	}
	s, err := newSite("synapse")
	if err != nil {
		return nil, err
	}
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // never fails
	if err := os.WriteFile(s.file("signing.key"), []byte("ed25519 a_test "+base64.RawStdEncoding.EncodeToString(seed)+"\n"), 0o600); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("localhost:%d", s.federation)
	plenty := map[string]any{"per_second": 1e5, "burst_count": 1e5}
	listener := func(port int, tls bool) map[string]any {
		return map[string]any{
			"port": port, "tls": tls, "type": "http", "bind_addresses": []string{"127.0.0.1"},
			"resources": []any{map[string]any{"names": []string{"client", "federation"}}},
		}
	}
	file, err := s.write("homeserver.yaml", map[string]any{
		"server_name": name, "report_stats": false, "signing_key_path": s.file("signing.key"), "media_store_path": s.file("media"), "pid_file": s.file("pid"),
		"macaroon_secret_key": "of no use to anybody", "form_secret": "nor this",
		"database":             map[string]any{"name": "sqlite3", "args": map[string]any{"database": s.file("synapse.db")}},
		"listeners":            []any{listener(s.federation, true), listener(s.clients, false)},
		"tls_certificate_path": s.certificate, "tls_private_key_path": s.key, "federation_custom_ca_list": []string{s.authority.file},
		"trusted_key_servers": []any{}, "ip_range_blacklist": []string{}, "federation_ip_range_blacklist": []string{},
		"enable_registration": true, "enable_registration_without_verification": true, "bcrypt_rounds": 4, "presence": map[string]any{"enabled": false},
		"rc_message": plenty, "rc_registration": plenty, "rc_admin_redaction": plenty, "rc_joins_per_room": plenty, "rc_third_party_invite": plenty,
		"rc_login":   map[string]any{"address": plenty, "account": plenty, "failed_attempts": plenty},
		"rc_joins":   map[string]any{"local": plenty, "remote": plenty},
		"rc_invites": map[string]any{"per_room": plenty, "per_user": plenty, "per_issuer": plenty},
		"rc_federation": map[string]any{
			"window_size": 1000, "sleep_limit": 100000, "sleep_delay": 1, "reject_limit": 100000, "concurrent": 100,
		},
		// It tries again soon what a server that is down didn't take.
		"federation": map[string]any{"max_long_retries": 2, "max_long_retry_delay": "1s", "destination_min_retry_interval": "1s", "destination_max_retry_interval": "5s"},
		"federation_rr_transactions_per_room_per_second": 1000,
	})
	if err != nil {
		return nil, err
	}
	return s.open(&homeserver{product: "Synapse " + version, name: name, command: func() *exec.Cmd {
		cmd := exec.Command(python, "-m", "synapse.app.homeserver", "--config-path", file)
		cmd.Dir = s.dir
		return cmd
	}})
})

func findSynapse() (python, version string, err error) {
	if why := os.Getenv("MYELIN_SYNAPSE_UNREACHABLE"); why != "" {
		return "", "", errors.New(why)
	}
	if python = os.Getenv("MYELIN_SYNAPSE"); python == "" {
		if python, err = exec.LookPath("python3"); err != nil {
			return "", "", errors.New("there is no Synapse: MYELIN_SYNAPSE names no Python that has matrix-synapse, and there is no python3 in PATH")
		}
	}
	out, err := exec.Command(python, "-c", "import synapse; print(synapse.__version__)").Output()
	if err != nil {
		return "", "", fmt.Errorf("there is no Synapse: %s has no matrix-synapse; set MYELIN_SYNAPSE to a Python that has it", python)
	}
	return python, strings.TrimSpace(string(out)), nil
}

// dendrite runs from a folder of programs.
var dendrite = sync.OnceValues(func() (*homeserver, error) {
	folder := os.Getenv("MYELIN_DENDRITE")
	if folder == "" {
		return nil, missing{errors.New("there is no Dendrite: MYELIN_DENDRITE names no folder with the program dendrite")}
	}
	binary := filepath.Join(folder, "dendrite")
	version, err := exec.Command(binary, "-version").Output()
	if err != nil {
		return nil, missing{fmt.Errorf("there is no Dendrite: %s -version: %w", binary, err)}
	}
	s, err := newSite("dendrite")
	if err != nil {
		return nil, err
	}
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // never fails
	key := pem.EncodeToMemory(&pem.Block{Type: "MATRIX PRIVATE KEY", Headers: map[string]string{"Key-ID": "ed25519:test"}, Bytes: seed})
	if err := os.WriteFile(s.file("matrix.pem"), key, 0o600); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("127.0.0.1:%d", s.federation)
	database := func(part string) map[string]any {
		return map[string]any{"connection_string": "file:" + s.file(part+".db")}
	}
	file, err := s.write("dendrite.yaml", map[string]any{
		"version": 2,
		"global": map[string]any{
			"server_name": name, "private_key": s.file("matrix.pem"), "jetstream": map[string]any{"storage_path": s.file("jetstream")},
			"presence": map[string]any{"enable_inbound": false, "enable_outbound": false},
		},
		"client_api": map[string]any{"registration_disabled": false, "rate_limiting": map[string]any{"enabled": false}},
		"federation_api": map[string]any{
			"database": database("federation"), "key_perspectives": []any{}, "deny_networks": []string{}, "allow_networks": []string{"0.0.0.0/0", "::/0"},
		},
		"key_server":  map[string]any{"database": database("keys")},
		"media_api":   map[string]any{"database": database("media"), "base_path": s.file("media")},
		"mscs":        map[string]any{"database": database("mscs")},
		"relay_api":   map[string]any{"database": database("relay")},
		"room_server": map[string]any{"database": database("rooms")},
		"sync_api":    map[string]any{"database": database("sync"), "search": map[string]any{"enabled": false}},
		"user_api":    map[string]any{"account_database": database("users"), "bcrypt_cost": 4},
		"logging":     []any{map[string]any{"type": "std", "level": "info"}},
	})
	if err != nil {
		return nil, err
	}
	return s.open(&homeserver{product: "Dendrite " + strings.TrimSpace(string(version)), name: name, keepsRedacted: true, blunt: true, command: func() *exec.Cmd {
		cmd := exec.Command(binary, "-config", file, "-really-enable-open-registration", "-tls-cert", s.certificate, "-tls-key", s.key,
			"-http-bind-address", fmt.Sprintf("127.0.0.1:%d", s.clients), "-https-bind-address", fmt.Sprintf("127.0.0.1:%d", s.federation))
		cmd.Dir = s.dir
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+s.authority.file)
		return cmd
	}})
})
