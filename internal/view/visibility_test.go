package view_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/view"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

var settings = []string{"world_readable", "shared", "invited", "joined"}

// The paths of a membership, with a message of alice's after each step, numbered from 0 (before
// the first step); and which of the messages the user sees afterwards by each setting.
func TestVisibilityByMembership(t *testing.T) {
	paths := []struct {
		path []string
		sees map[string][]int
	}{
		{nil, map[string][]int{"world_readable": {0}}},
		{[]string{"join"}, map[string][]int{
			"world_readable": {0, 1}, "shared": {0, 1}, "invited": {1}, "joined": {1},
		}},
		{[]string{"invite"}, map[string][]int{"world_readable": {0, 1}}},
		{[]string{"invite", "join"}, map[string][]int{
			"world_readable": {0, 1, 2}, "shared": {0, 1, 2}, "invited": {1, 2}, "joined": {2},
		}},
		{[]string{"invite", "leave"}, map[string][]int{"world_readable": {0, 1, 2}}},
		{[]string{"join", "leave"}, map[string][]int{
			"world_readable": {0, 1, 2}, "shared": {0, 1}, "invited": {1}, "joined": {1},
		}},
		{[]string{"join", "kick", "invite"}, map[string][]int{
			"world_readable": {0, 1, 2, 3}, "shared": {0, 1}, "invited": {1}, "joined": {1},
		}},
		{[]string{"join", "leave", "invite", "join"}, map[string][]int{
			"world_readable": {0, 1, 2, 3, 4}, "shared": {0, 1, 2, 3, 4}, "invited": {1, 3, 4}, "joined": {1, 4},
		}},
		{[]string{"join", "ban"}, map[string][]int{
			"world_readable": {0, 1, 2}, "shared": {0, 1}, "invited": {1}, "joined": {1},
		}},
		{[]string{"join", "leave", "ban", "unban"}, map[string][]int{
			"world_readable": {0, 1, 2, 3, 4}, "shared": {0, 1}, "invited": {1}, "joined": {1},
		}},
		{[]string{"join", "leave", "forget"}, map[string][]int{"world_readable": {0, 1, 2, 3}}},
		{[]string{"join", "leave", "forget", "join"}, map[string][]int{
			"world_readable": {0, 1, 2, 3, 4}, "shared": {0, 1, 2, 3, 4}, "invited": {1, 4}, "joined": {1, 4},
		}},
	}
	each(t, func(t *testing.T, n *node) {
		for _, c := range paths {
			for _, setting := range settings {
				name := fmt.Sprint(setting, " ", c.path)
				r := n.create(visibility(setting))
				messages := []*graph.Event{n.event(n.say(r, alice, "0"))}
				for i, step := range c.path {
					n.moves(r, bob, step)
					messages = append(messages, n.event(n.say(r, alice, fmt.Sprint(i+1))))
				}
				seen, err := n.Visible(n.ctx, bob, messages)
				must(t, err)
				var got []int
				for i, ok := range seen {
					if ok {
						got = append(got, i)
					}
				}
				if !slices.Equal(got, c.sees[setting]) {
					t.Errorf("%s: sees %v, want %v", name, got, c.sees[setting])
				}
			}
		}
	})
}

func visibility(setting string) room.StateEntry {
	return room.StateEntry{Type: "m.room.history_visibility", Content: fmt.Appendf(nil, `{"history_visibility":%q}`, setting)}
}

// history is a plain model of a room without forks: the rules of the specification, written down
// as they are read.
type history struct {
	events     []id.EventID
	visibility [][2]string // before and after each event
	membership [][2]string // bob's
	forgotten  bool
}

func (h *history) add(e id.EventID, setting, membership string) {
	was := [2]string{"", ""}
	if n := len(h.events); n > 0 {
		was = [2]string{h.visibility[n-1][1], h.membership[n-1][1]}
	}
	h.events = append(h.events, e)
	h.visibility = append(h.visibility, [2]string{was[0], setting})
	h.membership = append(h.membership, [2]string{was[1], membership})
}

// departure is the index of the event that ended bob's last stay: past the end while he is in, -1
// if he never was.
func (h *history) departure() int {
	for i := len(h.events) - 1; i >= 0; i-- {
		if h.membership[i][1] == "join" {
			return i + 1
		}
	}
	return -1
}

func (h *history) sees(i int) bool {
	inRoomLater := i < h.departure() && !h.forgotten
	for _, visible := range h.visibility[i] {
		for _, member := range h.membership[i] {
			switch {
			case visible == "world_readable":
				return true
			case h.forgotten:
			case member == "join":
				return true
			case (visible == "shared" || visible == "") && inRoomLater:
				return true
			case visible == "invited" && member == "invite" && inRoomLater:
				return true
			}
		}
	}
	return false
}

func (h *history) last() (setting, membership string) {
	n := len(h.events) - 1
	return h.visibility[n][1], h.membership[n][1]
}

// mayRead reports whether bob may ask about the room at all.
func (h *history) mayRead() bool {
	setting, membership := h.last()
	return setting == "world_readable" || membership == "join" || h.departure() >= 0 && !h.forgotten
}

// Random histories: settings change mid-way, memberships take every turn; what is shown must be what
// the model shows.
func TestVisibilityModel(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for seed := range uint64(25) {
			rng := rand.New(rand.NewPCG(seed, 1))
			r := n.create()
			h := new(history)
			record := func() {
				// What has been added since, with the model's idea of what it changed.
				for _, e := range n.timeline(r)[len(h.events):] {
					setting, membership := "", ""
					if len(h.events) > 0 {
						setting, membership = h.last()
					}
					switch k := e.PDU.Key(); {
					case k.Type == "m.room.history_visibility":
						setting = contentOf(e, "history_visibility")
					case k.Type == "m.room.member" && k.StateKey == string(bob):
						if m := contentOf(e, "membership"); m != membership {
							membership, h.forgotten = m, false
						}
					}
					h.add(e.PDU.ID(), setting, membership)
				}
			}
			record()
			for range 14 {
				switch rng.IntN(4) {
				case 0:
					n.set(r, alice, "m.room.history_visibility", "", fmt.Sprintf(`{"history_visibility":%q}`, settings[rng.IntN(4)]))
				case 1:
					n.say(r, alice, "hello")
				default:
					step := []string{"join", "leave", "invite", "kick", "ban", "unban", "join", "forget"}[rng.IntN(8)]
					err := n.move(r, bob, step)
					if _, refused := mxerr.Of(err); err != nil && !refused {
						t.Fatal(err)
					}
					h.forgotten = h.forgotten || step == "forget" && err == nil
				}
				record()
				n.compare(r, h, seed)
				if t.Failed() {
					return
				}
			}
		}
	})
}

func contentOf(e *graph.Event, field string) string { return gjsonGet(e.PDU.Content(), field) }

func (n *node) compare(r id.RoomID, h *history, seed uint64) {
	n.t.Helper()
	events := n.timeline(r)
	seen, err := n.Visible(n.ctx, bob, events)
	must(n.t, err)
	end := len(events)
	if setting, membership := h.last(); setting != "world_readable" && membership != "join" {
		end = h.departure() + 1 // the departure itself is the last that is shown
	}
	var visible []id.EventID
	for i, e := range events {
		own := e.PDU.Type() == "m.room.history_visibility" || e.PDU.Type() == "m.room.member" && e.PDU.Key().StateKey == string(bob)
		wanted := h.sees(i)
		if !own && h.visibility[i][0] != h.visibility[i][1] {
			n.t.Fatal("the model thinks that something else changes the visibility")
		}
		if seen[i] != wanted {
			n.t.Errorf("seed %d: %s %s %s: seen: %v, want %v by %v and %v, departure %d of %d", seed, e.PDU.Type(), e.PDU.Key().StateKey, e.PDU.Content(),
				seen[i], wanted, h.visibility[i], h.membership[i], h.departure(), len(events))
		}
		if wanted && i < end {
			visible = append(visible, e.PDU.ID())
		}
		_, err := n.Event(n.ctx, view.Audience{User: bob}, r, e.PDU.ID())
		if (err == nil) != (wanted && h.mayRead()) {
			n.t.Errorf("seed %d: asked for one event: %v", seed, err)
		}
	}
	raw, err := n.Messages(n.ctx, view.Page{Audience: view.Audience{User: bob}, Room: r, Limit: 1000})
	if !h.mayRead() {
		want(n.t, mxerr.CodeForbidden, err)
		return
	}
	must(n.t, err)
	if got := ids(parse(n.t, raw).Get("chunk")); !slices.Equal(got, visible) {
		n.t.Errorf("seed %d: a page shows %d events, want %d", seed, len(got), len(visible))
	}
}
