package view_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/view"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

var filters = []string{
	``, `{}`, `{"types":["m.room.message"]}`, `{"types":["m.*"],"not_types":["*.message"]}`, `{"senders":["@bob:here.example"]}`,
	`{"not_senders":["@alice:here.example"]}`, `{"types":[]}`, `{"contains_url":true}`, `{"contains_url":false,"types":["m.room.message"]}`,
	`{"limit":2}`, `{"types":["rare"]}`,
}

// Pages follow each other without gaps and repeats, in both directions, whatever the limits
// and the filter.
func TestPagesJoin(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		rng := rand.New(rand.NewPCG(1, 2))
		r := n.busyRoom(rng)
		for round := range 60 {
			p := view.Page{Audience: view.Audience{User: []id.UserID{alice, bob, carol}[rng.IntN(3)]}, Room: r, Backward: round%2 == 0}
			var err error
			p.Filter, err = view.ParseRoomEventFilter([]byte(filters[rng.IntN(len(filters))]))
			must(t, err)
			wanted := n.wanted(p)
			start := 0
			if from := rng.IntN(3); from > 0 {
				// Begin behind some event of the room.
				all := n.timeline(r)
				e := all[rng.IntN(len(all))]
				p.From = view.Token(e.Ord).String()
				start = slices.IndexFunc(wanted, func(w *graph.Event) bool {
					return p.Backward && w.Ord <= e.Ord || !p.Backward && w.Ord > e.Ord
				})
				if start < 0 {
					start = len(wanted)
				}
			}
			got := n.readAll(p, rng)
			if want := eventIDs(wanted[start:]); !slices.Equal(got, want) {
				t.Errorf("%s from %q, backward %v, filter %+v: got %d events, want %d", p.Audience.User, p.From, p.Backward, p.Filter, len(got), len(want))
			}
		}
	})
}

// busyRoom has messages, state, members who come and go, settings that change, and history from before.
func (n *node) busyRoom(rng *rand.Rand) id.RoomID {
	r := n.create()
	n.backfill(r, 30)
	for i := range 150 {
		switch rng.IntN(8) {
		case 0:
			_ = n.move(r, bob, []string{"join", "leave", "join", "kick"}[rng.IntN(4)])
		case 1:
			n.set(r, alice, "m.room.history_visibility", "", fmt.Sprintf(`{"history_visibility":%q}`, settings[rng.IntN(4)]))
		case 2:
			n.send(r, room.Proposal{Sender: alice, Type: "m.room.message", Content: fmt.Appendf(nil, `{"url":"mxc://here.example/%d"}`, i)})
		case 3:
			if n.move(r, bob, "join") == nil {
				n.say(r, bob, fmt.Sprint(i))
			}
		default:
			n.say(r, alice, fmt.Sprint(i))
		}
	}
	n.set(r, alice, "m.room.history_visibility", "", `{"history_visibility":"world_readable"}`)
	return r
}

// wanted lists what all pages together must show.
func (n *node) wanted(p view.Page) []*graph.Event {
	n.t.Helper()
	events := n.timeline(p.Room)
	seen, err := n.Visible(n.ctx, p.Audience.User, events)
	must(n.t, err)
	var out []*graph.Event
	for i, e := range events {
		if seen[i] && p.Filter.MatchEvent(e.PDU) {
			out = append(out, e)
		}
	}
	if p.Backward {
		slices.Reverse(out)
	}
	return out
}

func (n *node) readAll(p view.Page, rng *rand.Rand) []id.EventID {
	n.t.Helper()
	var got []id.EventID
	for range 1000 {
		p.Limit = 1 + rng.IntN(40)
		page := n.messages(p)
		chunk := ids(page.Get("chunk"))
		most := p.Limit
		if p.Filter.Limit != nil {
			most = min(most, *p.Filter.Limit)
		}
		if len(chunk) > most {
			n.t.Fatalf("%d events on a page of %d", len(chunk), most)
		}
		if p.From != "" && page.Get("start").Str != p.From {
			n.t.Fatalf("start is %s, asked from %s", page.Get("start").Str, p.From)
		}
		got = append(got, chunk...)
		end := page.Get("end")
		if !end.Exists() {
			return got
		}
		p.From = end.Str
	}
	n.t.Fatal("pages without end")
	return nil
}

func eventIDs(events []*graph.Event) []id.EventID {
	var out []id.EventID
	for _, e := range events {
		out = append(out, e.PDU.ID())
	}
	return out
}

func TestPageBounds(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		n.backfill(r, 3)
		a, b, c := n.event(n.say(r, alice, "a")), n.event(n.say(r, alice, "b")), n.event(n.say(r, alice, "c"))
		at := func(e *graph.Event) string { return view.Token(e.Ord).String() }
		all := n.timeline(r)
		for _, tt := range []struct {
			name string
			page view.Page
			want []*graph.Event
		}{
			{"forward to", view.Page{From: at(a), To: at(b)}, []*graph.Event{b}},
			{"backward to", view.Page{From: at(c), To: at(b), Backward: true}, []*graph.Event{c}},
			{"nothing between", view.Page{From: at(c), To: at(c), Backward: true}, nil},
			{"the wrong way round", view.Page{From: at(a), To: at(c), Backward: true}, nil},
			{"a token of sync", view.Page{From: "s" + strconv.FormatInt(b.Ord, 10) + "_1"}, []*graph.Event{c}},
			{"just before the live events", view.Page{From: "t-1", Backward: true}, []*graph.Event{all[2], all[1], all[0]}},
			{"just after the oldest", view.Page{From: "t-3", To: "t-1"}, []*graph.Event{all[1], all[2]}},
			{"far ahead", view.Page{From: view.Token(1 << 62).String()}, nil},
			{"far back", view.Page{From: view.Token(-1 << 62).String(), Backward: true}, nil},
		} {
			tt.page.Audience.User, tt.page.Room, tt.page.Limit = alice, r, 100
			got := n.messages(tt.page)
			if !slices.Equal(ids(got.Get("chunk")), eventIDs(tt.want)) {
				t.Errorf("%s: got %d events, want %d", tt.name, len(got.Get("chunk").Array()), len(tt.want))
			}
			if got.Get("end").Exists() {
				t.Errorf("%s: there is an end", tt.name)
			}
		}
		for _, bad := range []string{"x", "t", "s", "t1x", "t+1", "s-1", "s1_", "1", "t9223372036854775807", "s1_2_3_4_5_6", "$event"} {
			_, err := n.Messages(n.ctx, view.Page{Audience: view.Audience{User: alice}, Room: r, From: bad})
			if !mxerr.Is(err, mxerr.CodeInvalidParam) {
				t.Errorf("token %q: %v", bad, err)
			}
		}
		first := n.messages(view.Page{Audience: view.Audience{User: alice}, Room: r, Limit: 2})
		again := n.messages(view.Page{Audience: view.Audience{User: alice}, Room: r, Limit: 2, From: first.Get("start").Str})
		if !slices.Equal(ids(first.Get("chunk")), ids(again.Get("chunk"))) {
			t.Error("start does not lead to the same page")
		}
	})
}

// A filter that few events pass ends a page early, with a token that leads on.
func TestScanIsBounded(t *testing.T) {
	n := start(t, sqliteDB(t))
	r := n.create()
	n.send(r, room.Proposal{Sender: alice, Type: "rare", Content: []byte(`{}`)})
	done := make(chan error)
	const writers, each = 16, 340
	for range writers {
		go func() {
			for range each {
				_, err := n.rooms.Send(n.ctx, room.Message{Room: r, Proposal: room.Proposal{Sender: alice, Type: "common", Content: []byte(`{}`)}})
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range writers {
		must(t, <-done)
	}
	f, err := view.ParseRoomEventFilter([]byte(`{"types":["rare"]}`))
	must(t, err)
	p := view.Page{Audience: view.Audience{User: alice}, Room: r, Limit: 1, Backward: true, Filter: f}
	page := n.messages(p)
	if len(page.Get("chunk").Array()) != 0 || !page.Get("end").Exists() {
		t.Errorf("the first page: %s", page.Raw)
	}
	p.From = page.Get("end").Str
	if got := n.messages(p).Get("chunk.0.type").Str; got != "rare" {
		t.Errorf("the second page has %q", got)
	}
}

func TestLazyMembers(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		n.moves(r, bob, "join")
		n.moves(r, carol, "join")
		n.say(r, bob, "hello")
		n.say(r, bob, "again")
		f, err := view.ParseRoomEventFilter([]byte(`{"lazy_load_members":true,"types":["m.room.message"]}`))
		must(t, err)
		page := n.messages(view.Page{Audience: view.Audience{User: alice}, Room: r, Limit: 10, Filter: f})
		members := page.Get("state").Array()
		if len(members) != 1 || members[0].Get("state_key").Str != string(bob) {
			t.Errorf("members: %s", page.Get("state").Raw)
		}
	})
}

func TestIgnoredSenders(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create()
		n.moves(r, bob, "join")
		n.say(r, bob, "unwanted")
		n.set(r, alice, "m.room.power_levels", "", `{"users":{"@bob:here.example":50}}`)
		topic := n.set(r, bob, "m.room.topic", "", `{"topic":"state is shown"}`)
		n.ignored[alice] = map[id.UserID]struct{}{bob: {}}
		page := n.messages(view.Page{Audience: view.Audience{User: alice}, Room: r, Limit: 3, Backward: true})
		for _, e := range page.Get("chunk").Array() {
			if e.Get("sender").Str == string(bob) && !e.Get("state_key").Exists() {
				t.Errorf("shown: %s", e.Raw)
			}
		}
		if got := ids(page.Get("chunk")); len(got) != 3 || got[0] != topic {
			t.Errorf("shown: %v", got)
		}
	})
}
