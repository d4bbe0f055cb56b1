package syncer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"myelin/internal/graph"
)

// TestLedger compares ledgers with a plain map, in memory and after they went through rows.
func TestLedger(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	l, plain := &ledger{}, map[graph.RoomNID]mark{}
	var rows [][]byte
	for step := range 200 {
		marks := make(map[graph.RoomNID]mark)
		texts := l.texts
		if rng.IntN(10) == 0 {
			texts = append(texts[:len(texts):len(texts)], fmt.Sprint("config ", step))
		}
		for range rng.IntN(30) {
			m := mark{limit: rng.IntN(MaxTimeline + 1), config: rng.IntN(len(texts) + 1), direct: rng.IntN(2) == 0}
			for i := range m.told {
				m.told[i] = progress(rng.IntN(1000) - 1)
			}
			marks[graph.RoomNID(rng.IntN(300))] = m
		}
		rows = append(rows, encodeMarks(marks, texts, len(l.texts)))
		l = l.with(int64(step), marks, texts)
		maps.Copy(plain, marks)
		for room, want := range plain {
			if got := l.get(room); got != want {
				t.Fatalf("step %d: %+v, want %+v", step, got, want)
			}
		}
		if len(l.layers) > 12 {
			t.Fatalf("%d layers after %d steps", len(l.layers), step)
		}
	}
	again := &ledger{}
	for i, row := range rows {
		marks, texts, err := decodeMarks(row, again.texts)
		if err != nil {
			t.Fatal(err)
		}
		again = again.with(int64(i), marks, texts)
	}
	if !maps.Equal(again.all(), l.all()) || fmt.Sprint(again.texts) != fmt.Sprint(l.texts) {
		t.Error("what was stored differs from what was known")
	}
}

// FuzzDecodeMarks: what is damaged is refused.
func FuzzDecodeMarks(f *testing.F) {
	f.Add(encodeMarks(map[graph.RoomNID]mark{5: {told: [tellings]progress{current, 3, never, 9}, config: 1, limit: 20, direct: true}}, []string{"a"}, 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		marks, texts, err := decodeMarks(raw, nil)
		if err != nil {
			return
		}
		for _, m := range marks {
			if m.config > len(texts) || m.limit > MaxTimeline {
				t.Errorf("%+v", m)
			}
		}
	})
}

// FuzzParsePlace: a token that is accepted is one that would be given out.
func FuzzParsePlace(f *testing.F) {
	f.Add("c1_2_3_4")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parsePlace(s); err == nil && p.String() != s {
			t.Errorf("%q became %q", s, p)
		}
	})
}
