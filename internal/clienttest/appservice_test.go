package clienttest

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

const (
	bridged  = 60 // messages each way
	speakers = 5  // users of the other network
)

// relay is a bot, and a bridge between a room and a network that is a list, made with mautrix-go.
type relay struct {
	*appservice.AppService
	portal id.RoomID

	mu     sync.Mutex
	remote []string            // what the other network got from the room; guarded by mu
	events map[id.EventID]bool // guarded by mu
}

// on takes a message of the room to the other network. The bot answers where it is asked to.
func (r *relay) on(ctx context.Context, e *event.Event) {
	body := e.Content.AsMessage().Body
	if e.RoomID != r.portal || strings.HasPrefix(string(e.Sender), "@_remote_") || e.Sender == r.BotMXID() {
		return
	}
	r.mu.Lock()
	r.events[e.ID] = true
	r.remote = append(r.remote, body)
	r.mu.Unlock()
	if strings.HasSuffix(body, "0") {
		_ = persist(ctx, func() error {
			_, err := r.BotClient().SendMessageEvent(ctx, r.portal, event.EventMessage, text("pong "+body), mautrix.ReqSendEvent{TransactionID: "pong-" + string(e.ID)})
			return err
		})
	}
}

func text(s string) *event.MessageEventContent {
	return &event.MessageEventContent{MsgType: event.MsgText, Body: s}
}

// persist does something until it works.
func persist(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait := time.NewTimer(50 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
	}
}

// mortal is a server that can be killed and started again at the same address.
type mortal struct {
	t       *testing.T
	binary  string
	options []string
	cmd     *exec.Cmd
	done    chan struct{}
}

func (m *mortal) start() {
	m.t.Helper()
	m.cmd, m.done = exec.Command(m.binary, m.options...), make(chan struct{})
	stderr, err := m.cmd.StderrPipe()
	must(m.t, err)
	must(m.t, m.cmd.Start())
	ready, done, cmd := make(chan struct{}), m.done, m.cmd
	last := ""
	go func() {
		defer close(done)
		lines, up := bufio.NewScanner(stderr), false
		for lines.Scan() {
			last = lines.Text()
			if strings.Contains(lines.Text(), "msg=ready") && !up {
				up = true
				close(ready)
			}
			if strings.Contains(lines.Text(), "level=ERROR") {
				m.t.Errorf("the server logs: %s", lines.Text())
			}
		}
		_ = cmd.Wait() // it was killed
	}()
	select {
	case <-ready:
	case <-done:
		m.t.Fatalf("the server ended: %s", last)
	case <-time.After(time.Minute):
		m.t.Fatal("the server does not start")
	}
}

// freeAddress finds a port that nobody has, and that no connection gets while the server is down: systems hand out higher ones.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		if free, err := net.Listen("tcp", address); err == nil {
			must(t, free.Close())
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// startMortal runs a server with the registration in a file, and returns its URL.
func startMortal(t *testing.T, d sqldb.Dialect, binary, registration string) (*mortal, string) {
	t.Helper()
	address := freeAddress(t)
	m := &mortal{t: t, binary: binary}
	for key, value := range map[string]string{
		"data_dir": filepath.Join(t.TempDir(), "data"), "client.listen": address, "registration": "open", "rate_limits": "off",
		"log.requests": "off", "appservices": registration, "federation.enabled": "false",
	} {
		m.options = append(m.options, "-o", key+"="+value)
	}
	if d == sqldb.PostgreSQL {
		m.options = append(m.options, "-o", "database="+sqldbtest.URL(t, d))
	}
	m.start()
	t.Cleanup(func() { m.kill() })
	return m, "http://" + address
}

func (m *mortal) kill() {
	_ = m.cmd.Process.Kill()
	<-m.done
}

// TestBridge runs a bot and a bridge against a server that is killed in the middle: nothing is lost or comes twice, either way.
func TestBridge(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "myelin")
	build := exec.Command("go", "build", "-o", binary, "myelin/cmd/myelin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the server: %v\n%s", err, out)
	}
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) { bridgeAcrossCrashes(t, d, binary) })
	}
}

func bridgeAcrossCrashes(t *testing.T, d sqldb.Dialect, binary string) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	r := &relay{AppService: appservice.Create(), events: make(map[id.EventID]bool)}
	front := httptest.NewServer(r.Router)
	t.Cleanup(front.Close)
	r.Registration = appservice.CreateRegistration()
	r.Registration.ID, r.Registration.URL, r.Registration.SenderLocalpart = "relay", front.URL, "_relaybot"
	r.Registration.EphemeralEvents = true
	r.Registration.Namespaces.UserIDs = appservice.NamespaceList{{Regex: `@_remote_.*:localhost`, Exclusive: true}}
	r.HomeserverDomain = "localhost"
	file := filepath.Join(t.TempDir(), "relay.yaml")
	must(t, r.Registration.Save(file))
	s, url := startMortal(t, d, binary, file)
	must(t, r.SetHomeserverURL(url))
	events := appservice.NewEventProcessor(r.AppService)
	events.ExecMode = appservice.Sync
	events.On(event.EventMessage, r.on)
	events.Start(ctx)
	t.Cleanup(events.Stop)

	must(t, r.BotIntent().EnsureRegistered(ctx))
	if !r.BotIntent().EnsureAppserviceConnection(ctx) {
		t.Log("the connection was made after a retry")
	}
	made, err := r.BotIntent().CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "public_chat", Name: "Portal"})
	must(t, err)
	r.portal = made.RoomID
	alice := someone(t, url)
	_, err = alice.JoinRoomByID(ctx, r.portal)
	must(t, err)

	var busy sync.WaitGroup
	progress := make(chan struct{}, 2*bridged)
	busy.Go(func() {
		for i := range bridged {
			_ = persist(ctx, func() error {
				_, err := alice.SendMessageEvent(ctx, r.portal, event.EventMessage, text(fmt.Sprint("out ", i)), mautrix.ReqSendEvent{TransactionID: fmt.Sprint("out", i)})
				return err
			})
			progress <- struct{}{}
		}
	})
	busy.Go(func() {
		for i := range bridged {
			ghost := r.Intent(id.NewUserID(fmt.Sprint("_remote_", i%speakers), "localhost"))
			_ = persist(ctx, func() error {
				if err := ghost.EnsureJoined(ctx, r.portal); err != nil {
					return err
				}
				_, err := ghost.SendMessageEvent(ctx, r.portal, event.EventMessage, text(fmt.Sprint("in ", i)), mautrix.ReqSendEvent{TransactionID: fmt.Sprint("in", i), Timestamp: int64(1_000_000 + i)})
				return err
			})
			progress <- struct{}{}
		}
	})
	for n := range 2 * bridged {
		select {
		case <-progress:
		case <-ctx.Done():
			t.Fatalf("only %d messages were sent", n)
		}
		if n == bridged/2 || n == bridged { // in the middle of everything
			s.kill()
			s.start()
		}
	}
	busy.Wait()
	want := make([]string, bridged)
	for i := range want {
		want[i] = fmt.Sprint("out ", i)
	}
	got := func() []string {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Clone(r.remote)
	}
	history := map[string]int{}
	_ = persist(ctx, func() error { // until the other network has all, and the bot has answered
		if len(got()) < bridged {
			return fmt.Errorf("%d of %d", len(got()), bridged)
		}
		history = read(ctx, t, alice, r.portal)
		if n := len(history); n < 2*bridged+bridged/10 {
			return fmt.Errorf("the room holds %d messages", n)
		}
		return nil
	})
	if !slices.Equal(got(), want) {
		t.Errorf("the other network got %q", got())
	}
	for i := range bridged {
		for _, body := range []string{fmt.Sprint("out ", i), fmt.Sprint("in ", i)} {
			if history[body] != 1 {
				t.Errorf("%q stands %d times in the room", body, history[body])
			}
		}
		if i%10 == 0 && history[fmt.Sprint("pong out ", i)] != 1 {
			t.Errorf("the bot answered %d times to %d", history[fmt.Sprint("pong out ", i)], i)
		}
	}
}

// someone registers a user.
func someone(t *testing.T, url string) *mautrix.Client {
	t.Helper()
	c, err := mautrix.NewClient(url, "", "")
	must(t, err)
	login, err := c.RegisterDummy(t.Context(), &mautrix.ReqRegister[any]{Username: "alice", Password: "correct horse battery"})
	must(t, err)
	c.UserID, c.DeviceID, c.AccessToken = login.UserID, login.DeviceID, login.AccessToken
	return c
}

// read counts the messages of a room by what they say.
func read(ctx context.Context, t *testing.T, c *mautrix.Client, room id.RoomID) map[string]int {
	found, from := map[string]int{}, ""
	for {
		page, err := c.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 100)
		if err != nil {
			t.Error(err)
			return found
		}
		for _, e := range page.Chunk {
			if e.Type == event.EventMessage {
				_ = e.Content.ParseRaw(e.Type)
				found[e.Content.AsMessage().Body]++
			}
		}
		if page.End == "" || len(page.Chunk) == 0 {
			return found
		}
		from = page.End
	}
}
