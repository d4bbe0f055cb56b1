package statemap

import "iter"

const (
	leafBits = 6
	leafSize = 1 << leafBits
	nodeBits = 5
	nodeSize = 1 << nodeBits
)

// node is a leaf if it stands at height 0. Both slices are as long as their highest entry needs, up to a power of two.
type node struct {
	owner *owner // the Builder that may still change the node; nil for none
	size  int32  // entries at or below the node
	kids  []*node
	vals  []int64
}

// owner is a token with an address of its own.
type owner struct{ _ byte }

// Map is an immutable map. The zero value is the empty map.
type Map struct {
	root   *node
	height uint8 // levels of nodes above the leaves
}

// Change is one difference between two maps; Old or New is 0 where the key is absent.
type Change struct {
	Key      uint64
	Old, New int64
}

// Len returns the number of entries.
func (m Map) Len() int {
	if m.root == nil {
		return 0
	}
	return int(m.root.size)
}

// Get returns the value of k, 0 if there is none.
func (m Map) Get(k uint64) int64 {
	n := m.root
	if n == nil || k > maxKey(m.height) {
		return 0
	}
	for h := m.height; h > 0; h-- {
		i := slot(k, h)
		if i >= uint64(len(n.kids)) || n.kids[i] == nil {
			return 0
		}
		n = n.kids[i]
	}
	if i := k % leafSize; i < uint64(len(n.vals)) {
		return n.vals[i]
	}
	return 0
}

// With returns the map with the value of k set to v. A v of 0 removes the entry.
func (m Map) With(k uint64, v int64) Map {
	if m.Get(k) == v {
		return m
	}
	return m.set(nil, k, v)
}

// Without returns the map without k.
func (m Map) Without(k uint64) Map { return m.With(k, 0) }

// All yields the entries in the order of their keys.
func (m Map) All() iter.Seq2[uint64, int64] {
	return func(yield func(uint64, int64) bool) {
		if m.root != nil {
			walk(m.root, m.height, 0, yield)
		}
	}
}

func walk(n *node, h uint8, prefix uint64, yield func(uint64, int64) bool) bool {
	if h == 0 {
		for i, v := range n.vals {
			if v != 0 && !yield(prefix|uint64(i), v) {
				return false
			}
		}
		return true
	}
	for i, kid := range n.kids {
		if kid != nil && !walk(kid, h-1, prefix|uint64(i)<<shift(h), yield) {
			return false
		}
	}
	return true
}

// shift is the number of bits of a key below the choice of a child at height h.
func shift(h uint8) uint8 { return leafBits + nodeBits*(h-1) }

func slot(k uint64, h uint8) uint64 { return k >> shift(h) % nodeSize }

// maxKey is the largest key that fits under a root of height h.
func maxKey(h uint8) uint64 {
	if bits := leafBits + nodeBits*int(h); bits < 64 {
		return 1<<bits - 1
	}
	return ^uint64(0)
}

// set changes nodes of the owner in place and copies all others.
func (m Map) set(o *owner, k uint64, v int64) Map {
	for k > maxKey(m.height) {
		if m.root == nil {
			m.height++
			continue
		}
		m.root = &node{owner: o, size: m.root.size, kids: []*node{m.root}}
		m.height++
	}
	m.root = m.root.set(o, m.height, k, v)
	if m.root == nil {
		m.height = 0
	}
	return m
}

// set returns the node with the change, nil if it would be empty. n may be nil.
func (n *node) set(o *owner, h uint8, k uint64, v int64) *node {
	if h == 0 {
		return n.setLeaf(o, k%leafSize, v)
	}
	i := slot(k, h)
	var kid *node
	if n != nil && i < uint64(len(n.kids)) {
		kid = n.kids[i]
	}
	was := kid.len() // before set, which may change kid itself
	next := kid.set(o, h-1, k, v)
	delta := next.len() - was
	if n.len()+delta == 0 {
		return nil
	}
	n = n.editable(o)
	if i >= uint64(len(n.kids)) {
		if next == nil {
			return n
		}
		n.kids = append(make([]*node, 0, roomFor(i, nodeSize)), n.kids...)[:roomFor(i, nodeSize)]
	}
	n.kids[i] = next
	n.size += delta
	return n
}

func (n *node) setLeaf(o *owner, i uint64, v int64) *node {
	var old int64
	if n != nil && i < uint64(len(n.vals)) {
		old = n.vals[i]
	}
	delta := int32(0)
	switch {
	case old == 0 && v != 0:
		delta = 1
	case old != 0 && v == 0:
		delta = -1
	}
	if n.len()+delta == 0 {
		return nil
	}
	n = n.editable(o)
	if i >= uint64(len(n.vals)) {
		if v == 0 {
			return n
		}
		n.vals = append(make([]int64, 0, roomFor(i, leafSize)), n.vals...)[:roomFor(i, leafSize)]
	}
	n.vals[i] = v
	n.size += delta
	return n
}

func (n *node) len() int32 {
	if n == nil {
		return 0
	}
	return n.size
}

// editable returns n itself if the owner has made it, else a copy that belongs to the owner.
func (n *node) editable(o *owner) *node {
	if n == nil {
		return &node{owner: o}
	}
	if o != nil && n.owner == o {
		return n
	}
	c := &node{owner: o, size: n.size}
	if n.kids != nil {
		c.kids = append(make([]*node, 0, len(n.kids)), n.kids...)
	}
	if n.vals != nil {
		c.vals = append(make([]int64, 0, len(n.vals)), n.vals...)
	}
	return c
}

// roomFor returns the length of a slice that holds index i: a power of two, at least 4.
func roomFor(i, limit uint64) int {
	n := uint64(4)
	for n <= i {
		n *= 2
	}
	return int(min(n, limit))
}

// Max returns the largest key, 0 for the empty map.
func (m Map) Max() uint64 {
	var k uint64
	n := m.root
	for h := m.height; n != nil; h-- {
		if h == 0 {
			for i := len(n.vals) - 1; i >= 0; i-- {
				if n.vals[i] != 0 {
					return k | uint64(i)
				}
			}
			return k
		}
		i := len(n.kids) - 1
		for n.kids[i] == nil {
			i--
		}
		k |= uint64(i) << shift(h)
		n = n.kids[i]
	}
	return k
}
