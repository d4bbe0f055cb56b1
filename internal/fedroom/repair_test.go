package fedroom_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/fedroom"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/stateres"
)

// pair is two servers in one room.
func pair(t testing.TB, w *town, open sqldbtest.Open) (a, b *server, alice, bob id.UserID, r id.RoomID) {
	t.Helper()
	a = w.server("a.example")
	if open == nil {
		b = w.server("b.example")
	} else {
		b = w.serverOn("b.example", open)
	}
	alice, bob = a.user("alice"), b.user("bob")
	r = a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	must(t, b.join(r, bob, a.name))
	return a, b, alice, bob, r
}

// speak makes n messages.
func (s *server) speak(r id.RoomID, u id.UserID, n int) (events []id.EventID) {
	s.t.Helper()
	for i := range n {
		events = append(events, s.say(r, u, fmt.Sprintf("message %d", i)))
	}
	return events
}

// A gap is filled from the server that the news came from, in order.
func TestGapIsFilled(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newTown(t)
		a, b, alice, _, r := pair(t, w, open)
		states := a.count("state_ids")
		missed := a.speak(r, alice, 130)
		last := missed[len(missed)-1]
		if refused := a.deliver(b, last); len(refused) > 0 {
			t.Fatal(refused)
		}
		if _, ok, _ := b.graph.Event(t.Context(), last); ok {
			t.Error("an event is part of the room before its ancestors")
		}
		must(t, b.fed.Repair(t.Context(), r))
		same(t, r, a, b)
		got := b.timeline(r)
		if !slices.Equal(got[len(got)-len(missed):], missed) {
			t.Errorf("the timeline has %d events and ends otherwise", len(got))
		}
		if n := a.count("state_ids"); n > states {
			t.Errorf("the state was asked for %d times", n-states)
		}
	})
}

// State changes in a gap, made on two sides, are resolved as on the other side.
func TestGapWithAFork(t *testing.T) {
	w := newTown(t)
	a, b, alice, bob, r := pair(t, w, nil)
	a.setState(r, alice, "m.room.power_levels", "", `{"state_default":0}`) // the creator stands above all levels
	a.catchUp(b, r)
	for i := range 5 {
		a.setState(r, alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"a %d"}`, i))
		b.setState(r, bob, "m.room.name", "", fmt.Sprintf(`{"name":"b %d"}`, i))
	}
	ours, theirs := b.head(r).Extremities, a.head(r).Extremities
	b.deliver(a, ours[0].ID)
	a.deliver(b, theirs[0].ID)
	must(t, a.fed.Repair(t.Context(), r))
	must(t, b.fed.Repair(t.Context(), r))
	same(t, r, a, b)
}

// Where nobody gives what is between, the state behind it does.
func TestGapIsGrafted(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newTown(t)
		a, b, alice, _, r := pair(t, w, open)
		a.setState(r, alice, "m.room.topic", "", `{"topic":"what b missed"}`)
		missed := a.speak(r, alice, 20)
		a.refuses(404, "M_UNRECOGNIZED", "get_missing_events")
		a.deliver(b, missed[len(missed)-1])
		must(t, b.fed.Repair(t.Context(), r))
		if x, y := a.state(r), b.state(r); !slices.Equal(x, y) {
			t.Error("the states differ")
		}
		if got := b.timeline(r); got[len(got)-1] != missed[len(missed)-1] {
			t.Error("the newest event is not the last of the timeline")
		}
		// What comes next follows.
		a.deliver(b, a.say(r, alice, "next"))
		if got := b.timeline(r); len(got) < 2 || got[len(got)-2] != missed[len(missed)-1] {
			t.Error("the next event does not follow")
		}
		// And history fills the gap.
		a.honest()
		for range 5 {
			_, err := b.fed.Backfill(t.Context(), r, 50)
			must(t, err)
		}
		got := b.timeline(r)
		for _, e := range missed {
			if !slices.Contains(got, e) {
				t.Fatalf("%s is still missing", e)
			}
		}
	})
}

// A question that is lost on its way, or that the other server can't check yet, leaves no gap: it is asked again, and the state behind the gap is
// not taken meanwhile.
func TestGapAfterALostQuestion(t *testing.T) {
	for _, try := range []struct {
		what   string
		lost   int
		answer func() (int, []byte)
	}{
		{"lost", 2, func() (int, []byte) { panic(http.ErrAbortHandler) }},
		{"signature not checked", 5, func() (int, []byte) {
			return http.StatusUnauthorized, []byte(`{"errcode":"M_UNAUTHORIZED","error":"The key can't be had."}`)
		}},
		{"trouble", 2, func() (int, []byte) {
			return http.StatusInternalServerError, []byte(`{"errcode":"M_UNKNOWN","error":"Trouble."}`)
		}},
	} {
		t.Run(try.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t)
				a, b, alice, _, r := pair(t, w, nil)
				missed := a.speak(r, alice, 10)
				grafts := a.count("state_ids")
				asked := 0
				a.lies("get_missing_events", func(status int, body []byte) (int, []byte) {
					if asked++; asked <= try.lost {
						return try.answer()
					}
					return status, body
				})
				a.deliver(b, missed[len(missed)-1])
				must(t, b.fed.Repair(t.Context(), r))
				b.background()
				time.Sleep(time.Hour)
				synctest.Wait()
				same(t, r, a, b)
				got := b.timeline(r)
				if !slices.Equal(got[len(got)-len(missed):], missed) {
					t.Errorf("the timeline has %d events and ends otherwise", len(got))
				}
				if n := a.count("state_ids") - grafts; n > 0 {
					t.Errorf("the state was asked for %d times", n)
				}
			})
		})
	}
}

// Another server of the room helps where the one that sent the event can't.
func TestGapIsFilledByAThird(t *testing.T) {
	w := newTown(t)
	a, b, alice, _, r := pair(t, w, nil)
	c := w.server("c.example")
	carol := c.user("carol")
	must(t, c.join(r, carol, a.name))
	a.deliver(b, a.stateEvent(r, "m.room.member", string(carol)))
	missed := a.speak(r, alice, 10)
	a.catchUp(c, r)
	a.refuses(500, "M_UNKNOWN", "get_missing_events", "state_ids", "state", "event", "event_auth")
	a.deliver(b, missed[len(missed)-1])
	must(t, b.fed.Repair(t.Context(), r))
	same(t, r, a, b)
}

// A branch from before the join comes with its state. What it grew from is history: as a branch of its own it would bring back what the room was.
func TestGapReachesBehindTheJoin(t *testing.T) {
	w := newTown(t)
	a := w.server("a.example")
	c := w.server("c.example")
	alice, carol := a.user("alice"), c.user("carol")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	must(t, c.join(r, carol, a.name))
	a.catchUp(c, r)
	old := a.speak(r, alice, 3)
	a.catchUp(c, r)
	a.setState(r, alice, "m.room.topic", "", `{"topic":"what carol does not know"}`)
	a.speak(r, alice, 3)
	b := w.server("b.example")
	must(t, b.join(r, b.user("bob"), a.name))
	late := c.speak(r, carol, 2)
	c.deliver(a, late...)
	c.deliver(b, late[1])
	must(t, b.fed.Repair(t.Context(), r))
	same(t, r, a, b)
	got := b.timeline(r)
	if !slices.Contains(got, late[1]) {
		t.Error("the branch did not come")
	}
	for _, e := range old {
		if slices.Contains(got, e) {
			t.Errorf("%s came again after the join", e)
		}
	}
	if n := len(b.head(r).Extremities); n != 2 {
		t.Errorf("the room has %d ends, want 2", n)
	}
}

// A member whose server, and its key, is out of reach for a moment is not left out of the state behind a gap, nor of that behind a join.
func TestStateWaitsForKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		a, b, alice, _, r := pair(t, w, nil)
		c, d := w.server("c.example"), w.server("d.example")
		must(t, c.join(r, c.user("carol"), a.name))
		missed := a.speak(r, alice, 3)
		c.refuses(500, "M_UNKNOWN", "server", "query")
		a.refuses(404, "M_UNRECOGNIZED", "get_missing_events", "query")
		a.deliver(b, missed[2])
		must(t, b.fed.Repair(t.Context(), r))
		if _, ok, _ := b.graph.Event(t.Context(), missed[2]); ok {
			t.Error("the event was taken with a state that lacks a member")
		}
		_, err := d.fed.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: d.user("dora")}}, []id.ServerName{a.name})
		must(t, err)
		a.honest()
		c.honest()
		b.background()
		d.background()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		a.deliver(b, a.stateEvent(r, "m.room.member", "@dora:d.example"))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		same(t, r, a, b)
		same(t, r, a, d)
	})
}

// Answers full of other events don't become part of the room, nor does anything forged.
func TestGapAndLies(t *testing.T) {
	w := newTown(t)
	a, b, alice, _, r := pair(t, w, nil)
	other := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	var junk []any
	for _, e := range a.timeline(other) {
		var o any
		must(t, json.Unmarshal(a.raw(e), &o))
		junk = append(junk, o)
	}
	missed := a.speak(r, alice, 6)
	a.lies("get_missing_events", object(func(o map[string]any) {
		events := o["events"].([]any)
		for _, e := range events {
			e.(map[string]any)["content"] = map[string]any{"body": "forged", "msgtype": "m.text"}
		}
		events = append(events, junk...)
		o["events"] = append(events, "x", map[string]any{})
	}))
	a.deliver(b, missed[len(missed)-1])
	must(t, b.fed.Repair(t.Context(), r))
	same(t, r, a, b)
	for _, e := range missed[:len(missed)-1] {
		if raw := string(b.raw(e)); strings.Contains(raw, "forged") {
			t.Errorf("a forged content was taken: %s", raw)
		}
	}
	if _, ok, _ := b.graph.RoomNID(t.Context(), other); ok {
		t.Error("events of another room were stored")
	}
}

// What never comes is given up with a reason; other rooms and the room itself go on.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		a, b, alice, bob, r := pair(t, w, nil)
		other := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
		must(t, b.join(other, bob, a.name))
		missed := a.speak(r, alice, 5)
		a.refuses(404, "M_NOT_FOUND", "get_missing_events", "state_ids", "state", "event", "event_auth")
		last := missed[len(missed)-1]
		a.deliver(b, last)
		must(t, b.fed.Repair(t.Context(), r))
		// Meanwhile.
		b.say(r, bob, "still here")
		say := a.say(other, alice, "over here")
		a.deliver(b, say)
		if got := b.timeline(other); got[len(got)-1] != say {
			t.Error("another room has to wait")
		}
		// It isn't asked for again before its turn.
		before := a.count("get_missing_events")
		must(t, b.fed.Repair(t.Context(), r))
		if n := a.count("get_missing_events"); n != before {
			t.Errorf("asked %d times more at once", n-before)
		}
		for range 24 {
			time.Sleep(61 * time.Minute)
			must(t, b.fed.Repair(t.Context(), r))
		}
		if n := a.count("get_missing_events"); n > before+16 {
			t.Errorf("asked %d times more in a day", n-before)
		}
		troubles, err := fedroom.Troubles(t.Context(), b.db, 10)
		must(t, err)
		if len(troubles) != 1 || troubles[0].Event != last || troubles[0].Room != r || troubles[0].Origin != a.name ||
			!strings.Contains(troubles[0].Reason, "previous") || troubles[0].GaveUp <= troubles[0].Since {
			t.Fatalf("listed are %+v", troubles)
		}
		// When it comes after all the matter is settled.
		a.honest()
		a.deliver(b, last)
		must(t, b.fed.Repair(t.Context(), r))
		if e, ok, _ := b.graph.Event(t.Context(), last); !ok || e.Flags&graph.Outlier != 0 {
			t.Error("the event is still not part of the room")
		}
		if troubles, _ = fedroom.Troubles(t.Context(), b.db, 10); len(troubles) > 0 {
			t.Errorf("listed are %+v", troubles)
		}
	})
}

// An event that needs a larger resolution than this server makes is listed as given up, after it was tried again and again, and what follows it waits as
// long. Other events of the room don't.
func TestTooLargeFork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		a, c := w.server("a.example"), w.server("c.example")
		w.mostResolved = 3
		b := w.server("b.example")
		alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
		r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
		a.setState(r, alice, "m.room.power_levels", "", `{"state_default":0}`)
		must(t, b.join(r, bob, a.name))
		must(t, c.join(r, carol, a.name))
		a.deliver(b, a.stateEvent(r, "m.room.member", string(carol)))
		ours, theirs := b.setState(r, bob, "org.example.x", "", `{"n":1}`), a.setState(r, alice, "org.example.x", "", `{"n":2}`)
		after := a.say(r, alice, "after it")
		b.deliver(c, ours)
		said := c.speak(r, carol, 3)
		a.deliver(b, theirs, after)
		c.deliver(b, said[2])
		must(t, b.fed.Repair(t.Context(), r))
		for _, e := range said {
			if stored, ok, _ := b.graph.Event(t.Context(), e); !ok || stored.Flags&graph.Outlier != 0 {
				t.Errorf("%s waits for others", e)
			}
		}
		for range 24 {
			time.Sleep(61 * time.Minute)
			must(t, b.fed.Repair(t.Context(), r))
		}
		b.say(r, bob, "the room goes on")
		troubles, err := fedroom.Troubles(t.Context(), b.db, 10)
		must(t, err)
		listed := map[id.EventID]string{}
		for _, x := range troubles {
			listed[x.Event] = x.Reason
		}
		if len(listed) != 2 || !strings.Contains(listed[theirs], stateres.ErrTooLarge.Error()) || !strings.Contains(listed[after], string(theirs)) {
			t.Errorf("listed are %v", listed)
		}
	})
}

// What waits survives a restart: the tables hold it, and whoever runs repairs takes it up.
func TestStagedIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		a, b, alice, _, r := pair(t, w, nil)
		missed := a.speak(r, alice, 5)
		a.deliver(b, missed[4])
		b.background()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		same(t, r, a, b)
	})
}

// A server that its list shuts out is heard no more, in that room.
func TestAccessControl(t *testing.T) {
	w := newTown(t)
	a, b, alice, bob, r := pair(t, w, nil)
	free := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	must(t, b.join(free, bob, a.name))
	a.setState(r, alice, "m.room.server_acl", "", `{"allow":["*"],"deny":["B.EXAMPLE"]}`)
	in, out := b.say(free, bob, "here I may speak"), b.say(r, bob, "here I may not")
	refused := b.deliver(a, in, out)
	if len(refused) != 1 || refused[out] == "" {
		t.Errorf("refused is %v", refused)
	}
	if got := a.timeline(free); got[len(got)-1] != in {
		t.Error("the event of the other room was not taken")
	}
	if err := a.fed.Allowed(t.Context(), r, "b.example:8448"); code(err) != "M_FORBIDDEN" {
		t.Errorf("with a port: %v", err)
	}
	must(t, a.fed.Allowed(t.Context(), r, "c.example"))
	must(t, a.fed.Allowed(t.Context(), "!nobody-knows", "b.example"))
}
