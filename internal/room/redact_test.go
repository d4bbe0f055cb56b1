package room_test

import (
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/room"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

func TestRedaction(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, version := range []string{"2", "10", "12"} {
			v, _ := roomver.Get(version)
			r := n.create(room.Creation{Version: v, Preset: room.PublicChat})
			must(t, n.join(r, bob))
			must(t, n.join(r, carol))
			msg, err := n.say(r, bob, "secret")
			must(t, err)
			_, err = n.Redact(n.ctx, room.Redaction{Room: r, Sender: carol, Target: msg})
			want(t, mxerr.CodeForbidden, err)
			_, err = n.Redact(n.ctx, room.Redaction{Room: r, Sender: carol, Target: "$nothing"})
			want(t, mxerr.CodeNotFound, err)
			by, err := n.Redact(n.ctx, room.Redaction{Room: r, Sender: alice, Target: msg, Reason: "because"})
			must(t, err)
			e, ok, err := n.graph.Event(n.ctx, msg)
			must(t, err)
			if !ok || strings.Contains(string(e.PDU.Raw()), "secret") || e.RedactedBy == 0 {
				t.Errorf("version %s: not redacted: %s", version, e.PDU.Raw())
			}
			redaction, _, err := n.graph.Event(n.ctx, by)
			must(t, err)
			if target, _ := redaction.PDU.Redacts(); target != msg {
				t.Errorf("version %s: the redaction names %s", version, target)
			}
			own, err := n.say(r, carol, "mine")
			must(t, err)
			_, err = n.Redact(n.ctx, room.Redaction{Room: r, Sender: carol, Target: own})
			must(t, err)
		}
	})
}

func TestUpgrade(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, versions := range [][2]string{{"9", "11"}, {"11", "12"}, {"12", "12"}, {"12", "11"}} {
			from, _ := roomver.Get(versions[0])
			to, _ := roomver.Get(versions[1])
			name := "Old hall"
			old := n.create(room.Creation{Version: from, Preset: room.PublicChat, Name: &name, Content: map[string]any{"type": "m.space"}})
			must(t, n.join(old, bob))
			_, err := n.Rooms.Upgrade(n.ctx, room.Upgrade{Room: old, Sender: bob, Version: to})
			want(t, mxerr.CodeForbidden, err)
			r, err := n.Rooms.Upgrade(n.ctx, room.Upgrade{Room: old, Sender: alice, Version: to, AdditionalCreators: []id.UserID{carol}})
			must(t, err)
			create := gjson.Parse(n.state(r, "m.room.create", ""))
			if create.Get("predecessor.room_id").Str != string(old) || create.Get("type").Str != "m.space" {
				t.Errorf("%v: created with %s", versions, create.Raw)
			}
			if got := create.Get("additional_creators").Exists(); got != to.PrivilegedCreators {
				t.Errorf("%v: additional creators: %v", versions, got)
			}
			if got := n.state(r, "m.room.name", ""); got != `{"name":"Old hall"}` {
				t.Errorf("%v: name is %s", versions, got)
			}
			if got := gjson.Get(n.state(old, "m.room.tombstone", ""), "replacement_room").Str; got != string(r) {
				t.Errorf("%v: tombstone names %s", versions, got)
			}
			_, err = n.say(old, bob, "still here")
			want(t, mxerr.CodeForbidden, err)
			_, err = n.setState(r, alice, "m.room.topic", "", `{"topic":"x"}`)
			must(t, err)
			must(t, n.join(r, bob))
		}
	})
}
