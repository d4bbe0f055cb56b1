package room_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"testing"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

const (
	erin  = id.UserID("@erin:there.example")
	frank = id.UserID("@frank:there.example")
)

// foreign builds an event of a remote user that follows prev, authorised by the state that
// a server which has seen only prev and its ancestors would know.
func (n *node) foreign(r id.RoomID, sender id.UserID, typ string, key *string, content string, prev []*event.PDU, ts int64, signer sign.Key) (*event.PDU, error) {
	return n.foreignDraft(event.Draft{
		RoomID: r, Type: typ, StateKey: key, Sender: sender, Content: []byte(content), OriginServerTS: ts,
	}, prev, signer)
}

// foreignDraft gives a draft its edges and builds it.
func (n *node) foreignDraft(draft event.Draft, prev []*event.PDU, signer sign.Key) (*event.PDU, error) {
	head, err := n.graph.Head(n.ctx, draft.RoomID)
	if err != nil {
		return nil, err
	}
	for _, p := range prev {
		draft.PrevEvents = append(draft.PrevEvents, p.ID())
		draft.Depth = max(draft.Depth, p.Depth()+1)
	}
	last, ok, err := n.graph.Event(n.ctx, prev[0].ID())
	if err != nil || !ok {
		return nil, errors.Join(err, errors.New("the first previous event is not stored"))
	}
	state, err := n.graph.StateAfter(n.ctx, last)
	if err != nil {
		return nil, err
	}
	for _, k := range eventauth.NeededFor(head.Version, draft.Type, draft.StateKey, draft.Sender, draft.Content) {
		nid, ok := state.Get(k.Type, k.StateKey)
		if !ok {
			continue
		}
		events, err := n.graph.Events(n.ctx, head.Room, []graph.EventNID{nid})
		if err != nil {
			return nil, err
		}
		draft.AuthEvents = append(draft.AuthEvents, events[0].PDU.ID())
	}
	return draft.Build(head.Version, draft.Sender.Domain(), signer, rand.Text)
}

// remoteRedaction builds a redaction of a remote user.
func (n *node) remoteRedaction(r id.RoomID, sender id.UserID, target id.EventID, prev ...*event.PDU) *event.PDU {
	n.t.Helper()
	p, err := n.foreignDraft(event.Draft{
		RoomID: r, Type: "m.room.redaction", Sender: sender, Content: []byte("{}"), Redacts: target, OriginServerTS: 2,
	}, prev, mustKey(n.t))
	must(n.t, err)
	return p
}

// Receive has one event of another server taken in.
func (n *node) Receive(ctx context.Context, p *event.PDU) (room.Verdict, *eventauth.Rejection, error) {
	result := n.ReceiveAll(ctx, p.RoomID(), []*event.PDU{p})[0]
	return result.Verdict, result.Rejection, result.Err
}

func (n *node) receive(p *event.PDU) room.Verdict {
	n.t.Helper()
	v, _, err := n.Receive(n.ctx, p)
	must(n.t, err)
	return v
}

// newest returns the event that the room's only extremity is.
func (n *node) newest(r id.RoomID) *event.PDU {
	n.t.Helper()
	events := n.timeline(r)
	return events[len(events)-1].PDU
}

func key(s string) *string { return &s }

const joinContent = `{"membership":"join"}`

func TestReceiveForkIsMerged(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, v := range roomver.All() {
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
			base := n.newest(r)
			erinJoins := n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, base)
			if got := n.receive(erinJoins); got != room.Accepted {
				t.Fatalf("version %s: join: %v", v.ID, got)
			}
			// A message here and one there, both after the join.
			_, err := n.say(r, alice, "ours")
			must(t, err)
			theirs := n.remote(r, erin, "m.room.message", nil, `{"body":"theirs"}`, erinJoins)
			if got := n.receive(theirs); got != room.Accepted {
				t.Fatalf("version %s: message: %v", v.ID, got)
			}
			head, err := n.Head(n.ctx, r)
			must(t, err)
			if len(head.Extremities) != 2 {
				t.Fatalf("version %s: %d extremities, want 2", v.ID, len(head.Extremities))
			}
			merge, err := n.say(r, alice, "merge")
			must(t, err)
			e, _, err := n.graph.Event(n.ctx, merge)
			must(t, err)
			if got := len(e.PDU.PrevEvents()); got != 2 {
				t.Errorf("version %s: the next event follows %d events, want 2", v.ID, got)
			}
			if got := n.receive(theirs); got != room.Accepted {
				t.Errorf("version %s: the same event again: %v", v.ID, got)
			}
		}
	})
}

func TestReceiveStateConflict(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, version := range []string{"1", "6", "11", "12"} {
			v, _ := roomver.Get(version)
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat, InitialState: []room.StateEntry{{
				Type: "m.room.topic", Content: []byte(`{"topic":"first"}`),
			}}})
			must(t, n.join(r, bob))
			base := n.newest(r)
			joins := n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, base)
			n.receive(joins)
			levels := `{"users":{"@alice:here.example":100,"@erin:there.example":50},"state_default":50}`
			if v.PrivilegedCreators {
				levels = `{"users":{"@erin:there.example":50},"state_default":50}`
			}
			_, err := n.setState(r, alice, "m.room.power_levels", "", levels)
			must(t, err)
			fork := n.newest(r)
			// Alice bans erin, who at the same time, not knowing, sets the topic.
			_, err = n.Ban(n.ctx, room.Membership{Room: r, Sender: alice, Target: erin})
			must(t, err)
			topic := n.remote(r, erin, "m.room.topic", key(""), `{"topic":"erin was here"}`, fork)
			if got := n.receive(topic); got != room.SoftFailed {
				t.Errorf("version %s: a banned user's topic: %v", version, got)
			}
			if got := n.state(r, "m.room.topic", ""); got != `{"topic":"first"}` {
				t.Errorf("version %s: topic is %s", version, got)
			}
			head, err := n.Head(n.ctx, r)
			must(t, err)
			if len(head.Extremities) != 1 {
				t.Errorf("version %s: a soft-failed event is an extremity", version)
			}
		}
	})
}

func TestReceiveRefusals(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PrivateChat})
		base := n.newest(r)
		stranger := n.remote(r, frank, "m.room.message", nil, `{"body":"let me in"}`, base)
		if got := n.receive(stranger); got != room.Rejected {
			t.Errorf("a stranger's message: %v", got)
		}
		for _, e := range n.timeline(r) {
			if e.PDU.ID() == stranger.ID() {
				t.Error("a rejected event is in the timeline")
			}
		}
		child := n.remote(r, frank, "m.room.message", nil, `{"body":"again"}`, base)
		unseen := n.remote(r, frank, "m.room.message", nil, `{"body":"never received"}`, base)
		lost, err := event.Draft{
			RoomID: r, Type: "m.room.message", Sender: frank, Content: []byte(`{}`), Depth: 9,
			PrevEvents: []id.EventID{unseen.ID()}, AuthEvents: child.AuthEvents(),
		}.Build(child.Version(), "there.example", mustKey(t), nil)
		must(t, err)
		// Event IDs of old room versions are chosen by servers: one can't name two events.
		v1, _ := roomver.Get("1")
		one, two := n.create(room.Creation{Version: v1, Preset: room.PublicChat}), n.create(room.Creation{Version: v1, Preset: room.PublicChat})
		same := func() string { return "chosen" }
		for i, r := range []id.RoomID{one, two} {
			d := event.Draft{RoomID: r, Type: "m.room.member", StateKey: key(string(erin)), Sender: erin, Content: []byte(joinContent), Depth: 9}
			d.PrevEvents = []id.EventID{n.newest(r).ID()}
			for _, k := range []string{"m.room.create", "m.room.power_levels", "m.room.join_rules"} {
				d.AuthEvents = append(d.AuthEvents, n.stateID(r, k, ""))
			}
			e, err := d.Build(v1, "there.example", mustKey(t), same)
			must(t, err)
			if _, _, err := n.Receive(n.ctx, e); (err != nil) != (i == 1) {
				t.Errorf("event %d of one ID: %v", i, err)
			}
		}
		var missing *room.Missing
		if _, _, err := n.Receive(n.ctx, lost); !errors.As(err, &missing) || len(missing.Prev) != 1 {
			t.Errorf("an event without its ancestors: %v", err)
		}
	})
}

func mustKey(t *testing.T) sign.Key {
	t.Helper()
	k, err := sign.FromSeed("ed25519:1", bytes.Repeat([]byte{7}, 32))
	must(t, err)
	return k
}
