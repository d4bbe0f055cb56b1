package syncer_test

import (
	"fmt"
	"slices"
	"testing"

	"myelin/internal/room"
	"myelin/matrix/id"
)

func TestHeroes(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		r := s.create(room.Creation{})
		a := s.sync(alice, "")
		if got := a.room("join", r).Get("summary.m\\.heroes").Raw; got != "[]" {
			t.Errorf("alone: %s", got)
		}
		s.did(s.join(r, bob))
		s.did(s.rooms.Invite(s.ctx, on(r, alice, carol)))
		b := s.sync(alice, a.next)
		want := `{"m.heroes":["@bob:here.test","@carol:here.test"],"m.joined_member_count":2,"m.invited_member_count":1}`
		if got := b.room("join", r).Get("summary").Raw; got != want {
			t.Errorf("summary: %s", got)
		}
		s.did(s.leave(r, carol))
		s.did(s.leave(r, bob))
		c := s.sync(alice, b.next)
		want = `{"m.heroes":["@bob:here.test","@carol:here.test"],"m.joined_member_count":1,"m.invited_member_count":0}`
		if got := c.room("join", r).Get("summary").Raw; got != want {
			t.Errorf("summary after all left: %s", got)
		}
		s.did(s.set(r, alice, "m.room.name", "", `{"name":"Home"}`))
		d := s.sync(alice, c.next)
		if sum := d.room("join", r).Get("summary"); !sum.Exists() || sum.Get("m\\.heroes").Exists() {
			t.Errorf("summary of a named room: %s", sum)
		}
		s.did(s.say(r, alice, "x"))
		if sum := s.sync(alice, d.next).room("join", r).Get("summary"); sum.Exists() {
			t.Errorf("summary although nothing changed: %s", sum)
		}
	})
}

func TestLazyMembers(t *testing.T) {
	const lazy = `{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`
	each(t, func(t *testing.T, s *server) {
		name := "Hall"
		r := s.create(room.Creation{Name: &name})
		for i := range 10 {
			s.did(s.join(r, id.UserID(fmt.Sprintf("@u%d:here.test", i))))
		}
		members := func(a answer) []string {
			var users []string
			for _, e := range a.room("join", r).Get("state.events").Array() {
				if e.Get("type").Str == "m.room.member" {
					users = append(users, e.Get("state_key").Str)
				}
			}
			slices.Sort(users)
			return users
		}
		expect := func(what string, a answer, want ...string) {
			t.Helper()
			if got := members(a); !slices.Equal(got, want) {
				t.Errorf("%s: %v", what, got)
			}
		}
		a := s.sync(alice, "", lazy)
		expect("first", a, string(alice)) // the newest event is a join, which needs no other
		s.did(s.say(r, "@u9:here.test", "x"))
		b := s.sync(alice, a.next, lazy)
		lost := s.sync(alice, a.next, lazy)
		if !slices.Equal(members(b), members(lost)) {
			t.Errorf("an answer that was lost: %v, then %v", members(b), members(lost))
		}
		s.did(s.say(r, "@u9:here.test", "y"))
		c := s.sync(alice, lost.next, lazy)
		expect("known", c)
		s.did(s.say(r, "@u8:here.test", "y"))
		d := s.sync(alice, c.next, lazy)
		expect("not known", d, "@u8:here.test")
		s.did(s.say(r, "@u9:here.test", "z"))
		expect("redundant on demand", s.sync(alice, d.next, `{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}`), "@u9:here.test")
		// Members who changed in a gap, although nobody of them spoke.
		s.did(s.leave(r, "@u3:here.test"))
		s.did(s.say(r, "@u9:here.test", "gap"))
		s.did(s.say(r, "@u9:here.test", "gap"))
		expect("gap", s.sync(alice, d.next, lazy), "@u3:here.test")
	})
}
