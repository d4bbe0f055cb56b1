package graph

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"myelin/internal/graph/statemap"
)

// change is a difference between two snapshots at one key; a value of 0 stands for absence.
type change struct {
	key      KeyNID
	old, new value
}

// link is what the disk holds of a snapshot: its difference from an earlier one.
type link struct {
	nid    StateNID
	parent StateNID
	// step counts the snapshots since the checkpoint, which has step 0.
	step int64
	// delta is what changed since parent, in the order of keys. Checkpoints have one too, against the checkpoint before them.
	// In memory the delta of a chain's first link is dropped.
	delta []change
}

const (
	// minGroup is the least number of snapshots from one checkpoint to the next.
	minGroup = 32
	// groupShare: a group is at least as many snapshots as the state has entries, divided by this. It keeps checkpoints
	// from costing more than about 100 bytes per change.
	groupShare = 16
)

// due reports whether a snapshot of this size and distance from the last checkpoint is to be a checkpoint.
func due(step int64, size int, changes int) bool {
	return step >= minGroup && step >= int64(size/groupShare) || changes > minGroup && changes > size/4
}

// number makes a snapshot of a state that has none. The snapshot's chain continues that of the state it was derived from.
func (s *State) number(nid StateNID) *State {
	from := s.from
	n := &State{m: s.m, keys: s.keys, nid: nid, epoch: s.epoch}
	own := diffMaps(from.m, s.m)
	n.cost = uint32(1500 * min(len(own), 100_000))
	if len(from.chain) == 0 {
		n.chain = []link{{nid: nid}}
		return n
	}
	last := from.chain[len(from.chain)-1]
	step := last.step + 1
	if due(step, s.Len(), len(own)) {
		root := from.chain[0]
		delta := mergeChain(from.chain[1:], own)
		n.chain = []link{{nid: nid, parent: root.nid, delta: delta}}
		return n
	}
	// As in a Fenwick tree: the parent is the link at step with its lowest set bit cleared, or the next below where reclaiming took it.
	up := len(from.chain)
	for up > 1 && from.chain[up-1].step > step&(step-1) {
		up--
	}
	l := link{nid: nid, parent: from.chain[up-1].nid, step: step, delta: mergeChain(from.chain[up:], own)}
	n.chain = append(from.chain[:up:up], l)
	return n
}

func diffMaps(a, b statemap.Map) []change {
	var out []change
	for c := range statemap.Diff(a, b) {
		out = append(out, change{KeyNID(c.Key), value(c.Old), value(c.New)})
	}
	return out
}

// mergeChain joins the deltas of consecutive links and one more.
func mergeChain(links []link, last []change) []change {
	if len(links) == 0 {
		return last
	}
	var all []change
	for _, l := range links {
		all = append(all, l.delta...)
	}
	return merge(append(all, last...))
}

// merge orders changes by key and joins those of one key; changes of one key must follow each other in time. It reuses the slice.
func merge(all []change) []change {
	slices.SortStableFunc(all, func(a, b change) int { return int(a.key - b.key) })
	out := all[:0]
	for _, c := range all {
		if n := len(out); n > 0 && out[n-1].key == c.key {
			out[n-1].new = c.new
			continue
		}
		out = append(out, c)
	}
	return slices.DeleteFunc(out, func(c change) bool { return c.old == c.new })
}

// invert turns what leads from a to b into what leads from b to a.
func invert(delta []change) []change {
	out := make([]change, len(delta))
	for i, c := range delta {
		out[i] = change{c.key, c.new, c.old}
	}
	return out
}

// apply makes the changes.
func apply(m statemap.Map, delta []change) statemap.Map {
	b := m.Builder()
	for _, c := range delta {
		b.Set(uint64(c.key), int64(c.new))
	}
	return b.Map()
}

// Snapshots are encoded as varints: for each entry the distance from the key before, then the value; in a delta, the old value
// and the new.

func encodeDelta(delta []change) []byte {
	out := make([]byte, 0, 12*len(delta))
	var last KeyNID
	for _, c := range delta {
		out = binary.AppendUvarint(out, uint64(c.key-last))
		out = binary.AppendUvarint(out, uint64(c.old))
		out = binary.AppendUvarint(out, uint64(c.new))
		last = c.key
	}
	return out
}

func encodeFull(m statemap.Map) []byte {
	out := make([]byte, 0, 8*m.Len())
	var last uint64
	for k, v := range m.All() {
		out = binary.AppendUvarint(out, k-last)
		out = binary.AppendUvarint(out, uint64(v))
		last = k
	}
	return out
}

var errSnapshot = errors.New("a state snapshot is damaged")

// blob takes varints and strings off encoded bytes.
type blob struct {
	rest []byte
	text string // all bytes as one string, for blobs with strings in them
	bad  bool
}

// string takes n bytes. It shares the memory of text.
func (b *blob) string(n uint64) string {
	if n > uint64(len(b.rest)) {
		b.bad, b.rest = true, nil
		return ""
	}
	at := len(b.text) - len(b.rest)
	b.rest = b.rest[n:]
	return b.text[at : at+int(n)]
}

func (b *blob) next() uint64 {
	v, n := binary.Uvarint(b.rest)
	if n <= 0 || v > 1<<62 {
		b.bad, b.rest = true, nil
		return 0
	}
	b.rest = b.rest[n:]
	return v
}

// depth reads what an event claims, which unlike our own numbers may be anything up to the greatest that there is.
func (b *blob) depth() int64 {
	v, n := binary.Uvarint(b.rest)
	if n <= 0 || v > math.MaxInt64 {
		b.bad, b.rest = true, nil
		return 0
	}
	b.rest = b.rest[n:]
	return int64(v)
}

// key reads the distance of a key from the last one.
func (b *blob) key(last uint64) uint64 {
	d := b.next()
	if d == 0 || last > 1<<62 {
		b.bad, b.rest = true, nil
	}
	return last + d
}

func decodeDelta(raw []byte) ([]change, error) {
	b := blob{rest: raw}
	delta := make([]change, 0, len(raw)/5)
	var last uint64
	for len(b.rest) > 0 {
		last = b.key(last)
		c := change{key: KeyNID(last), old: value(b.next())}
		c.new = value(b.next())
		delta = append(delta, c)
	}
	if b.bad {
		return nil, errSnapshot
	}
	return delta, nil
}

func decodeFull(raw []byte) (statemap.Map, error) {
	b := blob{rest: raw}
	m := statemap.FromSorted(func(yield func(uint64, int64) bool) {
		var last uint64
		for len(b.rest) > 0 {
			last = b.key(last)
			v := b.next()
			if b.bad || !yield(last, int64(v)) {
				return
			}
		}
	})
	if b.bad {
		return statemap.Map{}, errSnapshot
	}
	return m, nil
}
