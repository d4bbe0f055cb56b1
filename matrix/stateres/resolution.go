package stateres

import (
	"cmp"
	"errors"
	"hash/maphash"
	"slices"
	"strings"

	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// conflict is one conflicted key.
type conflict struct {
	key event.Key
	// ids are the distinct events, none of them "".
	ids []id.EventID
	// column holds the index into ids for each distinct state, -1 where the state has none.
	column []int32
}

// resolution is the working state of one call of Resolve.
type resolution struct {
	in Input
	// conflicts are ordered by key, so that nothing depends on the order of a map.
	conflicts []conflict
	isConfl   map[event.Key]bool
	// agreed holds keys of Input.Conflicted on which there is no conflict after all. They count as
	// unconflicted and are in the result.
	agreed Set
	// distinct is the number of distinct states, words the length of a set of them.
	distinct, words int

	arena
	// state overlays the unconflicted part.
	state map[event.Key]int32
	// create is the create event where the room ID names it, else -1. Spec: rooms/v12 Event format
	create int32
}

func newResolution(in Input) (*resolution, error) {
	if in.Version == nil || in.Events == nil || in.Unconflicted == nil {
		return nil, errors.New("resolve state: Version, Events and Unconflicted must be set")
	}
	v1 := in.Version.StateRes == roomver.StateResV1
	if !v1 && in.AllUnconflicted == nil && in.Covered == nil {
		return nil, errors.New("resolve state: one of AllUnconflicted and Covered must be set")
	}
	if in.Limit <= 0 {
		in.Limit = DefaultLimit
	}
	r := &resolution{in: in, agreed: Set{}, isConfl: make(map[event.Key]bool), state: make(map[event.Key]int32), create: -1}
	r.arena = arena{in: &r.in, index: make(map[id.EventID]int32)}
	distinct, err := distinctSets(&in)
	if err != nil {
		return nil, err
	}
	r.distinct, r.words = len(distinct), (len(distinct)+63)/64
	for key, column := range in.Conflicted {
		r.addKey(key, column, distinct, v1)
	}
	slices.SortFunc(r.conflicts, func(a, b conflict) int {
		return cmp.Or(strings.Compare(a.key.Type, b.key.Type), strings.Compare(a.key.StateKey, b.key.StateKey))
	})
	return r, nil
}

// distinctSets picks one state of each group of equal ones. Equal states have equal chains, so
// that the others can't change a union or an intersection.
func distinctSets(in *Input) ([]int, error) {
	seed := maphash.MakeSeed()
	sums := make([]uint64, in.Sets)
	for key, column := range in.Conflicted {
		if len(column) != in.Sets {
			return nil, errors.New("resolve state: a conflict of " + key.Type + " does not list every state")
		}
		base := maphash.Comparable(seed, key)
		for i, e := range column {
			if e != "" {
				// A sum, since the order of the keys is random.
				sums[i] += maphash.Comparable(seed, struct {
					base uint64
					e    id.EventID
				}{base, e})
			}
		}
	}
	seen := make(map[uint64]bool, in.Sets)
	var distinct []int
	for i, sum := range sums {
		if !seen[sum] {
			seen[sum] = true
			distinct = append(distinct, i)
		}
	}
	return distinct, nil
}

// fewIDs is where a map becomes faster than a scan.
const fewIDs = 16

// addKey files a key under conflicts or under agreed.
func (r *resolution) addKey(key event.Key, column []id.EventID, distinct []int, v1 bool) {
	c := conflict{key: key, column: make([]int32, len(distinct))}
	absent := false
	var known map[id.EventID]int32
	for i, set := range distinct {
		e := column[set]
		if e == "" {
			c.column[i], absent = -1, true
			continue
		}
		at, ok := int32(0), false
		if known != nil {
			at, ok = known[e]
		} else if j := slices.Index(c.ids, e); j >= 0 {
			at, ok = int32(j), true
		}
		if !ok {
			at = int32(len(c.ids))
			c.ids = append(c.ids, e)
			if known != nil {
				known[e] = at
			} else if len(c.ids) == fewIDs {
				known = make(map[id.EventID]int32, 2*fewIDs)
				for j, x := range c.ids {
					known[x] = int32(j)
				}
			}
		}
		c.column[i] = at
	}
	switch {
	case len(c.ids) == 0:
	case len(c.ids) == 1 && (v1 || !absent):
		// v1 knows a conflict only between different events. Spec: rooms/v1 State resolution
		r.agreed[key] = c.ids[0]
	default:
		r.conflicts = append(r.conflicts, c)
		r.isConfl[key] = true
	}
}

// unconflicted looks up a key in the unconflicted state map.
func (r *resolution) unconflicted(key event.Key) (id.EventID, bool) {
	if r.isConfl[key] {
		return "", false
	}
	if e, ok := r.agreed[key]; ok {
		return e, true
	}
	if _, ok := r.in.Conflicted[key]; ok {
		return "", false
	}
	return r.in.Unconflicted(key)
}

// isUnconflicted reports whether an event is itself in the unconflicted state map.
func (r *resolution) isUnconflicted(p *event.PDU) bool {
	if !p.IsState() {
		return false
	}
	e, ok := r.unconflicted(p.Key())
	return ok && e == p.ID()
}

// result is the overlay without what the unconflicted part replaces.
//
// Spec: rooms/v2 Algorithm, step 5
func (r *resolution) result() map[event.Key]id.EventID {
	out := r.agreed
	for key, n := range r.state {
		if _, ok := r.unconflicted(key); !ok {
			out[key] = r.nodes[n].pdu.ID()
		}
	}
	return out
}
