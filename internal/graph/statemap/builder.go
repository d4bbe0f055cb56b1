package statemap

import "iter"

// Builder changes a map in place. The zero value starts from the empty map.
type Builder struct {
	m     Map
	owner *owner
}

// Builder starts from m, which stays as it is.
func (m Map) Builder() *Builder { return &Builder{m: m} }

// Set sets the value of k; a v of 0 removes the entry.
func (b *Builder) Set(k uint64, v int64) {
	if b.owner == nil {
		b.owner = new(owner)
	}
	if v == 0 && b.m.Get(k) == 0 {
		return
	}
	b.m = b.m.set(b.owner, k, v)
}

// Get returns the value of k as of now.
func (b *Builder) Get(k uint64) int64 { return b.m.Get(k) }

// Map returns the result. The builder may be used further; the result stays as it is.
func (b *Builder) Map() Map {
	b.owner = nil
	return b.m
}

// FromSorted builds a map in linear time from entries in strictly ascending order of keys. Entries with the value 0 are skipped.
func FromSorted(entries iter.Seq2[uint64, int64]) Map {
	var row []numbered
	var leaf []int64
	var at uint64
	flush := func() {
		n := &node{vals: make([]int64, 0, roomFor(uint64(max(len(leaf), 1)-1), leafSize))}
		for _, v := range leaf {
			if v != 0 {
				n.size++
			}
		}
		if n.size > 0 {
			n.vals = append(n.vals, leaf...)[:cap(n.vals)]
			row = append(row, numbered{at, n})
		}
		leaf = leaf[:0]
	}
	for k, v := range entries {
		if k>>leafBits != at {
			flush()
			at = k >> leafBits
		}
		for uint64(len(leaf)) <= k%leafSize {
			leaf = append(leaf, 0)
		}
		leaf[k%leafSize] = v
	}
	flush()
	if len(row) == 0 {
		return Map{}
	}
	m := Map{}
	for len(row) > 1 || row[0].at != 0 {
		row = parents(row)
		m.height++
	}
	m.root = row[0].node
	return m
}

// numbered is a node with its place among all possible nodes of its height.
type numbered struct {
	at   uint64
	node *node
}

// parents puts a row of nodes under nodes of the next height.
func parents(row []numbered) []numbered {
	var up []numbered
	for start := 0; start < len(row); {
		at := row[start].at >> nodeBits
		end := start
		size := int32(0)
		for end < len(row) && row[end].at>>nodeBits == at {
			size += row[end].node.size
			end++
		}
		n := &node{size: size, kids: make([]*node, roomFor(row[end-1].at%nodeSize, nodeSize))}
		for _, kid := range row[start:end] {
			n.kids[kid.at%nodeSize] = kid.node
		}
		up = append(up, numbered{at, n})
		start = end
	}
	return up
}
