package directory_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"myelin/internal/directory"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const dave = id.UserID("@dave:there.example")

// visitor is a server that only some rooms shut out.
func visitor(name id.ServerName, shut ...id.RoomID) directory.Visitor {
	return directory.Visitor{Name: name, Allowed: func(_ context.Context, room id.RoomID) error {
		if slices.Contains(shut, room) {
			return mxerr.Forbidden("shut out")
		}
		return nil
	}}
}

func (n *node) state(room_ id.RoomID, typ, key, content string) {
	n.t.Helper()
	_, err := n.rooms.Send(n.ctx, room.Message{Room: room_, Proposal: room.Proposal{Sender: alice, Type: typ, StateKey: &key, Content: []byte(content)}})
	n.ok(err)
}

// space makes a space of alice's with these children, in order.
func (n *node) space(children ...id.RoomID) id.RoomID {
	n.t.Helper()
	s := n.make(room.Creation{Content: map[string]any{"type": "m.space"}})
	for i, c := range children {
		n.state(s, "m.space.child", string(c), fmt.Sprintf(`{"via":["here.example"],"order":"%c","suggested":%v}`, 'a'+i, i == 0))
	}
	return s
}

func (n *node) closed(rules string) id.RoomID {
	n.t.Helper()
	r := n.make(room.Creation{})
	n.state(r, "m.room.join_rules", "", rules)
	n.state(r, "m.room.history_visibility", "", `{"history_visibility":"shared"}`)
	return r
}

func TestHierarchy(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		public := n.make(room.Creation{Name: new("Public")})
		n.state(public, "m.room.encryption", "", `{"algorithm":"m.megolm.v1.aes-sha2"}`)
		club := n.closed(`{"join_rule":"invite"}`)
		annex := n.closed(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + string(club) + `"},{"type":"x"},7]}`)
		private := n.closed(`{"join_rule":"invite"}`)
		knock := n.closed(`{"join_rule":"knock"}`)
		readable := n.closed(`{"join_rule":"invite"}`)
		n.state(readable, "m.room.history_visibility", "", `{"history_visibility":"world_readable"}`)
		space := n.space(public, club, annex, private, knock, readable, "!elsewhere:there.example")
		n.state(space, "m.space.child", string(n.closed(`{"join_rule":"public"}`)), `{}`) // removed
		n.state(space, "m.space.child", "nonsense", `{"via":["here.example"]}`)

		see := func(who directory.Visitor, room id.RoomID, suggested bool) *directory.Space {
			t.Helper()
			s, err := n.Hierarchy(n.ctx, who, room, suggested)
			n.ok(err)
			return s
		}
		rooms := func(s *directory.Space) (out []id.RoomID) {
			for _, c := range s.Children {
				out = append(out, c.RoomID)
			}
			return out
		}
		got := see(visitor("stranger.example"), space, false)
		if want := []id.RoomID{public, knock, readable}; !slices.Equal(rooms(got), want) {
			t.Errorf("a stranger finds %v, want %v", rooms(got), want)
		}
		if want := []id.RoomID{club, annex, private}; !slices.Equal(got.InaccessibleChildren, want) {
			t.Errorf("closed to a stranger are %v, want %v", got.InaccessibleChildren, want)
		}
		if got.Room.RoomID != space || got.Room.RoomType != "m.space" || len(got.Room.ChildrenState) != 7 {
			t.Errorf("the space is %+v", got.Room)
		}
		if c := got.Children[0]; c.Name != "Public" || c.Encryption != "m.megolm.v1.aes-sha2" || c.RoomVersion == "" || c.Joined != 1 {
			t.Errorf("the first child is %+v", c)
		}
		// Members of the club may enter the annex, and an invite opens a room.
		_, err := n.rooms.Invite(n.ctx, room.Membership{Room: club, Sender: alice, Target: dave})
		n.ok(err)
		_, err = n.rooms.Join(n.ctx, room.Join{Membership: room.Membership{Room: club, Sender: dave}})
		n.ok(err)
		_, err = n.rooms.Invite(n.ctx, room.Membership{Room: private, Sender: alice, Target: dave})
		n.ok(err)
		got = see(visitor("there.example", knock), space, false)
		if want := []id.RoomID{public, club, annex, private, readable}; !slices.Equal(rooms(got), want) {
			t.Errorf("a member finds %v, want %v", rooms(got), want)
		}
		if want := []id.RoomID{knock}; !slices.Equal(got.InaccessibleChildren, want) {
			t.Errorf("the server is shut out of %v, want %v", got.InaccessibleChildren, want)
		}
		if a := got.Children[2].AllowedRoomIDs; !slices.Equal(a, []id.RoomID{club}) {
			t.Errorf("the annex is entered by %v", a)
		}
		if got = see(visitor("stranger.example"), space, true); !slices.Equal(rooms(got), []id.RoomID{public}) || len(got.Room.ChildrenState) != 1 {
			t.Errorf("suggested are %v", rooms(got))
		}
		for _, closed := range []id.RoomID{private, "!none:here.example"} {
			_, err := n.Hierarchy(n.ctx, visitor("stranger.example"), closed, false)
			n.refused(mxerr.CodeNotFound, err)
		}
		_, err = n.Hierarchy(n.ctx, visitor("stranger.example", space), space, false)
		n.refused(mxerr.CodeNotFound, err)
		raw, err := json.Marshal(see(visitor("stranger.example"), public, false))
		n.ok(err)
		for _, part := range []string{`"children":[]`, `"inaccessible_children":[]`, `"children_state":[]`} {
			if !strings.Contains(string(raw), part) {
				t.Errorf("a room that is no space: %s lacks %s", raw, part)
			}
		}
	})
}
