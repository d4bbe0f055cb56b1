package fedroom_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/fedroom"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// crafted is an event of a user of this server that the engine wouldn't make, with edges as given. Its ID is used in rooms of versions 1 and 2.
func (s *server) crafted(r id.RoomID, u id.UserID, name, body string, depth int64, prev, auth []id.EventID) *event.PDU {
	s.t.Helper()
	head := s.head(r)
	d := event.Draft{
		RoomID: r, Type: "m.room.message", Sender: u, Content: fmt.Appendf(nil, `{"body":%q,"msgtype":"m.text"}`, body),
		OriginServerTS: time.Now().UnixMilli(), Depth: depth, PrevEvents: prev, AuthEvents: auth,
	}
	if prev == nil {
		for _, x := range head.Extremities {
			d.PrevEvents = append(d.PrevEvents, x.ID)
		}
	}
	if auth == nil {
		for _, k := range eventauth.NeededFor(head.Version, d.Type, nil, u, d.Content) {
			if nid, ok := head.State.Get(k.Type, k.StateKey); ok {
				found, err := s.graph.Events(s.ctx, head.Room, []graph.EventNID{nid})
				must(s.t, err)
				d.AuthEvents = append(d.AuthEvents, found[0].PDU.ID())
			}
		}
	}
	key, _ := s.ours.Key(s.name)
	p, err := d.Build(head.Version, s.name, key, func() string { return name })
	must(s.t, err)
	return p
}

// old is two servers in a room of a version whose events are called what their servers call them.
func old(t *testing.T, w *town, version string) (a, b *server, alice, bob id.UserID, r id.RoomID) {
	t.Helper()
	a, b = w.server("a.example"), w.server("b.example")
	alice, bob = a.user("alice"), b.user("bob")
	v, _ := roomver.Get(version)
	r = a.create(room.Creation{Creator: alice, Preset: room.PublicChat, Version: v})
	must(t, b.join(r, bob, a.name))
	return a, b, alice, bob, r
}

// goesOn checks that both servers chat with each other, and agree.
func goesOn(t *testing.T, r id.RoomID, a, b *server, alice, bob id.UserID) {
	t.Helper()
	for range 2 {
		if refused := a.deliver(b, a.say(r, alice, "hello")); len(refused) > 0 {
			t.Error(refused)
		}
		if refused := b.deliver(a, b.say(r, bob, "hello yourself")); len(refused) > 0 {
			t.Error(refused)
		}
	}
	same(t, r, a, b)
}

// Events may claim any depth that a room's version can write. Those that follow them claim no more than that, and the room goes on.
func TestClaimedDepths(t *testing.T) {
	for _, version := range []string{"1", "5", "10", "12"} {
		t.Run(version, func(t *testing.T) {
			w := newTown(t)
			a, b, alice, bob, r := old(t, w, version)
			v := a.head(r).Version
			for i, depth := range []int64{v.MaxDepth, 1, v.MaxDepth - 1} {
				p := a.crafted(r, alice, fmt.Sprintf("deep%d", i), "deep", depth, nil, nil)
				for _, s := range []*server{a, b} {
					if got := s.rooms.ReceiveAll(t.Context(), r, []*event.PDU{p})[0]; got.Err != nil || got.Verdict != room.Accepted {
						t.Fatalf("an event of depth %d at %s: %+v", depth, s.name, got)
					}
				}
				goesOn(t, r, a, b, alice, bob)
			}
			for _, x := range b.head(r).Extremities {
				if x.Depth < 1 || x.Depth > v.MaxDepth {
					t.Errorf("the room ends with a depth of %d", x.Depth)
				}
			}
			// After a restart the room is as it was.
			fresh, err := graph.Open(t.Context(), graph.Config{DB: b.db})
			must(t, err)
			if h, err := fresh.Head(t.Context(), r); err != nil || !slices.Equal(h.Extremities, b.head(r).Extremities) {
				t.Errorf("the room is read with other ends: %v", err)
			}
			// Who joins now misses nothing of what comes next, though nothing can be deeper.
			c := w.server("c.example")
			must(t, c.join(r, c.user("carol"), a.name))
			missed := a.speak(r, alice, 5)
			a.deliver(c, missed[4])
			must(t, c.fed.Repair(t.Context(), r))
			for _, e := range missed {
				if !slices.Contains(c.timeline(r), e) {
					t.Error("a message is missing at the server that joined later")
				}
			}
			// What can't be written is refused.
			for _, depth := range []string{"-1", "1e400", "1.5", `"7"`, "99999999999999999999"} {
				raw := canon.With(nil, a.raw(a.say(r, alice, "odd")), "depth", []byte(depth))
				if _, err := a.client.CheckPDU(t.Context(), v, raw, a.name); err == nil {
					t.Errorf("a depth of %s is taken", depth)
				}
			}
		})
	}
}

// Where servers choose the IDs of events they can make them authorise each other, or follow each other, in a circle. Nothing of that becomes part of the
// room, nobody walks in the circle for ever, and what leads to it is given up.
func TestCircles(t *testing.T) {
	for _, edge := range []string{"auth", "prev"} {
		t.Run(edge, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTown(t)
				a, b, alice, bob, r := old(t, w, "1")
				name := func(i int) []id.EventID { return []id.EventID{id.EventID(fmt.Sprintf("$circle%d:a.example", i%3))} }
				var circle []json.RawMessage
				for i := range 3 {
					var p *event.PDU
					if edge == "auth" {
						p = a.crafted(r, alice, fmt.Sprintf("circle%d", i), "round", 5, nil, name(i+1))
					} else {
						p = a.crafted(r, alice, fmt.Sprintf("circle%d", i), "round", 5, name(i+1), nil)
					}
					circle = append(circle, p.Raw())
				}
				// An event may well cite itself, too.
				itself := a.crafted(r, alice, "self", "I say so", 5, []id.EventID{"$self:a.example"}, []id.EventID{"$self:a.example"})
				all := func(field string) func(int, []byte) (int, []byte) {
					return func(int, []byte) (int, []byte) {
						body, err := json.Marshal(map[string]any{field: circle, "origin": a.name, "origin_server_ts": 1})
						must(t, err)
						return 200, body
					}
				}
				a.liesTo(map[string]func(int, []byte) (int, []byte){
					"get_missing_events": all("events"), "backfill": all("pdus"), "event_auth": all("auth_chain"), "event": all("pdus"),
					"state_ids": func(int, []byte) (int, []byte) {
						return 200, []byte(`{"pdu_ids":["$circle0:a.example"],"auth_chain_ids":["$circle1:a.example","$circle2:a.example"]}`)
					},
				})
				a.transact(b, circle[0], itself.Raw())
				for range 24 {
					must(t, b.fed.Repair(t.Context(), r))
					time.Sleep(61 * time.Minute)
				}
				for _, e := range []id.EventID{"$circle0:a.example", "$circle1:a.example", "$circle2:a.example", "$self:a.example"} {
					if stored, ok, _ := b.graph.Event(t.Context(), e); ok && stored.Flags&graph.Outlier == 0 && slices.Contains(b.timeline(r), e) {
						t.Errorf("%s is shown as part of the room", e)
					}
				}
				if n := len(b.staged(r)); n > 0 {
					t.Errorf("%d events still wait", n)
				}
				if troubles, err := fedroom.Troubles(t.Context(), b.db, 10); err != nil || len(troubles) == 0 {
					t.Errorf("listed are %+v, %v", troubles, err)
				}
				a.honest()
				goesOn(t, r, a, b, alice, bob)
			})
		})
	}
}

// In rooms of the first versions a server can tell each of two others something else under one ID. Each keeps what it was told first, and the room goes on.
func TestOneIDForTwoEvents(t *testing.T) {
	w := newTown(t)
	a, b, alice, bob, r := old(t, w, "2")
	first := a.crafted(r, alice, "twice", "yes", 9, nil, nil)
	second := a.crafted(r, alice, "twice", "no", 9, nil, nil)
	a.transact(b, first.Raw())
	a.transact(b, second.Raw())
	must(t, b.fed.Repair(t.Context(), r))
	if raw := string(b.raw(first.ID())); !strings.Contains(raw, `"yes"`) {
		t.Errorf("an event was replaced by another of its ID: %s", raw)
	}
	if n := len(b.staged(r)); n > 0 {
		t.Errorf("%d events wait", n)
	}
	a.rooms.ReceiveAll(t.Context(), r, []*event.PDU{second})
	goesOn(t, r, a, b, alice, bob)
}

// A server can make any number of events of one depth that follow the same ones. They are branches of the room as others are.
func TestEventsOfOneDepth(t *testing.T) {
	w := newTown(t)
	a, b, alice, bob, r := pair(t, w, nil)
	depth := a.head(r).Extremities[0].Depth + 1
	var raws []json.RawMessage
	var prev []id.EventID
	for _, x := range a.head(r).Extremities {
		prev = append(prev, x.ID)
	}
	for i := range 120 {
		p := a.crafted(r, alice, "", fmt.Sprint(i), depth, prev, nil)
		raws = append(raws, p.Raw())
		a.rooms.ReceiveAll(t.Context(), r, []*event.PDU{p})
	}
	for part := range slices.Chunk(raws, 50) {
		if refused := a.transact(b, part...); len(refused) > 0 {
			t.Fatal(refused)
		}
	}
	if n := len(b.head(r).Extremities); n > 100 {
		t.Errorf("the room has %d ends", n)
	}
	b.say(r, bob, "still here")
	b.catchUp(a, r)
	goesOn(t, r, a, b, alice, bob)
}

// A state that has next to nothing in common with the room's, and many times as much in it, is not fetched.
func TestGiantStateBehindAGap(t *testing.T) {
	w := newTown(t)
	a, b, alice, bob, r := pair(t, w, nil)
	missed := a.speak(r, alice, 3)
	a.liesTo(map[string]func(int, []byte) (int, []byte){
		"get_missing_events": func(int, []byte) (int, []byte) { return 404, []byte(`{"errcode":"M_NOT_FOUND","error":"no"}`) },
		"event":              func(int, []byte) (int, []byte) { return 404, []byte(`{"errcode":"M_NOT_FOUND","error":"no"}`) },
		"state_ids": func(int, []byte) (int, []byte) {
			ids := make([]string, 20_000)
			for i := range ids {
				ids[i] = fmt.Sprintf("$%043d", i)
			}
			body, err := json.Marshal(map[string]any{"pdu_ids": ids, "auth_chain_ids": []string{}})
			must(t, err)
			return 200, body
		},
	})
	a.deliver(b, missed[2])
	must(t, b.fed.Repair(t.Context(), r))
	if a.count("state_ids") == 0 || a.count("state") > 0 || a.count("event") > 100 {
		t.Errorf("asked %d times for the IDs, %d times for a state and %d times for an event", a.count("state_ids"), a.count("state"), a.count("event"))
	}
	b.say(r, bob, "still here")
	if n := b.head(r).State.Len(); n > 50 {
		t.Errorf("the state has %d events", n)
	}
}
