package view_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/view"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

const (
	alice = id.UserID("@alice:here.example")
	bob   = id.UserID("@bob:here.example")
	carol = id.UserID("@carol:here.example")
)

// node is a server's rooms and what their users see of them.
type node struct {
	*view.View
	t       testing.TB
	ctx     context.Context
	graph   *graph.Graph
	rooms   *room.Rooms
	ours    *ours.Set
	ignored map[id.UserID]map[id.UserID]struct{}
}

func each(t *testing.T, run func(t *testing.T, n *node)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) { run(t, start(t, open())) })
}

func start(t testing.TB, db *sqldb.DB) *node {
	t.Helper()
	ctx := t.Context()
	g, err := graph.Open(ctx, graph.Config{DB: db})
	must(t, err)
	set, err := ours.Open(ctx, ours.Config{DB: db, Names: []id.ServerName{"here.example", "there.example"}})
	must(t, err)
	version, _ := roomver.Get(roomver.Default)
	n := &node{t: t, ctx: ctx, graph: g, ours: set, ignored: map[id.UserID]map[id.UserID]struct{}{}}
	n.View = view.New(view.Config{
		Graph:   g,
		Ignored: func(_ context.Context, u id.UserID) (map[id.UserID]struct{}, error) { return n.ignored[u], nil },
	})
	n.rooms = room.New(room.Config{
		Graph: g, Ours: set, DefaultVersion: version,
		Profile: func(_ context.Context, u id.UserID) (room.Profile, error) {
			return room.Profile{DisplayName: "Name of " + u.Localpart()}, nil
		},
		IsGuest: func(context.Context, id.UserID) (bool, error) { return false, nil },
	})
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create makes a room of alice's that anybody may join.
func (n *node) create(state ...room.StateEntry) id.RoomID {
	n.t.Helper()
	r, err := n.rooms.Create(n.ctx, room.Creation{Creator: alice, Preset: room.PublicChat, InitialState: state})
	must(n.t, err)
	return r
}

func (n *node) say(r id.RoomID, u id.UserID, body string) id.EventID {
	n.t.Helper()
	return n.send(r, room.Proposal{Sender: u, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":%q,"msgtype":"m.text"}`, body)})
}

func (n *node) set(r id.RoomID, u id.UserID, typ, key, content string) id.EventID {
	n.t.Helper()
	return n.send(r, room.Proposal{Sender: u, Type: typ, StateKey: &key, Content: []byte(content)})
}

func (n *node) send(r id.RoomID, p room.Proposal) id.EventID {
	n.t.Helper()
	e, err := n.rooms.Send(n.ctx, room.Message{Room: r, Proposal: p})
	must(n.t, err)
	return e
}

// move changes a membership; alice does to others what they can't do themselves.
func (n *node) move(r id.RoomID, u id.UserID, how string) error {
	own := room.Membership{Room: r, Sender: u}
	by := room.Membership{Room: r, Sender: alice, Target: u}
	var err error
	switch how {
	case "join":
		_, err = n.rooms.Join(n.ctx, room.Join{Membership: own})
	case "leave":
		_, err = n.rooms.Leave(n.ctx, own)
	case "invite":
		_, err = n.rooms.Invite(n.ctx, by)
	case "kick":
		_, err = n.rooms.Kick(n.ctx, by)
	case "ban":
		_, err = n.rooms.Ban(n.ctx, by)
	case "unban":
		_, err = n.rooms.Unban(n.ctx, by)
	case "forget":
		err = n.rooms.Forget(n.ctx, u, r)
	default:
		n.t.Fatalf("no such move: %s", how)
	}
	return err
}

func (n *node) moves(r id.RoomID, u id.UserID, how ...string) {
	n.t.Helper()
	for _, h := range how {
		must(n.t, n.move(r, u, h))
	}
}

// timeline returns all events of the room in its order.
func (n *node) timeline(r id.RoomID) []*graph.Event {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, r)
	must(n.t, err)
	events, err := n.graph.Timeline(n.ctx, head.Room, graph.Range{After: graph.Beginning, Before: graph.End, Limit: 10_000})
	must(n.t, err)
	return events
}

func (n *node) event(e id.EventID) *graph.Event {
	n.t.Helper()
	found, ok, err := n.graph.Event(n.ctx, e)
	must(n.t, err)
	if !ok {
		n.t.Fatalf("%s is not stored", e)
	}
	return found
}

// messages asks for a page.
func (n *node) messages(p view.Page) gjson.Result {
	n.t.Helper()
	raw, err := n.Messages(n.ctx, p)
	must(n.t, err)
	return parse(n.t, raw)
}

func parse(t testing.TB, raw []byte) gjson.Result {
	t.Helper()
	if !gjson.ValidBytes(raw) {
		t.Fatalf("not JSON: %s", raw)
	}
	return gjson.ParseBytes(raw)
}

// ids lists the event IDs of a JSON array of events.
func ids(array gjson.Result) []id.EventID {
	var out []id.EventID
	for _, e := range array.Array() {
		out = append(out, id.EventID(e.Get("event_id").Str))
	}
	return out
}

// backfill puts messages before the room's first event, the newest first.
func (n *node) backfill(r id.RoomID, count int) {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, r)
	must(n.t, err)
	key, _ := n.ours.Key("here.example")
	for i := range count {
		p, err := event.Draft{
			RoomID: r, Type: "m.room.message", Sender: alice, Content: fmt.Appendf(nil, `{"body":"old %d"}`, i), OriginServerTS: int64(1000 - i),
		}.Build(head.Version, "here.example", key, nil)
		must(n.t, err)
		nid, err := n.graph.NextNID(n.ctx)
		must(n.t, err)
		e := &graph.Event{NID: nid, PDU: p, Flags: graph.Backfilled}
		next, err := head.Place(e, graph.Placement{Before: head.State})
		must(n.t, err)
		must(n.t, n.graph.Commit(&graph.Commit{Prev: head, Next: next, Events: []*graph.Event{e}}).Wait(n.ctx))
		head = next
	}
}

// want checks that err has this code; "" means none.
func want(t testing.TB, code mxerr.Code, err error) {
	t.Helper()
	if code == "" {
		must(t, err)
		return
	}
	if !mxerr.Is(err, code) {
		t.Fatalf("got %v, want %s", err, code)
	}
}

func gjsonGet(raw []byte, path string) string { return gjson.GetBytes(raw, path).Str }
