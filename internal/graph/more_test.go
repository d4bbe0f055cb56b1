package graph

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// A head that is not durable yet names events; they must be found.
func TestEventsOfQueuedCommits(t *testing.T) {
	g := open(t, func(...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t) })
	w := newRoom(t, g)
	release := make(chan struct{})
	held := make(chan struct{})
	go func() {
		_ = g.db.Write(t.Context(), func(*sqldb.Tx) error { close(held); <-release; return nil })
	}()
	<-held
	e := w.state("m.room.topic", "", `{"topic":"x"}`)
	ticket := w.submit()
	nid, _ := w.head.State.Get("m.room.topic", "")
	if found := must(g.Events(t.Context(), w.head.Room, []EventNID{nid}))(t); found[0].PDU != e.PDU {
		t.Fatal("another event")
	}
	if _, ok, err := g.Event(t.Context(), e.PDU.ID()); ok || err != nil {
		t.Fatal("an event is visible before it is durable", err)
	}
	close(release)
	if err := ticket.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := g.Event(t.Context(), e.PDU.ID()); !ok || err != nil {
		t.Fatal("a durable event is not visible", err)
	}
}

func TestOutliersAndBackfill(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		g := open(t, o)
		w := newRoom(t, g)
		// An event that is known only by reference.
		out := w.build("m.room.message", nil, alice, `{"body":"outlier"}`)
		out.Flags = Outlier
		if err := g.Commit(&Commit{Room: w.head.Room, Events: []*Event{out}}).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		again := *out
		again.NID, again.stored = must(g.NextNID(ctx))(t), false
		if err := g.Commit(&Commit{Room: w.head.Room, Events: []*Event{&again}}).Wait(ctx); !errors.Is(err, ErrConflict) {
			t.Fatalf("an event was stored twice: %v", err)
		}
		if n := len(must(g.Timeline(ctx, w.head.Room, Range{Limit: 100}))(t)); n != 3 {
			t.Fatalf("%d events in the timeline", n)
		}
		// It joins the graph.
		known := must(open(t, o).EventsByID(ctx, []id.EventID{out.PDU.ID(), "$none"}))(t)
		if len(known) != 1 {
			t.Fatalf("%d events known", len(known))
		}
		promoted := *known[out.PDU.ID()]
		promoted.Flags &^= Outlier
		w.push(&promoted, Placement{})
		w.commit()
		// Rejected and soft-failed events have a place, and change nothing.
		soft := w.build("m.room.topic", new(string), alice, `{"topic":"soft"}`)
		soft.Flags = SoftFailed
		state, extremities := w.head.StateNID, w.head.Extremities
		w.push(soft, Placement{})
		w.commit()
		if w.head.StateNID != state || !slices.Equal(w.head.Extremities, extremities) || soft.Ord == 0 {
			t.Fatalf("a soft-failed event changed the room: %+v", w.head)
		}
		// Backfill, newest first, and a gap before it.
		var old []*Event
		for i := range 3 {
			e := w.build("m.room.message", nil, alice, fmt.Sprintf(`{"body":"old %d"}`, i), "$unknown")
			e.Flags = Backfilled
			e.StateBefore = 1
			old = append(old, w.push(e, Placement{}))
		}
		w.c.Gaps = []Gap{{"$unknown", old[2].NID}}
		w.commit()
		if gaps := must(g.Gaps(ctx, w.head.Room, 10))(t); len(gaps) != 1 || gaps[0] != (Gap{"$unknown", old[2].NID}) {
			t.Fatalf("the gaps are %+v", gaps)
		}
		if err := g.Commit(&Commit{Room: w.head.Room, Filled: []id.EventID{"$unknown"}}).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if gaps := must(g.Gaps(ctx, w.head.Room, 10))(t); len(gaps) != 0 {
			t.Fatalf("the gaps are %+v", gaps)
		}
		for _, g := range []*Graph{g, open(t, o)} {
			all := must(g.Timeline(ctx, w.head.Room, Range{After: Beginning, Limit: 100}))(t)
			var nids []EventNID
			for _, e := range all {
				nids = append(nids, e.NID)
			}
			if len(all) != 7 || nids[0] != old[2].NID || nids[2] != old[0].NID || nids[6] != out.NID || all[0].Ord != -3 || all[0].Pos != 0 {
				t.Fatalf("the timeline is %v", nids)
			}
			h := must(g.Head(ctx, w.head.ID))(t)
			if h.MinOrd != -3 || len(h.Extremities) != 1 || h.Extremities[0].NID != out.NID {
				t.Fatalf("the head is %+v", h)
			}
		}
	})
}

func TestMemberships(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		var entries []bus.Entry
		g := open(t, o, func(c *sqldb.Config) {
			c.Committed = func(c sqldb.Commit) {
				for _, e := range c.Entries {
					entries = append(entries, e.(bus.Entry))
				}
			}
		})
		const bob = id.UserID("@bob:hs.test")
		w, w2 := newRoom(t, g), newRoom(t, g)
		for i := range 5 {
			w.member(id.UserID(fmt.Sprintf("@remote%d:x.test", i)), Join)
		}
		w.member(bob, Join)
		w.commit()
		w2.member(bob, Join)
		w2.commit()
		if rooms := must(g.SharedRooms(ctx, alice, bob))(t); len(rooms) != 2 {
			t.Fatalf("%d rooms are shared", len(rooms))
		}
		ours := func(s id.ServerName) bool { return s == "hs.test" }
		if users := must(g.LocalMembers(ctx, w.head.Room, ours, 10))(t); !slices.Equal(users, []id.UserID{alice, bob}) {
			t.Fatalf("the local members are %v", users)
		}
		if err := g.Forget(ctx, bob, w.head.ID); !mxerr.Is(err, mxerr.CodeUnknown) {
			t.Fatalf("forgetting a room one is in: %v", err)
		}
		// Leaving and coming back within one commit, and again within one transaction of the group.
		w.member(bob, Leave)
		w.member(bob, Join)
		t1 := w.submit()
		w.member(bob, Leave)
		if err := errors.Join(t1.Wait(ctx), w.tryCommit()); err != nil {
			t.Fatal(err)
		}
		if err := g.Forget(ctx, bob, w.head.ID); err != nil {
			t.Fatal(err)
		}
		row, _, err := g.MembershipOf(ctx, bob, w.head.Room)
		if err != nil || row.Membership != Leave || row.Prev != Join || !row.Forgotten || row.RoomID != w.head.ID {
			t.Fatalf("bob's row is %+v, %v", row, err)
		}
		w.member(bob, Invite)
		w.commit()
		if row, _, _ := g.MembershipOf(ctx, bob, w.head.Room); row.Forgotten || row.Membership != Invite {
			t.Fatalf("bob's row is %+v", row)
		}
		if rows := must(g.MembershipsOf(ctx, bob, Invite, Knock))(t); len(rows) != 1 || rows[0].Room != w.head.Room {
			t.Fatalf("bob's invites are %+v", rows)
		}
		if rows := must(g.MembershipsChanged(ctx, bob, row.Pos))(t); len(rows) != 1 {
			t.Fatalf("bob's changes are %+v", rows)
		}
		// An invite to a room that this server knows nothing of.
		entries = nil
		oob := OutOfBand{Room: "!far:x.test", Version: v10, User: bob, Membership: Invite, Stripped: []byte(`[]`)}
		if err := g.SetOutOfBand(ctx, oob); err != nil {
			t.Fatal(err)
		}
		if len(entries) != 1 || entries[0].Kind != bus.Membership || entries[0].User != bob || entries[0].Pos == 0 {
			t.Fatalf("the invite was told as %+v", entries)
		}
		if m := must(g.MembershipIn(ctx, bob, oob.Room))(t); m != Invite {
			t.Fatalf("bob's membership is %q", m)
		}
		if _, err := g.Head(ctx, oob.Room); !mxerr.Is(err, mxerr.CodeNotFound) {
			t.Fatalf("the head of a room from outside: %v", err)
		}
		rows := must(g.MembershipsOf(ctx, bob, Invite))(t)
		if i := slices.IndexFunc(rows, func(m MemberRow) bool { return m.RoomID == oob.Room }); i < 0 || string(rows[i].Stripped) != "[]" {
			t.Fatalf("bob's rows are %+v", rows)
		}
		// A room whose head is not the one by which the invite was judged keeps its rows.
		inside := OutOfBand{Room: w.head.ID, User: alice, Membership: Invite, Stripped: []byte(`[]`)}
		if err := g.SetOutOfBand(ctx, inside); !errors.Is(err, ErrConflict) {
			t.Fatalf("an invite to a room that has begun meanwhile: %v", err)
		}
		if m := must(g.MembershipIn(ctx, alice, w.head.ID))(t); m != Join {
			t.Fatalf("alice's membership is %q", m)
		}
		// What the invite claims gives way to what the room turns out to be, until it is known.
		v6, _ := roomver.Get("6")
		nid := must(g.NameRoom(ctx, oob.Room, v6))(t)
		if _, v, err := g.RoomID(ctx, nid); err != nil || v != v6 || nid != entries0(entries).room() {
			t.Fatalf("room %d is of version %v, %v", nid, v, err)
		}
		if _, err := g.NameRoom(ctx, w.head.ID, v6); !mxerr.Is(err, mxerr.CodeInvalidParam) {
			t.Fatalf("a room that is known became one of another version: %v", err)
		}
		must(g.NameRoom(ctx, oob.Room, v10))(t)
		// The room becomes known.
		if head := must(g.NewHead(ctx, oob.Room, v10))(t); head.Room != entries0(entries).room() {
			t.Fatal("the room has another number now")
		}
	})
}

type entries0 []bus.Entry

func (e entries0) room() RoomNID { return RoomNID(e[0].Room) }

// TestManyWriters lets many goroutines write to a few rooms through two nodes, with transactions that are sent twice.
func TestManyWriters(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		nodes := []*Graph{open(t, o), open(t, o)}
		var rooms []id.RoomID
		for range 3 {
			rooms = append(rooms, newRoom(t, nodes[0]).head.ID)
		}
		const senders, each = 8, 12
		var mu sync.Mutex
		sent := map[TxnRef][]id.EventID{}
		send := func(g *Graph, room id.RoomID, txn TxnRef) (id.EventID, error) {
			for {
				w := on(t, g, room)
				e := w.message(txn.ID)
				e.Txn = txn
				switch err := w.tryCommit(); {
				case err == nil:
					return e.PDU.ID(), nil
				case errors.Is(err, ErrTxn):
					known, ok, err := g.TxnEvent(ctx, txn)
					if ok || err != nil {
						return known, err
					}
				case !errors.Is(err, ErrConflict):
					return "", err
				}
			}
		}
		var wg sync.WaitGroup
		for s := range senders {
			wg.Go(func() {
				for i := range each {
					// Two senders share each transaction, on different nodes.
					txn := TxnRef{User: alice, Device: "D", Scope: "s", ID: fmt.Sprintf("%d-%d", s/2, i)}
					event, err := send(nodes[s%2], rooms[i%3], txn)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					sent[txn] = append(sent[txn], event)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		total := 0
		for _, room := range rooms {
			h := must(nodes[1].Head(ctx, room))(t)
			total += len(must(nodes[1].Timeline(ctx, h.Room, Range{Limit: 1000}))(t)) - 3
		}
		if total != senders/2*each || len(sent) != total {
			t.Fatalf("%d events of %d transactions, want %d", total, len(sent), senders/2*each)
		}
		for txn, events := range sent {
			if len(events) != 2 || events[0] != events[1] {
				t.Fatalf("the two senders of %s were told %v", txn.ID, events)
			}
		}
		if all := must(nodes[0].EventsSince(ctx, 0, 1<<40, 1000))(t); len(all) != total+9 {
			t.Fatalf("the stream has %d events, want %d", len(all), total+9)
		} else {
			for i, e := range all {
				if e.Pos != sqldb.Pos(i+1) {
					t.Fatal("the stream has holes")
				}
			}
		}
	})
}

// A node that follows the bus learns that another one redacted an event that it has in memory.
func TestFollow(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		a, b := open(t, o), open(t, o)
		w := newRoom(t, a)
		secret := w.message("secret")
		w.commit()
		must(b.Timeline(ctx, w.head.Room, Range{Limit: 100}))(t)
		red := w.push(redactionOf(t, w, secret.PDU.ID()), Placement{})
		w.c.Redactions = []Redaction{{Target: secret.NID, By: red.NID, Pruned: must(secret.PDU.Redacted())(t)}}
		w.commit()

		hints := bus.New(bus.Config{})
		run := b.Follow(hints)
		// The bus knows nothing of the positions before this commit, so they come as another node's.
		hints.Committed(sqldb.Commit{From: red.Pos, To: red.Pos + 1})
		following, stop := context.WithCancel(ctx)
		done := make(chan error)
		go func() { done <- run(following) }()
		for flags := Flags(0); flags&Redacted == 0; {
			e, _, err := b.Event(ctx, secret.PDU.ID())
			if err != nil {
				t.Fatal(err)
			}
			flags = e.Flags
			runtime.Gosched()
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// The number of joined users needs no database where the room's head is in memory, and follows what other nodes write once that was heard.
func TestJoinedCount(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		a, b := open(t, o), open(t, o)
		w := newRoom(t, a)
		expect := func(g *Graph, want int64) {
			t.Helper()
			if n := must(g.JoinedCount(ctx, w.head.Room))(t); n != want {
				t.Errorf("%d users are joined, want %d", n, want)
			}
		}
		expect(b, 1)
		w.member("@bob:hs.test", Join)
		w.commit()
		before := a.db.Stats().Reads
		expect(a, 2)
		if n := a.db.Stats().Reads - before; n != 0 {
			t.Errorf("it took %d reads", n)
		}
		last := must(b.db.Last(ctx))(t)
		if err := b.Refresh(ctx, last-1, last); err != nil {
			t.Fatal(err)
		}
		expect(b, 2)
	})
}
