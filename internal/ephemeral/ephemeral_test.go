package ephemeral

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

const (
	alice = id.UserID("@alice:here.example")
	bob   = id.UserID("@bob:here.example")
	eve   = id.UserID("@eve:here.example")
)

// node is one server on a test database.
type node struct {
	*Ephemeral
	t     *testing.T
	ctx   context.Context
	rooms *room.Rooms
	news  []bus.Entry // of this package
}

func start(t *testing.T, open sqldbtest.Open, name string) *node {
	t.Helper()
	n := &node{t: t, ctx: t.Context()}
	b := bus.New(bus.Config{})
	db := open(func(c *sqldb.Config) { c.Committed = b.Committed })
	names, err := ours.Open(n.ctx, ours.Config{DB: db, Names: []id.ServerName{"here.example"}})
	n.ok(err)
	g, err := graph.Open(n.ctx, graph.Config{DB: db})
	n.ok(err)
	accounts, err := account.Open(n.ctx, account.Config{DB: db, Ours: names, Bus: b})
	n.ok(err)
	t.Cleanup(func() { n.ok(accounts.Close(context.WithoutCancel(n.ctx))) })
	n.Ephemeral, err = Open(n.ctx, Config{DB: db, Ours: names, Graph: g, Circles: graph.OpenCircles(g, b), Accounts: accounts, Bus: b, Node: name})
	n.ok(err)
	t.Cleanup(n.Close)
	version, _ := roomver.Get(roomver.Default)
	n.rooms = room.New(room.Config{
		Graph: g, Ours: names, DefaultVersion: version,
		Alias:   func(context.Context, id.RoomAlias) (id.RoomID, bool, error) { return "", false, nil },
		Profile: func(context.Context, id.UserID) (room.Profile, error) { return room.Profile{}, nil },
		IsGuest: func(context.Context, id.UserID) (bool, error) { return false, nil },
	})
	b.Subscribe(func(r bus.Range) {
		for _, e := range r.Entries {
			if e.Kind == bus.Receipt || e.Kind == bus.Typing || e.Kind == bus.Presence {
				n.news = append(n.news, e)
			}
		}
	})
	return n
}

func (n *node) ok(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) refused(code mxerr.Code, err error) {
	n.t.Helper()
	if !mxerr.Is(err, code) {
		n.t.Fatalf("got %v, want %s", err, code)
	}
}

// room makes a room that alice and the others are in.
func (n *node) room(others ...id.UserID) (id.RoomID, graph.RoomNID) {
	n.t.Helper()
	name, err := n.rooms.Create(n.ctx, room.Creation{Creator: alice, Preset: room.PublicChat})
	n.ok(err)
	for _, user := range others {
		_, err := n.rooms.Join(n.ctx, room.Join{Membership: room.Membership{Room: name, Sender: user}})
		n.ok(err)
	}
	nid, _, err := n.graph.RoomNID(n.ctx, name)
	n.ok(err)
	return name, nid
}

func (n *node) send(name id.RoomID, content string) id.EventID {
	n.t.Helper()
	event, err := n.rooms.Send(n.ctx, room.Message{Room: name, Proposal: room.Proposal{Sender: alice, Type: "m.room.message", Content: []byte(content)}})
	n.ok(err)
	return event
}

// took returns the news since it was asked last.
func (n *node) took() []bus.Entry {
	news := n.news
	n.news = nil
	return news
}

func (n *node) last() sqldb.Pos {
	n.t.Helper()
	pos, err := n.db.Last(n.ctx)
	n.ok(err)
	return pos
}

// receipts reads what a user may see of the receipts of a room.
func (n *node) receipts(nid graph.RoomNID, from sqldb.Pos, user id.UserID) string {
	n.t.Helper()
	var out []byte
	n.ok(n.db.Read(n.ctx, func(tx *sqldb.Tx) error {
		found, err := Receipts(tx, []graph.RoomNID{nid}, from, 1<<60, user)
		for _, r := range found {
			r.TS = 1
		}
		out = AppendReceipts(nil, found, user)
		return err
	}))
	return string(out)
}

func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		n.ok(n.db.Migrate(n.ctx, work.Migrations()...))
		sqldbtest.PrepareAll(t, n.db)
	})
}

func TestReceipts(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, nid := n.room(bob)
		first, second := n.send(name, `{"body":"1"}`), n.send(name, `{"body":"2"}`)

		n.refused(mxerr.CodeForbidden, n.Mark(n.ctx, eve, name, Mark{Type: Read, Event: first}))
		n.refused(mxerr.CodeForbidden, n.Mark(n.ctx, eve, "!nowhere:here.example", Mark{Type: Read, Event: first}))
		n.refused(mxerr.CodeNotFound, n.Mark(n.ctx, bob, name, Mark{Type: Read, Event: "$nothing"}))
		n.refused(mxerr.CodeInvalidParam, n.Mark(n.ctx, bob, name, Mark{Type: "m.seen", Event: first}))
		elsewhere, _ := n.room(bob)
		n.refused(mxerr.CodeNotFound, n.Mark(n.ctx, bob, elsewhere, Mark{Type: Read, Event: first}))
		if news := n.took(); len(news) != 0 {
			t.Fatalf("refused receipts were told: %v", news)
		}

		n.ok(n.Mark(n.ctx, bob, name, Mark{Type: Read, Event: second}))
		news := n.took()
		if len(news) != 1 || news[0].Kind != bus.Receipt || news[0].Room != int64(nid) || news[0].User != bob || news[0].Pos != n.last() {
			t.Fatalf("the bus told %+v", news)
		}
		want := fmt.Sprintf(`{"type":"m.receipt","content":{"%s":{"m.read":{"%s":{"ts":1}}}}}`, second, bob)
		if got := n.receipts(nid, 0, alice); got != want {
			t.Errorf("alice sees %s\nwant %s", got, want)
		}
		if got := n.receipts(nid, n.last(), alice); got != "" {
			t.Errorf("alice sees old news: %s", got)
		}

		before := n.last()
		n.ok(n.Mark(n.ctx, bob, name, Mark{Type: Read, Event: first}))
		n.ok(n.Mark(n.ctx, bob, name, Mark{Type: Read, Event: second}))
		if got := n.receipts(nid, 0, alice); got != want || n.last() != before {
			t.Errorf("the receipt moved back, or took a position: %s", got)
		}
	})
}

func TestPrivateReceipts(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, nid := n.room(bob)
		event := n.send(name, `{"body":"1"}`)
		n.ok(n.Mark(n.ctx, bob, name, Mark{Type: ReadPrivate, Event: event}))
		if got := n.receipts(nid, 0, alice); got != "" {
			t.Errorf("alice sees %s", got)
		}
		want := fmt.Sprintf(`{"type":"m.receipt","content":{"%s":{"m.read.private":{"%s":{"ts":1}}}}}`, event, bob)
		if got := n.receipts(nid, 0, bob); got != want {
			t.Errorf("bob sees %s", got)
		}
		if r := n.took()[0].Data.(*Receipt); r.VisibleTo(alice) || !r.VisibleTo(bob) {
			t.Error("the entry shows a private receipt to alice, or hides it from bob")
		}
	})
}

func TestReadMarker(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, nid := n.room()
		first, second := n.send(name, `{"body":"1"}`), n.send(name, `{"body":"2"}`)
		n.ok(n.Mark(n.ctx, alice, name, Mark{Type: FullyRead, Event: second}, Mark{Type: Read, Event: first}))
		n.ok(n.Mark(n.ctx, alice, name, Mark{Type: FullyRead, Event: first}))
		n.ok(n.Mark(n.ctx, alice, name))
		got, err := n.cfg.Accounts.Data(n.ctx, alice, name, FullyRead)
		n.ok(err)
		if want := fmt.Sprintf(`{"event_id":"%s"}`, second); string(got) != want {
			t.Errorf("the marker is %s, want %s", got, want)
		}
		want := fmt.Sprintf(`{"type":"m.receipt","content":{"%s":{"m.read":{"%s":{"ts":1}}}}}`, first, alice)
		if got := n.receipts(nid, 0, alice); got != want {
			t.Errorf("receipts are %s, want %s", got, want)
		}
		n.refused(mxerr.CodeInvalidParam, n.Mark(n.ctx, alice, name, Mark{Type: FullyRead, Event: second, Thread: "main"}))
		// One that fails takes the others with it.
		third := n.send(name, `{"body":"3"}`)
		n.refused(mxerr.CodeNotFound, n.Mark(n.ctx, alice, name, Mark{Type: Read, Event: third}, Mark{Type: FullyRead, Event: "$nothing"}))
		if got := n.receipts(nid, 0, alice); got != want {
			t.Errorf("half of a request took place: %s", got)
		}
	})
}

func TestThreads(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, "a")
	name, nid := n.room()
	relate := func(typ string, to id.EventID) id.EventID {
		return n.send(name, fmt.Sprintf(`{"body":"x","m.relates_to":{"rel_type":%q,"event_id":%q}}`, typ, to))
	}
	root := n.send(name, `{"body":"root"}`)
	inside := relate("m.thread", root)
	edit := relate("m.replace", inside)
	deep := relate("m.annotation", edit)
	deeper := relate("m.annotation", deep)
	deepest := relate("m.annotation", deeper)
	reaction := relate("m.annotation", root)
	plain := n.send(name, `{"body":"plain","m.relates_to":{"m.in_reply_to":{"event_id":"`+string(inside)+`"}}}`)
	dangling := relate("m.replace", "$unknown")
	for _, c := range []struct {
		event  id.EventID
		thread string
		ok     bool
	}{
		{root, "main", true}, {root, string(root), true},
		{inside, string(root), true}, {inside, "main", false}, {inside, string(plain), false},
		{edit, string(root), true}, {edit, "main", false}, {deep, string(root), true}, {deep, "main", false},
		{deeper, string(root), true}, {deepest, "main", true},
		{reaction, "main", true}, {reaction, string(root), true},
		{plain, "main", true}, {plain, string(root), false},
		{dangling, "main", true}, {dangling, string(root), true},
	} {
		err := n.Mark(n.ctx, alice, name, Mark{Type: Read, Event: c.event, Thread: c.thread})
		if c.ok {
			n.ok(err)
		} else {
			n.refused(mxerr.CodeInvalidParam, err)
		}
	}
	_, err := n.rooms.Redact(n.ctx, room.Redaction{Room: name, Sender: alice, Target: inside})
	n.ok(err)
	n.ok(n.Mark(n.ctx, alice, name, Mark{Type: Read, Event: inside, Thread: "main"}))

	// One event for each thread; several receipts of one user for one event can't stand in one.
	other, otherNID := n.room()
	event := n.send(other, `{}`)
	n.ok(n.Mark(n.ctx, alice, other, Mark{Type: Read, Event: event}, Mark{Type: Read, Event: event, Thread: "main"}))
	want := fmt.Sprintf(`{"type":"m.receipt","content":{"%s":{"m.read":{"%s":{"ts":1}}}}},`+
		`{"type":"m.receipt","content":{"%s":{"m.read":{"%s":{"ts":1,"thread_id":"main"}}}}}`, event, alice, event, alice)
	if got := n.receipts(otherNID, 0, alice); got != want {
		t.Errorf("receipts are %s\nwant %s", got, want)
	}
	if n.receipts(nid, 0, alice) == "" {
		t.Error("the receipts of threads are gone")
	}
}

func TestAppendReceipts(t *testing.T) {
	list := []*Receipt{
		{User: "@b:x", Type: Read, Event: "$2", TS: 4},
		{User: "@a:x", Type: Read, Event: "$1", TS: 1},
		{User: "@b:x", Type: Read, Event: "$1", TS: 2, Thread: "$t"},
		{User: "@a:x", Type: ReadPrivate, Event: "$1", TS: 3},
		{User: "@c:x", Type: Read, Event: "$1", TS: 5},
		{User: "@c:x", Type: ReadPrivate, Event: "$2", TS: 6},
	}
	want := `{"type":"m.receipt","content":{"$1":{"m.read":{"@a:x":{"ts":1},"@c:x":{"ts":5}},"m.read.private":{"@a:x":{"ts":3}}},"$2":{"m.read":{"@b:x":{"ts":4}}}}},` +
		`{"type":"m.receipt","content":{"$1":{"m.read":{"@b:x":{"ts":2,"thread_id":"$t"}}}}}`
	if got := string(AppendReceipts(nil, list, "@a:x")); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := AppendReceipts(nil, list[5:], "@a:x"); len(got) != 0 {
		t.Errorf("nothing to see is %s", got)
	}
}

// typists reads who types in a room.
func (n *node) typists(nid graph.RoomNID, from sqldb.Pos) string {
	n.t.Helper()
	var out []byte
	n.ok(n.db.Read(n.ctx, func(tx *sqldb.Tx) error {
		found, err := TypingIn(tx, []graph.RoomNID{nid}, from, 1<<60)
		out = nil
		for _, t := range found {
			out = AppendTyping(out, t, nil)
		}
		return err
	}))
	return string(out)
}

func TestTyping(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, nid := n.room(bob)
		n.refused(mxerr.CodeForbidden, n.SetTyping(n.ctx, eve, name, time.Second))
		n.ok(n.SetTyping(n.ctx, bob, name, 0))
		if news := n.took(); len(news) != 0 {
			t.Errorf("who didn't type stopped: %v", news)
		}
		n.ok(n.SetTyping(n.ctx, bob, name, 10*time.Second))
		n.ok(n.SetTyping(n.ctx, alice, name, time.Hour))
		n.ok(n.SetTyping(n.ctx, bob, name, 20*time.Second)) // nobody sees a difference
		news := n.took()
		if len(news) != 2 || !slices.Equal(news[1].Data.(*Typing).Users, []id.UserID{alice, bob}) || news[1].Pos != n.last() {
			t.Fatalf("the bus told %v", news)
		}
		const both = `{"type":"m.typing","content":{"user_ids":["@alice:here.example","@bob:here.example"]}}`
		if got := n.typists(nid, 0); got != both {
			t.Errorf("got %s", got)
		}
		n.ok(n.SetTyping(n.ctx, bob, name, 0))
		if got := string(AppendTyping(nil, n.took()[0].Data.(*Typing), func(u id.UserID) bool { return u != alice })); got != `{"type":"m.typing","content":{"user_ids":[]}}` {
			t.Errorf("without alice nobody types, but got %s", got)
		}

		// An hour is more than anybody types: it lasts two minutes.
		at := now()
		next, err := n.expireTyping(n.ctx, at)
		n.ok(err)
		if next <= at || next > at+time.Minute.Milliseconds() || len(n.took()) != 0 {
			t.Errorf("the next look is in %d ms", next-at)
		}
		before := n.last()
		_, err = n.expireTyping(n.ctx, at+MaxTyping.Milliseconds()+1)
		n.ok(err)
		if news := n.took(); len(news) != 1 || len(news[0].Data.(*Typing).Users) != 0 {
			t.Errorf("the bus told %v", news)
		}
		if got := n.typists(nid, before); got != `{"type":"m.typing","content":{"user_ids":[]}}` {
			t.Errorf("a sync sees %s", got)
		}
		if got := n.typists(nid, 0); got != "" {
			t.Errorf("an initial sync sees %s", got)
		}
		if len(n.Ephemeral.typing) != 0 {
			t.Errorf("memory holds %v", n.Ephemeral.typing)
		}
	})
}

// TestTypingSurvivesRestart checks that who typed before a crash stops typing after it.
func TestTypingSurvivesRestart(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, "a")
		name, nid := n.room()
		n.ok(n.SetTyping(n.ctx, alice, name, time.Millisecond))
		before := n.last()
		again := start(t, open, "a")
		g := work.NewGroup(nil)
		defer g.Stop()
		told := make(chan struct{}, 9)
		_, cancel := again.cfg.Bus.Subscribe(func(r bus.Range) {
			for _, e := range r.Entries {
				if e.Kind == bus.Typing {
					told <- struct{}{}
				}
			}
		})
		defer cancel()
		again.Start(g)
		<-told
		if got := again.typists(nid, before); got != `{"type":"m.typing","content":{"user_ids":[]}}` {
			t.Errorf("a sync sees %s", got)
		}
	})
}

func TestWhoLeavesDoesNotType(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, "a")
	name, nid := n.room(bob)
	n.ok(n.SetTyping(n.ctx, bob, name, time.Minute))
	_, err := n.rooms.Leave(n.ctx, room.Membership{Room: name, Sender: bob})
	n.ok(err)
	_, err = n.expireTyping(n.ctx, now())
	n.ok(err)
	if got := n.typists(nid, 0); got != "" {
		t.Errorf("a sync sees %s", got)
	}
}

// TestAlarm checks that whoever types for a shorter time than anybody else wakes the loop.
func TestAlarm(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) }, "a")
	name, _ := n.room(bob)
	n.ok(n.SetTyping(n.ctx, alice, name, 50*time.Second))
	next, err := n.expireTyping(n.ctx, now())
	n.ok(err)
	if until := n.Ephemeral.typing[typist{1, alice}]; next != until {
		t.Errorf("the next look is at %d, want %d", next, until)
	}
	n.ok(n.SetTyping(n.ctx, alice, name, 55*time.Second))
	select {
	case <-n.wakeTyping:
		t.Error("a longer time woke the loop")
	default:
	}
	n.ok(n.SetTyping(n.ctx, bob, name, time.Second))
	select {
	case <-n.wakeTyping:
	default:
		t.Error("a shorter time didn't wake the loop")
	}
}
