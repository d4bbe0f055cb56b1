package stateres

import (
	"errors"
	"fmt"
	"iter"
	"strings"

	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// DefaultLimit is how many events one resolution may load when Input.Limit is 0.
const DefaultLimit = 1_000_000

// Set is one complete state of a room.
type Set = map[event.Key]id.EventID

// Input is what Resolve works on. The functions are called from the calling goroutine, never
// after Resolve has returned.
type Input struct {
	Version *roomver.Version
	// Sets is the number of states to resolve.
	Sets int
	// Conflicted holds, for each key on which the states differ, the event of each state, in
	// the order of the states; "" where a state has no event for the key. A key on which all
	// states agree does no harm. Resolve does not change it.
	Conflicted map[event.Key][]id.EventID
	// Unconflicted looks up a key that is not in Conflicted, in any of the states. It is not
	// asked about keys in Conflicted, so it may be the Get of one of the snapshots.
	Unconflicted func(event.Key) (id.EventID, bool)

	// AllUnconflicted lists every event that Unconflicted can return; events of keys in
	// Conflicted among them are ignored. It is used in rare cases (see the package comment) unless
	// Covered is set. One of the two must be set, except for StateResV1.
	AllUnconflicted iter.Seq2[event.Key, id.EventID]
	// Covered returns those of the candidates that are in the auth chain of an unconflicted
	// event. May be nil.
	Covered func(candidates []id.EventID) ([]id.EventID, error)
	// Witnesses, if not nil, makes repeated resolutions in one room cheaper.
	Witnesses *Witnesses

	// Events loads events. What it leaves out of its answer does not exist.
	Events func(ids []id.EventID) (map[id.EventID]*event.PDU, error)
	// Generation returns 1 + the greatest generation among an event's auth events, 0 for an
	// event without any. It is asked only about events that Events has returned. If nil, auth chains
	// are loaded to their ends instead.
	Generation func(id.EventID) (int64, bool)
	// Rejected reports whether an event was rejected. If nil, none was.
	Rejected func(id.EventID) bool
	// Limit bounds the number of events loaded; 0 means DefaultLimit.
	Limit int
}

// MissingError says that events which the resolution needs could not be loaded.
type MissingError struct{ IDs []id.EventID }

func (e *MissingError) Error() string {
	const shown = 5
	var b strings.Builder
	fmt.Fprintf(&b, "state resolution lacks %d events:", len(e.IDs))
	for i, x := range e.IDs {
		if i == shown {
			b.WriteString(" …")
			break
		}
		b.WriteString(" " + string(x))
	}
	return b.String()
}

// ErrTooLarge says that a resolution needs more events than Input.Limit.
var ErrTooLarge = errors.New("state resolution needs too many events")

// Resolve returns the resolved state, as far as it is not unconflicted: an entry for each conflicted key
// that has an event in the resolved state, and for keys that are in none of the states but came back from the
// auth difference. A conflicted key without an entry has no event in the resolved state. The
// unconflicted part is never changed.
//
// Spec: rooms/v1 State resolution, rooms/v2 State resolution, rooms/v12 State resolution
func Resolve(in Input) (map[event.Key]id.EventID, error) {
	r, err := newResolution(in)
	if err != nil {
		return nil, err
	}
	if len(r.conflicts) == 0 {
		return r.agreed, nil
	}
	switch in.Version.StateRes {
	case roomver.StateResV1:
		err = r.v1()
	default:
		err = r.v2(in.Version.StateRes == roomver.StateResV21)
	}
	if err != nil {
		return nil, fmt.Errorf("resolve state of %s: %w", r.room, err)
	}
	return r.result(), nil
}

// ResolveSets resolves complete states and returns the complete result. The fields of in that
// describe the states are ignored. It costs O(size of the states); a caller that can diff its snapshots
// uses Resolve.
func ResolveSets(in Input, sets []Set) (Set, error) {
	if len(sets) == 0 {
		return Set{}, nil
	}
	conflicted, unconflicted := Split(sets)
	in.Sets, in.Conflicted = len(sets), conflicted
	in.Unconflicted = func(k event.Key) (id.EventID, bool) { e, ok := unconflicted[k]; return e, ok }
	in.AllUnconflicted = func(yield func(event.Key, id.EventID) bool) {
		for k, e := range unconflicted {
			if !yield(k, e) {
				return
			}
		}
	}
	in.Covered = nil
	resolved, err := Resolve(in)
	if err != nil {
		return nil, err
	}
	for k, e := range resolved {
		unconflicted[k] = e
	}
	return unconflicted, nil
}

// Split divides complete states into what they disagree about, in the form of Input.Conflicted, and what they
// share. Both maps are the caller's.
//
// Spec: rooms/v2 Definitions
func Split(sets []Set) (conflicted map[event.Key][]id.EventID, unconflicted Set) {
	conflicted, unconflicted = make(map[event.Key][]id.EventID), make(Set)
	for i, s := range sets {
		agreed := 0
		for k, e := range s {
			if i == 0 {
				unconflicted[k] = e
				continue
			}
			if column := conflicted[k]; column != nil {
				column[i] = e
				continue
			}
			shared, had := unconflicted[k]
			if had && shared == e {
				agreed++
				continue
			}
			column := make([]id.EventID, len(sets))
			if had {
				for j := range i {
					column[j] = shared
				}
				delete(unconflicted, k)
			}
			column[i] = e
			conflicted[k] = column
		}
		if i == 0 || agreed == len(unconflicted) {
			continue
		}
		for k, e := range unconflicted {
			if _, here := s[k]; here {
				continue
			}
			column := make([]id.EventID, len(sets))
			for j := range i {
				column[j] = e
			}
			delete(unconflicted, k)
			conflicted[k] = column
		}
	}
	return conflicted, unconflicted
}
