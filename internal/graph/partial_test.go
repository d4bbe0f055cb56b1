package graph

import (
	"math"
	"slices"
	"testing"

	"myelin/internal/sqldb/sqldbtest"
)

// The few events of a room that came before its members were known are found among any number of others.
func TestThinEventsAreFound(t *testing.T) {
	if Thin != 512 || Thin|Torn != 768 {
		t.Fatalf("the indexes are of the flags 512 and 768, not %d and %d", Thin, Thin|Torn)
	}
	sqldbtest.Each(t, func(t *testing.T, o sqldbtest.Open) {
		g := open(t, o)
		w := newRoom(t, g)
		var thin, torn []EventNID
		for i := range 200 {
			e := w.build("m.room.message", nil, alice, `{}`)
			switch {
			case i%40 == 0:
				e.Flags |= Thin | Torn
				torn = append(torn, e.NID)
			case i%20 == 0:
				e.Flags |= Thin
			case i%10 == 0:
				e.Flags |= Torn
			}
			if e.Flags&Thin != 0 {
				thin = append(thin, e.NID)
			}
			w.push(e, Placement{})
		}
		w.commit()
		room := w.head.Room
		numbers := func(events []*Event) (out []EventNID) {
			for _, e := range events {
				out = append(out, e.NID)
			}
			return out
		}
		all := must(g.ThinSince(t.Context(), room, 0, 100))(t)
		if got := numbers(all); !slices.Equal(got, thin) {
			t.Errorf("found %v instead of %v", got, thin)
		}
		if got := numbers(must(g.ThinSince(t.Context(), room, all[3].Ord, 2))(t)); !slices.Equal(got, thin[3:5]) {
			t.Errorf("from the fourth on two: %v instead of %v", got, thin[3:5])
		}
		slices.Reverse(torn)
		newest := must(g.TornWithin(t.Context(), room, 0, math.MaxInt64, 2))(t)
		if got := numbers(newest); !slices.Equal(got, torn[:2]) {
			t.Errorf("the newest two: %v instead of %v", got, torn[:2])
		}
		if got := numbers(must(g.TornWithin(t.Context(), room, all[1].Ord, newest[1].Ord, 100))(t)); !slices.Equal(got, torn[2:len(torn)-1]) {
			t.Errorf("those before: %v instead of %v", got, torn[2:len(torn)-1])
		}
	})
}
