package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"myelin/internal/config"
	"myelin/internal/nettest"
	"myelin/internal/room"
	"myelin/matrix/id"
)

// BenchmarkJoinMemory joins a room of MYELIN_BENCH_MEMBERS members (20,000 by default) that another server holds. Each server is a process
// of its own, and they meet by HTTPS. It reports how much memory the joining process had resident at most, until it answered the join and until it knew all
// members, and how long either took.
func BenchmarkJoinMemory(b *testing.B) {
	members, err := strconv.Atoi(os.Getenv("MYELIN_BENCH_MEMBERS"))
	if err != nil {
		members = 20_000
	}
	dir := b.TempDir()
	binary := filepath.Join(dir, "myelin")
	build := exec.Command("go", "build", "-o", binary, "myelin/cmd/myelin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build Myelin: %v\n%s", err, out)
	}
	authority, err := nettest.NewAuthority()
	must(b, err)
	must(b, authority.Write(filepath.Join(dir, "ca.pem")))
	must(b, authority.Certify("127.0.0.1", filepath.Join(dir, "crt.pem"), filepath.Join(dir, "key.pem")))

	there := newNeighbour(b, binary, dir, "there")
	in := there.crowd(b, members)
	there.run(b)
	for n := range b.N {
		here := newNeighbour(b, binary, dir, fmt.Sprint("here", n))
		here.run(b)
		token := here.call(b, "POST", "register?kind=user", "", `{"username":"bob","password":"correct horse","auth":{"type":"m.login.dummy"}}`)["access_token"].(string)
		began, idle := time.Now(), here.peak(b)
		here.call(b, "POST", "join/"+string(in)+"?server_name="+there.name, token, `{}`)
		usable, peakThen := time.Since(began), here.peak(b)
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
			joined, _ := here.call(b, "GET", "rooms/"+string(in)+"/joined_members", token, "")["joined"].(map[string]any)
			if len(joined) >= members {
				break
			}
			if time.Now().After(deadline) {
				b.Fatalf("only %d members are known", len(joined))
			}
		}
		b.ReportMetric(usable.Seconds(), "s-usable")
		b.ReportMetric(time.Since(began).Seconds(), "s-whole")
		b.ReportMetric(idle, "MiB-before")
		b.ReportMetric(peakThen, "MiB-usable")
		b.ReportMetric(here.peak(b), "MiB-whole")
		here.stop()
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// neighbour is a server that will be a process of its own.
type neighbour struct {
	name, clients string
	config        *config.Config
	binary        string
	options       []string
	process       *os.Process
}

func newNeighbour(b *testing.B, binary, dir, folder string) *neighbour {
	var ports [2]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(b, err)
		ports[i] = l.Addr().String()
		must(b, l.Close())
	}
	n := &neighbour{name: ports[0], clients: ports[1], binary: binary}
	c := config.Default()
	c.ServerName, c.DataDir = n.name, filepath.Join(dir, folder)
	n.config = c
	for _, option := range []string{
		"server_name=" + n.name, "data_dir=" + c.DataDir, "registration=open", "rate_limits=off", "log.level=warn", "client.listen=" + n.clients,
		"federation.listen=" + n.name, "federation.tls_cert=" + filepath.Join(dir, "crt.pem"), "federation.tls_key=" + filepath.Join(dir, "key.pem"),
		"federation.ca_file=" + filepath.Join(dir, "ca.pem"), "federation.allow_networks=127.0.0.0/8",
	} {
		n.options = append(n.options, "-o", option)
	}
	return n
}

// crowd makes a room of so many members.
func (n *neighbour) crowd(b *testing.B, members int) id.RoomID {
	s, err := New(b.Context(), Config{Config: n.config, Version: "test"})
	must(b, err)
	in, err := s.rooms.Create(b.Context(), room.Creation{Creator: id.UserID("@alice:" + n.name), Preset: room.PublicChat})
	must(b, err)
	var next atomic.Int64
	var work sync.WaitGroup
	for range 64 {
		work.Go(func() {
			for m := next.Add(1); m < int64(members); m = next.Add(1) {
				u := id.UserID(fmt.Sprintf("@member%d:%s", m, n.name))
				if _, err := s.rooms.Join(b.Context(), room.Join{Membership: room.Membership{Room: in, Sender: u}}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	must(b, s.Close())
	return in
}

// run starts the process and waits until it answers.
func (n *neighbour) run(b *testing.B) {
	cmd := exec.Command(n.binary, n.options...)
	var said bytes.Buffer
	cmd.Stderr = &said
	must(b, cmd.Start())
	n.process = cmd.Process
	b.Cleanup(func() {
		n.stop()
		_ = cmd.Wait()
		if b.Failed() {
			b.Logf("%s says:\n%s", n.name, &said)
		}
	})
	for range 200 {
		if resp, err := http.Get("http://" + n.clients + "/_matrix/client/versions"); err == nil {
			resp.Body.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.Fatalf("%s doesn't answer:\n%s", n.name, &said)
}

func (n *neighbour) stop() { _ = n.process.Kill() }

func (n *neighbour) call(b *testing.B, method, path, token, body string) map[string]any {
	b.Helper()
	rq, err := http.NewRequestWithContext(b.Context(), method, "http://"+n.clients+"/_matrix/client/v3/"+path, strings.NewReader(body))
	must(b, err)
	if token != "" {
		rq.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(rq)
	must(b, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(b, err)
	var out map[string]any
	must(b, json.Unmarshal(raw, &out))
	if resp.StatusCode != http.StatusOK {
		b.Fatalf("%s %s: %d %.500s", method, path, resp.StatusCode, raw)
	}
	return out
}

// peak is the most memory that the process ever had resident, in MiB.
func (n *neighbour) peak(b *testing.B) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.process.Pid))
	if err != nil {
		b.Skip("there is no /proc here: ", err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			must(b, err)
			return kib / 1024
		}
	}
	b.Skip("the system doesn't say how much memory was resident")
	return 0
}
