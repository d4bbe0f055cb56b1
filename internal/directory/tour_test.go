package directory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"myelin/internal/directory"
	"myelin/internal/fedclient"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// world is what other servers say of rooms.
type world struct {
	mu    sync.Mutex // guards all below
	says  map[id.RoomID]fedclient.Hierarchy
	asked []id.RoomID
	via   map[id.RoomID][]id.ServerName
	err   error // instead of any answer
}

func newWorld() *world {
	return &world{says: make(map[id.RoomID]fedclient.Hierarchy), via: make(map[id.RoomID][]id.ServerName)}
}

func (w *world) seeker(user id.UserID) directory.Seeker {
	return directory.Seeker{User: user, Ask: func(_ context.Context, room id.RoomID, via []id.ServerName, _ bool) (fedclient.Hierarchy, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked = append(w.asked, room)
		w.via[room] = via
		if w.err != nil {
			return fedclient.Hierarchy{}, w.err
		}
		answer, ok := w.says[room]
		if !ok {
			return answer, mxerr.NotFound("no such room")
		}
		return answer, nil
	}}
}

// described is a room as another server describes it.
func described(room id.RoomID, more string) json.RawMessage {
	return fmt.Appendf(nil, `{"room_id":%q,"num_joined_members":3%s,"world_readable":false,"guest_can_join":false}`, room, more)
}

// space makes a public space whose children are these.
func (w *world) space(name id.RoomID, children ...id.RoomID) *fedclient.Hierarchy {
	var events []string
	for i, c := range children {
		events = append(events, fmt.Sprintf(`{"type":"m.space.child","state_key":%q,"sender":"@x:far.example","origin_server_ts":%d,"content":{"via":["far.example"]}}`, c, i))
	}
	h := fedclient.Hierarchy{Room: described(name, `,"join_rule":"public","room_type":"m.space","children_state":[`+strings.Join(events, ",")+`]`)}
	w.says[name] = h
	return &h
}

func (w *world) plain(name id.RoomID, more string) {
	w.says[name] = fedclient.Hierarchy{Room: described(name, more)}
}

func (n *node) tour(who directory.Seeker, t directory.Tour) (rooms []id.RoomID, page *directory.TourPage) {
	n.t.Helper()
	if t.Depth == 0 {
		t.Depth = -1
	}
	page, err := n.Tour(n.ctx, who, t)
	n.ok(err)
	for _, r := range page.Rooms {
		rooms = append(rooms, r.RoomID)
	}
	return rooms, page
}

// Other servers are believed about rooms that nobody of ours is in, as far as what they say makes sense.
func TestTourAbroad(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n, w := start(t, open), newWorld()
		here := n.make(room.Creation{Name: new("Here")})
		members := n.closed(`{"join_rule":"invite"}`)
		space := n.space("!far:far.example", "!lies:far.example")

		far := w.space("!far:far.example", "!told:far.example", here, "!shut:far.example", "!club:far.example", "!members:far.example", "!deep:far.example", "!alone:far.example", space)
		far.Children = []json.RawMessage{
			described("!told:far.example", `,"join_rule":"knock","name":"Told","canonical_alias":7,"avatar_url":"mxc://far.example/x","encryption":"m.megolm.v1.aes-sha2","room_version":"11"`),
			described(here, `,"join_rule":"public","name":"Somewhere else"`),
			described("!club:far.example", `,"join_rule":"restricted","allowed_room_ids":["!none:far.example",5]`),
			described("!members:far.example", `,"join_rule":"restricted","allowed_room_ids":["`+string(members)+`"]`),
			described("!deep:far.example", `,"join_rule":"public","room_type":"m.space"`),
			described("!uncalled:far.example", `,"join_rule":"public"`),
			json.RawMessage(`[]`),
		}
		far.Inaccessible = []id.RoomID{"!shut:far.example"}
		w.says["!far:far.example"] = *far
		w.plain("!alone:far.example", `,"world_readable":true,"join_rule":"invite"`)
		w.plain("!shut:far.example", `,"join_rule":"public"`)
		w.says["!lies:far.example"] = fedclient.Hierarchy{Room: described("!other:far.example", `,"join_rule":"public"`)}

		got, page := n.tour(w.seeker(bob), directory.Tour{Space: space})
		// Of the space below nothing is to be had but what was said of it above.
		want := []id.RoomID{space, "!far:far.example", "!told:far.example", here, "!deep:far.example", "!alone:far.example"}
		if !slices.Equal(got, want) {
			t.Errorf("bob finds %v, want %v", got, want)
		}
		if told := page.Rooms[2]; told.Name != "Told" || told.Joined != 3 || told.CanonicalAlias != "" || told.Encryption == "" || told.RoomVersion != "11" || len(told.ChildrenState) != 0 {
			t.Errorf("told: %+v", told)
		}
		if page.Rooms[3].Name != "Here" {
			t.Errorf("another server is believed about %+v", page.Rooms[3].Summary)
		}
		slices.Sort(w.asked)
		if want := []id.RoomID{"!alone:far.example", "!deep:far.example", "!far:far.example", "!lies:far.example"}; !slices.Equal(w.asked, want) {
			t.Errorf("asked for %v, want %v", w.asked, want)
		}
		if via := w.via["!alone:far.example"]; !slices.Equal(via, []id.ServerName{"far.example"}) {
			t.Errorf("asked %v", via)
		}
		// Alice is where members are, and what was said before needn't be asked again.
		w.asked = nil
		got, _ = n.tour(w.seeker(alice), directory.Tour{Space: space})
		if want := slices.Insert(want, 4, "!members:far.example"); !slices.Equal(got, want) {
			t.Errorf("alice finds %v, want %v", got, want)
		}
		if slices.Contains(w.asked, "!far:far.example") || slices.Contains(w.asked, "!alone:far.example") {
			t.Errorf("asked again for %v", w.asked)
		}
		if _, err := n.Tour(n.ctx, w.seeker(bob), directory.Tour{Space: "!gone:far.example", Depth: -1}); !mxerr.Is(err, mxerr.CodeForbidden) {
			t.Errorf("nobody knows the space: %v", err)
		}
		w.err = errors.New("the disk is gone")
		if _, err := n.Tour(n.ctx, w.seeker(bob), directory.Tour{Space: "!gone:far.example", Depth: -1}); !errors.Is(err, w.err) {
			t.Errorf("a failure here is taken for an answer: %v", err)
		}
	})
}

// What one page may cost is bounded, and yet the tour gets to its end.
func TestTourBounds(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n, w := start(t, open), newWorld()
		var far []id.RoomID
		for i := range 60 {
			name := id.RoomID(fmt.Sprintf("!r%02d:far.example", i))
			far = append(far, name)
			if i%2 == 0 {
				w.plain(name, `,"join_rule":"public"`)
			}
		}
		w.space("!root:far.example", far...)
		var got []id.RoomID
		tour := directory.Tour{Space: "!root:far.example"}
		pages := 0
		for before := 0; ; before = len(w.asked) {
			rooms, page := n.tour(w.seeker(bob), tour)
			got = append(got, rooms...)
			if asked := len(w.asked) - before; asked > 24 {
				t.Errorf("%d questions for one page", asked)
			}
			if pages++; page.Next == "" || pages > 20 {
				break
			}
			tour.From = page.Next
		}
		if len(got) != 31 || pages < 3 {
			t.Errorf("%d rooms on %d pages: %v", len(got), pages, got)
		}
		if len(w.asked) != 61 {
			t.Errorf("%d questions in all", len(w.asked))
		}

		// A chain that has no end, and two spaces that contain each other.
		for i := range 30 {
			w.space(id.RoomID(fmt.Sprintf("!d%d:far.example", i)), id.RoomID(fmt.Sprintf("!d%d:far.example", i+1)), "!d0:far.example")
		}
		got, tour = nil, directory.Tour{Space: "!d0:far.example"}
		for {
			rooms, page := n.tour(w.seeker(bob), tour)
			got = append(got, rooms...)
			if page.Next == "" {
				break
			}
			tour.From = page.Next
		}
		if len(got) != 21 {
			t.Errorf("the chain is followed for %d rooms", len(got))
		}

		// Spaces that say very much end a page.
		big := n.make(room.Creation{Content: map[string]any{"type": "m.space"}})
		long := strings.Repeat("x", 30_000)
		for i := range 40 {
			n.state(big, "m.space.child", fmt.Sprintf("!b%d:here.example", i), `{"via":["here.example"],"long":"`+long+`"}`)
		}
		_, page := n.tour(w.seeker(bob), directory.Tour{Space: big})
		if c := len(page.Rooms[0].ChildrenState); c < 30 || c > 35 {
			t.Errorf("%d children of 30 kB each", c)
		}
	})
}

// A user's old tours make room for new ones; others' are not touched.
func TestToursKept(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		space := n.space(n.make(room.Creation{}), n.make(room.Creation{}))
		next := func(user id.UserID, from string) (string, error) {
			p, err := n.Tour(n.ctx, directory.Seeker{User: user}, directory.Tour{Space: space, Depth: -1, Limit: 1, From: from})
			if err != nil {
				return "", err
			}
			return p.Next, nil
		}
		first, err := next(bob, "")
		n.ok(err)
		other, err := next(alice, "")
		n.ok(err)
		for range 30 {
			_, err := next(bob, "")
			n.ok(err)
		}
		_, err = next(alice, other)
		n.ok(err)
		if _, err = next(bob, first); err != nil && !mxerr.Is(err, mxerr.CodeInvalidParam) {
			t.Error(err)
		}
		_, err = next(alice, first)
		n.refused(mxerr.CodeInvalidParam, err)
	})
}
