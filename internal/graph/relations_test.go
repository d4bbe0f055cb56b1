package graph

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

const bob = id.UserID("@bob:hs.test")

// related adds an event that relates to another one.
func (w *writer) related(sender id.UserID, typ, relType string, parent id.EventID, more string) *Event {
	w.tb.Helper()
	return w.push(w.relating(sender, typ, relType, parent, more), Placement{})
}

func (w *writer) relating(sender id.UserID, typ, relType string, parent id.EventID, more string) *Event {
	w.tb.Helper()
	content := fmt.Sprintf(`{"m.relates_to":{"event_id":%q,"key":"k","rel_type":%q}%s}`, parent, relType, more)
	return w.build(typ, nil, sender, content)
}

const newContent = `,"m.new_content":{"body":"y"}`

// redact prunes an event by another one.
func (w *writer) redact(target *Event) {
	w.tb.Helper()
	by := w.message("redaction")
	pruned, err := target.PDU.Redacted()
	if err != nil {
		w.tb.Fatal(err)
	}
	w.c.Redactions = append(w.c.Redactions, Redaction{Target: target.NID, By: by.NID, Was: target.PDU, Pruned: pruned})
	w.commit()
}

func (w *writer) children(parent *Event, relType string, r Range) []EventNID {
	w.tb.Helper()
	found, _, err := w.g.Children(w.tb.Context(), w.head.Room, parent.PDU.ID(), relType, r)
	if err != nil {
		w.tb.Fatal(err)
	}
	var nids []EventNID
	for _, c := range found {
		nids = append(nids, c.Event)
	}
	return nids
}

func (w *writer) aggregate(parent id.EventID) Aggregate {
	w.tb.Helper()
	found := must(w.g.Aggregates(w.tb.Context(), w.head.Room, []id.EventID{parent, "$none"}))(w.tb)
	if a := found[parent]; a != nil {
		return *a
	}
	return Aggregate{}
}

func nidsOf(events ...*Event) (nids []EventNID) {
	for _, e := range events {
		nids = append(nids, e.NID)
	}
	return nids
}

func TestChildren(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		w := newRoom(t, open(t, o))
		root := w.message("root")
		a := w.related(bob, "m.room.message", event.InThread, root.PDU.ID(), "")
		b := w.related(bob, "m.reaction", event.Annotates, root.PDU.ID(), "")
		c := w.related(alice, "m.x", "org.example.rel", root.PDU.ID(), "")
		w.commit()
		d := w.related(alice, "m.room.message", event.InThread, root.PDU.ID(), "")
		void := w.related(alice, "m.room.message", event.Replaces, root.PDU.ID(), "")
		w.message("unrelated")
		w.commit()
		hiddenOne := w.relating(bob, "m.room.message", event.InThread, root.PDU.ID(), "")
		hiddenOne.Flags = SoftFailed
		w.push(hiddenOne, Placement{})
		w.commit()

		all := Range{After: Beginning, Before: End, Limit: 10}
		back := Range{After: Beginning, Before: End, Limit: 2, Backward: true}
		for _, check := range []struct {
			relType string
			r       Range
			want    []EventNID
		}{
			{"", all, nidsOf(a, b, c, d, void)},
			{event.InThread, all, nidsOf(a, d)},
			{event.Replaces, all, nidsOf(void)},
			{event.References, all, nil},
			{"org.example.rel", all, nidsOf(c)},
			{"org.example.other", all, nil},
			{"", back, nidsOf(void, d)},
			{"", Range{After: Beginning, Before: d.Ord, Limit: 2, Backward: true}, nidsOf(c, b)},
			{"", Range{After: b.Ord, Before: End, Limit: 2}, nidsOf(c, d)},
		} {
			if got := w.children(root, check.relType, check.r); !slices.Equal(got, check.want) {
				t.Errorf("%q %+v: %v instead of %v", check.relType, check.r, got, check.want)
			}
		}
		by := must(w.g.RelatedBy(t.Context(), w.head.Room, []id.EventID{root.PDU.ID(), a.PDU.ID()}, []string{event.Annotates}, []id.UserID{bob}))(t)
		if len(by) != 1 || !by[root.PDU.ID()] {
			t.Errorf("related by annotations of bob: %v", by)
		}
		by = must(w.g.RelatedBy(t.Context(), w.head.Room, []id.EventID{root.PDU.ID()}, []string{event.Annotates, "org.example.other"}, []id.UserID{alice}))(t)
		if len(by) != 0 {
			t.Errorf("related by annotations of alice: %v", by)
		}
		by = must(w.g.RelatedBy(t.Context(), w.head.Room, []id.EventID{root.PDU.ID()}, []string{"org.example.rel"}, nil))(t)
		if len(by) != 1 {
			t.Errorf("related by another type: %v", by)
		}
		w.redact(a)
		if got := w.children(root, event.InThread, all); !slices.Equal(got, nidsOf(d)) {
			t.Errorf("after a redaction the thread is %v", got)
		}
	})
}

func TestThreads(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		w := newRoom(t, open(t, o))
		one, two := w.message("one"), w.push(w.build("m.room.message", nil, bob, `{"body":"two"}`), Placement{})
		w.commit()
		first := w.related(bob, "m.room.message", event.InThread, one.PDU.ID(), "")
		w.related(alice, "m.room.message", event.InThread, two.PDU.ID(), "")
		w.commit()
		last := w.related(bob, "m.room.message", event.InThread, one.PDU.ID(), "")
		w.commit()

		roots := func(user id.UserID, before int64, limit int) (found []string) {
			for _, th := range must(w.g.Threads(t.Context(), w.head.Room, user, before, limit))(t) {
				name := map[id.EventID]string{one.PDU.ID(): "one", two.PDU.ID(): "two"}[th.Root]
				found = append(found, fmt.Sprintf("%s %d", name, th.Count))
			}
			return found
		}
		check := func(what string, got []string, want ...string) {
			t.Helper()
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v instead of %v", what, got, want)
			}
		}
		check("threads", roots("", End, 10), "one 2", "two 1")
		check("the second page", roots("", last.Ord, 10), "two 1")
		check("one thread", roots("", End, 1), "one 2")
		check("alice's", roots(alice, End, 10), "one 2", "two 1")
		check("nobody's", roots("@carol:hs.test", End, 10))
		if a := w.aggregate(one.PDU.ID()); a.Thread == nil || a.Thread.Latest != last.NID || a.Thread.Count != 2 {
			t.Errorf("%+v", a.Thread)
		}
		in := must(w.g.InThreads(t.Context(), w.head.Room, []id.EventID{one.PDU.ID(), two.PDU.ID()}, []id.UserID{alice, bob}))(t)
		if n := in[one.PDU.ID()]; n[bob] != 2 || n[alice] != 0 || len(n) != 2 {
			t.Errorf("who is in the first thread: %v", n)
		}
		w.redact(last)
		check("after a redaction", roots("", End, 10), "two 1", "one 1")
		if a := w.aggregate(one.PDU.ID()); a.Thread == nil || a.Thread.Latest != first.NID {
			t.Errorf("%+v", a.Thread)
		}
		w.redact(first)
		check("after another", roots(bob, End, 10), "two 1")
		if a := w.aggregate(one.PDU.ID()); a.Thread != nil {
			t.Errorf("%+v", a.Thread)
		}
	})
}

// Events come in any order and through any door.
func TestRelationsOutOfOrder(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		w := newRoom(t, open(t, o))
		late := w.build("m.room.message", nil, alice, `{"body":"root"}`)
		late.Flags = Backfilled
		older := w.relating(bob, "m.room.message", event.InThread, late.PDU.ID(), "")
		older.Flags = Backfilled
		w.related(bob, "m.room.message", event.InThread, late.PDU.ID(), "").Flags = 0
		w.commit()
		newest := w.children(late, event.InThread, Range{After: Beginning, Limit: 1})
		w.push(older, Placement{Before: w.head.State})
		w.push(late, Placement{Before: w.head.State})
		w.commit()
		if got := w.children(late, "", Range{After: Beginning, Limit: 9}); !slices.Equal(got, []EventNID{older.NID, newest[0]}) {
			t.Errorf("children are %v", got)
		}
		if a := w.aggregate(late.PDU.ID()); a.Thread == nil || a.Thread.Latest != newest[0] || a.Thread.Count != 2 {
			t.Errorf("%+v", a.Thread)
		}
		if mine := must(w.g.Threads(ctx, w.head.Room, alice, End, 9))(t); len(mine) != 1 {
			t.Errorf("who sent the root takes part in %d threads", len(mine))
		}
		// An outlier relates to nothing until it joins the graph.
		out := w.relating(bob, "m.x", event.References, late.PDU.ID(), "")
		out.Flags = Outlier
		if err := w.g.Commit(&Commit{Room: w.head.Room, Events: []*Event{out}}).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if a := w.aggregate(late.PDU.ID()); a.References != 0 {
			t.Error("an outlier counts")
		}
		stored, _, err := w.g.Event(ctx, out.PDU.ID())
		if err != nil {
			t.Fatal(err)
		}
		joined := *stored
		joined.Flags = Known
		w.push(&joined, Placement{})
		w.commit()
		if a := w.aggregate(late.PDU.ID()); a.References != 1 {
			t.Error("an event that joined the graph doesn't count")
		}
		// Judged again it is rejected, and then not.
		for _, flags := range []Flags{Rejected, 0, 0} {
			again := joined
			again.Flags = flags
			next := w.head.Whole(w.head.State, []Rejudged{{Event: &again, Before: w.head.State}})
			c := &Commit{Prev: w.head, Next: next, Rejudged: []*Event{&again}, Whole: true}
			if err := w.g.Commit(c).Wait(ctx); err != nil {
				t.Fatal(err)
			}
			w.head = next
			if a := w.aggregate(late.PDU.ID()); a.References != int64(btoi(flags == 0)) {
				t.Errorf("flags %d: %d references", flags, a.References)
			}
		}
		w.redact(&joined)
		if a := w.aggregate(late.PDU.ID()); a.References != 0 || a.Thread == nil {
			t.Errorf("%+v", a)
		}
	})
}

func TestEdits(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		w := newRoom(t, open(t, o))
		root := w.message("x")
		first := w.related(alice, "m.room.message", event.Replaces, root.PDU.ID(), newContent)
		w.related(bob, "m.room.message", event.Replaces, root.PDU.ID(), newContent)
		w.related(alice, "m.room.message", event.Replaces, root.PDU.ID(), "")
		secret := w.related(alice, "m.room.encrypted", event.Replaces, root.PDU.ID(), "")
		w.commit()
		by := func(typ string) EventNID {
			t.Helper()
			for _, e := range w.aggregate(root.PDU.ID()).Edits {
				if e.Sender == alice && e.Type == typ {
					return e.Event
				}
			}
			return 0
		}
		if got := by("m.room.message"); got != first.NID {
			t.Errorf("the last edit is %d", got)
		}
		if got := by("m.room.encrypted"); got != secret.NID {
			t.Errorf("the last encrypted edit is %d", got)
		}
		second := w.related(alice, "m.room.message", event.Replaces, root.PDU.ID(), newContent)
		w.ts = 0 // claims to be older
		w.related(alice, "m.room.message", event.Replaces, root.PDU.ID(), newContent)
		w.commit()
		if got := by("m.room.message"); got != second.NID {
			t.Errorf("the last edit is %d", got)
		}
		w.ts = 100
		w.redact(second)
		if got := by("m.room.message"); got != first.NID {
			t.Errorf("after a redaction the last edit is %d", got)
		}
	})
}

func TestAnnotateOnce(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		g := open(t, o)
		w := newRoom(t, g)
		root := w.message("x")
		w.commit()
		room := w.head.ID
		first := w.related(alice, "m.reaction", event.Annotates, root.PDU.ID(), "")
		w.related(bob, "m.reaction", event.Annotates, root.PDU.ID(), "")
		w.related(alice, "m.other", event.Annotates, root.PDU.ID(), "")
		w.commit()
		again := func() error {
			w = on(t, g, room)
			w.ts = 1000
			w.related(alice, "m.reaction", event.Annotates, root.PDU.ID(), "")
			return w.tryCommit()
		}
		if err := again(); !errors.Is(err, ErrAnnotated) {
			t.Fatalf("again: %v", err)
		}
		to, _ := first.PDU.Relation()
		if !must(g.Annotated(t.Context(), first.Room, alice, "m.reaction", to))(t) || must(g.Annotated(t.Context(), first.Room, "@carol:hs.test", "m.reaction", to))(t) {
			t.Error("who has annotated the event?")
		}
		// Two commits at once, of which the later is built on the earlier.
		w = on(t, g, room)
		w.redact(first)
		w.related(alice, "m.reaction", event.Annotates, root.PDU.ID(), "")
		one := w.submit()
		w.related(alice, "m.reaction", event.Annotates, root.PDU.ID(), "")
		two := w.submit()
		w.message("built on it")
		three := w.submit()
		if err := one.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := two.Wait(t.Context()); !errors.Is(err, ErrAnnotated) {
			t.Fatalf("at once: %v", err)
		}
		if err := three.Wait(t.Context()); !errors.Is(err, ErrConflict) {
			t.Fatalf("what was built on it: %v", err)
		}
		// A commit that fails claims nothing.
		w = on(t, g, room)
		stale := w.head
		w.message("in between")
		w.commit()
		w.head = stale
		w.related("@carol:hs.test", "m.reaction", event.Annotates, root.PDU.ID(), "")
		if err := w.tryCommit(); !errors.Is(err, ErrConflict) {
			t.Fatalf("a stale head: %v", err)
		}
		w = on(t, g, room)
		w.related("@carol:hs.test", "m.reaction", event.Annotates, root.PDU.ID(), "")
		w.commit()
		// What others send twice is theirs.
		for range 2 {
			w.related(bob, "m.reaction", event.Annotates, root.PDU.ID(), "").Flags = 0
			w.commit()
		}
	})
}

func TestThreadOf(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		w := newRoom(t, open(t, o))
		root := w.message("root")
		reply := w.related(bob, "m.room.message", event.InThread, root.PDU.ID(), "")
		w.commit()
		reaction := w.related(bob, "m.reaction", event.Annotates, reply.PDU.ID(), "")
		w.commit()
		reference := w.related(bob, "m.x", event.References, reaction.PDU.ID(), "")
		onRoot := w.related(bob, "m.reaction", event.Annotates, root.PDU.ID(), "")
		unknown := w.related(bob, "m.reaction", event.Annotates, "$unknown", "")
		w.commit()
		for _, check := range []struct {
			e    *Event
			want id.EventID
		}{
			{root, ""}, {reply, root.PDU.ID()}, {reaction, root.PDU.ID()}, {reference, root.PDU.ID()}, {onRoot, ""}, {unknown, ""},
		} {
			if got := must(w.g.ThreadOf(t.Context(), check.e))(t); got != check.want {
				t.Errorf("%s is in %q", check.e.PDU.Raw(), got)
			}
		}
	})
}
