package clientapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/clientapi"
	"myelin/internal/directory"
	"myelin/internal/ephemeral"
	"myelin/internal/fedclient"
	"myelin/internal/fedroom"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/syncer"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// api is the route table over real slices on a test database. An access token is the name of its user; the name "root" is
// an administrator's.
type api struct {
	t   *testing.T
	mux http.Handler
	bus *bus.Bus

	accounts *account.Accounts
}

func serve(t *testing.T, open sqldbtest.Open) *api {
	t.Helper()
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b := bus.New(bus.Config{})
	db := open(func(c *sqldb.Config) { c.Committed = b.Committed })
	names, err := ours.Open(ctx, ours.Config{DB: db, Names: []id.ServerName{"here.example"}})
	must(err)
	accounts, err := account.Open(ctx, account.Config{DB: db, Ours: names, Bus: b})
	must(err)
	t.Cleanup(func() { must(accounts.Close(context.WithoutCancel(ctx))) })
	g, err := graph.Open(ctx, graph.Config{DB: db})
	must(err)
	d, err := directory.Open(ctx, directory.Config{DB: db, Ours: names, Graph: g, Bus: b})
	must(err)
	e, err := ephemeral.Open(ctx, ephemeral.Config{DB: db, Ours: names, Graph: g, Circles: graph.OpenCircles(g, b), Accounts: accounts, Bus: b})
	must(err)
	version, _ := roomver.Get(roomver.Default)
	rooms := room.New(room.Config{
		Graph: g, Ours: names, Log: log, DefaultVersion: version, Alias: d.Lookup,
		Profile: func(context.Context, id.UserID) (room.Profile, error) { return room.Profile{}, nil },
		IsGuest: func(context.Context, id.UserID) (bool, error) { return false, nil },
	})
	v := view.New(view.Config{Graph: g, Ignored: accounts.IgnoredUsers})
	s := syncer.New(syncer.Config{Bus: b, Graph: g, View: v, Accounts: accounts, Ephemeral: e, DB: db})
	t.Cleanup(s.Close)
	client, err := fedclient.Open(ctx, fedclient.Config{DB: db, Ours: names, Deny: []string{"*"}})
	must(err)
	t.Cleanup(client.Close)
	federated, err := fedroom.Open(ctx, fedroom.Config{DB: db, Ours: names, Client: client, Accounts: accounts, Graph: g, Rooms: rooms})
	must(err)
	t.Cleanup(federated.Close)
	table := clientapi.New(clientapi.Config{
		Ours: names, Bus: b, Accounts: accounts, Graph: g, Rooms: rooms, Federated: federated, View: v, Directory: d, Ephemeral: e, Syncer: s, Log: log,
	})
	mux, err := web.New(web.Config{Routes: table.Routes(), Authenticate: authenticate})
	must(err)
	return &api{t: t, mux: mux, bus: b, accounts: accounts}
}

func authenticate(_ context.Context, token string, _ *web.Request) (web.Caller, error) {
	return web.Caller{User: id.UserID("@" + token + ":here.example"), Device: "D", Admin: token == "root"}, nil
}

// call sends a request and returns status and body. The path is "METHOD /path" below /_matrix/client/v3.
func (a *api) call(user, path, body string) (int, gjson.Result) {
	a.t.Helper()
	method, path, _ := strings.Cut(path, " ")
	r := httptest.NewRequestWithContext(a.t.Context(), method, "/_matrix/client/v3"+path, bytes.NewBufferString(body))
	if user != "" {
		r.Header.Set("Authorization", "Bearer "+user)
	}
	w := httptest.NewRecorder()
	a.mux.ServeHTTP(w, r)
	raw, _ := io.ReadAll(w.Body)
	if !json.Valid(raw) {
		a.t.Fatalf("%s %s answers %q", method, path, raw)
	}
	return w.Code, gjson.ParseBytes(raw)
}

// ok wants a 200.
func (a *api) ok(user, path, body string) gjson.Result {
	a.t.Helper()
	status, got := a.call(user, path, body)
	if status != http.StatusOK {
		a.t.Fatalf("%s as %s: %d %s", path, user, status, got)
	}
	return got
}

// refused wants an error.
func (a *api) refused(status int, code, user, path, body string) {
	a.t.Helper()
	if got, answer := a.call(user, path, body); got != status || answer.Get("errcode").Str != code {
		a.t.Errorf("%s %s as %s: %d %s, want %d %s", path, body, user, got, answer, status, code)
	}
}

// room makes a public room of alice's and returns its ID, ready for a path.
func (a *api) room(body string, others ...string) string {
	a.t.Helper()
	name := a.ok("alice", "POST /createRoom", body).Get("room_id").Str
	for _, user := range others {
		a.ok(user, "POST /rooms/"+url.PathEscape(name)+"/join", `{}`)
	}
	return url.PathEscape(name)
}

// send sends a message of alice's.
func (a *api) send(room, text string) string {
	a.t.Helper()
	return a.ok("alice", "POST /rooms/"+room+"/send/m.room.message", `{"msgtype":"m.text","body":"`+text+`"}`).Get("event_id").Str
}
