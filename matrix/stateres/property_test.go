package stateres

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"

	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// histories is how many random histories each room version gets: MYELIN_HISTORIES, else few.
func histories(tb testing.TB, few int) int {
	tb.Helper()
	if s := os.Getenv("MYELIN_HISTORIES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			tb.Fatalf("MYELIN_HISTORIES: %v", err)
		}
		return n
	}
	return few
}

// eachHistory runs random histories of every version.
func eachHistory(t *testing.T, few int, visit func(t *testing.T, h *history, sets []Set)) {
	t.Helper()
	for _, v := range roomver.All() {
		t.Run("v"+v.ID, func(t *testing.T) {
			for seed := range uint64(histories(t, few)) {
				h := newHistory(newTestRoom(t, v), newRand(v, seed))
				h.merging = func(sets []Set) Set {
					visit(t, h, sets)
					return mustResolve(t, h.testRoom, h.input(true), sets)
				}
				h.run(40)
				for range 3 {
					visit(t, h, h.mangled())
				}
				if t.Failed() {
					t.Fatalf("history %d of version %s", seed, v.ID)
				}
			}
		})
	}
}

func mustResolve(t *testing.T, r *testRoom, in Input, sets []Set) Set {
	t.Helper()
	s, err := ResolveSets(in, sets)
	if err != nil {
		t.Fatalf("resolve: %v", err)
	}
	return s
}

func same(t *testing.T, r *testRoom, what string, sets []Set, got, want Set) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	onlyGot, onlyWant := Set{}, Set{}
	for k, e := range got {
		if want[k] != e {
			onlyGot[k] = e
		}
	}
	for k, e := range want {
		if got[k] != e {
			onlyWant[k] = e
		}
	}
	conflicted, _ := Split(sets)
	t.Errorf("%s:\ngot\n%swant\n%s(%d conflicted keys in %d states)", what, r.describe(onlyGot), r.describe(onlyWant), len(conflicted), len(sets))
}

// The fast way and the plain way agree, with and without generations, with an index for what is
// covered and with remembered witnesses.
func TestAgainstModel(t *testing.T) {
	witnesses := map[*testRoom]*Witnesses{}
	eachHistory(t, 12, func(t *testing.T, h *history, sets []Set) {
		if h.version.StateRes == roomver.StateResV1 {
			return
		}
		want := (&model{room: h.testRoom}).resolve(sets)
		same(t, h.testRoom, "with generations", sets, mustResolve(t, h.testRoom, h.input(true), sets), want)
		same(t, h.testRoom, "without generations", sets, mustResolve(t, h.testRoom, h.input(false), sets), want)
		in := h.input(true)
		if witnesses[h.testRoom] == nil {
			witnesses[h.testRoom] = &Witnesses{Limit: 20}
		}
		in.Witnesses = witnesses[h.testRoom]
		same(t, h.testRoom, "with witnesses", sets, mustResolve(t, h.testRoom, in, sets), want)

		in = h.input(true)
		conflicted, unconflicted := Split(sets)
		in.Sets, in.Conflicted = len(sets), conflicted
		in.Unconflicted = func(k event.Key) (id.EventID, bool) { e, ok := sets[0][k]; return e, ok }
		in.Covered = func(candidates []id.EventID) ([]id.EventID, error) {
			all := map[id.EventID]bool{}
			for _, e := range unconflicted {
				(&model{room: h.testRoom}).chain(e, all)
			}
			return slices.DeleteFunc(candidates, func(e id.EventID) bool { return !all[e] }), nil
		}
		got, err := Resolve(in)
		if err != nil {
			t.Fatal(err)
		}
		for k, e := range unconflicted {
			if was, ok := got[k]; ok {
				t.Errorf("unconflicted %v changed to %s", k, was)
			}
			got[k] = e
		}
		same(t, h.testRoom, "with an index", sets, got, want)
	})
}

// Order and repetition of the states don't matter, unconflicted entries stay, and a result
// resolved with itself is itself.
func TestProperties(t *testing.T) {
	eachHistory(t, 8, func(t *testing.T, h *history, sets []Set) {
		want := mustResolve(t, h.testRoom, h.input(true), sets)
		shuffled := slices.Clone(sets)
		shuffled = append(shuffled, sets[h.rnd.IntN(len(sets))])
		h.rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		same(t, h.testRoom, "shuffled", sets, mustResolve(t, h.testRoom, h.input(true), shuffled), want)
		_, unconflicted := Split(sets)
		for k, e := range unconflicted {
			if want[k] != e {
				t.Errorf("unconflicted %v: %s became %s", k, e, want[k])
			}
		}
		same(t, h.testRoom, "with itself", sets, mustResolve(t, h.testRoom, h.input(true), []Set{want, want}), want)
		same(t, h.testRoom, "alone", sets, mustResolve(t, h.testRoom, h.input(true), []Set{sets[0]}), sets[0])
	})
}
