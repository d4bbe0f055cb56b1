package statemap

import (
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// step is one operation of a random history.
func step(r *rand.Rand, keys func() uint64, m Map, model map[uint64]int64) Map {
	k := keys()
	if r.IntN(4) == 0 {
		delete(model, k)
		return m.Without(k)
	}
	v := r.Int64N(1<<40) + 1
	model[k] = v
	return m.With(k, v)
}

func check(t *testing.T, m Map, model map[uint64]int64) {
	t.Helper()
	if m.Len() != len(model) {
		t.Fatalf("Len is %d, want %d", m.Len(), len(model))
	}
	last, first := uint64(0), true
	n := 0
	for k, v := range m.All() {
		if !first && k <= last {
			t.Fatalf("All yields %d after %d", k, last)
		}
		if model[k] != v {
			t.Fatalf("All yields %d for %d, want %d", v, k, model[k])
		}
		last, first = k, false
		n++
	}
	if n != len(model) {
		t.Fatalf("All yields %d entries, want %d", n, len(model))
	}
	for k, v := range model {
		if m.Get(k) != v {
			t.Fatalf("Get(%d) is %d, want %d", k, m.Get(k), v)
		}
	}
}

func checkDiff(t *testing.T, a, b Map, ma, mb map[uint64]int64) {
	t.Helper()
	want := make(map[uint64]Change)
	for k, v := range ma {
		if mb[k] != v {
			want[k] = Change{k, v, mb[k]}
		}
	}
	for k, v := range mb {
		if ma[k] != v {
			want[k] = Change{k, ma[k], v}
		}
	}
	for c := range Diff(a, b) {
		if want[c.Key] != c {
			t.Fatalf("Diff yields %+v, want %+v", c, want[c.Key])
		}
		delete(want, c.Key)
	}
	if len(want) != 0 {
		t.Fatalf("Diff misses %d changes", len(want))
	}
}

func sorted(model map[uint64]int64) iter.Seq2[uint64, int64] {
	return func(yield func(uint64, int64) bool) {
		for _, k := range slices.Sorted(maps.Keys(model)) {
			if !yield(k, model[k]) {
				return
			}
		}
	}
}

func TestAgainstGoMap(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		keys := func() uint64 { return r.Uint64N(300) }
		switch seed % 4 {
		case 1:
			keys = func() uint64 { return r.Uint64N(50_000) }
		case 2:
			keys = func() uint64 { return r.Uint64() >> r.IntN(64) }
		case 3:
			keys = func() uint64 { return ^uint64(0) - r.Uint64N(3) - r.Uint64N(2)<<30 }
		}
		var m Map
		model := map[uint64]int64{}
		old, oldModel := m, map[uint64]int64{}
		for i := range 2000 {
			m = step(r, keys, m, model)
			if i%500 == 250 {
				checkDiff(t, old, m, oldModel, model)
				checkDiff(t, m, old, model, oldModel)
				check(t, old, oldModel)
				old, oldModel = m, maps.Clone(model)
			}
		}
		check(t, m, model)
		check(t, FromSorted(sorted(model)), model)
		b := old.Builder()
		for k := range oldModel {
			if _, ok := model[k]; !ok {
				b.Set(k, 0)
			}
		}
		for k, v := range model {
			b.Set(k, v)
		}
		check(t, b.Map(), model)
		check(t, old, oldModel)
	}
}

func TestBuilderLeavesItsResultAlone(t *testing.T) {
	var b Builder
	b.Set(1, 10)
	first := b.Map()
	b.Set(1, 20)
	if first.Get(1) != 10 || b.Get(1) != 20 {
		t.Fatalf("got %d and %d, want 10 and 20", first.Get(1), b.Get(1))
	}
}

func FuzzMap(f *testing.F) {
	f.Add([]byte{1, 2, 3, 1, 0, 0, 255, 255, 9})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var m Map
		model := map[uint64]int64{}
		for ; len(ops) >= 3; ops = ops[3:] {
			k := uint64(ops[0]) << (ops[1] % 57)
			v := int64(ops[2])
			m = m.With(k, v)
			if model[k] = v; v == 0 {
				delete(model, k)
			}
		}
		check(t, m, model)
		check(t, FromSorted(sorted(model)), model)
		checkDiff(t, Map{}, m, nil, model)
	})
}

const big = 50_000

func bigMap() Map {
	return FromSorted(func(yield func(uint64, int64) bool) {
		for k := range uint64(big) {
			if !yield(k+1, int64(k)+1_000_000) {
				return
			}
		}
	})
}

func BenchmarkWith(b *testing.B) {
	m := bigMap()
	b.ReportAllocs()
	for i := range b.N {
		m = m.With(uint64(i*7919%big)+1, int64(i)+5_000_000)
	}
}

func BenchmarkGet(b *testing.B) {
	m := bigMap()
	for i := range b.N {
		if m.Get(uint64(i*7919%big)+1) == 0 {
			b.Fatal("missing")
		}
	}
}

func BenchmarkDiff100(b *testing.B) {
	old := bigMap()
	m := old
	for i := range 100 {
		m = m.With(uint64(i*7919%big)+1, int64(i)+5_000_000)
	}
	b.ResetTimer()
	for range b.N {
		n := 0
		for range Diff(old, m) {
			n++
		}
		if n != 100 {
			b.Fatal(n)
		}
	}
}

func BenchmarkFromSorted(b *testing.B) {
	for range b.N {
		bigMap()
	}
}
