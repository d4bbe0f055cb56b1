package graph

import (
	"maps"
	"testing"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
)

// States whose keys were numbered apart from each other, as by a reader that came between a commit and its writer's note of it, compare by what their keys mean.
func TestStatesOfSeveralNumberings(t *testing.T) {
	name, topic, bob := event.Key{Type: "m.room.name"}, event.Key{Type: "m.room.topic"}, event.Key{Type: memberType, StateKey: "@bob:hs.test"}
	shared := event.Key{Type: "m.room.create"}
	put := func(s *State, k event.Key, e EventNID) *State { return s.With(StateChange{Key: k, NID: e}) }
	// begin is a room of one event that is on disk.
	begin := func() *State {
		s := put(&State{keys: newKeys()}, shared, 1)
		s.keys.settle(1)
		s.nid, s.from = 1, nil
		return s
	}
	entries := func(s *State) map[event.Key]EventNID { return maps.Collect(s.All()) }

	for _, given := range []struct {
		what string
		keys []event.Key // that the reader's numbering gives before they meet
	}{
		{"nothing", nil}, {"the same", []event.Key{name}}, {"another pair", []event.Key{topic}}, {"a later pair", []event.Key{bob}},
	} {
		t.Run(given.what, func(t *testing.T) {
			// The writer: its second snapshot, with a name, is on disk; bob's join is yet to be.
			second := put(begin(), name, 2)
			second.keys.settle(2)
			second.nid, second.from = 2, nil
			third := put(second, bob, 3)

			reader := begin()
			for _, k := range given.keys {
				reader.keys.number(k)
			}
			other := put(reader, topic, 4)

			want := map[event.Key][2]EventNID{name: {2, 0}, bob: {3, 0}, topic: {0, 4}}
			got := map[event.Key][2]EventNID{}
			for d := range Diff(third, other) {
				got[d.Key] = [2]EventNID{d.Old, d.New}
			}
			if !maps.Equal(got, want) {
				t.Errorf("third to other: %v", got)
			}
			clear(got)
			for d := range Diff(other, third) {
				got[d.Key] = [2]EventNID{d.New, d.Old}
			}
			if !maps.Equal(got, want) {
				t.Errorf("other to third: %v", got)
			}
			for _, s := range []*State{second, third, other} {
				for _, keys := range []*roomKeys{second.keys, reader.keys} {
					if a, b := entries(s), entries(s.in(keys)); !maps.Equal(a, b) {
						t.Errorf("%v is %v in other numbers", a, b)
					}
				}
			}
		})
	}
}

// A snapshot that is read while its room gets another numbering has the numbers of the disk.
func TestStateIsReadWhileNumbersChange(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		w := newRoom(t, open(t, o))
		want := maps.Collect(w.head.State.All())
		cold := open(t, o)
		r := must(cold.room(t.Context(), w.head.Room))(t)
		stale := newKeys() // of before the room's first commit, with a number that became another pair's
		stale.number(event.Key{Type: "m.room.topic"})
		r.head = &Head{State: &State{keys: stale}}
		s := must(cold.StateAt(t.Context(), w.head.Room, w.head.StateNID))(t)
		if got := maps.Collect(s.All()); len(got) == 0 || !maps.Equal(got, want) {
			t.Errorf("read %v, want %v", got, want)
		}
	})
}
