package simulation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/nettest"
	"myelin/internal/servertest"
	"myelin/internal/sqldb"
)

// world is one seed: servers, their users, one room and the network.
type world struct {
	t       *testing.T
	tmpl    *template
	rng     *rand.Rand // of the script; only its goroutine uses it
	net     *servertest.Net
	http    *http.Client
	version string
	room    string
	towns   []*town
	began   time.Time
	// settled is when all anchors were in the room.
	settled time.Time
	actions int
	cut     bool // the network is partitioned

	mu    sync.Mutex // guards all below
	trace []string
	deeds []*deed
}

// town is a server with its users.
type town struct {
	name     string
	server   *servertest.Server
	up       bool
	anchored bool // its anchor is in the room from the beginning
	users    []*user
}

// user is a client that does one thing after the other.
type user struct {
	id, token string
	town      *town
	anchor    bool
	todo      chan func()
}

// deed is something that a client wanted, and what it was told.
type deed struct {
	n      int // stands in the event's content
	by     *user
	what   string
	status int // 0: unknown
	event  string
	errors int // how often there was no answer
}

func newWorld(t *testing.T, tmpl *template, seed uint64) *world {
	w := &world{
		t: t, tmpl: tmpl, rng: rand.New(rand.NewPCG(seed, 0)), net: servertest.NewNet(t, sqldb.SQLite, seed), began: time.Now(),
	}
	time.Sleep(time.Hour) // the servers have run before, when all bubbles begin
	players := w.net.Steady("players")
	w.http = &http.Client{Transport: &http.Transport{DialContext: players.Dial, MaxIdleConnsPerHost: 4}, Timeout: 90 * time.Second}
	t.Cleanup(w.http.CloseIdleConnections)
	w.version = versions[w.rng.IntN(len(versions))]
	w.room = tmpl.Rooms[w.version]
	size := []int{3, 3, 3, 3, 4, 4, 5, 5, 6, 7}[w.rng.IntN(10)]
	anchored := max(2, size-w.rng.IntN(3))
	for i, name := range names[:size] {
		s := &town{name: name, server: w.net.Prepare(name, quiet), anchored: i < anchored}
		if err := tmpl.install(s.server); err != nil {
			t.Fatal(err)
		}
		for _, who := range people {
			a := tmpl.Accounts[who+"@"+name]
			s.users = append(s.users, &user{id: a.ID, token: a.Token, town: s, anchor: who == "anchor", todo: make(chan func(), 1000)})
		}
		w.towns = append(w.towns, s)
	}
	w.note("version %s, %d servers, %d of them with an anchor", w.version, size, anchored)
	return w
}

// note writes a line of the trace.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%14s  ", time.Since(w.began))+fmt.Sprintf(format, args...))
}

func (w *world) up(s *town) {
	w.note("%s is up", s.name)
	s.server.Up()
	s.up = true
}

// live starts the users. They end when they have done all that they were told before finish.
func (w *world) live() (finish func()) {
	var all sync.WaitGroup
	for _, s := range w.towns {
		for _, u := range s.users {
			all.Go(func() {
				for do := range u.todo {
					do()
				}
			})
		}
	}
	return func() {
		for _, s := range w.towns {
			for _, u := range s.users {
				close(u.todo)
			}
		}
		all.Wait()
	}
}

// answer is what a client gets.
type answer struct {
	status int
	body   []byte
}

func (a answer) get(path string) string { return gjson.GetBytes(a.body, path).Str }

func (w *world) call(u *user, method, path string, body any) (answer, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	r, err := http.NewRequestWithContext(context.Background(), method, "http://"+u.town.name+":8008"+path, bytes.NewReader(text))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+u.token)
	resp, err := w.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	return answer{resp.StatusCode, text}, err
}

// must is a call that has to succeed, while the network is well.
func (w *world) must(u *user, method, path string, body any) answer {
	w.t.Helper()
	a, err := w.call(u, method, path, body)
	if err != nil || a.status != http.StatusOK {
		w.t.Errorf("%s: %s %s: %d %s %v", u.id, method, path, a.status, a.body, err)
	}
	return a
}

// path is one below the room's, of the client-server API.
func (w *world) path(segments ...string) string {
	return servertest.Path(append([]string{"rooms", w.room}, segments...)...)
}

// calm is a network without trouble.
var calm = nettest.Faults{Min: time.Millisecond, Max: 20 * time.Millisecond}

// settle starts the servers and brings the anchors into the room, and some of the others.
func (w *world) settle() {
	w.net.SetFaults(calm)
	for _, s := range w.towns {
		w.up(s)
	}
	time.Sleep(time.Second)
	for _, s := range w.towns {
		for i, u := range s.users {
			if s.anchored && (i == 0 && s != w.towns[0] || i > 0 && w.rng.IntN(3) > 0) {
				w.must(u, "POST", servertest.Path("join", w.room)+servertest.Query("via", names[0]), servertest.M{})
			}
		}
	}
	time.Sleep(10 * time.Second)
	w.settled = time.Now()
	w.note("the room %s is ready", w.room)
}

// report logs the trace.
func (w *world) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Logf("what happened:\n%s", strings.Join(w.trace, "\n"))
}
