package push

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"net/http"
	"reflect"
	"testing"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/view"
	"myelin/internal/work"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/pushrule"
	"myelin/matrix/roomver"
)

const (
	alice = id.UserID("@alice:here.example")
	bob   = id.UserID("@bob:here.example")
	carol = id.UserID("@carol:here.example")
)

// node is one server on a test database.
type node struct {
	*Push
	t        testing.TB
	ctx      context.Context
	rooms    *room.Rooms
	graph    *graph.Graph
	accounts *account.Accounts
	reads    *ephemeral.Ephemeral
	work     *work.Runner
}

func (n *node) ok(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func start(t testing.TB, open sqldbtest.Open, gateways http.RoundTripper) *node {
	t.Helper()
	n := &node{t: t, ctx: t.Context()}
	b := bus.New(bus.Config{})
	db := open(func(c *sqldb.Config) { c.Committed = b.Committed })
	names, err := ours.Open(n.ctx, ours.Config{DB: db, Names: []id.ServerName{"here.example"}})
	n.ok(err)
	n.graph, err = graph.Open(n.ctx, graph.Config{DB: db})
	n.ok(err)
	n.accounts, err = account.Open(n.ctx, account.Config{DB: db, Ours: names, Bus: b, DevicesChanged: DevicesChanged})
	n.ok(err)
	t.Cleanup(func() { n.ok(n.accounts.Close(context.WithoutCancel(n.ctx))) })
	n.reads, err = ephemeral.Open(n.ctx, ephemeral.Config{DB: db, Ours: names, Graph: n.graph, Circles: graph.OpenCircles(n.graph, b), Accounts: n.accounts, Bus: b, Node: "one"})
	n.ok(err)
	t.Cleanup(n.reads.Close)
	version, _ := roomver.Get(roomver.Default)
	n.rooms = room.New(room.Config{
		Graph: n.graph, Ours: names, DefaultVersion: version,
		Alias:   func(context.Context, id.RoomAlias) (id.RoomID, bool, error) { return "", false, nil },
		Profile: func(context.Context, id.UserID) (room.Profile, error) { return room.Profile{}, nil },
		IsGuest: func(context.Context, id.UserID) (bool, error) { return false, nil },
	})
	n.Push, err = Open(n.ctx, Config{
		DB: db, Bus: b, Ours: names, Graph: n.graph, Accounts: n.accounts, Gateways: gateways,
		View: view.New(view.Config{Graph: n.graph, Ignored: n.accounts.IgnoredUsers}), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	n.ok(err)
	t.Cleanup(n.Push.Close)
	n.ok(db.Migrate(n.ctx, work.Migrations()...))
	n.work = work.New(work.Config{DB: db, Bus: b, Node: "one"})
	t.Cleanup(n.work.Stop)
	n.Push.Start(n.work)
	return n
}

func (n *node) room(others ...id.UserID) (id.RoomID, graph.RoomNID) {
	n.t.Helper()
	name, err := n.rooms.Create(n.ctx, room.Creation{Creator: alice, Preset: room.PublicChat})
	n.ok(err)
	for _, user := range others {
		n.join(name, user)
	}
	nid, _, err := n.graph.RoomNID(n.ctx, name)
	n.ok(err)
	return name, nid
}

func (n *node) join(name id.RoomID, user id.UserID) *graph.Event {
	n.t.Helper()
	e, err := n.rooms.Join(n.ctx, room.Join{Membership: room.Membership{Room: name, Sender: user}})
	n.ok(err)
	return n.event(e)
}

func (n *node) event(name id.EventID) *graph.Event {
	n.t.Helper()
	e, ok, err := n.graph.Event(n.ctx, name)
	if n.ok(err); !ok {
		n.t.Fatalf("no event %s", name)
	}
	return e
}

func (n *node) send(name id.RoomID, sender id.UserID, typ, content string) *graph.Event {
	n.t.Helper()
	e, err := n.rooms.Send(n.ctx, room.Message{Room: name, Proposal: room.Proposal{Sender: sender, Type: typ, Content: []byte(content)}})
	n.ok(err)
	return n.event(e)
}

func (n *node) rulesFor(user id.UserID, change func(pushrule.Ruleset) (pushrule.Ruleset, error)) {
	n.t.Helper()
	n.ok(n.Settle(n.ctx))
	n.ok(n.accounts.ChangePushRules(n.ctx, user, change))
}

// said is an event as the model knows it.
type said struct {
	e      *graph.Event
	thread string
	gone   bool
	own    bool                          // a message that shows that its sender has read
	means  map[id.UserID]*pushrule.Match // as of when it was sent
}

// model counts from history.
type model struct {
	n     *node
	name  id.RoomID
	nid   graph.RoomNID
	all   []*said
	reads map[id.UserID]map[string]int64 // by thread, "" for unthreaded receipts
	since map[id.UserID]int64            // 0: not joined
}

func (m *model) note(e *graph.Event, thread string, own bool) *said {
	s := &said{e: e, thread: thread, own: own, means: map[id.UserID]*pushrule.Match{}}
	for user, since := range m.since {
		if since == 0 {
			continue
		}
		rules, err := m.n.accounts.PushRules(m.n.ctx, user)
		m.n.ok(err)
		ignored, err := m.n.accounts.IgnoredUsers(m.n.ctx, user)
		m.n.ok(err)
		if _, ok := ignored[e.PDU.Sender()]; ok {
			continue
		}
		seen := &pushrule.Event{ID: e.PDU.ID(), RoomID: m.name, Type: e.PDU.Type(), Sender: e.PDU.Sender(), Content: e.PDU.Content()}
		if key, ok := e.PDU.StateKey(); ok {
			seen.StateKey = &key
		}
		s.means[user] = pushrule.Compile(user, rules).Evaluate(seen, pushrule.Facts{Members: 3}, pushrule.Target{User: user})
	}
	m.all = append(m.all, s)
	return s
}

// counts is what a user has not read, by the words of the specification.
func (m *model) counts(user id.UserID) (c Counts) {
	if m.since[user] == 0 {
		return c
	}
	own := map[string]int64{}
	for _, s := range m.all {
		if s.own && s.e.PDU.Sender() == user {
			own[s.thread] = max(own[s.thread], s.e.Ord)
		}
	}
	for _, s := range m.all {
		key := s.thread
		if key == "" {
			key = "main"
		}
		floor := max(m.since[user], m.reads[user][""], m.reads[user][key], own[s.thread])
		match := s.means[user]
		if s.gone || s.e.Ord <= floor || match == nil || !match.Notify {
			continue
		}
		k := c.Main
		if s.thread != "" {
			k = c.Threads[id.EventID(s.thread)]
		}
		k.Notifications++
		if match.Highlight {
			k.Highlights++
		}
		if s.thread == "" {
			c.Main = k
			continue
		}
		if c.Threads == nil {
			c.Threads = map[id.EventID]Count{}
		}
		c.Threads[id.EventID(s.thread)] = k
	}
	return c
}

// check compares a user's counts, and returns how much they have not read.
func (m *model) check(step int, what string, user id.UserID) int {
	m.n.t.Helper()
	at, err := m.n.db.Last(m.n.ctx)
	m.n.ok(err)
	want := m.counts(user)
	got, err := m.n.Counts(m.n.ctx, user, at, m.nid)
	m.n.ok(err)
	if !reflect.DeepEqual(got[m.nid], want) {
		m.n.t.Fatalf("step %d (%s): %s has %+v, want %+v", step, what, user, got[m.nid], want)
	}
	return want.Total().Notifications
}

// forget has everything read from the database.
func (n *node) forget() {
	n.memory.mu.Lock()
	defer n.memory.mu.Unlock()
	clear(n.memory.people)
	clear(n.memory.rooms)
}

// TestCountsFromHistory compares the counts, after random operations, with a recount of the history: from memory, from the rows, and
// with all that the follower has not come to yet.
func TestCountsFromHistory(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		seed := rand.Int63()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewSource(seed))
		n := start(t, open, nil)
		users := []id.UserID{alice, bob, carol}
		models := make([]*model, 2) // of two rooms, for which the users' rules are the same
		for i := range models {
			name, nid := n.room()
			m := &model{n: n, name: name, nid: nid, reads: map[id.UserID]map[string]int64{}, since: map[id.UserID]int64{}}
			for _, user := range users {
				m.reads[user] = map[string]int64{}
				m.since[user] = 1
				if user != alice {
					m.since[user] = m.join(user)
				}
			}
			models[i] = m
		}
		for step := range 300 {
			what := models[r.Intn(len(models))].step(r, users[r.Intn(3)])
			if r.Intn(3) == 0 {
				n.forget()
			}
			if r.Intn(4) == 0 {
				n.ok(n.Settle(n.ctx))
				n.forget()
			}
			for _, user := range users {
				badge := 0
				for _, m := range models {
					badge += m.check(step, what, user)
				}
				if got, err := n.Badge(n.ctx, user); err != nil || got != badge {
					t.Fatalf("step %d (%s): the badge of %s shows %d, want %d: %v", step, what, user, got, badge, err)
				}
			}
		}
	})
}

func (m *model) join(user id.UserID) int64 {
	e := m.n.join(m.name, user)
	m.note(e, "", false)
	return e.Ord
}

// step does something at random and says what.
func (m *model) step(r *rand.Rand, user id.UserID) string {
	n := m.n
	if m.since[user] == 0 && r.Intn(2) == 0 {
		m.since[user] = m.join(user)
		return "join"
	}
	switch r.Intn(20) {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		return m.say(r, user)
	case 8, 9:
		return m.redact(r, user)
	case 10, 11, 12, 13:
		return m.read(r, user)
	case 14:
		n.ok(n.Settle(n.ctx))
		content := `{"ignored_users":{}}`
		if r.Intn(2) == 0 {
			content = `{"ignored_users":{"` + string(alice) + `":{}}}`
		}
		n.ok(n.accounts.PutData(n.ctx, user, "", account.TypeIgnored, []byte(content)))
		return "ignore"
	case 15, 16, 17:
		return m.rules(r, user)
	case 18:
		if user == alice || m.since[user] == 0 {
			return "nothing"
		}
		e, err := n.rooms.Leave(n.ctx, room.Membership{Room: m.name, Sender: user})
		n.ok(err)
		m.note(n.event(e), "", false)
		m.since[user] = 0
		return "leave"
	}
	if m.since[user] == 0 {
		return "nothing"
	}
	e, err := n.rooms.Send(n.ctx, room.Message{Room: m.name, Proposal: room.Proposal{Sender: alice, Type: "m.room.tombstone", StateKey: new(string),
		Content: []byte(fmt.Sprintf(`{"body":"%d","replacement_room":"!a:b"}`, r.Int()))}})
	n.ok(err)
	m.note(n.event(e), "", false)
	return "tombstone"
}

func (m *model) say(r *rand.Rand, user id.UserID) string {
	if m.since[user] == 0 {
		return "nothing"
	}
	typ, thread, relation := "m.room.message", "", ""
	if len(m.all) > 0 && r.Intn(2) == 0 {
		target := m.all[r.Intn(len(m.all))]
		switch {
		case target.gone || target.e.PDU.IsState():
		case target.thread == "" && target.own && r.Intn(2) == 0:
			thread = string(target.e.PDU.ID())
			relation = `,"m.relates_to":{"rel_type":"m.thread","event_id":"` + thread + `"}`
		case target.thread != "" && r.Intn(2) == 0:
			thread = target.thread
			relation = `,"m.relates_to":{"rel_type":"m.thread","event_id":"` + thread + `"}`
		default:
			// What relates to an event is where the event is, unless too much lies between.
			if kept := m.n.event(target.e.PDU.ID()); len(kept.PDU.Content()) < 400 && target.e.PDU.Type() == typ {
				relation = `,"m.new_content":{},"m.relates_to":{"rel_type":"m.replace","event_id":"` + string(target.e.PDU.ID()) + `"}`
				var err error
				thread = target.thread
				if target.thread == "" || !direct(target) {
					relation, thread = "", ""
				}
				m.n.ok(err)
			}
		}
	}
	body := []string{"hello", "cake", "cake for bob"}[r.Intn(3)]
	kind := []string{"m.text", "m.text", "m.notice"}[r.Intn(3)]
	mention := ""
	if r.Intn(3) == 0 {
		mention = `,"m.mentions":{"user_ids":["` + string(bob) + `"]}`
	}
	if user == alice && r.Intn(6) == 0 {
		mention = `,"m.mentions":{"room":true}`
	}
	e := m.n.send(m.name, user, typ, `{"msgtype":"`+kind+`","body":"`+body+`"`+mention+relation+`}`)
	s := m.note(e, thread, true)
	if user == alice {
		m.roomMention(s, mention, kind)
	}
	return "message"
}

// direct says that an event stands in its thread by itself.
func direct(s *said) bool {
	relation, _ := canon.Get(s.e.PDU.Content(), "m.relates_to")
	typ, _ := canon.GetText(relation, "rel_type")
	return typ == "m.thread"
}

// roomMention evaluates again what depends on the sender's power, which alice has.
func (m *model) roomMention(s *said, mention, kind string) {
	if mention != `,"m.mentions":{"room":true}` {
		return
	}
	for user := range s.means {
		rules, err := m.n.accounts.PushRules(m.n.ctx, user)
		m.n.ok(err)
		s.means[user] = pushrule.Compile(user, rules).Evaluate(&pushrule.Event{ID: s.e.PDU.ID(), RoomID: m.name, Type: s.e.PDU.Type(),
			Sender: s.e.PDU.Sender(), Content: s.e.PDU.Content()},
			pushrule.Facts{Members: 3, SenderMayNotify: func(string) bool { return true }}, pushrule.Target{User: user})
	}
}

func (m *model) redact(r *rand.Rand, user id.UserID) string {
	if len(m.all) == 0 {
		return "nothing"
	}
	s := m.all[r.Intn(len(m.all))]
	if s.gone || s.e.PDU.IsState() {
		return "nothing"
	}
	e, err := m.n.rooms.Redact(m.n.ctx, room.Redaction{Room: m.name, Sender: alice, Target: s.e.PDU.ID()})
	m.n.ok(err)
	s.gone = true
	m.note(m.n.event(e), "", false)
	return "redaction"
}

func (m *model) read(r *rand.Rand, user id.UserID) string {
	if m.since[user] == 0 || len(m.all) == 0 {
		return "nothing"
	}
	s := m.all[r.Intn(len(m.all))]
	mark := ephemeral.Mark{Type: ephemeral.Read, Event: s.e.PDU.ID()}
	if r.Intn(2) == 0 {
		mark.Type = ephemeral.ReadPrivate
	}
	if !s.gone && r.Intn(2) == 0 {
		if mark.Thread = s.thread; s.thread == "" {
			mark.Thread = "main"
		}
	}
	m.n.ok(m.n.reads.Mark(m.n.ctx, user, m.name, mark))
	m.reads[user][mark.Thread] = max(m.reads[user][mark.Thread], s.e.Ord)
	return "receipt " + mark.Thread
}

func (m *model) rules(r *rand.Rand, user id.UserID) string {
	drafts := []struct {
		kind pushrule.Kind
		name string
		d    pushrule.Draft
	}{
		{pushrule.Room, string(m.name), pushrule.Draft{Actions: raws()}},
		{pushrule.Room, string(m.name), pushrule.Draft{Actions: raws(`"notify"`)}},
		{pushrule.Override, "mute", pushrule.Draft{Actions: raws(), Conditions: raws(`{"kind":"event_match","key":"room_id","pattern":"` + string(m.name) + `"}`)}},
		{pushrule.Override, "all", pushrule.Draft{Actions: raws(`"notify"`), Conditions: raws(`{"kind":"event_match","key":"type","pattern":"m.room.*"}`)}},
		{pushrule.Content, "cake", pushrule.Draft{Actions: raws(`"notify"`, `{"set_tweak":"highlight"}`), Pattern: text("cake")}},
		{pushrule.Sender, string(alice), pushrule.Draft{Actions: raws()}},
	}
	d := drafts[r.Intn(len(drafts))]
	drop := r.Intn(2) == 0
	m.n.rulesFor(user, func(s pushrule.Ruleset) (pushrule.Ruleset, error) {
		if !drop {
			return s.Put(d.kind, d.name, d.d, pushrule.Place{})
		}
		if _, err := s.Find(d.kind, d.name); err != nil {
			return s, nil
		}
		return s.Delete(d.kind, d.name)
	})
	return "rules"
}
