package view_test

import (
	"errors"
	"slices"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/view"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// dave is of another name; that it is ours as well makes no difference to who sees what.
const (
	dave   = id.UserID("@dave:there.example")
	there  = id.ServerName("there.example")
	nobody = id.ServerName("nowhere.example")
)

func (n *node) sight(s id.ServerName, r id.RoomID) *view.Server {
	n.t.Helper()
	sight, err := n.Server(n.ctx, s, r)
	must(n.t, err)
	return sight
}

func visibleTo(value string) room.StateEntry {
	return room.StateEntry{Type: "m.room.history_visibility", Content: []byte(`{"history_visibility":"` + value + `"}`)}
}

// TestServersSeeWhatTheirUsersMay walks a user of another server through a room of each visibility.
func TestServersSeeWhatTheirUsersMay(t *testing.T) {
	for value, want := range map[string][5]bool{
		// before anything, invited, joined; and when they have left: what was sent while they were in, and after
		"world_readable": {true, true, true, true, true},
		"shared":         {true, true, true, true, false},
		"invited":        {false, true, true, true, false},
		"joined":         {false, false, true, true, false},
	} {
		t.Run(value, func(t *testing.T) {
			each(t, func(t *testing.T, n *node) {
				r := n.create(visibleTo(value))
				before := n.event(n.say(r, alice, "before"))
				n.moves(r, dave, "invite")
				invited := n.event(n.say(r, alice, "invited"))
				n.moves(r, dave, "join")
				joined := n.event(n.say(r, alice, "joined"))
				sees := func(e *graph.Event) bool {
					t.Helper()
					got, err := n.sight(there, r).Sees(n.ctx, e)
					must(t, err)
					return got
				}
				got := [5]bool{sees(before), sees(invited), sees(joined)}
				n.moves(r, dave, "leave")
				after := n.event(n.say(r, alice, "after"))
				got[3], got[4] = sees(joined), sees(after)
				if got != want {
					t.Errorf("got %v, want %v", got, want)
				}
				// Their own departure they always see.
				if departure := n.timeline(r); !sees(departure[len(departure)-2]) {
					t.Error("the server doesn't see that its user left")
				}
				stranger, err := n.sight(nobody, r).Sees(n.ctx, before)
				must(t, err)
				if stranger != (value == "world_readable") {
					t.Errorf("a stranger sees the room: %v", stranger)
				}
			})
		})
	}
}

func names(pdus []*event.PDU) (all []id.EventID) {
	for _, p := range pdus {
		all = append(all, p.ID())
	}
	return all
}

func TestServersBackfill(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(visibleTo("joined"))
		hidden := n.say(r, alice, "hidden")
		n.moves(r, dave, "join")
		first, last := n.say(r, alice, "1"), n.say(r, alice, "2")
		s := n.sight(there, r)
		pdus, err := s.Backfill(n.ctx, []id.EventID{last, last}, 4)
		must(t, err)
		if got := names(pdus); len(got) != 4 || got[0] != last || got[1] != first || got[3] != hidden {
			t.Fatalf("got %v", got)
		}
		if body := gjsonGet(pdus[0].Content(), "body"); body != "2" {
			t.Errorf("a visible event says %q", body)
		}
		if body := gjsonGet(pdus[3].Content(), "body"); body != "" || pdus[3].ID() != hidden {
			t.Errorf("a hidden event says %q", body)
		}
		_, err = s.Backfill(n.ctx, []id.EventID{"$nothing"}, 4)
		want(t, mxerr.CodeNotFound, err)
		_, err = n.sight(nobody, r).Backfill(n.ctx, []id.EventID{last}, 4)
		want(t, mxerr.CodeForbidden, err)
		other := n.say(n.create(), alice, "elsewhere")
		_, err = s.Backfill(n.ctx, []id.EventID{other}, 4)
		want(t, mxerr.CodeNotFound, err)
		_, err = n.Server(n.ctx, there, "!none:here.example")
		want(t, mxerr.CodeNotFound, err)
		// The whole room, and no more than there is.
		if pdus, err = s.Backfill(n.ctx, []id.EventID{last}, 1000); err != nil || len(pdus) != len(n.timeline(r)) {
			t.Errorf("%d events of %d: %v", len(pdus), len(n.timeline(r)), err)
		}
	})
}

func TestServersAskForWhatTheyMiss(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		n.moves(r, dave, "join")
		var said []id.EventID
		for _, text := range []string{"0", "1", "2", "3", "4"} {
			said = append(said, n.say(r, alice, text))
		}
		s := n.sight(there, r)
		missing := func(q view.MissingQuery) []id.EventID {
			t.Helper()
			pdus, err := s.Missing(n.ctx, q)
			must(t, err)
			return names(pdus)
		}
		if got := missing(view.MissingQuery{Latest: said[4:], Earliest: said[:1], Limit: 10}); !slices.Equal(got, said[1:4]) {
			t.Errorf("between two events: %v", got)
		}
		if got := missing(view.MissingQuery{Latest: said[4:], Limit: 2}); !slices.Equal(got, said[2:4]) {
			t.Errorf("with a limit: %v", got)
		}
		depth := n.event(said[3]).PDU.Depth()
		if got := missing(view.MissingQuery{Latest: said[4:], Limit: 10, MinDepth: depth}); !slices.Equal(got, said[3:4]) {
			t.Errorf("with a depth: %v", got)
		}
		if got := missing(view.MissingQuery{Latest: []id.EventID{"$nothing"}, Limit: 10}); len(got) != 0 {
			t.Errorf("of an event that isn't here: %v", got)
		}
		_, err := n.sight(nobody, r).Missing(n.ctx, view.MissingQuery{Latest: said[4:], Limit: 10})
		want(t, mxerr.CodeForbidden, err)
	})
}

func TestEventFor(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(visibleTo("joined"))
		hidden := n.say(r, alice, "hidden")
		n.moves(r, dave, "join")
		shown := n.say(r, alice, "shown")
		open := func(id.RoomID) error { return nil }
		pdu, err := n.EventFor(n.ctx, there, shown, open)
		must(t, err)
		if gjsonGet(pdu.Content(), "body") != "shown" {
			t.Errorf("the event says %s", pdu.Content())
		}
		if pdu, err = n.EventFor(n.ctx, there, hidden, open); err != nil || string(pdu.Content()) != "{}" {
			t.Errorf("a hidden event: %s, %v", pdu.Content(), err)
		}
		_, err = n.EventFor(n.ctx, nobody, shown, open)
		want(t, mxerr.CodeForbidden, err)
		_, err = n.EventFor(n.ctx, there, "$nothing", open)
		want(t, mxerr.CodeNotFound, err)
		_, err = n.EventFor(n.ctx, there, shown, func(id.RoomID) error { return mxerr.Forbidden("shut out") })
		want(t, mxerr.CodeForbidden, err)
	})
}

// told collects an excerpt.
func (n *node) told(x *view.Excerpt, err error) (state, auth []*event.PDU) {
	n.t.Helper()
	must(n.t, err)
	into := func(list *[]*event.PDU) func(*event.PDU) error {
		return func(p *event.PDU) error { *list = append(*list, p); return nil }
	}
	must(n.t, x.Each(n.ctx, into(&state), into(&auth)))
	return state, auth
}

func TestStateForServers(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		n.moves(r, dave, "join")
		named := n.set(r, alice, "m.room.name", "", `{"name":"N"}`)
		last := n.say(r, alice, "hello")
		s := n.sight(there, r)

		state, auth := n.told(s.StateBefore(n.ctx, named))
		if slices.Contains(names(state), named) {
			t.Error("the state before an event has the event")
		}
		state, auth = n.told(s.StateBefore(n.ctx, last))
		head, err := n.graph.Head(n.ctx, r)
		must(t, err)
		if len(state) != head.State.Len() || !slices.Contains(names(state), named) {
			t.Errorf("%d events of a state of %d", len(state), head.State.Len())
		}
		// The chain is complete: whatever an event of either names is in it.
		chain := names(auth)
		for _, p := range append(state, auth...) {
			for _, a := range p.AuthEvents() {
				if !slices.Contains(chain, a) {
					t.Errorf("%s of %s is not in the auth chain", a, p.Type())
				}
			}
		}
		if created := id.EventID("$" + string(r)[1:]); !slices.Contains(chain, created) {
			t.Error("the auth chain lacks the room's creation, which authorises without being named")
		}
		if slices.Contains(chain, last) || len(slices.Compact(slices.Sorted(slices.Values(chain)))) != len(chain) {
			t.Errorf("the auth chain is %v", chain)
		}

		_, err = n.sight(nobody, r).StateBefore(n.ctx, last)
		want(t, mxerr.CodeForbidden, err)
		_, err = s.StateBefore(n.ctx, "$nothing")
		want(t, mxerr.CodeNotFound, err)
		_, err = n.sight(nobody, r).StateBefore(n.ctx, "$nothing")
		want(t, mxerr.CodeForbidden, err)

		_, auth = n.told(s.AuthChain(n.ctx, last))
		for _, a := range n.event(last).PDU.AuthEvents() {
			if !slices.Contains(names(auth), a) {
				t.Errorf("%s is not in the auth chain of an event that names it", a)
			}
		}
		_, err = n.sight(nobody, r).AuthChain(n.ctx, last)
		want(t, mxerr.CodeForbidden, err)
	})
}

func TestJoinExcerpt(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		n.moves(r, bob, "join")
		n.moves(r, carol, "join")
		n.moves(r, dave, "join")
		events := n.timeline(r)
		join := events[len(events)-1]

		whole := func(omit bool) (*view.Excerpt, []*event.PDU, []*event.PDU, *graph.State) {
			t.Helper()
			x, before, err := n.JoinExcerpt(n.ctx, join, omit)
			must(t, err)
			state, auth := n.told(x, nil)
			return x, state, auth, before
		}
		x, state, auth, before := whole(false)
		if created := id.EventID("$" + string(r)[1:]); !slices.Contains(names(auth), created) {
			t.Error("the auth chain lacks the room's creation")
		}
		if x.MembersOmitted || len(state) != before.Len() || slices.Contains(names(state), join.PDU.ID()) {
			t.Errorf("%d events of a state of %d", len(state), before.Len())
		}
		if got := view.Servers(before); !slices.Equal(got, []id.ServerName{"here.example"}) {
			t.Errorf("before the join the servers are %v", got)
		}

		// Nobody named the room: its members stand for it.
		x, state, auth, _ = whole(true)
		members := 0
		for _, p := range state {
			if p.Type() == "m.room.member" {
				members++
			}
		}
		if !x.MembersOmitted || members != 3 {
			t.Errorf("%d members, omitted: %v", members, x.MembersOmitted)
		}
		// Nothing is told twice, and nothing that authorises is missing.
		all := append(names(state), names(auth)...)
		if len(slices.Compact(slices.Sorted(slices.Values(all)))) != len(all) {
			t.Error("an event is told twice")
		}
		for _, p := range append(state, join.PDU) {
			for _, a := range p.AuthEvents() {
				if !slices.Contains(all, a) {
					t.Errorf("%s of %s is missing", a, p.Type())
				}
			}
		}

		n.set(r, alice, "m.room.name", "", `{"name":"N"}`)
		n.moves(r, dave, "leave", "join")
		events = n.timeline(r)
		join = events[len(events)-1]
		if _, state, _, _ = whole(true); slices.ContainsFunc(state, func(p *event.PDU) bool { return p.Type() == "m.room.member" }) {
			t.Error("a room with a name is told with members")
		}
	})
}

// TestExcerptStops: who can't take more ends the telling.
func TestExcerptStops(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		n.moves(r, dave, "join")
		x, err := n.sight(there, r).StateBefore(n.ctx, n.say(r, alice, "hello"))
		must(t, err)
		full, calls := errors.New("full"), 0
		err = x.Each(n.ctx, func(*event.PDU) error { calls++; return full }, func(*event.PDU) error { calls++; return nil })
		if !errors.Is(err, full) || calls != 1 {
			t.Errorf("%d calls, then %v", calls, err)
		}
	})
}

func TestServersFindEventsByTime(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(visibleTo("joined"))
		hidden := n.event(n.say(r, alice, "hidden")).PDU
		n.moves(r, dave, "join")
		s := n.sight(there, r)
		got, at, err := s.NearTime(n.ctx, hidden.OriginServerTS(), false)
		must(t, err)
		if got == hidden.ID() || at < hidden.OriginServerTS() {
			t.Errorf("got %s at %d", got, at)
		}
		_, _, err = s.NearTime(n.ctx, 0, true)
		want(t, mxerr.CodeNotFound, err)
		_, _, err = n.sight(nobody, r).NearTime(n.ctx, 0, false)
		want(t, mxerr.CodeForbidden, err)
	})
}
