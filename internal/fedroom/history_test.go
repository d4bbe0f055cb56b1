package fedroom_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// A newcomer reads what was said before, in order, down to the creation of the room.
func TestBackfillToTheBeginning(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newTown(t)
		a, b := w.server("a.example"), w.serverOn("b.example", open)
		alice, bob := a.user("alice"), b.user("bob")
		for _, version := range []string{"1", "6", "12"} {
			v, _ := roomver.Get(version)
			r := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PublicChat})
			a.speak(r, alice, 60)
			a.setState(r, alice, "m.room.topic", "", `{"topic":"halfway"}`)
			a.speak(r, alice, 60)
			must(t, b.join(r, bob, a.name))
			open, err := b.fed.Reach(t.Context(), r, "", 30)
			must(t, err)
			if got := b.timeline(r); open || len(got) < 31 || len(got) > 120 {
				t.Errorf("version %s: for a page of 30 there are %d events, open %v", version, len(got), open)
			}
			for range 10 {
				if n, err := b.fed.Backfill(t.Context(), r, 100); err != nil || n == 0 {
					must(t, err)
					break
				}
			}
			if x, y := a.timeline(r), b.timeline(r); !slices.Equal(x, y) {
				t.Errorf("version %s: the timeline has %d events at a, %d at b", version, len(x), len(y))
			}
			same(t, r, a, b)
			if open, _ := b.fed.Reach(t.Context(), r, "", 1000); open {
				t.Errorf("version %s: something is missing before the beginning", version)
			}
			// The state at a moment of the past is what it was.
			first := b.timeline(r)[20]
			e, _, err := b.graph.Event(t.Context(), first)
			must(t, err)
			before, err := b.graph.StateBefore(t.Context(), e)
			must(t, err)
			if _, ok := before.Get("m.room.topic", ""); ok {
				t.Errorf("version %s: the topic was there before it was set", version)
			}
		}
	})
}

// A page may be larger than what is fetched for it. Then it doesn't seem to end with the room.
func TestReachOfLargePages(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	a.speak(r, alice, 300)
	must(t, b.join(r, bob, a.name))
	for tries := 0; ; tries++ {
		open, err := b.fed.Reach(t.Context(), r, "", 1000)
		must(t, err)
		if whole := len(b.timeline(r)) == len(a.timeline(r)); open == whole {
			t.Fatalf("%d of %d events are here, more is expected: %v", len(b.timeline(r)), len(a.timeline(r)), open)
		}
		if !open {
			break
		}
		if _, err := b.fed.Backfill(t.Context(), r, 100); err != nil || tries > 20 {
			t.Fatalf("after %d tries: %v", tries, err)
		}
	}
}

// Nobody is asked again at once after nobody had anything.
func TestBackfillIsTired(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	a.speak(r, alice, 5)
	must(t, b.join(r, bob, a.name))
	a.refuses(500, "M_UNKNOWN", "backfill")
	for range 5 {
		n, err := b.fed.Backfill(t.Context(), r, 10)
		if n != 0 || err != nil {
			t.Errorf("got %d events, %v", n, err)
		}
	}
	if n := a.count("backfill"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// Only what leads up to a gap becomes history.
func TestBackfillAndLies(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	a.speak(r, alice, 5)
	must(t, b.join(r, bob, a.name))
	a.lies("backfill", object(func(o map[string]any) {
		for _, e := range o["pdus"].([]any) {
			e.(map[string]any)["signatures"] = map[string]any{"a.example": map[string]any{"ed25519:x": "AAAA"}}
		}
	}))
	before := b.timeline(r)
	n, err := b.fed.Backfill(t.Context(), r, 10)
	must(t, err)
	if got := b.timeline(r); n != 0 || !slices.Equal(got, before) {
		t.Errorf("%d unsigned events were taken", n)
	}
}

func TestTimestampToEvent(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	var middle id.EventID
	for i := range 40 {
		ts := time.Now().UnixMilli() - int64(1000*(100-i))
		e, err := a.rooms.Send(t.Context(), room.Message{Room: r, Proposal: room.Proposal{
			Sender: alice, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":"%d"}`, i), TS: ts,
		}})
		must(t, err)
		if i == 20 {
			middle = e
		}
	}
	must(t, b.join(r, bob, a.name))
	p, err := event.Parse(a.head(r).Version, a.raw(middle))
	must(t, err)
	got, ts, err := b.fed.TimestampToEvent(t.Context(), r, p.OriginServerTS()-300, false)
	must(t, err)
	if got != middle || ts != p.OriginServerTS() {
		t.Errorf("got %s at %d, want %s at %d", got, ts, middle, p.OriginServerTS())
	}
	e, ok, err := b.graph.Event(t.Context(), middle)
	if err != nil || !ok || e.Flags&graph.Backfilled == 0 {
		t.Errorf("the event is not part of the room's past: %v", err)
	}
	// Between that event and the join something is missing still; beside other known events there is nothing to ask for.
	asked := a.count("timestamp_to_event")
	if asked == 0 {
		t.Error("nobody was asked")
	}
	quiet := func(when int64, backward bool) {
		t.Helper()
		if got, _, err := b.fed.TimestampToEvent(t.Context(), r, when, backward); got != "" || err != nil || a.count("timestamp_to_event") != asked {
			t.Errorf("near %d there is %s, %v, after %d questions", when, got, err, a.count("timestamp_to_event")-asked)
		}
	}
	quiet(1<<50, false)
	quiet(1<<50, true)
	for _, backward := range []bool{true, false} {
		want := ts + 5000
		got, near, err := b.fed.TimestampToEvent(t.Context(), r, want, backward)
		must(t, err)
		if got == "" || near < want-1000 || near > want+1000 {
			t.Errorf("near %d, backward %v, there is %s at %d", want, backward, got, near)
		}
	}
	asked = a.count("timestamp_to_event")
	for range 10 {
		if _, err := b.fed.Backfill(t.Context(), r, 100); err != nil {
			t.Fatal(err)
		}
	}
	quiet(ts+7000, true)
	quiet(0, true)
}
