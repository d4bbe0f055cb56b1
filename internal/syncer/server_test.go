package syncer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/syncer"
	"myelin/internal/view"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

const (
	alice = id.UserID("@alice:here.test")
	bob   = id.UserID("@bob:here.test")
	carol = id.UserID("@carol:here.test")
	erin  = id.UserID("@erin:there.test")
)

// server is the slices below /sync, built as the server builds them.
type server struct {
	tb        testing.TB
	ctx       context.Context
	db        *sqldb.DB
	bus       *bus.Bus
	graph     *graph.Graph
	rooms     *room.Rooms
	accounts  *account.Accounts
	view      *view.View
	ephemeral *ephemeral.Ephemeral
	syncer    *syncer.Syncer
	names     map[id.UserID]string // display names of member events
	ts        int64                // of events from elsewhere
}

// each runs a test on both engines.
func each(t *testing.T, test func(t *testing.T, s *server)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) { test(t, start(t, open)) })
}

func start(tb testing.TB, open sqldbtest.Open) *server {
	tb.Helper()
	ctx := tb.Context()
	s := &server{tb: tb, ctx: ctx, bus: bus.New(bus.Config{}), names: map[id.UserID]string{}}
	s.db = open(func(c *sqldb.Config) { c.Committed = s.bus.Committed })
	set, err := ours.Open(ctx, ours.Config{DB: s.db, Names: []id.ServerName{"here.test"}})
	must(tb, err)
	s.accounts, err = account.Open(ctx, account.Config{DB: s.db, Ours: set, Bus: s.bus})
	must(tb, err)
	tb.Cleanup(func() { must(tb, s.accounts.Close(context.Background())) })
	s.graph, err = graph.Open(ctx, graph.Config{DB: s.db})
	must(tb, err)
	version, _ := roomver.Get(roomver.Default)
	s.rooms = room.New(room.Config{
		Graph: s.graph, Ours: set, DefaultVersion: version,
		Profile: func(_ context.Context, u id.UserID) (room.Profile, error) {
			return room.Profile{DisplayName: s.names[u]}, nil
		},
		Alias:   func(context.Context, id.RoomAlias) (id.RoomID, bool, error) { return "", false, nil },
		IsGuest: func(context.Context, id.UserID) (bool, error) { return false, nil },
	})
	s.view = view.New(view.Config{Graph: s.graph, Ignored: s.accounts.IgnoredUsers})
	s.ephemeral, err = ephemeral.Open(ctx, ephemeral.Config{
		DB: s.db, Ours: set, Graph: s.graph, Circles: graph.OpenCircles(s.graph, s.bus), Accounts: s.accounts, Bus: s.bus, NoPresence: true,
	})
	must(tb, err)
	tb.Cleanup(s.ephemeral.Close)
	must(tb, s.db.Migrate(ctx, syncer.Migrations...))
	s.syncer = s.newSyncer()
	return s
}

// newSyncer makes a Syncer that knows nothing yet.
func (s *server) newSyncer() *syncer.Syncer {
	n := syncer.New(syncer.Config{
		Bus: s.bus, Graph: s.graph, View: s.view, Accounts: s.accounts, Ephemeral: s.ephemeral, DB: s.db,
	})
	s.tb.Cleanup(n.Close)
	return n
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// did fails the test if an operation failed, and returns the event that it made.
func (s *server) did(e id.EventID, err error) id.EventID {
	s.tb.Helper()
	must(s.tb, err)
	return e
}

func (s *server) create(c room.Creation) id.RoomID {
	s.tb.Helper()
	if c.Creator == "" {
		c.Creator = alice
	}
	if c.Preset == "" {
		c.Preset = room.PublicChat
	}
	r, err := s.rooms.Create(s.ctx, c)
	must(s.tb, err)
	return r
}

func (s *server) say(r id.RoomID, u id.UserID, body string) (id.EventID, error) {
	return s.rooms.Send(s.ctx, room.Message{Room: r, Proposal: room.Proposal{
		Sender: u, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":%q,"msgtype":"m.text"}`, body),
	}})
}

func (s *server) set(r id.RoomID, u id.UserID, typ, key, content string) (id.EventID, error) {
	return s.rooms.Send(s.ctx, room.Message{Room: r, Proposal: room.Proposal{
		Sender: u, Type: typ, StateKey: &key, Content: []byte(content),
	}})
}

func (s *server) join(r id.RoomID, u id.UserID) (id.EventID, error) {
	return s.rooms.Join(s.ctx, room.Join{Membership: room.Membership{Room: r, Sender: u}})
}

func (s *server) leave(r id.RoomID, u id.UserID) (id.EventID, error) {
	return s.rooms.Leave(s.ctx, room.Membership{Room: r, Sender: u})
}

func on(r id.RoomID, sender, target id.UserID) room.Membership {
	return room.Membership{Room: r, Sender: sender, Target: target}
}

func (s *server) head(r id.RoomID) *graph.Head {
	s.tb.Helper()
	h, err := s.graph.Head(s.ctx, r)
	must(s.tb, err)
	return h
}

// timeline returns all live events of a room.
func (s *server) timeline(r id.RoomID) []*graph.Event {
	s.tb.Helper()
	events, err := s.graph.Timeline(s.ctx, s.head(r).Room, graph.Range{Limit: 100_000})
	must(s.tb, err)
	return events
}

var thereKey, _ = sign.FromSeed("ed25519:1", bytes.Repeat([]byte{7}, 32))

// foreign makes an event of another server that follows prev and knows nothing else, and receives it.
func (s *server) foreign(r id.RoomID, sender id.UserID, typ string, key *string, content string, prev *graph.Event) (id.EventID, room.Verdict, error) {
	s.tb.Helper()
	pdu := s.foreignPDU(r, sender, typ, key, content, prev, prev.PDU.ID())
	got := s.rooms.ReceiveAll(s.ctx, r, []*event.PDU{pdu})[0]
	return pdu.ID(), got.Verdict, got.Err
}

// foreignPDU makes an event of another server in the state after one event, that follows these.
func (s *server) foreignPDU(r id.RoomID, sender id.UserID, typ string, key *string, content string, prev *graph.Event, follows ...id.EventID) *event.PDU {
	s.tb.Helper()
	s.ts++
	head := s.head(r)
	d := event.Draft{
		RoomID: r, Type: typ, StateKey: key, Sender: sender, Content: []byte(content), OriginServerTS: s.ts,
		PrevEvents: follows, Depth: prev.PDU.Depth() + 1,
	}
	state, err := s.graph.StateAfter(s.ctx, prev)
	must(s.tb, err)
	for _, k := range eventauth.NeededFor(head.Version, typ, key, sender, d.Content) {
		if nid, ok := state.Get(k.Type, k.StateKey); ok {
			events, err := s.graph.Events(s.ctx, head.Room, []graph.EventNID{nid})
			must(s.tb, err)
			d.AuthEvents = append(d.AuthEvents, events[0].PDU.ID())
		}
	}
	pdu, err := d.Build(head.Version, sender.Domain(), thereKey, rand.Text)
	must(s.tb, err)
	return pdu
}

// answer is a parsed answer of /sync.
type answer struct {
	gjson.Result
	next string
}

func (a answer) room(section string, r id.RoomID) gjson.Result {
	return a.Get("rooms." + section + "." + gjson.Escape(string(r)))
}

// request calls /sync.
func (s *server) request(on *syncer.Syncer, q syncer.Request, since string) (answer, error) {
	if since != "" {
		token, err := syncer.ParseToken(since)
		if err != nil {
			return answer{}, err
		}
		q.Since = &token
	}
	if q.Device == "" {
		q.Device = "D"
	}
	if q.Presence == "" {
		q.Presence = ephemeral.Offline
	}
	body, err := on.Sync(s.ctx, q)
	if err != nil {
		return answer{}, err
	}
	if !gjson.ValidBytes(body) {
		return answer{}, fmt.Errorf("the answer is not JSON: %s", body)
	}
	parsed := gjson.ParseBytes(body)
	return answer{parsed, parsed.Get("next_batch").Str}, nil
}

func (s *server) sync(u id.UserID, since string, filter ...string) answer {
	s.tb.Helper()
	return s.with(syncer.Request{User: u}, since, filter...)
}

func (s *server) with(q syncer.Request, since string, filter ...string) answer {
	s.tb.Helper()
	if len(filter) > 0 {
		f, err := view.ParseFilter([]byte(filter[0]))
		must(s.tb, err)
		q.Filter = f
	}
	a, err := s.request(s.syncer, q, since)
	must(s.tb, err)
	return a
}

// ids lists the events of a list.
func ids(list gjson.Result) []id.EventID {
	var out []id.EventID
	for _, e := range list.Array() {
		out = append(out, id.EventID(e.Get("event_id").Str))
	}
	return out
}

// holds reports whether a list has an event of a type and a state key.
func holds(list gjson.Result, typ, key string) bool {
	for _, e := range list.Array() {
		if e.Get("type").Str == typ && e.Get("state_key").Str == key {
			return true
		}
	}
	return false
}

const patient = 10 * time.Second

func parse(raw []byte) gjson.Result { return gjson.ParseBytes(raw) }

// messages asks for what lies between two tokens.
func messages(u id.UserID, r id.RoomID, from, to string) view.Page {
	return view.Page{
		Audience: view.Audience{User: u}, Room: r, From: from, To: to, Backward: true, Limit: 100, Filter: new(view.RoomEventFilter),
	}
}
