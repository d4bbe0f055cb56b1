package bus

import (
	"slices"
	"sort"

	"myelin/internal/sqldb"
)

// Item is something that happened at a position.
type Item[T any] struct {
	Pos  sqldb.Pos
	What T
}

// Recent remembers the newest things of some kind that a bus told of, so that who asks for what happened lately needs no database. It is filled in
// a subscriber. It has no lock of its own.
type Recent[T any] struct {
	Max   int       // how many are remembered at most
	Since sqldb.Pos // everything that happened after it is here
	items []Item[T]
}

// Add takes the next thing. When there are too many, the older half is forgotten.
func (r *Recent[T]) Add(at sqldb.Pos, what T) {
	if len(r.items) >= r.Max {
		r.Cut(max(1, len(r.items)/2))
	}
	r.items = append(r.items, Item[T]{at, what})
}

// Restart forgets everything up to a position, and later things with it: those were not told.
func (r *Recent[T]) Restart(at sqldb.Pos) { r.Since, r.items = at, nil }

// Cut forgets the n oldest things. What was handed out of them stays as it is.
func (r *Recent[T]) Cut(n int) {
	if n > 0 {
		r.Since = r.items[n-1].Pos
		r.items = slices.Clone(r.items[n:])
	}
}

// All returns what is remembered, in order. It is not to be changed.
func (r *Recent[T]) All() []Item[T] { return r.items }

// Between returns what happened at the positions after from, up to to, and false where memory doesn't reach back so far. What is returned doesn't
// change.
func (r *Recent[T]) Between(from, to sqldb.Pos) ([]Item[T], bool) {
	if from < r.Since {
		return nil, false
	}
	first := sort.Search(len(r.items), func(i int) bool { return r.items[i].Pos > from })
	n := sort.Search(len(r.items)-first, func(i int) bool { return r.items[first+i].Pos > to })
	return r.items[first : first+n : first+n], true
}
