package servertest

import (
	"slices"
	"testing"
)

// TestHistoryVisibility: who sees what was said before the invite, between invite and join, while joined, and after
// leaving, under each setting.
//
// Spec: cs Room History Visibility
func TestHistoryVisibility(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, outsider := s.Register(t, "alice"), s.Register(t, "outsider")
		for _, row := range []struct {
			visibility string
			sees       []string // by one who was invited, joined and left
			invited    bool     // an invited user may read at once
			anybody    bool
		}{
			{"joined", []string{"joined"}, false, false},
			{"invited", []string{"invited", "joined"}, false, false},
			{"shared", []string{"before", "invited", "joined"}, false, false},
			{"world_readable", []string{"before", "invited", "joined", "after"}, true, true},
		} {
			bob := s.Register(t, "bob")
			room := alice.CreateRoom(M{"preset": "private_chat", "initial_state": []M{
				{"type": "m.room.history_visibility", "content": M{"history_visibility": row.visibility}},
			}})
			events := map[string]string{"before": alice.Say(room, "before")}
			alice.Invite(room, bob)
			events["invited"] = alice.Say(room, "invited")
			if a := bob.Do("GET", Path("rooms", room, "messages")+Query("dir", "b"), nil); (a.Status == 200) != row.invited {
				t.Errorf("%s: an invited user reads: %d %s", row.visibility, a.Status, a.Body)
			}
			bob.Join(room)
			events["joined"] = alice.Say(room, "joined")
			bob.Leave(room)
			events["after"] = alice.Say(room, "after")

			found := bob.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "limit", "100"), nil).At("chunk")
			for name, event := range events {
				want := slices.Contains(row.sees, name)
				if HasEvent(found, event) != want {
					t.Errorf("%s: in the history, %q is seen: %v", row.visibility, name, !want)
				}
				if a := bob.Do("GET", Path("rooms", room, "event", event), nil); (a.Status == 200) != want {
					t.Errorf("%s: by its ID, %q: %d", row.visibility, name, a.Status)
				}
				if a := bob.Do("GET", Path("rooms", room, "context", event), nil); (a.Status == 200) != want {
					t.Errorf("%s: with its context, %q: %d %s", row.visibility, name, a.Status, a.Body)
				}
			}
			a := outsider.Do("GET", Path("rooms", room, "messages")+Query("dir", "b"), nil)
			if (a.Status == 200) != row.anybody {
				t.Errorf("%s: an outsider reads: %d %s", row.visibility, a.Status, a.Body)
			}
			if a := outsider.Do("GET", Path("rooms", room, "state"), nil); (a.Status == 200) != row.anybody {
				t.Errorf("%s: an outsider reads the state: %d", row.visibility, a.Status)
			}
			if a := outsider.Do("GET", Path("rooms", room, "event", events["joined"]), nil); (a.Status == 200) != row.anybody {
				t.Errorf("%s: an outsider reads an event: %d", row.visibility, a.Status)
			}
		}
	})
}

// TestVisibilityChanges: each event keeps the visibility it was sent under.
//
// Spec: cs Room History Visibility
func TestVisibilityChanges(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		set := func(v string) { alice.SetState(room, "m.room.history_visibility", "", M{"history_visibility": v}) }
		shared := alice.Say(room, "shared")
		set("joined")
		joined := alice.Say(room, "joined")
		set("world_readable")
		world := alice.Say(room, "world")
		set("shared")
		bob.Join(room)
		found := bob.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "limit", "100"), nil).At("chunk")
		if !HasEvent(found, shared) || HasEvent(found, joined) || !HasEvent(found, world) {
			t.Errorf("Bob sees %s", found.Raw)
		}
	})
}

// TestStateAfterLeaving: who left sees the room as it was then.
//
// Spec: cs getRoomState; cs getMembersByRoom
func TestStateAfterLeaving(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		room := alice.CreateRoom(M{"preset": "public_chat", "name": "then"})
		bob.Join(room)
		bob.Leave(room)
		alice.SetState(room, "m.room.name", "", M{"name": "now"})
		carol.Join(room)
		if got := bob.State(room, "m.room.name", "").Get("name").Str; got != "then" {
			t.Errorf("the name is %q", got)
		}
		if got := Find(bob.OK("GET", Path("rooms", room, "state"), nil).At(), "m.room.name").Get("content.name").Str; got != "then" {
			t.Errorf("in the whole state the name is %q", got)
		}
		members := bob.OK("GET", Path("rooms", room, "members"), nil).At("chunk")
		if Find(members, "m.room.member", carol.User).Exists() || Find(members, "m.room.member", bob.User).Get("content.membership").Str != "leave" {
			t.Errorf("members: %s", members.Raw)
		}
		bob.Fails(403, "M_FORBIDDEN", "GET", Path("rooms", room, "joined_members"), nil)
	})
}
