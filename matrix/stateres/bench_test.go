package stateres

import (
	"fmt"
	"maps"
	"testing"

	gmsl "github.com/matrix-org/gomatrixserverlib"

	"myelin/matrix/event"
	"myelin/matrix/id"
)

// big is a room with many members and a history of power level changes.
type big struct {
	*testRoom
	state Set
	prev  []id.EventID
	depth int64
	ts    int64
	mods  []id.UserID
}

// bigRoom makes a room with this many members; its power levels changed this many times.
func bigRoom(r *testRoom, members, changes int) *big {
	b := &big{testRoom: r, state: Set{}, ts: 1000}
	b.add(draft{typ: "m.room.create", sender: "@alice:a", content: map[string]any{"creator": "@alice:a", "room_version": r.version.ID}})
	b.add(draft{typ: "m.room.member", stateKey: "@alice:a", sender: "@alice:a", content: `{"membership":"join"}`})
	users := map[string]any{"@alice:a": 100}
	if r.version.PrivilegedCreators {
		users = map[string]any{}
	}
	for i := range 20 {
		b.mods = append(b.mods, id.UserID(fmt.Sprintf("@mod%d:b", i)))
		users[string(b.mods[i])] = 50
	}
	b.add(draft{typ: "m.room.power_levels", sender: "@alice:a", content: map[string]any{"users": users}})
	b.add(draft{typ: "m.room.join_rules", sender: "@alice:a", content: `{"join_rule":"public"}`})
	for _, m := range b.mods {
		b.add(draft{typ: "m.room.member", stateKey: string(m), sender: m, content: `{"membership":"join"}`})
	}
	for i := range members {
		if changes > 0 && i%(members/changes) == 0 {
			b.add(draft{typ: "m.room.power_levels", sender: "@alice:a", content: map[string]any{"users": users, "ban": 50, "n": i}})
		}
		u := id.UserID(fmt.Sprintf("@user%d:s%d", i, i%97))
		b.add(draft{typ: "m.room.member", stateKey: string(u), sender: u, content: `{"membership":"join"}`})
	}
	return b
}

// add appends an event without checking it.
func (b *big) add(d draft) {
	b.ts++
	d.ts, d.depth, d.prev, d.state = b.ts, b.depth+1, b.prev, b.state
	p := b.build(d)
	b.keep(p)
	b.state[p.Key()] = p.ID()
	b.prev, b.depth = []id.EventID{p.ID()}, d.depth
}

// forks makes n branches of four events each: a topic, a kick, a change of a name and, on every tenth branch, of the
// power levels.
func (b *big) forks(n int) []Set {
	sets := make([]Set, n)
	for i := range sets {
		f := *b
		f.state = maps.Clone(b.state)
		mod := b.mods[i%len(b.mods)]
		target := fmt.Sprintf("@user%d:s%d", i*2, i*2%97)
		f.add(draft{typ: "m.room.topic", sender: mod, content: map[string]any{"topic": i}})
		f.add(draft{typ: "m.room.member", stateKey: target, sender: mod, content: `{"membership":"leave"}`})
		self := id.UserID(fmt.Sprintf("@user%d:s%d", i*2+1, (i*2+1)%97))
		f.add(draft{typ: "m.room.member", stateKey: string(self), sender: self, content: `{"membership":"join","displayname":"x"}`})
		if i%10 == 0 {
			f.add(draft{typ: "m.room.power_levels", sender: "@alice:a", content: map[string]any{"users": map[string]any{string(mod): 50}, "n": i}})
		}
		b.ts = f.ts
		sets[i] = f.state
	}
	return sets
}

func benchmarkForks(b *testing.B, version string, forks, members int, run func(b *testing.B, r *testRoom, sets []Set)) {
	r := newTestRoom(b, mustVersion(b, version))
	sets := bigRoom(r, members, 100).forks(forks)
	b.ReportAllocs()
	b.ResetTimer()
	run(b, r, sets)
}

// resolveDiffed is the way of a caller with persistent snapshots: the conflicts come from a diff that is not
// measured here, the rest is looked up.
func resolveDiffed(generations bool) func(b *testing.B, r *testRoom, sets []Set) {
	return func(b *testing.B, r *testRoom, sets []Set) {
		conflicted, unconflicted := Split(sets)
		in := r.input(generations)
		in.Sets, in.Conflicted = len(sets), conflicted
		in.Unconflicted = func(k event.Key) (id.EventID, bool) { e, ok := unconflicted[k]; return e, ok }
		in.AllUnconflicted = maps.All(unconflicted)
		in.Witnesses = &Witnesses{}
		r.loads = 0
		b.ResetTimer()
		for b.Loop() {
			if _, err := Resolve(in); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(r.loads)/float64(b.N), "batches/op")
		b.ReportMetric(float64(len(conflicted)), "conflicts")
	}
}

// BenchmarkForks is the target: 100 forward extremities in a room of 20,000 members under 500 ms.
func BenchmarkForks(b *testing.B) {
	for _, version := range []string{"10", "12"} {
		for _, size := range [][2]int{{2, 1000}, {2, 20000}, {100, 1000}, {100, 20000}} {
			b.Run(fmt.Sprintf("v%s/%dforks/%dmembers", version, size[0], size[1]), func(b *testing.B) {
				benchmarkForks(b, version, size[0], size[1], resolveDiffed(true))
			})
		}
		b.Run(fmt.Sprintf("v%s/100forks/20000members/without-generations", version), func(b *testing.B) {
			benchmarkForks(b, version, 100, 20000, resolveDiffed(false))
		})
	}
}

// BenchmarkForksComplete takes complete states.
func BenchmarkForksComplete(b *testing.B) {
	benchmarkForks(b, "10", 100, 20000, func(b *testing.B, r *testRoom, sets []Set) {
		for b.Loop() {
			if _, err := ResolveSets(r.input(true), sets); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkForksOther gives the same to the independent implementation. It takes complete states only.
func BenchmarkForksOther(b *testing.B) {
	for _, size := range [][2]int{{2, 1000}, {2, 20000}, {100, 1000}, {100, 20000}} {
		b.Run(fmt.Sprintf("v10/%dforks/%dmembers", size[0], size[1]), func(b *testing.B) {
			benchmarkForks(b, "10", size[0], size[1], func(b *testing.B, r *testRoom, sets []Set) {
				lists := make([][]gmsl.PDU, len(sets))
				pdus := map[id.EventID]gmsl.PDU{}
				var auth []gmsl.PDU
				for _, e := range r.order {
					q, err := gmsl.MustGetRoomVersion("10").NewEventFromTrustedJSON(r.events[e].Raw(), false)
					if err != nil {
						b.Fatal(err)
					}
					pdus[e] = q
					auth = append(auth, q)
				}
				for i, s := range sets {
					for _, e := range s {
						lists[i] = append(lists[i], pdus[e])
					}
				}
				b.ResetTimer()
				for b.Loop() {
					if _, err := gmsl.ResolveConflictsNew("10", lists, auth, theirUser, func(string) bool { return false }); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkCoverAll is the rare case of a candidate that only the whole state of 20,000 members shows to be
// covered, first without and then with a witness.
func BenchmarkCoverAll(b *testing.B) {
	r := newTestRoom(b, mustVersion(b, "10"))
	room := bigRoom(r, 20000, 100)
	side := *room
	side.state = maps.Clone(room.state)
	lost := draft{typ: "m.room.power_levels", sender: "@alice:a", content: `{"users":{"@alice:a":100},"ban":7}`}
	side.add(lost)
	side.add(draft{typ: "m.room.member", stateKey: "@zoe:z", sender: "@zoe:z", content: `{"membership":"join"}`})
	side.add(draft{typ: "m.room.topic", sender: "@alice:a", content: `{}`})
	zoe, topic := event.Key{Type: "m.room.member", StateKey: "@zoe:z"}, event.Key{Type: "m.room.topic"}
	room.state[zoe] = side.state[zoe]
	in := r.input(true)
	in.Sets, in.Conflicted = 2, map[event.Key][]id.EventID{topic: {side.state[topic], ""}}
	in.Unconflicted = func(k event.Key) (id.EventID, bool) { e, ok := room.state[k]; return e, ok }
	in.AllUnconflicted = maps.All(room.state)
	for _, witnesses := range []*Witnesses{nil, {}} {
		b.Run(fmt.Sprintf("witnesses=%v", witnesses != nil), func(b *testing.B) {
			in.Witnesses = witnesses
			for b.Loop() {
				if _, err := Resolve(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkConflicts shows that the cost grows with the conflicts and no faster: each run has twice as many as the one before.
func BenchmarkConflicts(b *testing.B) {
	for _, n := range []int{2500, 5000, 10000, 20000} {
		for _, version := range []string{"1", "10", "12"} {
			b.Run(fmt.Sprintf("v%s/%d", version, n), func(b *testing.B) {
				r := newTestRoom(b, mustVersion(b, version))
				room := bigRoom(r, n, 10)
				other := *room
				other.state = maps.Clone(room.state)
				for i := range n {
					u := fmt.Sprintf("@user%d:s%d", i, i%97)
					if i%2 == 0 {
						other.add(draft{typ: "m.room.member", stateKey: u, sender: id.UserID(u), content: `{"membership":"join","displayname":"x"}`})
					} else {
						other.add(draft{typ: "m.room.member", stateKey: u, sender: room.mods[i%20], content: `{"membership":"leave"}`})
					}
				}
				b.ResetTimer()
				resolveDiffed(true)(b, r, []Set{room.state, other.state})
			})
		}
	}
}
