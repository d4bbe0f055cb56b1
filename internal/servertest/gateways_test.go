package servertest

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/config"
	"myelin/internal/nettest"
)

// pushGateway is a push gateway on a Net.
type pushGateway struct {
	mu   sync.Mutex
	got  []gjson.Result // guarded by mu; the notifications
	lies []func(w http.ResponseWriter, r *http.Request)
	more chan struct{} // holds one signal at most: that there is another one
}

// pushGateway runs a gateway, which answers with the lies one after the other, and after that as it should.
func (n *Net) pushGateway(tb testing.TB, name string, lies ...func(w http.ResponseWriter, r *http.Request)) *pushGateway {
	tb.Helper()
	g := &pushGateway{lies: lies, more: make(chan struct{}, 1)}
	err := n.authority.Certify(name, n.path(name+".crt"), n.path(name+".key"))
	if err != nil {
		tb.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(n.path(name+".crt"), n.path(name+".key"))
	if err != nil {
		tb.Fatal(err)
	}
	l, err := n.Host(name).Listen("tcp", ":443")
	if err != nil {
		tb.Fatal(err)
	}
	server := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}, Handler: g, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(l, "", "") }()
	tb.Cleanup(func() { server.Close(); <-done })
	return g
}

func (g *pushGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	g.mu.Lock()
	g.got = append(g.got, gjson.ParseBytes(body).Get("notification"))
	lie := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"rejected":[]}`) }
	if len(g.lies) > 0 {
		lie, g.lies = g.lies[0], g.lies[1:]
	}
	g.mu.Unlock()
	lie(w, r)
	select {
	case g.more <- struct{}{}:
	default:
	}
}

// until waits until the gateway was told of an event so often.
func (g *pushGateway) until(t *testing.T, event string, times int) {
	t.Helper()
	for late := time.After(time.Minute); g.told(event) < times; {
		select {
		case <-g.more:
		case <-late:
			t.Fatalf("the gateway was told %d times of %s", g.told(event), event)
		}
	}
}

// told returns how often the gateway was told of an event.
func (g *pushGateway) told(event string) (times int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.got {
		if m.Get("event_id").Str == event {
			times++
		}
	}
	return times
}

// TestBadGateways: a gateway at an address that is nobody's business is never asked, neither when a user names it nor when another gateway does; and
// whatever one answers, it is told again until it has understood, and keeps its pushers unless it rejects those that are its own.
//
// Spec: pg notify
func TestBadGateways(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		const path = "/_matrix/push/v1/notify"
		inside := n.pushGateway(t, "inside.test")
		gate := n.pushGateway(t, "gate.test",
			func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"rejected":["another's"]}`) },
			func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://inside.test"+path, http.StatusTemporaryRedirect)
			},
			func(w http.ResponseWriter, _ *http.Request) {
				for range 1000 { // more than anybody reads
					if _, err := io.WriteString(w, strings.Repeat(" ", 1<<10)); err != nil {
						return
					}
				}
			},
		)
		a := n.Start("a.test", func(c *config.Config) { c.Push.AllowNetworks = []string{nettest.Prefix.String()} })
		b := n.Start("b.test")
		pusher := func(host, key string) M {
			return M{"kind": "http", "app_id": "app", "pushkey": key, "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
				"data": M{"url": "https://" + host + path}}
		}
		talk := func(s *Server, host, key string) (*Client, *Client, string) {
			alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
			room := alice.CreateRoom(M{"preset": "public_chat"})
			bob.Join(room)
			bob.OK("POST", "pushers/set", pusher(host, key))
			return alice, bob, room
		}
		stranger, _, elsewhere := talk(b, "inside.test", "stranger")
		stranger.Say(elsewhere, "hello")

		alice, bob, room := talk(a, "gate.test", "phone")
		first := alice.Say(room, "hello")
		gate.until(t, first, 1)
		second := alice.Say(room, "hello again")
		gate.until(t, second, 3)
		if list := bob.OK("GET", "pushers", nil).At("pushers").Array(); len(list) != 1 {
			t.Errorf("the pushers are %v", list)
		}
		third := alice.Say(room, "hello again")
		gate.until(t, third, 1)
		if first, second := gate.told(first), gate.told(second); first != 1 || second != 3 {
			t.Errorf("the gateway was told %d and %d times", first, second)
		}
		inside.mu.Lock()
		defer inside.mu.Unlock()
		if len(inside.got) != 0 {
			t.Errorf("a gateway inside was told %v", inside.got)
		}
	})
}
