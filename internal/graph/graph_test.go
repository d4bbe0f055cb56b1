package graph

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/work"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

const alice = id.UserID("@alice:hs.test")

var (
	v10, _     = roomver.Get("10")
	testKey, _ = sign.FromSeed("ed25519:1", make([]byte, 32))
	roomCount  atomic.Int64
)

// open returns a store over the test's database; again, another node.
func open(tb testing.TB, open sqldbtest.Open, configure ...func(*sqldb.Config)) *Graph {
	tb.Helper()
	g, err := Open(tb.Context(), Config{DB: open(configure...)})
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// writer builds events on heads as package room does, without rules.
type writer struct {
	tb   testing.TB
	g    *Graph
	head *Head
	prev *Head
	c    *Commit
	ts   int64
}

func newRoom(tb testing.TB, g *Graph) *writer {
	tb.Helper()
	name := id.RoomID(fmt.Sprintf("!room%d:hs.test", roomCount.Add(1)))
	head, err := g.NewHead(tb.Context(), name, v10)
	if err != nil {
		tb.Fatal(err)
	}
	w := &writer{tb: tb, g: g, head: head}
	w.state("m.room.create", "", `{"room_version":"10"}`)
	w.member(alice, Join)
	w.state("m.room.join_rules", "", `{"join_rule":"public"}`)
	w.commit()
	return w
}

// on returns a writer that begins with the durable head.
func on(tb testing.TB, g *Graph, room id.RoomID) *writer {
	tb.Helper()
	head, err := g.Head(tb.Context(), room)
	if err != nil {
		tb.Fatal(err)
	}
	return &writer{tb: tb, g: g, head: head}
}

func (w *writer) build(typ string, stateKey *string, sender id.UserID, content string, prev ...id.EventID) *Event {
	w.tb.Helper()
	w.ts++
	d := event.Draft{RoomID: w.head.ID, Type: typ, StateKey: stateKey, Sender: sender, Content: []byte(content), OriginServerTS: w.ts}
	for _, x := range w.head.Extremities {
		d.PrevEvents = append(d.PrevEvents, x.ID)
		d.Depth = max(d.Depth, x.Depth+1)
	}
	if prev != nil {
		d.PrevEvents = prev
	}
	pdu, err := d.Build(v10, "hs.test", testKey, nil)
	if err != nil {
		w.tb.Fatal(err)
	}
	nid, err := w.g.NextNID(w.tb.Context())
	if err != nil {
		w.tb.Fatal(err)
	}
	return &Event{NID: nid, PDU: pdu, Flags: Local}
}

func (w *writer) push(e *Event, p Placement) *Event {
	w.tb.Helper()
	next, err := w.head.Place(e, p)
	if err != nil {
		w.tb.Fatal(err)
	}
	if w.c == nil {
		w.prev = w.head
		w.c = &Commit{Prev: w.head}
		if w.head.Rev == 0 {
			w.c.Prev = nil
		}
	}
	w.head, w.c.Next = next, next
	w.c.Events = append(w.c.Events, e)
	return e
}

func (w *writer) message(text string) *Event {
	w.tb.Helper()
	return w.push(w.build("m.room.message", nil, alice, fmt.Sprintf(`{"body":%q,"msgtype":"m.text"}`, text)), Placement{})
}

func (w *writer) state(typ, key, content string) *Event {
	w.tb.Helper()
	return w.push(w.build(typ, &key, alice, content), Placement{})
}

func (w *writer) member(user id.UserID, m Membership) *Event {
	w.tb.Helper()
	key := string(user)
	return w.push(w.build(memberType, &key, user, fmt.Sprintf(`{"membership":%q}`, m)), Placement{})
}

func (w *writer) submit() *Ticket {
	c := w.c
	w.c = nil
	return w.g.Commit(c)
}

func (w *writer) commit() {
	w.tb.Helper()
	if err := w.submit().Wait(w.tb.Context()); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *writer) tryCommit() error { return w.submit().Wait(w.tb.Context()) }

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		db := open(t, o).db
		if err := db.Migrate(t.Context(), work.Migrations()...); err != nil {
			t.Fatal(err)
		}
		sqldbtest.PrepareAll(t, db)
	})
}

func TestWriteAndRead(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		var entries []any
		a := open(t, o, func(c *sqldb.Config) { c.Committed = func(c sqldb.Commit) { entries = append(entries, c.Entries...) } })
		w := newRoom(t, a)
		m1 := w.message("one")
		bob := w.member("@bob:other.test", Invite)
		w.commit()
		bob2 := w.member("@bob:other.test", Join)
		w.message("two")
		w.commit()
		if len(entries) != 7 {
			t.Fatalf("%d entries were emitted, want 7", len(entries))
		}
		if bob2.Replaces != bob.NID || *bob2.Change != (MemberChange{"@bob:other.test", Invite, Join}) {
			t.Fatalf("bob's join says %d, %+v", bob2.Replaces, bob2.Change)
		}
		for _, g := range []*Graph{a, open(t, o)} {
			h := must(g.Head(ctx, w.head.ID))(t)
			if h.Rev != w.head.Rev || h.Joined != 2 || h.Invited != 0 || h.StateNID != w.head.StateNID || h.State.Len() != 4 ||
				len(h.Extremities) != 1 || h.Extremities[0] != w.head.Extremities[0] {
				t.Fatalf("the head is %+v, want %+v", h, w.head)
			}
			if h.State.Membership("@bob:other.test") != Join || h.State.Membership("@eve:other.test") != "" {
				t.Fatal("memberships in the state are wrong")
			}
			all := must(g.Timeline(ctx, h.Room, Range{Limit: 100}))(t)
			if len(all) != 7 {
				t.Fatalf("the timeline has %d events, want 7", len(all))
			}
			for i, e := range all {
				if e.Ord != int64(i+1) || e.Pos != sqldb.Pos(i+1) {
					t.Fatalf("event %d has ord %d and position %d", i, e.Ord, e.Pos)
				}
			}
			back := must(g.Timeline(ctx, h.Room, Range{Backward: true, Before: all[3].Ord, Limit: 2}))(t)
			if len(back) != 2 || back[0].NID != all[2].NID || back[1].NID != all[1].NID {
				t.Fatal("the timeline read backwards is wrong")
			}
			e, ok, err := g.Event(ctx, m1.PDU.ID())
			if err != nil || !ok || e.NID != m1.NID || string(e.PDU.Raw()) != string(m1.PDU.Raw()) {
				t.Fatalf("reading by ID gives %+v, %v, %v", e, ok, err)
			}
			before := must(g.StateBefore(ctx, all[5]))(t)
			if before.Membership("@bob:other.test") != Invite {
				t.Fatal("the state before bob's join is wrong")
			}
			after := must(g.StateAfter(ctx, all[5]))(t)
			if after.Membership("@bob:other.test") != Join {
				t.Fatal("the state after bob's join is wrong")
			}
			row, ok, err := g.MembershipOf(ctx, "@bob:other.test", h.Room)
			if err != nil || !ok || row.Membership != Join || row.Prev != Invite || row.Pos != all[5].Pos || row.Since != all[5].Pos || row.Event != bob2.NID {
				t.Fatalf("bob's row is %+v, %v, %v", row, ok, err)
			}
			near := must(g.EventsNearTime(ctx, h.Room, 4, false, 2))(t)
			if len(near) == 0 || near[0].NID != m1.NID {
				t.Fatalf("by time: %+v", near)
			}
			since := must(g.EventsSince(ctx, 2, 6, 3))(t)
			if len(since) != 3 || since[0].Pos != 3 || since[2].Pos != 5 {
				t.Fatal("EventsSince is wrong")
			}
			last, ok, err := g.LastBefore(ctx, h.Room, 5)
			if err != nil || !ok || last.Ord != 5 {
				t.Fatalf("LastBefore: %+v, %v, %v", last, ok, err)
			}
			if _, err := g.Head(ctx, "!none:hs.test"); err == nil {
				t.Fatal("there is a head of no room")
			}
		}
	})
}

func TestTransactions(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		a, b := open(t, o), open(t, o)
		w := newRoom(t, a)
		txn := TxnRef{User: alice, Device: "PHONE", Scope: "send/" + string(w.head.ID) + "/m.room.message", ID: "t1"}
		if _, ok, err := a.TxnEvent(ctx, txn); ok || err != nil {
			t.Fatal("an unknown transaction is known", err)
		}
		first := w.message("once")
		first.Txn = txn
		w.commit()
		for _, g := range []*Graph{a, b} {
			known, ok, err := g.TxnEvent(ctx, txn)
			if err != nil || !ok || known != first.PDU.ID() {
				t.Fatalf("the transaction's event is %s, %v, %v", known, ok, err)
			}
		}
		// The same on another node, with something speculated on top of it.
		w2 := on(t, b, w.head.ID)
		w2.message("again").Txn = txn
		t1 := w2.submit()
		w2.message("on top")
		t2 := w2.submit()
		if err := t1.Wait(ctx); !errors.Is(err, ErrTxn) {
			t.Fatalf("a transaction was applied twice: %v", err)
		}
		if err := t2.Wait(ctx); !errors.Is(err, ErrConflict) {
			t.Fatalf("a commit on top of a refused one: %v", err)
		}
		for _, other := range []TxnRef{{alice, "PHONE", "send/!elsewhere", "t1"}, {alice, "LAPTOP", txn.Scope, "t1"}} {
			w3 := on(t, b, w.head.ID)
			w3.message("other scope").Txn = other
			w3.commit()
		}
		e, _, err := open(t, o).Event(ctx, first.PDU.ID())
		if err != nil || e.Txn.Device != "PHONE" || e.Txn.ID != "t1" || e.Txn.User != alice {
			t.Fatalf("the event's transaction is %+v, %v", e.Txn, err)
		}
		if n := len(must(a.Timeline(ctx, w.head.Room, Range{Limit: 100}))(t)); n != 6 {
			t.Fatalf("%d events, want 6", n)
		}
		if n := must(a.ReclaimTxns(ctx, nowMillis()-60_000))(t); n != 0 {
			t.Fatalf("%d fresh transactions were reclaimed", n)
		}
		if n := must(a.ReclaimTxns(ctx, nowMillis()+60_000))(t); n != 3 {
			t.Fatalf("%d old transactions were reclaimed, want 3", n)
		}
	})
}

// Commits that were built on one that failed must fail, wherever they are queued, and what was built anew must not.
func TestSpeculationAfterConflict(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		a, b := open(t, o), open(t, o)
		w := newRoom(t, a)
		stale := on(t, b, w.head.ID)
		w.member("@new:x.test", Join) // a new key, so both nodes number it
		w.commit()
		stale.member("@other:x.test", Join)
		t1 := stale.submit()
		stale.message("2")
		t2 := stale.submit()
		if err := t1.Wait(ctx); !errors.Is(err, ErrConflict) {
			t.Fatal(err)
		}
		if err := t2.Wait(ctx); !errors.Is(err, ErrConflict) {
			t.Fatal(err)
		}
		fresh := on(t, b, w.head.ID)
		if fresh.head.State.Membership("@new:x.test") != Join || fresh.head.State.Membership("@other:x.test") != "" {
			t.Fatal("the head loaded after a conflict shows the wrong members")
		}
		fresh.member("@other:x.test", Join)
		fresh.commit()
		h := must(a.Head(ctx, w.head.ID))(t)
		if h.Joined != 3 || h.State.Membership("@new:x.test") != Join || h.State.Membership("@other:x.test") != Join {
			t.Fatalf("the head has %d members", h.Joined)
		}
	})
}

func TestRedaction(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		a, b := open(t, o), open(t, o)
		w := newRoom(t, a)
		secret := w.message("secret")
		w.commit()
		must(b.Timeline(ctx, w.head.Room, Range{Limit: 100}))(t) // b has it in memory
		pruned := must(secret.PDU.Redacted())(t)
		w.ts++
		red := w.push(redactionOf(t, w, secret.PDU.ID()), Placement{})
		w.c.Redactions = []Redaction{{Target: secret.NID, By: red.NID, Pruned: pruned}}
		w.commit()
		if err := b.Refresh(ctx, red.Pos-1, red.Pos); err != nil {
			t.Fatal(err)
		}
		for _, g := range []*Graph{a, b, open(t, o)} {
			e, ok, err := g.Event(ctx, secret.PDU.ID())
			if err != nil || !ok || e.Flags&Redacted == 0 || e.RedactedBy != red.NID || string(e.PDU.Content()) != "{}" {
				t.Fatalf("the redacted event is %+v with %s, %v, %v", e, e.PDU.Content(), ok, err)
			}
		}
		if len(red.Pruned) != 1 || red.Pruned[0] != secret.NID {
			t.Fatal("the redaction doesn't say what it pruned")
		}
	})
}

func redactionOf(tb testing.TB, w *writer, target id.EventID) *Event {
	tb.Helper()
	d := event.Draft{RoomID: w.head.ID, Type: "m.room.redaction", Sender: alice, Content: []byte("{}"), OriginServerTS: w.ts, Redacts: target,
		PrevEvents: []id.EventID{w.head.Extremities[0].ID}}
	pdu := must(d.Build(v10, "hs.test", testKey, nil))(tb)
	return &Event{NID: must(w.g.NextNID(tb.Context()))(tb), PDU: pdu, Flags: Local}
}
