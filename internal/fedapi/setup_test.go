package fedapi_test

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
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/blob"
	"myelin/internal/bus"
	"myelin/internal/directory"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/fedapi"
	"myelin/internal/fedclient"
	"myelin/internal/fedroom"
	"myelin/internal/graph"
	"myelin/internal/media"
	"myelin/internal/nettest"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/spectest"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

const (
	here  = id.ServerName("here.example")
	alias = id.ServerName("alias.example") // another name of ours
	alice = id.UserID("@alice:here.example")
	bob   = id.UserID("@bob:here.example")
)

// node is a server with its federation API, on a network of its own.
type node struct {
	api *fedapi.API

	t         testing.TB
	ctx       context.Context
	net       *nettest.Network
	authority *nettest.Authority
	folder    string
	mux       *web.Mux
	db        *sqldb.DB
	ours      *ours.Set
	accounts  *account.Accounts
	graph     *graph.Graph
	rooms     *room.Rooms
	directory *directory.Directory
	ephemeral *ephemeral.Ephemeral
	media     *media.Media
	log       *bytes.Buffer
}

func each(t *testing.T, run func(t *testing.T, n *node)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) { run(t, serve(t, open)) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func serve(t testing.TB, open sqldbtest.Open) *node {
	t.Helper()
	n := &node{t: t, ctx: t.Context(), net: nettest.New(1), folder: t.TempDir()}
	var err error
	n.authority, err = nettest.NewAuthority()
	must(t, err)
	b := bus.New(bus.Config{})
	db := open(func(c *sqldb.Config) { c.Committed = b.Committed })
	n.db = db
	n.ours, err = ours.Open(n.ctx, ours.Config{DB: db, Names: []id.ServerName{here, alias}})
	must(t, err)
	n.accounts, err = account.Open(n.ctx, account.Config{DB: db, Ours: n.ours, Bus: b})
	must(t, err)
	t.Cleanup(func() { must(t, n.accounts.Close(context.WithoutCancel(n.ctx))) })
	n.graph, err = graph.Open(n.ctx, graph.Config{DB: db})
	must(t, err)
	n.directory, err = directory.Open(n.ctx, directory.Config{DB: db, Ours: n.ours, Graph: n.graph, Bus: b})
	must(t, err)
	t.Cleanup(n.directory.Close)
	circles := graph.OpenCircles(n.graph, b)
	n.ephemeral, err = ephemeral.Open(n.ctx, ephemeral.Config{DB: db, Ours: n.ours, Graph: n.graph, Circles: circles, Accounts: n.accounts, Bus: b})
	must(t, err)
	t.Cleanup(n.ephemeral.Close)
	version, _ := roomver.Get(roomver.Default)
	n.rooms = room.New(room.Config{
		Graph: n.graph, Ours: n.ours, DefaultVersion: version, Alias: n.directory.Lookup,
		Profile: func(context.Context, id.UserID) (room.Profile, error) { return room.Profile{}, nil },
		IsGuest: func(context.Context, id.UserID) (bool, error) { return false, nil },
	})
	client := n.client(db)
	encryption, err := e2ee.Open(n.ctx, e2ee.Config{DB: db, Bus: b, Ours: n.ours, Graph: n.graph, Circles: circles, Client: client})
	must(t, err)
	t.Cleanup(encryption.Close)
	federated, err := fedroom.Open(n.ctx, fedroom.Config{
		DB: db, Ours: n.ours, Client: client, Accounts: n.accounts, Graph: n.graph, Rooms: n.rooms,
	})
	must(t, err)
	t.Cleanup(federated.Close)
	n.log = new(bytes.Buffer)
	log := slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelError}))
	t.Cleanup(func() {
		if n.log.Len() > 0 {
			t.Errorf("the server logged\n%s", n.log)
		}
	})
	blobs, err := blob.Open(n.ctx, blob.Config{DB: db, Folder: filepath.Join(n.folder, "media")})
	must(t, err)
	n.media, err = media.Open(n.ctx, media.Config{
		DB: db, Ours: n.ours, Blobs: blobs, Client: client, Limits: media.Limits{Upload: 1 << 20, Remote: 1 << 20, RemoteCache: 1 << 20, Thumbnails: 1 << 20},
	})
	must(t, err)
	t.Cleanup(n.media.Close)
	n.api = fedapi.New(fedapi.Config{
		Ours: n.ours, Accounts: n.accounts, Graph: n.graph, Rooms: n.rooms, Directory: n.directory, Ephemeral: n.ephemeral, Encryption: encryption, Media: n.media,
		View: view.New(view.Config{Graph: n.graph, Ignored: n.accounts.IgnoredUsers}), Client: client, Federated: federated, Log: log,
		Settings: fedapi.Settings{Version: "test", Delegate: func(name id.ServerName) string {
			if name == alias {
				return "federation.alias.example:443"
			}
			return ""
		}},
	})
	n.mux, err = web.New(web.Config{Routes: n.api.Routes(), AuthenticateServer: n.api.Authenticate, Log: log})
	must(t, err)
	return n
}

// client makes what speaks to other servers on the network.
func (n *node) client(db *sqldb.DB) *fedclient.Client {
	n.t.Helper()
	host := n.net.Host(string(here))
	must(n.t, n.authority.Write(filepath.Join(n.folder, "ca.crt")))
	pem, err := os.ReadFile(filepath.Join(n.folder, "ca.crt"))
	must(n.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c, err := fedclient.Open(n.ctx, fedclient.Config{
		DB: db, Ours: n.ours, Dial: host.Dial, Lookup: host, Roots: roots, AllowNetworks: []netip.Prefix{nettest.Prefix},
		Deny: []string{"denied.example"},
	})
	must(n.t, err)
	n.t.Cleanup(c.Close)
	return c
}

// user registers a user of ours.
func (n *node) user(name id.UserID) {
	n.t.Helper()
	must(n.t, n.accounts.Create(n.ctx, account.NewUser{ID: name, DisplayName: "Name of " + name.Localpart()}))
}

// peer is another server, as far as it is needed: it publishes a key, signs requests and makes events.
type peer struct {
	*node
	name id.ServerName
	key  sign.Key
	user id.UserID
	// asked has the paths of what it was asked, its keys excepted.
	asked chan string
}

func (n *node) peer(name id.ServerName) *peer {
	n.t.Helper()
	key, err := sign.Generate(rand.Reader, "p1")
	must(n.t, err)
	p := &peer{n, name, key, id.UserID("@erin:" + string(name)), make(chan string, 16)}
	crt, pem := filepath.Join(n.folder, string(name)+".crt"), filepath.Join(n.folder, string(name)+".key")
	must(n.t, n.authority.Certify(string(name), crt, pem))
	pair, err := tls.LoadX509KeyPair(crt, pem)
	must(n.t, err)
	l, err := n.net.Host(string(name)).Listen("tcp", ":8448")
	must(n.t, err)
	server := &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(p.publish),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(l, "", "")
	}()
	n.t.Cleanup(func() { server.Close(); <-done })
	return p
}

// publish serves the peer's keys, agrees to every invite, and thanks for those of identifiers.
func (p *peer) publish(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path != "/_matrix/key/v2/server" {
		select {
		case p.asked <- r.URL.Path:
		default: // nobody wants to know
		}
		p.agree(w, r)
		return
	}
	raw, err := canon.Marshal(map[string]any{
		"server_name": p.name, "valid_until_ts": time.Now().Add(24 * time.Hour).UnixMilli(), "old_verify_keys": map[string]any{},
		"verify_keys": map[string]any{string(p.key.ID): map[string]any{"key": sign.EncodeBase64(p.key.Public())}},
	})
	if err == nil {
		raw, err = p.key.Sign(raw, string(p.name))
	}
	if err == nil {
		_, _ = w.Write(raw)
	}
}

func (p *peer) agree(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/exchange_third_party_invite/") {
		fmt.Fprint(w, "{}")
		return
	}
	raw, err := io.ReadAll(r.Body)
	version, ok := roomver.Get(gjson.GetBytes(raw, "room_version").Str)
	if err == nil && ok {
		var pdu *event.PDU
		if pdu, err = event.Parse(version, []byte(gjson.GetBytes(raw, "event").Raw)); err == nil {
			if pdu, err = pdu.Signed(p.name, p.key); err == nil {
				fmt.Fprintf(w, `{"event":%s}`, pdu.Raw())
				return
			}
		}
	}
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprint(w, `{"errcode":"M_UNRECOGNIZED","error":"no"}`)
}

// answer is what came back.
type answer struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   []byte
}

func (a *answer) get(path string) gjson.Result { return gjson.GetBytes(a.body, path) }

// list returns the strings of an array.
func (a *answer) list(path string) (out []string) {
	for _, v := range a.get(path).Array() {
		out = append(out, v.Str)
	}
	return out
}

// send sends a request as it is and checks the form of the answer.
func (n *node) send(r *http.Request) *answer {
	n.t.Helper()
	w := httptest.NewRecorder()
	n.mux.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Body)
	must(n.t, err)
	if !json.Valid(body) && !strings.HasPrefix(w.Header().Get("Content-Type"), "multipart/") {
		n.t.Fatalf("%s %s answers %q", r.Method, r.URL, body)
	}
	spectest.Check(n.t, r.Method, r.URL.RequestURI(), spectest.Answer{Status: w.Code, Header: w.Header(), Body: body})
	return &answer{n.t, r.Method + " " + r.URL.Path, w.Code, w.Header(), body}
}

// open sends an unsigned request: "METHOD /path".
func (n *node) open(what, body string) *answer {
	n.t.Helper()
	return n.send(n.request(what, body))
}

func (n *node) request(what, body string) *http.Request {
	method, path, _ := strings.Cut(what, " ")
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequestWithContext(n.ctx, method, path, reader)
	r.Host = string(here)
	return r
}

// signature is an X-Matrix header, with whatever a test wants to be wrong.
type signature struct {
	method, uri, content string
	origin, destination  id.ServerName
	key                  sign.Key
}

func (s signature) header(t testing.TB) string {
	t.Helper()
	object := map[string]any{"method": s.method, "uri": s.uri, "origin": s.origin, "destination": s.destination}
	if s.content != "" {
		object["content"] = json.RawMessage(s.content)
	}
	raw, err := json.Marshal(object)
	must(t, err)
	text, err := s.key.Signature(raw)
	must(t, err)
	return fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, s.origin, s.destination, s.key.ID, text)
}

func (p *peer) signature(r *http.Request, body string) signature {
	return signature{r.Method, r.URL.RequestURI(), body, p.name, here, p.key}
}

// call sends a signed request. The path is "METHOD path", below /_matrix/federation.
func (p *peer) call(what string, body any) *answer {
	p.t.Helper()
	method, path, _ := strings.Cut(what, " ")
	text := ""
	switch b := body.(type) {
	case nil:
	case string:
		text = b
	case []byte:
		text = string(b)
	default:
		raw, err := json.Marshal(b)
		must(p.t, err)
		text = string(raw)
	}
	r := p.request(method+" /_matrix/federation/"+path, text)
	r.Header.Set("Authorization", p.signature(r, text).header(p.t))
	return p.send(r)
}

// ok wants a 200.
func (p *peer) ok(what string, body any) *answer {
	p.t.Helper()
	a := p.call(what, body)
	a.want(200, "")
	return a
}

// want ends the test at another status, or another errcode.
func (a *answer) want(status int, code string) {
	a.t.Helper()
	if a.status != status || a.get("errcode").Str != code {
		a.t.Fatalf("%s: %d %.600s, want %d %s", a.what, a.status, a.body, status, code)
	}
}

// refused wants an error.
func (p *peer) refused(status int, code, what string, body any) {
	p.t.Helper()
	p.call(what, body).want(status, code)
}

type object = map[string]any

func esc[T ~string](s T) string { return url.PathEscape(string(s)) }

// create makes a public room of alice's.
func (n *node) create(c room.Creation) id.RoomID {
	n.t.Helper()
	c.Creator = alice
	if c.Preset == "" {
		c.Preset = room.PublicChat
	}
	name, err := n.rooms.Create(n.ctx, c)
	must(n.t, err)
	return name
}

func (n *node) say(r id.RoomID, text string) id.EventID {
	n.t.Helper()
	e, err := n.rooms.Send(n.ctx, room.Message{Room: r, Proposal: room.Proposal{
		Sender: alice, Type: "m.room.message", Content: []byte(`{"msgtype":"m.text","body":"` + text + `"}`),
	}})
	must(n.t, err)
	return e
}

func (n *node) set(r id.RoomID, typ, key, content string) id.EventID {
	n.t.Helper()
	e, err := n.rooms.Send(n.ctx, room.Message{Room: r, Proposal: room.Proposal{Sender: alice, Type: typ, StateKey: &key, Content: []byte(content)}})
	must(n.t, err)
	return e
}

func (n *node) head(r id.RoomID) *graph.Head {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, r)
	must(n.t, err)
	return head
}

// draft makes an event of the peer that follows the room's extremities.
func (p *peer) draft(r id.RoomID, sender id.UserID, typ string, stateKey *string, content string) *event.PDU {
	p.t.Helper()
	head := p.head(r)
	d := event.Draft{RoomID: r, Type: typ, StateKey: stateKey, Sender: sender, Content: []byte(content), OriginServerTS: time.Now().UnixMilli()}
	for _, x := range head.Extremities {
		d.PrevEvents, d.Depth = append(d.PrevEvents, x.ID), max(d.Depth, x.Depth+1)
	}
	for _, k := range eventauth.NeededFor(head.Version, d.Type, d.StateKey, d.Sender, d.Content) {
		if nid, ok := head.State.Get(k.Type, k.StateKey); ok {
			found, err := p.graph.Events(p.ctx, head.Room, []graph.EventNID{nid})
			must(p.t, err)
			d.AuthEvents = append(d.AuthEvents, found[0].PDU.ID())
		}
	}
	pdu, err := d.Build(head.Version, p.name, p.key, rand.Text)
	must(p.t, err)
	return pdu
}

func (p *peer) member(r id.RoomID, user id.UserID, membership string) *event.PDU {
	p.t.Helper()
	key := string(user)
	return p.draft(r, user, "m.room.member", &key, `{"membership":"`+membership+`"}`)
}

// joins puts the peer's user into a room, past the network.
func (p *peer) joins(r id.RoomID) *event.PDU {
	p.t.Helper()
	pdu := p.member(r, p.user, "join")
	if got := p.rooms.ReceiveAll(p.ctx, r, []*event.PDU{pdu})[0]; got.Err != nil || got.Verdict != room.Accepted {
		p.t.Fatalf("the join is not accepted: %+v", got)
	}
	return pdu
}

// chain is the body of a transaction of messages, each of which follows the one before.
func (p *peer) chain(r id.RoomID, size int) string {
	p.t.Helper()
	version := p.head(r).Version
	prev := p.draft(r, p.user, "m.room.message", nil, `{"msgtype":"m.text","body":"0"}`)
	var b strings.Builder
	fmt.Fprintf(&b, `{"origin":%q,"origin_server_ts":1,"pdus":[%s`, p.name, prev.Raw())
	for i := 1; i < size; i++ {
		next, err := event.Draft{
			RoomID: r, Type: "m.room.message", Sender: p.user, OriginServerTS: time.Now().UnixMilli(), Depth: prev.Depth() + 1,
			Content: fmt.Appendf(nil, `{"msgtype":"m.text","body":"%d"}`, i), PrevEvents: []id.EventID{prev.ID()}, AuthEvents: prev.AuthEvents(),
		}.Build(version, p.name, p.key, rand.Text)
		must(p.t, err)
		fmt.Fprintf(&b, ",%s", next.Raw())
		prev = next
	}
	b.WriteString("]}")
	return b.String()
}
