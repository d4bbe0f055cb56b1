package room_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Old room versions allow levels as strings and numbers that are no integers; newer ones refuse
// them, and an upgrade turns them into integers.
func TestFormsOfPowerLevels(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		const text = `{"users":{"@alice:here.example":"100","@bob:here.example":" 50 "},"ban":"60","events":{"m.room.topic":"50"}}`
		const fraction = `{"users":{"@alice:here.example":100},"ban":50.5}`
		for _, version := range []string{"1", "5", "6", "9", "10", "12"} {
			v, _ := roomver.Get(version)
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
			must(t, n.join(r, bob))
			_, err := n.setState(r, alice, "m.room.power_levels", "", fraction)
			if v.Canon == canon.Strict {
				want(t, mxerr.CodeBadJSON, err)
			} else {
				must(t, err)
			}
			_, err = n.setState(r, alice, "m.room.power_levels", "", text)
			if v.IntegerPowerLevels {
				want(t, mxerr.CodeBadJSON, err)
				continue
			}
			must(t, err)
			_, err = n.setState(r, bob, "m.room.topic", "", `{"topic":"bob has 50"}`)
			must(t, err)
			next, _ := roomver.Get("11")
			replacement, err := n.Rooms.Upgrade(n.ctx, room.Upgrade{Room: r, Sender: alice, Version: next})
			must(t, err)
			if got := gjson.Get(n.state(replacement, "m.room.power_levels", ""), "ban").Raw; got != "60" {
				t.Errorf("version %s: after the upgrade ban is %s", version, got)
			}
		}
	})
}

func TestClosedToOtherServers(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		closed := map[string]any{"m.federate": false}
		r := n.create(room.Creation{Preset: room.PublicChat, Content: closed})
		_, err := n.Invite(n.ctx, room.Membership{Room: r, Sender: alice, Target: erin})
		want(t, mxerr.CodeForbidden, err)
		_, err = n.Invite(n.ctx, room.Membership{Room: r, Sender: alice, Target: bob})
		must(t, err)
		_, err = n.Create(n.ctx, room.Creation{Creator: alice, Preset: room.PublicChat, Content: closed, Invite: []id.UserID{erin}})
		want(t, mxerr.CodeInvalidRoomState, err)
		joins := n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r))
		if got := n.receive(joins); got != room.Rejected {
			t.Errorf("a join from another server: %v", got)
		}
	})
}

// Who sends a redaction through /send names the target in the content; old room versions have it
// at the top.
func TestRedactionThroughContent(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, version := range []string{"1", "10", "11", "12"} {
			v, _ := roomver.Get(version)
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
			target, err := n.say(r, alice, "secret")
			must(t, err)
			content := fmt.Appendf(nil, `{"reason":"x","redacts":%q}`, target)
			by, err := n.Redact(n.ctx, room.Redaction{Room: r, Sender: alice, Target: target, Content: content})
			must(t, err)
			e, _, err := n.graph.Event(n.ctx, by)
			must(t, err)
			top := gjson.GetBytes(e.PDU.Raw(), "redacts").Str
			inside := gjson.GetBytes(e.PDU.Content(), "redacts").Str
			if v.RedactsInContent && (top != "" || inside != string(target)) || !v.RedactsInContent && (top != string(target) || inside != "") {
				t.Errorf("version %s: %s", version, e.PDU.Raw())
			}
			// A second redaction leaves the first one standing.
			_, err = n.Redact(n.ctx, room.Redaction{Room: r, Sender: alice, Target: target})
			must(t, err)
			if got, _, err := n.graph.Event(n.ctx, target); err != nil || got.RedactedBy != e.NID {
				t.Errorf("version %s: redacted by %d, %v", version, got.RedactedBy, err)
			}
		}
	})
}

// Redacting current state keeps what the rules need of it.
func TestRedactCurrentState(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, v := range roomver.All() {
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
			must(t, n.join(r, bob))
			must(t, n.join(r, carol))
			_, err := n.setState(r, alice, "m.room.topic", "", `{"topic":"secret"}`)
			must(t, err)
			for _, k := range []event.Key{
				{Type: "m.room.topic"}, {Type: "m.room.power_levels"}, {Type: "m.room.join_rules"}, {Type: "m.room.member", StateKey: string(bob)},
				{Type: "m.room.member", StateKey: string(alice)},
			} {
				_, err := n.Redact(n.ctx, room.Redaction{Room: r, Sender: alice, Target: n.stateID(r, k.Type, k.StateKey)})
				must(t, err)
			}
			if got := n.state(r, "m.room.topic", ""); got != "{}" {
				t.Errorf("version %s: topic is %s", v.ID, got)
			}
			_, err = n.say(r, bob, "still in")
			must(t, err)
			must(t, n.join(r, dave))
			_, err = n.setState(r, carol, "m.room.topic", "", `{"topic":"may not"}`)
			want(t, mxerr.CodeForbidden, err)
			_, err = n.Ban(n.ctx, room.Membership{Room: r, Sender: alice, Target: bob})
			must(t, err)
			_, err = n.Redact(n.ctx, room.Redaction{Room: r, Sender: alice, Target: n.stateID(r, "m.room.create", "")})
			want(t, mxerr.CodeForbidden, err)
		}
	})
}

// That a state would not change is told only to who may change it.
func TestUnchangedStateNeedsPermission(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PublicChat})
		must(t, n.join(r, bob))
		_, err := n.setState(r, alice, "m.room.power_levels", "", `{"users":{"@bob:here.example":50}}`)
		must(t, err)
		_, err = n.setState(r, bob, "m.room.topic", "", `{"topic":"bob's"}`)
		must(t, err)
		_, err = n.Kick(n.ctx, room.Membership{Room: r, Sender: alice, Target: bob})
		must(t, err)
		_, err = n.setState(r, bob, "m.room.topic", "", `{"topic":"bob's"}`)
		want(t, mxerr.CodeForbidden, err)
	})
}

func TestInitialStateThatIsRefused(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for name, c := range map[string]room.Creation{
			"another user's join": {InitialState: []room.StateEntry{{Type: "m.room.member", StateKey: string(bob), Content: []byte(joinContent)}}},
			"a second creation":   {InitialState: []room.StateEntry{{Type: "m.room.create", Content: []byte(`{}`)}}},
			"a level for the creator": {PowerLevels: map[string]json.RawMessage{
				"users": json.RawMessage(`{"@alice:here.example":100}`),
			}},
		} {
			c.Creator, c.Preset = alice, room.PrivateChat
			if _, err := n.Create(n.ctx, c); !mxerr.Is(err, mxerr.CodeInvalidRoomState) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		r := n.create(room.Creation{Preset: room.PrivateChat, PowerLevels: map[string]json.RawMessage{"state_default": json.RawMessage("200")}})
		if got := gjson.Get(n.state(r, "m.room.power_levels", ""), `events.m\.room\.tombstone`).Int(); got <= 200 {
			t.Errorf("it takes %d to close the room, and 200 for other state", got)
		}
	})
}

// A branch that goes on behind an event which was soft-failed, or rejected, doesn't end before it.
func TestBranchGoesOnBehindWhatWasRefused(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		const frank = "@frank:there.example"
		r := n.create(room.Creation{Preset: room.PublicChat})
		erinJoins := n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r))
		n.receive(erinJoins)
		base := n.remote(r, frank, "m.room.member", key(frank), joinContent, erinJoins)
		n.receive(base)
		_, err := n.Ban(n.ctx, room.Membership{Room: r, Sender: alice, Target: erin})
		must(t, err)
		// The other server hasn't heard of the ban.
		last := base
		for _, x := range []struct {
			sender  id.UserID
			typ     string
			key     *string
			content string
			verdict room.Verdict
		}{
			{frank, "m.room.message", nil, `{"body":"first"}`, room.Accepted},
			{erin, "m.room.message", nil, `{"body":"banned"}`, room.SoftFailed},
			{erin, "m.room.message", nil, `{"body":"banned still"}`, room.SoftFailed},
			{frank, "m.room.power_levels", key(""), `{"users":{"@frank:there.example":100}}`, room.Rejected},
			{frank, "m.room.message", nil, `{"body":"last"}`, room.Accepted},
		} {
			last = n.remote(r, x.sender, x.typ, x.key, x.content, last)
			if got := n.receive(last); got != x.verdict {
				t.Fatalf("%s: %v", x.content, got)
			}
			head, err := n.Head(n.ctx, r)
			must(t, err)
			if len(head.Extremities) != 2 { // with the ban
				t.Errorf("after %s: extremities %v", x.content, head.Extremities)
			}
		}
		head, err := n.Head(n.ctx, r)
		must(t, err)
		if !slices.ContainsFunc(head.Extremities, func(x graph.Extremity) bool { return x.ID == last.ID() }) {
			t.Errorf("extremities %v, want %s", head.Extremities, last.ID())
		}
		if m := head.State.Membership(erin); m != graph.Ban {
			t.Errorf("erin is %q", m)
		}
	})
}

// What an upgrade moves, it moves with the tombstone.
func TestUpgradeMovesWithTheTombstone(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		v, _ := roomver.Get("11")
		r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
		must(t, n.join(r, bob))
		moved := id.RoomID("")
		u := room.Upgrade{Room: r, Sender: bob, Version: v, Also: func(_ *sqldb.Tx, to id.RoomID) error {
			moved = to
			return nil
		}}
		_, err := n.Rooms.Upgrade(n.ctx, u)
		want(t, mxerr.CodeForbidden, err)
		if moved != "" {
			t.Fatal("something moved though the room was not closed")
		}
		u.Sender = alice
		to, err := n.Rooms.Upgrade(n.ctx, u)
		must(t, err)
		if moved != to {
			t.Errorf("moved to %q, want %s", moved, to)
		}
	})
}

// An event whose auth events were rejected is rejected as well; one that follows a soft-failed
// event is not.
func TestWhatFollowsRefusedEvents(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PublicChat})
		base := n.newest(r)
		joins := n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, base)
		n.receive(joins)
		// Erin makes herself an admin, which is rejected.
		coup := n.remote(r, erin, "m.room.power_levels", key(""), `{"users":{"@erin:there.example":100}}`, joins)
		if got := n.receive(coup); got != room.Rejected {
			t.Fatalf("a coup: %v", got)
		}
		draft := event.Draft{
			RoomID: r, Type: "m.room.message", Sender: erin, Content: []byte(`{}`), Depth: joins.Depth() + 2,
			PrevEvents: []id.EventID{coup.ID()}, AuthEvents: []id.EventID{coup.ID(), joins.ID()},
		}
		cites, err := draft.Build(joins.Version(), "there.example", mustKey(t), nil)
		must(t, err)
		if got := n.receive(cites); got != room.Rejected {
			t.Errorf("a message that cites the coup: %v", got)
		}
		// A rejected event may be followed: the state is that before it.
		after := n.remote(r, erin, "m.room.message", nil, `{}`, coup)
		if got := n.receive(after); got != room.Accepted {
			t.Errorf("a message after the coup: %v", got)
		}
		_, err = n.Ban(n.ctx, room.Membership{Room: r, Sender: alice, Target: erin})
		must(t, err)
		// Who hides the ban behind older auth events is found out by the state before the event.
		draft.PrevEvents, draft.AuthEvents = []id.EventID{n.newest(r).ID()}, after.AuthEvents()
		hides, err := draft.Build(joins.Version(), "there.example", mustKey(t), nil)
		must(t, err)
		if got := n.receive(hides); got != room.Rejected {
			t.Errorf("a message that hides the ban: %v", got)
		}
		late := n.remote(r, erin, "m.room.message", nil, `{"body":"late"}`, after)
		if got := n.receive(late); got != room.SoftFailed {
			t.Fatalf("a message of the banned: %v", got)
		}
		_, stored, err := n.graph.Event(n.ctx, late.ID())
		must(t, err)
		head, err := n.Head(n.ctx, r)
		must(t, err)
		if !stored || len(head.Extremities) != 1 {
			t.Errorf("stored: %v, extremities %v", stored, head.Extremities)
		}
		if m := head.State.Membership(erin); m != graph.Ban {
			t.Errorf("erin is %q", m)
		}
	})
}
