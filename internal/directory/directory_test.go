package directory_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/directory"
	"myelin/internal/fedclient"
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
)

// node is a directory with the rooms that it lists.
type node struct {
	*directory.Directory
	t     testing.TB
	ctx   context.Context
	db    *sqldb.DB
	bus   *bus.Bus
	names *ours.Set
	rooms *room.Rooms
}

func start(t testing.TB, open sqldbtest.Open) *node {
	t.Helper()
	n := &node{t: t, ctx: t.Context(), bus: bus.New(bus.Config{})}
	n.db = open(func(c *sqldb.Config) { c.Committed = n.bus.Committed })
	var err error
	if n.names, err = ours.Open(n.ctx, ours.Config{DB: n.db, Names: []id.ServerName{"here.example", "there.example"}}); err != nil {
		t.Fatal(err)
	}
	g, err := graph.Open(n.ctx, graph.Config{DB: n.db})
	if err != nil {
		t.Fatal(err)
	}
	if n.Directory, err = directory.Open(n.ctx, directory.Config{DB: n.db, Ours: n.names, Graph: g, Bus: n.bus}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	version, _ := roomver.Get(roomver.Default)
	n.rooms = room.New(room.Config{
		Graph: g, Ours: n.names, DefaultVersion: version, Alias: n.Lookup,
		Profile: func(context.Context, id.UserID) (room.Profile, error) { return room.Profile{}, nil },
		IsGuest: func(context.Context, id.UserID) (bool, error) { return false, nil },
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

// make makes a public room of alice's.
func (n *node) make(c room.Creation) id.RoomID {
	n.t.Helper()
	c.Creator, c.Preset = alice, room.PublicChat
	name, err := n.rooms.Create(n.ctx, c)
	n.ok(err)
	return name
}

// published makes a room that is on the list.
func (n *node) published(name string) id.RoomID {
	n.t.Helper()
	return n.make(room.Creation{Name: &name, Also: func(tx *sqldb.Tx, room id.RoomID) error {
		n.Publish(tx, room)
		return nil
	}})
}

func (n *node) join(user id.UserID, name id.RoomID) {
	n.t.Helper()
	_, err := n.rooms.Join(n.ctx, room.Join{Membership: room.Membership{Room: name, Sender: user}})
	n.ok(err)
}

func (n *node) set(name id.RoomID, typ, content string) {
	n.t.Helper()
	key := ""
	_, err := n.rooms.Send(n.ctx, room.Message{Room: name, Proposal: room.Proposal{Sender: alice, Type: typ, StateKey: &key, Content: []byte(content)}})
	n.ok(err)
}

func (n *node) page(q directory.Query) directory.Page {
	n.t.Helper()
	p, err := n.Rooms(n.ctx, q)
	n.ok(err)
	return p
}

// names lists what a page shows.
func names(p directory.Page) string {
	var all []string
	for _, s := range p.Chunk {
		all = append(all, s.Name)
	}
	return strings.Join(all, " ")
}

func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		n.ok(n.db.Migrate(n.ctx, work.Migrations()...)) // of statements that come with package room
		accounts, err := account.Open(n.ctx, account.Config{DB: n.db})
		n.ok(err)
		defer accounts.Close(n.ctx)
		client, err := fedclient.Open(n.ctx, fedclient.Config{DB: n.db, Ours: n.names})
		n.ok(err)
		defer client.Close()
		sqldbtest.PrepareAll(t, n.db)
	})
}

func TestAliases(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		name := n.make(room.Creation{})
		byAlice, byBob := directory.Actor{User: alice}, directory.Actor{User: bob}

		n.refused(mxerr.CodeForbidden, n.Create(n.ctx, "#a:here.example", name, byBob))
		n.join(bob, name)
		n.refused(mxerr.CodeInvalidParam, n.Create(n.ctx, "#a:elsewhere.example", name, byAlice))
		n.ok(n.Create(n.ctx, "#a:here.example", name, byAlice))
		n.ok(n.Create(n.ctx, "#b:here.example", name, byBob))
		n.refused(mxerr.CodeRoomInUse, n.Create(n.ctx, "#a:here.example", name, byBob))

		got, err := n.Resolve(n.ctx, "#b:here.example")
		n.ok(err)
		if got != name {
			t.Errorf("the alias leads to %s, not to %s", got, name)
		}
		_, err = n.Resolve(n.ctx, "#c:here.example")
		n.refused(mxerr.CodeNotFound, err)

		list, err := n.Of(n.ctx, name, byBob)
		n.ok(err)
		if !slices.Equal(list, []id.RoomAlias{"#a:here.example", "#b:here.example"}) {
			t.Errorf("aliases are %v", list)
		}
		_, err = n.Of(n.ctx, name, directory.Actor{User: "@eve:here.example"})
		n.refused(mxerr.CodeForbidden, err)
		n.set(name, "m.room.history_visibility", `{"history_visibility":"world_readable"}`)
		_, err = n.Of(n.ctx, name, directory.Actor{User: "@eve:here.example"})
		n.ok(err)

		_, err = n.Delete(n.ctx, "#a:here.example", byBob)
		n.refused(mxerr.CodeForbidden, err)
		_, err = n.Delete(n.ctx, "#b:here.example", byAlice) // has the power in the room
		n.ok(err)
		_, err = n.Delete(n.ctx, "#a:here.example", directory.Actor{User: "@root:here.example", Admin: true})
		n.ok(err)
		_, err = n.Delete(n.ctx, "#a:here.example", byAlice)
		n.refused(mxerr.CodeNotFound, err)

		servers, err := n.Servers(n.ctx, name, "here.example")
		n.ok(err)
		if !slices.Equal(servers, []id.ServerName{"here.example"}) {
			t.Errorf("servers are %v", servers)
		}
	})
}

func TestReservations(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		const alias = id.RoomAlias("#new:here.example")
		n.ok(n.Reserve(n.ctx, alias, alice))
		n.refused(mxerr.CodeRoomInUse, n.Reserve(n.ctx, alias, bob))
		_, err := n.Resolve(n.ctx, alias)
		n.refused(mxerr.CodeNotFound, err)
		n.Release(n.ctx, alias)

		n.ok(n.Reserve(n.ctx, alias, bob))
		name := n.make(room.Creation{Alias: alias, Also: func(tx *sqldb.Tx, room id.RoomID) error {
			n.Assign(tx, alias, room)
			return nil
		}})
		n.Release(n.ctx, alias) // too late to take it back
		got, err := n.Resolve(n.ctx, alias)
		n.ok(err)
		if got != name {
			t.Errorf("the alias leads to %q", got)
		}
		n.refused(mxerr.CodeRoomInUse, n.Reserve(n.ctx, alias, bob))

		// A crash left this one behind.
		n.ok(n.Reserve(n.ctx, "#left:here.example", alice))
		n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
			_, err := tx.Exec(age)
			return err
		}))
		n.ok(n.Reserve(n.ctx, "#left:here.example", bob))
	})
}

var age = sqldb.SQL(`UPDATE aliases SET created = created - 61000 WHERE alias = '#left:here.example'`)

func TestUpgradeMovesAll(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		old, by := n.published("old"), directory.Actor{User: alice}
		next := n.make(room.Creation{})
		n.ok(n.Create(n.ctx, "#a:here.example", old, by))
		if got := names(n.page(directory.Query{})); got != "old" {
			t.Errorf("the list shows %q", got)
		}
		n.ok(n.db.Write(n.ctx, func(tx *sqldb.Tx) error {
			n.Move(tx, old, next)
			return nil
		}))
		got, err := n.Resolve(n.ctx, "#a:here.example")
		n.ok(err)
		public, err := n.IsPublished(n.ctx, old)
		n.ok(err)
		if got != next || public {
			t.Errorf("the alias leads to %s; the old room is published: %t", got, public)
		}
		if p := n.page(directory.Query{}); len(p.Chunk) != 1 || p.Chunk[0].RoomID != next {
			t.Errorf("the list shows %v", p.Chunk)
		}
	})
}

func TestPublication(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		name := n.make(room.Creation{})
		n.join(bob, name)
		n.refused(mxerr.CodeForbidden, n.SetPublished(n.ctx, name, true, directory.Actor{User: bob}))
		n.refused(mxerr.CodeNotFound, n.SetPublished(n.ctx, "!nowhere:here.example", true, directory.Actor{User: bob}))
		_, err := n.IsPublished(n.ctx, "!nowhere:here.example")
		n.refused(mxerr.CodeNotFound, err)
		n.ok(n.SetPublished(n.ctx, name, true, directory.Actor{User: alice}))
		before, err := n.db.Last(n.ctx)
		n.ok(err)
		n.ok(n.SetPublished(n.ctx, name, true, directory.Actor{User: alice}))
		if after, err := n.db.Last(n.ctx); err != nil || after != before {
			t.Errorf("nothing changed, yet the stream moved from %d to %d (%v)", before, after, err)
		}
		if p := n.page(directory.Query{}); len(p.Chunk) != 1 || p.Total != 1 {
			t.Errorf("the list shows %v", p)
		}
		n.ok(n.SetPublished(n.ctx, name, false, directory.Actor{User: alice}))
		if p := n.page(directory.Query{}); len(p.Chunk) != 0 {
			t.Errorf("the list shows %v", p)
		}
	})
}

// TestListIsCurrent changes a room in every way that the list shows.
func TestListIsCurrent(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		other := start(t, open) // another node: it learns of everything as foreign
		name := n.published("cheese")
		n.ok(n.Create(n.ctx, "#cheese:here.example", name, directory.Actor{User: alice}))
		check := func(want string) {
			t.Helper()
			last, err := n.db.Last(n.ctx)
			n.ok(err)
			other.bus.Committed(sqldb.Commit{From: last - 1, To: last}) // its own, after what the first node wrote
			for _, node := range []*node{n, other} {
				got, err := json.Marshal(node.page(directory.Query{}).Chunk)
				n.ok(err)
				if want := strings.ReplaceAll(want, "ROOM", string(name)); string(got) != want {
					t.Fatalf("the list shows %s\nwant %s", got, want)
				}
			}
		}
		check(`[{"room_id":"ROOM","name":"cheese","join_rule":"public","num_joined_members":1,"world_readable":false,"guest_can_join":false}]`)
		n.join(bob, name)
		n.set(name, "m.room.topic", `{"topic":"Tasty"}`)
		n.set(name, "m.room.canonical_alias", `{"alias":"#cheese:here.example"}`)
		check(`[{"room_id":"ROOM","name":"cheese","topic":"Tasty","canonical_alias":"#cheese:here.example","join_rule":"public","num_joined_members":2,"world_readable":false,"guest_can_join":false}]`)
		n.set(name, "m.room.avatar", `{"url":"mxc://here.example/x"}`)
		n.set(name, "m.room.guest_access", `{"guest_access":"can_join"}`)
		n.set(name, "m.room.history_visibility", `{"history_visibility":"world_readable"}`)
		n.set(name, "m.room.join_rules", `{"join_rule":"knock"}`)
		n.set(name, "m.room.topic", `{"topic":7}`)
		check(`[{"room_id":"ROOM","name":"cheese","canonical_alias":"#cheese:here.example","avatar_url":"mxc://here.example/x","join_rule":"knock","num_joined_members":2,"world_readable":true,"guest_can_join":true}]`)
	})
}

// TestRedactedNameLeavesTheList checks that what was redacted is not shown, though the room's state is the same events.
func TestRedactedNameLeavesTheList(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) })
	name := n.published("rude")
	key := ""
	event, err := n.rooms.Send(n.ctx, room.Message{Room: name, Proposal: room.Proposal{
		Sender: alice, Type: "m.room.name", StateKey: &key, Content: []byte(`{"name":"ruder"}`)}})
	n.ok(err)
	if got := names(n.page(directory.Query{})); got != "ruder" {
		t.Fatalf("the list shows %q", got)
	}
	_, err = n.rooms.Redact(n.ctx, room.Redaction{Room: name, Sender: alice, Target: event})
	n.ok(err)
	if got := names(n.page(directory.Query{})); got != "" {
		t.Errorf("the list still shows %q", got)
	}
}

func TestEmptyRoomsLeaveTheList(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) })
	name := n.published("empty")
	_, err := n.rooms.Leave(n.ctx, room.Membership{Room: name, Sender: alice})
	n.ok(err)
	if p := n.page(directory.Query{}); len(p.Chunk) != 0 {
		t.Errorf("the list shows %v", p.Chunk)
	}
}

func TestPages(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) })
	for i := range 7 {
		name := n.published(fmt.Sprint("r", i))
		if i == 3 {
			n.join(bob, name)
		}
	}
	all := n.page(directory.Query{})
	if all.Total != 7 || len(all.Chunk) != 7 || all.Chunk[0].Name != "r3" || all.Next != "" || all.Prev != "" {
		t.Fatalf("the list is %+v", all)
	}
	var walked []*directory.Summary
	q, last := directory.Query{Limit: 3}, directory.Page{}
	for {
		last = n.page(q)
		walked = append(walked, last.Chunk...)
		if last.Next == "" {
			break
		}
		q.Since = last.Next
	}
	if !slices.Equal(walked, all.Chunk) {
		t.Errorf("pages show %v, want %v", walked, all.Chunk)
	}
	back := n.page(directory.Query{Limit: 3, Since: last.Prev})
	if !slices.Equal(back.Chunk, all.Chunk[3:6]) {
		t.Errorf("the page before the last shows %q", names(back))
	}
	back = n.page(directory.Query{Limit: 5, Since: back.Prev})
	if !slices.Equal(back.Chunk, all.Chunk[:3]) || back.Prev != "" || back.Next == "" {
		t.Errorf("the first page shows %q, with %+v", names(back), back)
	}
	for _, bad := range []string{"x", "f", "f%%", "fMTIz", "b", "s12"} {
		_, err := n.Rooms(n.ctx, directory.Query{Since: bad})
		n.refused(mxerr.CodeInvalidParam, err)
	}
	_, err := n.Rooms(n.ctx, directory.Query{Limit: -1})
	n.refused(mxerr.CodeInvalidParam, err)
}

func TestSearch(t *testing.T) {
	n := start(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) })
	for _, name := range []string{"Blue-Cheese", "東京のチーズ", "CAFÉ", "Straße"} {
		n.published(name)
	}
	space := "space"
	n.make(room.Creation{Name: &space, Content: map[string]any{"type": "m.space"}, Also: func(tx *sqldb.Tx, room id.RoomID) error {
		n.Publish(tx, room)
		return nil
	}})
	for term, want := range map[string]string{
		"cheese": "Blue-Cheese", "  CHEESE blue ": "Blue-Cheese", "cheese red": "", "チーズ": "東京のチーズ", "京": "東京のチーズ",
		"cafe\u0301": "CAFÉ", "%": "", "stra": "Straße", "\uff23\uff21\uff26\u00c9": "CAFÉ",
	} {
		if got := names(n.page(directory.Query{Term: term})); got != want {
			t.Errorf("%q finds %q, want %q", term, got, want)
		}
	}
	if got := names(n.page(directory.Query{Types: []string{"m.space"}})); got != "space" {
		t.Errorf("spaces are %q", got)
	}
	if p := n.page(directory.Query{Types: []string{""}}); p.Total != 4 {
		t.Errorf("%d rooms have no type, want 4", p.Total)
	}
	if p := n.page(directory.Query{Types: []string{"", "m.space"}}); p.Total != 5 {
		t.Errorf("%d rooms in all, want 5", p.Total)
	}
}

func TestWithoutAlias(t *testing.T) {
	for _, c := range []struct {
		before, after string
		named         bool
	}{
		{`{"alias":"#a:b"}`, `{}`, true},
		{`{"alias":"#x:b","alt_aliases":["#a:b"]}`, `{"alias":"#x:b"}`, true},
		{`{"alias":"#a:b","alt_aliases":["#x:b","#a:b","#y:b"],"more":1}`, `{"alt_aliases":["#x:b","#y:b"],"more":1}`, true},
		{`{"alias":"#x:b","alt_aliases":["#y:b",7]}`, `{"alias":"#x:b","alt_aliases":["#y:b",7]}`, false},
		{`{"alt_aliases":"#a:b"}`, `{}`, true},
	} {
		after, named := directory.WithoutAlias([]byte(c.before), "#a:b")
		if string(after) != c.after || named != c.named {
			t.Errorf("%s became %s, %t", c.before, after, named)
		}
	}
}
