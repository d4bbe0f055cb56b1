package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"myelin/internal/nettest"
	"myelin/internal/sqldb"
	"myelin/matrix/stateres"
)

// asProgram makes the test binary behave as the program itself.
const asProgram = "MYELIN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// call runs a command within this process, in the current folder.
func call(t *testing.T, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(t.Context())
	return out.String(), err
}

func mustCall(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := call(t, stdin, args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out
}

func TestAccounts(t *testing.T) {
	t.Chdir(t.TempDir())
	if out := mustCall(t, "", "user", "create", "alice", "--admin"); !strings.Contains(out, "@alice:localhost") || !strings.Contains(out, "Password: ") {
		t.Error(out)
	}
	if out := mustCall(t, "correct horse\n", "user", "create", "bob", "--password-stdin"); strings.Contains(out, "Password") {
		t.Error(out)
	}
	mustCall(t, "", "user", "password", "@bob:localhost", "--password", "battery staple")
	for _, flag := range []struct{ command, mark string }{{"lock", "locked"}, {"suspend", "suspended"}, {"promote", "administrator"}} {
		mustCall(t, "", "user", flag.command, "bob")
		if out := strings.Split(mustCall(t, "", "user", "list"), "\n")[1]; !strings.Contains(out, flag.mark) {
			t.Errorf("after %s: %s", flag.command, out)
		}
	}
	for _, command := range []string{"unlock", "unsuspend", "demote"} {
		mustCall(t, "", "user", command, "@bob:localhost")
	}
	if out := strings.Split(mustCall(t, "", "user", "list"), "\n")[1]; strings.Contains(out, ",") || strings.Contains(out, "locked") {
		t.Errorf("after all is taken back: %s", out)
	}
	mustCall(t, "", "user", "deactivate", "bob")
	lines := strings.Split(strings.TrimSpace(mustCall(t, "", "user", "list")), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], "administrator") || !strings.Contains(lines[1], "deactivated 2") {
		t.Errorf("%q", lines)
	}
	token := strings.TrimSpace(mustCall(t, "", "token", "create", "--uses", "2", "--lifetime", "1h"))
	if out := mustCall(t, "", "token", "list"); !strings.Contains(out, token+"  used 0 of 2, good until 2") {
		t.Error(out)
	}
	for _, args := range [][]string{
		{"user", "create", "alice"}, {"user", "create"}, {"user", "create", "A B"}, {"user", "deactivate", "nobody"}, {"user", "lock", "nobody"},
		{"token", "create", "--uses", "-1"}, {"token", "create", "no/slash"}, {"serve", "now"}, {"nonsense"},
		{"user", "list", "-o", "data_dirr=x"}, {"user", "create", "carol", "--password-stdin"}, {"user", "create", "carol", "--password", "x"},
	} {
		if out, err := call(t, "", args...); err == nil {
			t.Errorf("%v succeeds: %s", args, out)
		}
	}
}

func TestConfigCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	manual := mustCall(t, "", "config", "describe")
	if err := os.WriteFile("myelin.toml", []byte(manual), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := mustCall(t, "", "config", "check", "--config", "myelin.toml", "-o", "registration=closed"); !strings.Contains(out, `registration = "closed"  (-o)`) || !strings.Contains(out, "valid") {
		t.Error(out)
	}
	if _, err := call(t, "", "config", "check", "-o", "registratoin=closed"); err == nil || !strings.Contains(err.Error(), `"registration"`) {
		t.Error(err)
	}
	if out := mustCall(t, "", "version"); !strings.HasPrefix(out, "Myelin ") {
		t.Error(out)
	}
}

func TestDoctor(t *testing.T) {
	t.Chdir(t.TempDir())
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	out, err := call(t, "", "doctor", "-o", "client.listen=127.0.0.1:0", "-o", "registration=open")
	if err != nil || !strings.Contains(out, "does not exist yet") || !strings.Contains(out, "? Registration is open") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = call(t, "", "doctor", "-o", "client.listen="+busy.Addr().String())
	if err == nil || !strings.Contains(out, "- Another program has") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = call(t, "", "doctor", "-o", "client.listen=x")
	if err == nil || !strings.Contains(out, "- client.listen:") {
		t.Errorf("%v\n%s", err, out)
	}
	authority, err := nettest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Certify("there.example", "tls.crt", "tls.key"); err != nil {
		t.Fatal(err)
	}
	serving := []string{"doctor", "-o", "client.listen=127.0.0.1:0", "-o", "federation.listen=" + busy.Addr().String(), "-o", "federation.tls_cert=tls.crt", "-o", "federation.tls_key=tls.key", "-o"}
	for name, want := range map[string]string{"there.example": "+ The certificate for other servers is for there.example", "here.example": "is not for here.example"} {
		out, err = call(t, "", append(serving, "server_name="+name)...)
		if err == nil || !strings.Contains(out, want) || !strings.Contains(out, "(federation.listen), or this machine has no such address") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	mustCall(t, "", "token", "list") // makes the data folder
	out, err = call(t, "", "doctor", "-o", "client.listen=127.0.0.1:0")
	if err != nil || !strings.Contains(out, "+ Files can be stored in myelin-data/media.") {
		t.Errorf("%v\n%s", err, out)
	}
	const secret = "nobody-may-see-this"
	out, err = call(t, "", "doctor", "-o", "client.listen=127.0.0.1:0", "-o", "s3.endpoint=http://127.0.0.1:1", "-o", "s3.bucket=files", "-o", "s3.access_key=a", "-o", "s3.secret_key="+secret)
	if err == nil || !strings.Contains(out, "- Files can't be stored in the bucket files at http://127.0.0.1:1: ") || strings.Contains(out, secret) {
		t.Errorf("%v\n%s", err, out)
	}
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = call(t, "", "doctor", "-o", "data_dir=file")
	if err == nil || !strings.Contains(out, "is no folder") {
		t.Errorf("%v\n%s", err, out)
	}
}

var giveUp = sqldb.SQL(`INSERT INTO given_up (room_id, event_id, origin, since, at, reason) VALUES ('!r:a.example', '$e', 'a.example', 0, $1, $2)`)

// The doctor says which events a server has given up, and why.
func TestDoctorTellsWhatWasGivenUp(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	p := launch(t, dir)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(); err != nil {
		t.Fatal(err)
	}
	db, err := sqldb.Open(t.Context(), sqldb.Config{URL: "sqlite:" + filepath.Join(dir, "myelin-data", "myelin.db")})
	if err != nil {
		t.Fatal(err)
	}
	reason := fmt.Sprintf("after 16 attempts: room: %v: more than 500000 events or 512 MiB", stateres.ErrTooLarge)
	err = db.Write(t.Context(), func(tx *sqldb.Tx) error {
		tx.Queue(giveUp, time.Now().UnixMilli(), reason)
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	p = launch(t, dir)
	out, err := call(t, "", "doctor", "-o", "client.listen="+strings.TrimPrefix(p.url, "http://"))
	want := "? The room !r:a.example lacks the event $e of a.example since 1970-01-01 00:00:00, and what follows it: " + reason + "."
	if err != nil || !strings.Contains(out, want) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"a/b.toml": "a/b.toml", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'"} {
		if got := quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// process is the program as a process of its own.
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Reader // of standard error
	url   string
}

// launch starts the program and waits until it serves.
func launch(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(t.Context(), os.Args[0], append([]string{"-o", "client.listen=127.0.0.1:0"}, args...)...)}
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewReader(stderr)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	p.url = strings.Fields(strings.SplitAfter(p.until(t, "Myelin serves"), " at ")[1])[0]
	return p
}

// until reads lines up to one that holds a text.
func (p *process) until(t *testing.T, text string) string {
	t.Helper()
	var read strings.Builder
	for {
		line, err := p.lines.ReadString('\n')
		read.WriteString(line)
		if strings.Contains(line, text) {
			return line
		}
		if err != nil {
			t.Fatalf("the program ends without saying %q:\n%s", text, &read)
		}
	}
}

func (p *process) wait() error {
	_, _ = io.Copy(io.Discard, p.lines)
	return p.cmd.Wait()
}

func TestProcess(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "myelin.toml")
	level := func(l string) {
		if err := os.WriteFile(file, []byte("[log]\nlevel = '"+l+"'\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	level("info")
	p := launch(t, dir, "--config", file)

	t.Chdir(dir)
	_, err := call(t, "", "serve", "-o", "client.listen=127.0.0.1:0")
	if want := fmt.Sprintf("process %d", p.cmd.Process.Pid); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a second process: %v, want %s", err, want)
	}
	mustCall(t, "", "user", "create", "alice")

	if out, err := call(t, "", "key", "rotate"); err == nil || !strings.Contains(err.Error(), "Stop it") {
		t.Errorf("a key is retired that a running server signs with: %v %s", err, out)
	}

	// SIGHUP takes up the log's level, and refuses a broken file.
	level("debug")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.until(t, "level=DEBUG")
	level("shouting")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.until(t, "stays as it was")
	level("info")

	// Killed at once, it leaves no lock and no broken database behind.
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.wait()
	rotated := strings.Fields(mustCall(t, "", "key", "rotate"))
	p = launch(t, dir)
	var keys struct {
		Now map[string]any `json:"verify_keys"`
		Old map[string]any `json:"old_verify_keys"`
	}
	resp, err := http.Get(p.url + "/_matrix/key/v2/server")
	if err != nil {
		t.Fatal(err)
	}
	err = json.NewDecoder(resp.Body).Decode(&keys)
	resp.Body.Close()
	fresh, retired := rotated[0], rotated[len(rotated)-3]
	if err != nil || len(keys.Now) != 1 || keys.Now[fresh] == nil || len(keys.Old) != 1 || keys.Old[retired] == nil {
		t.Errorf("after %q the server publishes %v, %v", rotated, keys, err)
	}
	if out := mustCall(t, "", "user", "list"); !strings.Contains(out, "@alice:localhost") {
		t.Error(out)
	}
	resp, err = http.Get(p.url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	start := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.wait(); errors.As(err, &exit) || err != nil {
		t.Errorf("ends with %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("takes %s to stop", took)
	}
}
