package fedroom_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/directory"
	"myelin/internal/ephemeral"
	"myelin/internal/fedapi"
	"myelin/internal/fedclient"
	"myelin/internal/fedroom"
	"myelin/internal/graph"
	"myelin/internal/nettest"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// town is several servers on one network.
type town struct {
	t         testing.TB
	ctx       context.Context
	net       *nettest.Network
	authority *nettest.Authority
	folder    string
	roots     *x509.CertPool
	// mostResolved bounds what servers resolve that are started from now on.
	mostResolved int
}

func newTown(t testing.TB) *town {
	t.Helper()
	w := &town{t: t, ctx: t.Context(), net: nettest.New(1), folder: t.TempDir(), roots: x509.NewCertPool()}
	var err error
	w.authority, err = nettest.NewAuthority()
	must(t, err)
	file := filepath.Join(w.folder, "ca.crt")
	must(t, w.authority.Write(file))
	pem, err := os.ReadFile(file)
	must(t, err)
	w.roots.AppendCertsFromPEM(pem)
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// server is a complete engine: rooms, what they need of others, and what it serves to others.
type server struct {
	*town
	name     id.ServerName
	db       *sqldb.DB
	ours     *ours.Set
	accounts *account.Accounts
	graph    *graph.Graph
	rooms    *room.Rooms
	client   *fedclient.Client
	fed      *fedroom.Federated
	http     *http.Server

	mu sync.Mutex // guards what follows
	// lie changes an answer to another server; nil tells the truth.
	lie func(r *http.Request, status int, body []byte) (int, []byte)
	// asked counts requests by method and the first element of the path below the version.
	asked map[string]int
}

// server starts a server on an SQLite database of its own.
func (w *town) server(name id.ServerName) *server {
	return w.serverOn(name, func(configure ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(w.t, configure...) })
}

func (w *town) serverOn(name id.ServerName, open sqldbtest.Open) *server {
	t := w.t
	t.Helper()
	s := &server{town: w, name: name, asked: map[string]int{}}
	b := bus.New(bus.Config{})
	s.db = open(func(c *sqldb.Config) { c.Committed = b.Committed })
	var err error
	s.ours, err = ours.Open(w.ctx, ours.Config{DB: s.db, Names: []id.ServerName{name}})
	must(t, err)
	s.accounts, err = account.Open(w.ctx, account.Config{DB: s.db, Ours: s.ours, Bus: b})
	must(t, err)
	t.Cleanup(func() { must(t, s.accounts.Close(context.WithoutCancel(w.ctx))) })
	s.graph, err = graph.Open(w.ctx, graph.Config{DB: s.db})
	must(t, err)
	aliases, err := directory.Open(w.ctx, directory.Config{DB: s.db, Ours: s.ours, Graph: s.graph, Bus: b})
	must(t, err)
	t.Cleanup(aliases.Close)
	e, err := ephemeral.Open(w.ctx, ephemeral.Config{DB: s.db, Ours: s.ours, Graph: s.graph, Circles: graph.OpenCircles(s.graph, b), Accounts: s.accounts, Bus: b})
	must(t, err)
	t.Cleanup(e.Close)
	version, _ := roomver.Get(roomver.Default)
	s.rooms = room.New(room.Config{
		Graph: s.graph, Ours: s.ours, DefaultVersion: version, Alias: aliases.Lookup, MostResolved: w.mostResolved,
		Profile: func(_ context.Context, u id.UserID) (room.Profile, error) {
			return room.Profile{DisplayName: "Name of " + u.Localpart()}, nil
		},
		IsGuest: func(context.Context, id.UserID) (bool, error) { return false, nil },
	})
	host := w.net.Host(string(name))
	s.client, err = fedclient.Open(w.ctx, fedclient.Config{
		DB: s.db, Ours: s.ours, Dial: host.Dial, Lookup: host, Roots: w.roots, AllowNetworks: []netip.Prefix{nettest.Prefix},
	})
	must(t, err)
	t.Cleanup(s.client.Close)
	s.fed, err = fedroom.Open(w.ctx, fedroom.Config{
		DB: s.db, Ours: s.ours, Client: s.client, Accounts: s.accounts, Graph: s.graph, Rooms: s.rooms, Log: w.log(),
		MayInvite: func(_ context.Context, _, invitee id.UserID) error {
			if invitee.Localpart() == "hermit" {
				return mxerr.New(mxerr.CodeInviteBlocked, "%s wants no invites", invitee)
			}
			return nil
		},
	})
	must(t, err)
	t.Cleanup(s.fed.Close)
	api := fedapi.New(fedapi.Config{
		Ours: s.ours, Accounts: s.accounts, Graph: s.graph, Rooms: s.rooms, Directory: aliases, Ephemeral: e,
		View: view.New(view.Config{Graph: s.graph, Ignored: s.accounts.IgnoredUsers}), Client: s.client, Federated: s.fed,
		Log:      w.log(),
		Settings: fedapi.Settings{Version: "test", Delegate: func(id.ServerName) string { return "" }},
	})
	mux, err := web.New(web.Config{Routes: api.Routes(), AuthenticateServer: api.Authenticate, Log: w.log()})
	must(t, err)
	s.listen(host, mux)
	return s
}

// log shows what servers say if the test is verbose.
func (w *town) log() *slog.Logger {
	if !testing.Verbose() || os.Getenv("MYELIN_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (s *server) listen(host *nettest.Host, mux http.Handler) {
	t := s.t
	t.Helper()
	crt, key := filepath.Join(s.folder, string(s.name)+".crt"), filepath.Join(s.folder, string(s.name)+".key")
	must(t, s.authority.Certify(string(s.name), crt, key))
	pair, err := tls.LoadX509KeyPair(crt, key)
	must(t, err)
	l, err := host.Listen("tcp", ":8448")
	must(t, err)
	s.http = &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answer(mux, w, r) }),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.http.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() { s.http.Close(); <-done })
}

// answer serves a request, truthfully or not.
func (s *server) answer(mux http.Handler, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	lie := s.lie
	s.asked[operation(r)]++
	s.mu.Unlock()
	if lie == nil {
		mux.ServeHTTP(w, r)
		return
	}
	recorded := httptest.NewRecorder()
	mux.ServeHTTP(recorded, r)
	body, _ := io.ReadAll(recorded.Body)
	status, body := lie(r, recorded.Code, body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// operation names what a request asks for, such as "make_join".
func operation(r *http.Request) string {
	parts := strings.Split(r.URL.Path, "/")
	if len(parts) < 5 {
		return r.URL.Path
	}
	return parts[4]
}

// lies has the server answer one operation otherwise.
func (s *server) lies(op string, change func(status int, body []byte) (int, []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lie = func(r *http.Request, status int, body []byte) (int, []byte) {
		if operation(r) != op && op != "*" {
			return status, body
		}
		return change(status, body)
	}
}

// liesTo has the server answer some operations otherwise.
func (s *server) liesTo(changes map[string]func(status int, body []byte) (int, []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lie = func(r *http.Request, status int, body []byte) (int, []byte) {
		if change := changes[operation(r)]; change != nil {
			return change(status, body)
		}
		return status, body
	}
}

// refuses has the server answer operations with an error.
func (s *server) refuses(status int, code string, ops ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lie = func(r *http.Request, got int, body []byte) (int, []byte) {
		if !slices.Contains(ops, operation(r)) {
			return got, body
		}
		return status, fmt.Appendf(nil, `{"errcode":%q,"error":"no"}`, code)
	}
}

func (s *server) honest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lie = nil
}

func (s *server) count(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[op]
}

// object changes an answer as decoded JSON.
func object(change func(o map[string]any)) func(int, []byte) (int, []byte) {
	return func(status int, body []byte) (int, []byte) {
		var o map[string]any
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		if d.Decode(&o) != nil || status != http.StatusOK {
			return status, body
		}
		change(o)
		out, _ := json.Marshal(o)
		return status, out
	}
}

// user registers a user of the server.
func (s *server) user(localpart string) id.UserID {
	s.t.Helper()
	u := id.UserID("@" + localpart + ":" + string(s.name))
	must(s.t, s.accounts.Create(s.ctx, account.NewUser{ID: u}))
	return u
}

func (s *server) create(c room.Creation) id.RoomID {
	s.t.Helper()
	r, err := s.rooms.Create(s.ctx, c)
	must(s.t, err)
	return r
}

func (s *server) say(r id.RoomID, u id.UserID, body string) id.EventID {
	s.t.Helper()
	e, err := s.rooms.Send(s.ctx, room.Message{Room: r, Proposal: room.Proposal{
		Sender: u, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":%q,"msgtype":"m.text"}`, body),
	}})
	must(s.t, err)
	return e
}

func (s *server) setState(r id.RoomID, u id.UserID, typ, key, content string) id.EventID {
	s.t.Helper()
	e, err := s.rooms.Send(s.ctx, room.Message{Room: r, Proposal: room.Proposal{Sender: u, Type: typ, StateKey: &key, Content: []byte(content)}})
	must(s.t, err)
	return e
}

// join has a user join, and waits for all of the room's state.
func (s *server) join(r id.RoomID, u id.UserID, via ...id.ServerName) error {
	_, err := s.fed.Join(s.ctx, room.Join{Membership: room.Membership{Room: r, Sender: u}}, via)
	if err == nil {
		err = s.fed.Complete(s.ctx, r)
	}
	return err
}

func (s *server) head(r id.RoomID) *graph.Head {
	s.t.Helper()
	h, err := s.graph.Head(s.ctx, r)
	must(s.t, err)
	return h
}

func (s *server) membership(r id.RoomID, u id.UserID) graph.Membership {
	s.t.Helper()
	m, err := s.graph.MembershipIn(s.ctx, u, r)
	must(s.t, err)
	return m
}

// state is the room's current state, by event ID.
func (s *server) state(r id.RoomID) []id.EventID {
	s.t.Helper()
	h := s.head(r)
	var nids []graph.EventNID
	for _, n := range h.State.All() {
		nids = append(nids, n)
	}
	events, err := s.graph.Events(s.ctx, h.Room, nids)
	must(s.t, err)
	var out []id.EventID
	for _, e := range events {
		out = append(out, e.PDU.ID())
	}
	slices.Sort(out)
	return out
}

// before is the state before an event, by event ID.
func (s *server) before(event id.EventID) (out []id.EventID) {
	s.t.Helper()
	e, ok, err := s.graph.Event(s.ctx, event)
	must(s.t, err)
	if !ok {
		s.t.Fatalf("%s lacks the event %s", s.name, event)
	}
	state, err := s.graph.StateBefore(s.ctx, e)
	must(s.t, err)
	for _, nid := range state.All() {
		events, err := s.graph.Events(s.ctx, e.Room, []graph.EventNID{nid})
		must(s.t, err)
		out = append(out, events[0].PDU.ID())
	}
	slices.Sort(out)
	return out
}

// timeline is the IDs of all visible events of a room in their order.
func (s *server) timeline(r id.RoomID) []id.EventID {
	s.t.Helper()
	events, err := s.graph.Timeline(s.ctx, s.head(r).Room, graph.Range{After: graph.Beginning, Before: graph.End, Limit: 10_000})
	must(s.t, err)
	var out []id.EventID
	for _, e := range events {
		out = append(out, e.PDU.ID())
	}
	return out
}

// raw is an event as it goes to other servers.
func (s *server) raw(e id.EventID) json.RawMessage {
	s.t.Helper()
	stored, ok, err := s.graph.Event(s.ctx, e)
	must(s.t, err)
	if !ok {
		s.t.Fatalf("%s is not stored", e)
	}
	return stored.PDU.Raw()
}

// deliver hands events of this server to another one, as a transaction.
func (s *server) deliver(to *server, events ...id.EventID) map[id.EventID]string {
	s.t.Helper()
	raws := make([]json.RawMessage, len(events))
	for i, e := range events {
		raws[i] = s.raw(e)
	}
	return s.transact(to, raws...)
}

func (s *server) transact(to *server, raws ...json.RawMessage) map[id.EventID]string {
	s.t.Helper()
	refused, err := s.client.SendTransaction(s.ctx, fedclient.Call{Origin: s.name, Destination: to.name, Urgent: true}, fmt.Sprint(time.Now().UnixNano()),
		fedclient.Transaction{OriginServerTS: time.Now().UnixMilli(), PDUs: raws})
	must(s.t, err)
	return refused
}

// catchUp hands everything that a server has of a room and made itself, from an event on, to another.
func (s *server) catchUp(to *server, r id.RoomID) {
	s.t.Helper()
	events := s.timeline(r)
	for part := range slices.Chunk(events, 50) {
		s.deliver(to, part...)
	}
}

// same checks that two servers hold the same state and newest events of a room.
func same(t testing.TB, r id.RoomID, a, b *server) {
	t.Helper()
	if x, y := a.state(r), b.state(r); !slices.Equal(x, y) {
		t.Errorf("the state of %s is %d events at %s, %d events at %s, and differs", r, len(x), a.name, len(y), b.name)
	}
	ends := func(s *server) (out []id.EventID) {
		for _, x := range s.head(r).Extremities {
			out = append(out, x.ID)
		}
		slices.Sort(out)
		return out
	}
	if x, y := ends(a), ends(b); !slices.Equal(x, y) {
		t.Errorf("the room ends with %v at %s, with %v at %s", x, a.name, y, b.name)
	}
}

// repaired makes attempts at a room until nothing of it is staged.
func (s *server) repaired(r id.RoomID) {
	s.t.Helper()
	must(s.t, s.fed.Repair(s.ctx, r))
}

// background starts what repairs rooms by itself.
func (s *server) background() {
	s.t.Helper()
	must(s.t, s.db.Migrate(s.ctx, work.Migrations()...))
	w := work.New(work.Config{DB: s.db})
	s.fed.Start(w)
	s.t.Cleanup(w.Stop)
}

func code(err error) mxerr.Code {
	if e, ok := mxerr.Of(err); ok {
		return e.Code
	}
	return ""
}
