package fedsend_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/fedclient"
	"myelin/internal/fedsend"
	"myelin/internal/graph"
	"myelin/internal/nettest"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/work"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

const (
	alice = id.UserID("@alice:here.example")
	bob   = id.UserID("@bob:here.example")
)

// world is a network with other servers. Their names end with a port, so nothing is asked of them but transactions.
type world struct {
	tb    testing.TB
	net   *nettest.Network
	roots *x509.CertPool
	cert  tls.Certificate

	nodes int
}

// remote is another server. It takes transactions.
type remote struct {
	name id.ServerName
	key  sign.Key

	mu       sync.Mutex    // guards all below
	status   int           // of its answers; 0: as it should be
	hangs    chan struct{} // it answers once this is closed; nil: at once
	poison   string        // what it refuses to read, "": nothing
	unwanted id.EventID
	flying   int
	came     chan struct{} // closed and replaced with each transaction
	record
}

// record is what came to a server.
type record struct {
	txns    []string
	pdus    []string // the text of messages, or type, state key and membership; in the order of arrival
	origins []string // of the transactions that brought pdus
	edus    []string
	sizes   [][2]int    // PDUs and EDUs of each transaction
	tries   []time.Time // all attempts
	most    int         // at once
}

// seen returns what has come so far.
func (r *remote) seen() record {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.record
	c.txns, c.pdus, c.origins, c.edus = slices.Clone(c.txns), slices.Clone(c.pdus), slices.Clone(c.origins), slices.Clone(c.edus)
	c.sizes, c.tries = slices.Clone(c.sizes), slices.Clone(c.tries)
	return c
}

// forgetTries counts attempts anew.
func (r *remote) forgetTries() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries = nil
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb, net: nettest.New(1), roots: x509.NewCertPool()}
	authority, err := nettest.NewAuthority()
	ok(tb, err)
	dir := tb.TempDir()
	ca, cert, key := filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	ok(tb, authority.Write(ca))
	ok(tb, authority.Certify("*.there.example", cert, key))
	pem, err := os.ReadFile(ca)
	ok(tb, err)
	w.roots.AppendCertsFromPEM(pem)
	w.cert, err = tls.LoadX509KeyPair(cert, key)
	ok(tb, err)
	return w
}

func ok(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// server starts another server.
func (w *world) server(short string) *remote {
	w.tb.Helper()
	key, err := sign.Generate(rand.Reader, "x")
	ok(w.tb, err)
	host := short + ".there.example"
	r := &remote{name: id.ServerName(host + ":8448"), key: key, came: make(chan struct{})}
	l, err := w.net.Host(host).Listen("tcp", ":8448")
	ok(w.tb, err)
	s := &http.Server{Handler: r, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{w.cert}}))
	}()
	w.tb.Cleanup(func() { _ = s.Close(); <-done })
	return r
}

func (r *remote) user(n int) id.UserID { return id.UserID(fmt.Sprintf("@u%d:%s", n, r.name)) }

func (r *remote) ServeHTTP(rw http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.flying++
	r.most = max(r.most, r.flying)
	r.tries = append(r.tries, time.Now())
	status, hangs := r.status, r.hangs
	if r.poison != "" && bytes.Contains(body, []byte(r.poison)) {
		status = http.StatusBadRequest
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.flying--
	}()
	if hangs != nil {
		select {
		case <-hangs:
		case <-q.Context().Done():
			return
		}
	}
	if status != 0 {
		rw.WriteHeader(status)
		return
	}
	if r.refuses(body) {
		fmt.Fprintf(rw, `{"pdus":{%q:{"error":"not in the room"}}}`, r.unwanted)
		return
	}
	r.take(strings.TrimPrefix(q.URL.Path, "/_matrix/federation/v1/send/"), body)
	_, _ = io.WriteString(rw, `{"pdus":{}}`)
}

// take records a transaction, unless it has been seen.
func (r *remote) take(txn string, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.txns, txn) {
		return
	}
	r.txns = append(r.txns, txn)
	pdus, edus := gjson.GetBytes(body, "pdus").Array(), gjson.GetBytes(body, "edus").Array()
	for _, p := range pdus {
		text := p.Get("content.body").Str
		if text == "" {
			text = p.Get("type").Str + " " + p.Get("state_key").Str + " " + p.Get("content.membership").Str
		}
		r.pdus = append(r.pdus, text)
		r.origins = append(r.origins, gjson.GetBytes(body, "origin").Str)
	}
	for _, e := range edus {
		r.edus = append(r.edus, e.Raw)
	}
	r.sizes = append(r.sizes, [2]int{len(pdus), len(edus)})
	close(r.came)
	r.came = make(chan struct{})
}

// set changes how the server behaves.
func (r *remote) set(status int, hangs chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status, r.hangs = status, hangs
}

// refuse has the server refuse all transactions with a text in it.
func (r *remote) refuse(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.poison = text
}

// unwilling has the server refuse an event, and all that comes with it; "" for none.
func (r *remote) unwilling(e id.EventID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unwanted = e
}

// refuses reports whether a transaction has calls that the server would not have.
func (r *remote) refuses(body []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unwanted != "" && bytes.Contains(body, []byte("org.example.call"))
}

// until waits for the server's transactions to make cond true.
func (r *remote) until(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	limit := time.After(time.Minute)
	for {
		r.mu.Lock()
		done, came := cond(), r.came
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-came:
		case <-limit:
			r.mu.Lock()
			defer r.mu.Unlock()
			tb.Fatalf("%s waited in vain for %s; it has %q and %q", r.name, what, r.pdus, r.edus)
		}
	}
}

// has waits until the last message is this one.
func (r *remote) has(tb testing.TB, text string) {
	tb.Helper()
	r.until(tb, text, func() bool { return slices.Contains(r.pdus, text) })
}

// texts returns the messages that came, in order.
func (r *remote) texts() (out []string) {
	for _, p := range r.seen().pdus {
		if !strings.HasPrefix(p, "m.room") {
			out = append(out, p)
		}
	}
	return out
}

// node is a Myelin that sends.
type node struct {
	*fedsend.Sender
	tb    testing.TB
	ctx   context.Context
	db    *sqldb.DB
	bus   *bus.Bus
	graph *graph.Graph
	rooms *room.Rooms
	eph   *ephemeral.Ephemeral
	enc   *e2ee.Encryption
	work  *work.Runner
	world *world
	stop  func()
}

func (w *world) node(open sqldbtest.Open, names ...id.ServerName) *node {
	w.tb.Helper()
	if len(names) == 0 {
		names = []id.ServerName{"here.example"}
	}
	n := &node{tb: w.tb, ctx: w.tb.Context(), world: w, bus: bus.New(bus.Config{})}
	tb, ctx := w.tb, n.ctx
	n.db = open(func(c *sqldb.Config) { c.Committed = n.bus.Committed })
	set, err := ours.Open(ctx, ours.Config{DB: n.db, Names: names})
	ok(tb, err)
	n.graph, err = graph.Open(ctx, graph.Config{DB: n.db})
	ok(tb, err)
	accounts, err := account.Open(ctx, account.Config{DB: n.db, Ours: set, Bus: n.bus})
	ok(tb, err)
	circles := graph.OpenCircles(n.graph, n.bus)
	n.eph, err = ephemeral.Open(ctx, ephemeral.Config{DB: n.db, Ours: set, Graph: n.graph, Circles: circles, Accounts: accounts, Bus: n.bus, Node: "a"})
	ok(tb, err)
	ok(tb, n.db.Migrate(ctx, work.Migrations()...))
	version, _ := roomver.Get(roomver.Default)
	n.rooms = room.New(room.Config{
		Graph: n.graph, Ours: set, DefaultVersion: version,
		Alias:   func(context.Context, id.RoomAlias) (id.RoomID, bool, error) { return "", false, nil },
		Profile: func(context.Context, id.UserID) (room.Profile, error) { return room.Profile{}, nil },
		IsGuest: func(context.Context, id.UserID) (bool, error) { return false, nil },
	})
	w.nodes++
	host := w.net.Host(fmt.Sprintf("here%d.example", w.nodes))
	client, err := fedclient.Open(ctx, fedclient.Config{DB: n.db, Ours: set, Dial: host.Dial, Lookup: host, Roots: w.roots, AllowNetworks: []netip.Prefix{nettest.Prefix}})
	ok(tb, err)
	n.enc, err = e2ee.Open(ctx, e2ee.Config{DB: n.db, Bus: n.bus, Ours: set, Graph: n.graph, Circles: circles, Client: client})
	ok(tb, err)
	n.Sender, err = fedsend.Open(ctx, fedsend.Config{DB: n.db, Bus: n.bus, Ours: set, Client: client, Graph: n.graph, Ephemeral: n.eph, Encryption: n.enc})
	ok(tb, err)
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			if n.work != nil {
				n.work.Stop()
			}
			client.Close()
			n.enc.Close()
			n.eph.Close()
			ok(tb, accounts.Close(context.WithoutCancel(ctx)))
			_ = n.db.Close()
		})
	}
	tb.Cleanup(n.stop)
	return n
}

// start begins to send.
func (n *node) start() *node {
	n.work = work.New(work.Config{DB: n.db, Bus: n.bus, Node: "a", TTL: 24 * time.Hour})
	n.Sender.Start(n.work)
	return n
}

func (n *node) create() id.RoomID {
	n.tb.Helper()
	r, err := n.rooms.Create(n.ctx, room.Creation{Creator: alice, Preset: "public_chat"})
	ok(n.tb, err)
	return r
}

func (n *node) say(r id.RoomID, text string) id.EventID {
	n.tb.Helper()
	sent, err := n.rooms.Send(n.ctx, room.Message{Room: r, Proposal: room.Proposal{Sender: alice, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":%q}`, text)}})
	ok(n.tb, err)
	return sent
}

// member lets a user of another server change their membership.
func (n *node) member(name id.RoomID, r *remote, user id.UserID, membership string) {
	n.tb.Helper()
	head, err := n.graph.Head(n.ctx, name)
	ok(n.tb, err)
	key := string(user)
	d := event.Draft{RoomID: name, Type: "m.room.member", StateKey: &key, Sender: user, OriginServerTS: time.Now().UnixMilli(),
		Content: fmt.Appendf(nil, `{"membership":%q}`, membership)}
	for _, x := range head.Extremities {
		d.PrevEvents, d.Depth = append(d.PrevEvents, x.ID), max(d.Depth, x.Depth+1)
	}
	for _, k := range eventauth.NeededFor(head.Version, d.Type, d.StateKey, d.Sender, d.Content) {
		if nid, found := head.State.Get(k.Type, k.StateKey); found {
			events, err := n.graph.Events(n.ctx, head.Room, []graph.EventNID{nid})
			ok(n.tb, err)
			d.AuthEvents = append(d.AuthEvents, events[0].PDU.ID())
		}
	}
	pdu, err := d.Build(head.Version, user.Domain(), r.key, rand.Text)
	ok(n.tb, err)
	if got := n.rooms.ReceiveAll(n.ctx, name, []*event.PDU{pdu})[0]; got.Err != nil || got.Verdict != room.Accepted {
		n.tb.Fatalf("%s of %s: %+v", membership, user, got)
	}
}

func (n *node) join(name id.RoomID, servers ...*remote) {
	n.tb.Helper()
	for _, r := range servers {
		n.member(name, r, r.user(1), "join")
	}
}

func (n *node) troubles() []fedsend.Trouble {
	n.tb.Helper()
	list, err := fedsend.Troubles(n.ctx, n.db, 100)
	ok(n.tb, err)
	return list
}

func field(raw, path string) string { return gjson.Get(raw, path).Raw }

func valid(raw string) bool { return json.Valid([]byte(raw)) }
