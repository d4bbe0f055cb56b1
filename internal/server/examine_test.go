package server

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/config"
	"myelin/internal/nettest"
)

// world is two servers on a network in memory, of which the first looks at the second.
type world struct {
	*nettest.Network
	folder     string
	authority  *nettest.Authority
	here, they *config.Config
	hosts      map[string]*nettest.Host
}

func newWorld(t *testing.T) *world {
	t.Helper()
	authority, err := nettest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Network: nettest.New(1), folder: t.TempDir(), authority: authority, hosts: make(map[string]*nettest.Host)}
	if err := authority.Write(filepath.Join(w.folder, "ca")); err != nil {
		t.Fatal(err)
	}
	w.here, w.they = w.config(t, "here.test"), w.config(t, "there.test")
	return w
}

func (w *world) config(t *testing.T, name string) *config.Config {
	t.Helper()
	c := config.Default()
	c.ServerName = name
	c.DataDir = filepath.Join(w.folder, name)
	f := &c.Federation
	f.Listen, f.CAFile, f.AllowNetworks = ":8448", filepath.Join(w.folder, "ca"), []string{"10.0.0.0/8"}
	f.TLSCert, f.TLSKey = filepath.Join(w.folder, name+".crt"), filepath.Join(w.folder, name+".key")
	w.certify(t, c, name)
	w.hosts[name] = w.Host(name)
	return c
}

func (w *world) certify(t *testing.T, c *config.Config, name string) {
	t.Helper()
	if err := w.authority.Certify(name, c.Federation.TLSCert, c.Federation.TLSKey); err != nil {
		t.Fatal(err)
	}
}

// run builds a server and serves until the test ends.
func (w *world) run(t *testing.T, c *config.Config) *Server {
	t.Helper()
	host := w.hosts[c.ServerName]
	ready := make(chan struct{})
	s, err := New(t.Context(), Config{
		Config: c, Version: "1.2.3", Listen: host.Listen, Dial: host.Dial, Resolver: host, NoCommands: true,
		Ready: func(net.Addr) { close(ready) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		// A machine that crashes takes the ports with it.
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	return s
}

// examine asks the first server about another one, as the command does.
func (w *world) examine(t *testing.T, s *Server, name string) (text string, wrong int) {
	t.Helper()
	h, err := s.commands()
	if err != nil {
		t.Fatal(err)
	}
	var found Examination
	if err := (&Commands{transport: direct{h}}).Do(t.Context(), "GET", "/federation/"+name, nil, &found); err != nil {
		t.Fatal(err)
	}
	for _, f := range found.Findings {
		text += string(f.Verdict) + ": " + f.Text + "\n"
		if f.Verdict == Wrong {
			wrong++
		}
	}
	return text, wrong
}

func TestExamineServers(t *testing.T) {
	for name, c := range map[string]struct {
		// before changes the world before the servers run, after while they do.
		before, after func(t *testing.T, w *world)
		name          string
		want          []string
		wrong         bool
	}{
		"all is well": {
			want: []string{"good: 10.0.0.", "there.test", "certificate", "clock agrees", "runs Myelin 1.2.3", "one key", "takes requests that we sign"},
		},
		"ourselves": {name: "here.test", want: []string{"think: here.test is this server"}},
		"nobody":    {name: "nowhere.test", want: []string{"wrong:", "nowhere.test"}, wrong: true},
		"federation off": {
			before: func(_ *testing.T, w *world) { w.here.Federation.Enabled = false },
			want:   []string{"federation.enabled is false"}, wrong: true,
		},
		"denied": {
			before: func(_ *testing.T, w *world) { w.here.Federation.Deny = []string{"there.*"} },
			want:   []string{"federation.deny"}, wrong: true,
		},
		"a private address": {
			before: func(_ *testing.T, w *world) { w.here.Federation.AllowNetworks = nil },
			want:   []string{"federation.allow_networks"}, wrong: true,
		},
		"another's certificate": {
			before: func(t *testing.T, w *world) { w.certify(t, w.they, "elsewhere.test") },
			want:   []string{"wrong: 10.0.0.", "not for there.test", "elsewhere.test"}, wrong: true,
		},
		"an unknown authority": {
			before: func(_ *testing.T, w *world) { w.here.Federation.CAFile = "" },
			want:   []string{"authority", "federation.ca_file"}, wrong: true,
		},
		"it is down": {
			after: func(_ *testing.T, w *world) { w.hosts["there.test"].Crash() },
			want:  []string{"wrong: 10.0.0.", "connection refused"}, wrong: true,
		},
		"a firewall": {
			after: func(_ *testing.T, w *world) {
				w.SetFaults(nettest.Faults{Min: time.Hour, Max: time.Hour})
			},
			want: []string{"wrong: 10.0.0.", "firewall"}, wrong: true,
		},
		"it can't come back": {
			before: func(_ *testing.T, w *world) { w.here.Federation.Listen = ":1" },
			want:   []string{"one key", "wrong: It refuses requests that we sign", "fetch its keys"}, wrong: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if c.before != nil {
					c.before(t, w)
				}
				here := w.run(t, w.here)
				w.run(t, w.they)
				if c.after != nil {
					c.after(t, w)
				}
				about := c.name
				if about == "" {
					about = "there.test"
				}
				text, wrong := w.examine(t, here, about)
				if (wrong > 0) != c.wrong {
					t.Errorf("%d findings are wrong", wrong)
				}
				for _, want := range c.want {
					if !strings.Contains(text, want) {
						t.Errorf("it does not say %q", want)
					}
				}
				if t.Failed() {
					t.Log(text)
				}
			})
		})
	}
}

func TestExamineClock(t *testing.T) {
	for off, want := range map[time.Duration]Verdict{0: Good, 2 * time.Minute: Think, -2 * time.Minute: Think, time.Hour: Wrong, -time.Hour: Wrong} {
		x := new(examiner)
		x.clock(time.Now().Add(off))
		if len(x.Findings) != 1 || x.Findings[0].Verdict != want {
			t.Errorf("%s off: %v", off, x.Findings)
		}
	}
}
