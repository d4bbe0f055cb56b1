package graph

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// contents is a state as a Go map.
func contents(s *State) map[event.Key]EventNID { return maps.Collect(s.All()) }

// history writes n events, most of them state, some of which replace many entries at once or go back to an earlier state as
// a resolution of conflicts may. It returns what each snapshot holds.
func history(t *testing.T, w *writer, r *rand.Rand, n int) map[StateNID]map[event.Key]EventNID {
	want := map[StateNID]map[event.Key]EventNID{w.head.StateNID: contents(w.head.State)}
	var olds []*State
	for i := range n {
		switch r.IntN(10) {
		case 0:
			w.message("between")
		case 1: // a fork: the event stands on an older state, and the result is a mixture
			if len(olds) == 0 {
				continue
			}
			old := olds[r.IntN(len(olds))]
			key := fmt.Sprintf("fork%d", r.IntN(20))
			e := w.build("test.state", &key, alice, "{}")
			after := w.head.State.With(StateChange{Key: e.PDU.Key(), NID: e.NID})
			k := 0
			for d := range Diff(after, old) {
				if k++; k%2 == 0 {
					after = after.With(StateChange{Key: d.Key, NID: d.New, Membership: d.NewMembership})
				}
			}
			w.push(e, Placement{Before: old, After: after})
		case 2:
			w.member(id.UserID(fmt.Sprintf("@user%d:x.test", r.IntN(60))), []Membership{Join, Leave, Invite}[r.IntN(3)])
		default:
			w.state("test.state", fmt.Sprint(r.IntN(40)), fmt.Sprintf(`{"n":%d}`, i))
		}
		if w.head.StateNID != 0 {
			want[w.head.StateNID] = contents(w.head.State)
			olds = append(olds, w.head.State)
		}
		if r.IntN(3) == 0 {
			w.commit()
		}
	}
	if w.c != nil {
		w.commit()
	}
	return want
}

func checkSnapshots(t *testing.T, g *Graph, room RoomNID, want map[StateNID]map[event.Key]EventNID) {
	t.Helper()
	for nid, entries := range want {
		s := must(g.StateAt(t.Context(), room, nid))(t)
		if got := contents(s); !maps.Equal(got, entries) {
			t.Fatalf("snapshot %d has %d entries, want %d", nid, len(got), len(entries))
		}
	}
}

func TestSnapshots(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		for seed := range uint64(2) {
			r := rand.New(rand.NewPCG(seed, 7))
			g := open(t, o)
			w := newRoom(t, g)
			want := history(t, w, r, 400)
			checkSnapshots(t, g, w.head.Room, want)
			cold := open(t, o)
			checkSnapshots(t, cold, w.head.Room, want)
			checkDiffs(t, open(t, o), w.head.Room, want, r)
			checkCounts(t, must(cold.Head(t.Context(), w.head.ID))(t))
			// Go on from a head that was loaded.
			w2 := on(t, cold, w.head.ID)
			maps.Copy(want, history(t, w2, r, 100))
			checkSnapshots(t, open(t, o), w.head.Room, want)
		}
	})
}

// checkDiffs compares random snapshots on a store that has nothing in memory.
func checkDiffs(t *testing.T, g *Graph, room RoomNID, want map[StateNID]map[event.Key]EventNID, r *rand.Rand) {
	t.Helper()
	nids := slices.Sorted(maps.Keys(want))
	for range 60 {
		a, b := nids[r.IntN(len(nids))], nids[r.IntN(len(nids))]
		got := maps.Clone(want[a])
		for _, d := range must(g.StateDiff(t.Context(), room, a, b))(t) {
			if got[d.Key] != d.Old {
				t.Fatalf("diff of %d and %d: %v was %d, not %d", a, b, d.Key, got[d.Key], d.Old)
			}
			if got[d.Key] = d.New; d.New == 0 {
				delete(got, d.Key)
			}
		}
		if !maps.Equal(got, want[b]) {
			t.Fatalf("the diff of %d and %d doesn't lead there", a, b)
		}
	}
}

func checkCounts(t *testing.T, h *Head) {
	t.Helper()
	var joined, invited int64
	for m := range h.State.Members() {
		switch m.Membership {
		case Join:
			joined++
		case Invite:
			invited++
		}
	}
	if h.Joined != joined || h.Invited != invited {
		t.Fatalf("the head counts %d joined and %d invited, want %d and %d", h.Joined, h.Invited, joined, invited)
	}
}

var deleteEvent = sqldb.SQL(`DELETE FROM events WHERE room_nid = $1 AND event_nid = $2`)

func TestReclaimStates(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		for seed := range uint64(2) {
			r := rand.New(rand.NewPCG(seed, 9))
			g := open(t, o)
			w := newRoom(t, g)
			want := history(t, w, r, 500)
			room := w.head.Room
			// Most events go, as if history had been purged.
			used := map[StateNID]bool{w.head.StateNID: true}
			err := g.db.Write(ctx, func(tx *sqldb.Tx) error {
				for _, e := range must(g.Timeline(ctx, room, Range{After: Beginning, Limit: 10_000}))(t) {
					if r.IntN(10) < 8 {
						tx.Queue(deleteEvent, room, e.NID)
					} else {
						used[e.StateBefore], used[e.HeadState] = true, true
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			maps.DeleteFunc(want, func(nid StateNID, _ map[event.Key]EventNID) bool { return !used[nid] })
			other := on(t, open(t, o), w.head.ID) // holds a head from before
			before := len(must(g.snapshots(ctx, room))(t).parent)
			n := must(g.ReclaimStates(ctx, room))(t)
			after := len(must(g.snapshots(ctx, room))(t).parent)
			if n == 0 || before-after != n || after >= 2*len(want) {
				t.Fatalf("%d of %d snapshots were reclaimed, %d are left, %d are referred to", n, before, after, len(want))
			}
			checkSnapshots(t, open(t, o), room, want)
			checkSnapshots(t, g, room, want)
			// A writer with an old head is refused, and goes on with a new one.
			other.state("test.state", "1", "{}")
			if err := other.tryCommit(); !errors.Is(err, ErrConflict) {
				t.Fatalf("a commit on a reclaimed room gives %v", err)
			}
			for _, node := range []*Graph{other.g, g, open(t, o)} {
				maps.Copy(want, history(t, on(t, node, w.head.ID), r, 50))
			}
			checkSnapshots(t, open(t, o), room, want)
			checkDiffs(t, open(t, o), room, want, r)
			if n := must(g.ReclaimStates(ctx, room))(t); n > 60 {
				t.Fatalf("%d more snapshots were reclaimed", n)
			}
		}
	})
}

// TestRace lets two nodes write to one room at once, some state, some messages.
func TestRace(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		ctx := t.Context()
		g := open(t, o)
		room := newRoom(t, g).head.ID
		const each = 40
		var wg sync.WaitGroup
		var conflicts [3]int
		for node := range 3 {
			n := g
			if node > 0 {
				n = open(t, o)
			}
			wg.Go(func() {
				for i := range each {
					for {
						w := on(t, n, room)
						w.member(id.UserID(fmt.Sprintf("@user%d-%d:x.test", node, i)), Join)
						t1 := w.submit()
						w.message(fmt.Sprintf("%d-%d", node, i))
						err1, err2 := t1.Wait(ctx), w.tryCommit()
						if errors.Is(err1, ErrConflict) {
							conflicts[node]++
							if !errors.Is(err2, ErrConflict) {
								t.Errorf("on top of a conflict: %v", err2)
							}
							continue
						}
						if err1 != nil || err2 != nil && !errors.Is(err2, ErrConflict) {
							t.Error(err1, err2)
						}
						for err2 != nil { // the message alone
							w = on(t, n, room)
							w.message(fmt.Sprintf("%d-%d", node, i))
							if err2 = w.tryCommit(); err2 != nil && !errors.Is(err2, ErrConflict) {
								t.Error(err2)
							}
						}
						break
					}
				}
			})
		}
		wg.Wait()
		t.Log("conflicts:", conflicts)
		fresh := open(t, o)
		h := must(fresh.Head(ctx, room))(t)
		if h.Joined != 3*each+1 || len(h.Extremities) != 1 {
			t.Fatalf("%d joined, %d extremities", h.Joined, len(h.Extremities))
		}
		checkCounts(t, h)
		seen := map[string]int{}
		var last *Event
		all := must(fresh.Timeline(ctx, h.Room, Range{Limit: 10_000}))(t)
		for _, e := range all {
			if last != nil && !slices.Equal(e.PDU.PrevEvents(), []id.EventID{last.PDU.ID()}) {
				t.Fatal("the events are not one chain")
			}
			last = e
			var c struct{ Body string }
			if err := json.Unmarshal(e.PDU.Content(), &c); err != nil {
				t.Fatal(err)
			}
			seen[c.Body]++
			if s := must(fresh.StateBefore(ctx, e))(t); e.PDU.IsState() && must(fresh.StateAfter(ctx, e))(t).Len() < s.Len() {
				t.Fatal("a state shrank")
			}
		}
		if len(all) != 3+2*3*each || len(seen) != 3*each+1 {
			t.Fatalf("%d events, %d different messages", len(all), len(seen))
		}
		if n := len(must(fresh.Members(ctx, h.Room, Join, 1000))(t)); n != 3*each+1 {
			t.Fatalf("%d rows of members", n)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(encodeDelta([]change{{1, 0, 9}, {7, 9, 0}}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if delta, err := decodeDelta(raw); err == nil {
			if again, err := decodeDelta(encodeDelta(delta)); err != nil || !slices.Equal(again, delta) {
				t.Fatal("a delta changed on its way to the disk and back")
			}
		}
		if m, err := decodeFull(raw); err == nil {
			if again, err := decodeFull(encodeFull(m)); err != nil || !maps.Equal(maps.Collect(again.All()), maps.Collect(m.All())) {
				t.Fatal("a checkpoint changed on its way to the disk and back")
			}
		}
		if keys, err := decodeKeys(raw); err == nil {
			if again, err := decodeKeys(encodeKeys(keys)); err != nil || !slices.Equal(again, keys) {
				t.Fatal("keys changed on their way to the disk and back")
			}
		}
		if x, err := decodeExtremities(raw); err == nil {
			if again, err := decodeExtremities(encodeExtremities(x)); err != nil || !slices.Equal(again, x) {
				t.Fatal("extremities changed on their way to the disk and back")
			}
		}
	})
}
