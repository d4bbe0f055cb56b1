package statemap

import "iter"

// Diff yields what must change to turn a into b, in the order of keys. Subtrees that the maps share are skipped.
func Diff(a, b Map) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		ra, rb := a.root, b.root
		for h := a.height; h < b.height; h++ {
			ra = lift(ra)
		}
		for h := b.height; h < a.height; h++ {
			rb = lift(rb)
		}
		diff(ra, rb, max(a.height, b.height), 0, yield)
	}
}

func lift(n *node) *node {
	if n == nil {
		return nil
	}
	return &node{kids: []*node{n}}
}

func diff(a, b *node, h uint8, prefix uint64, yield func(Change) bool) bool {
	if a == b {
		return true
	}
	if h == 0 {
		return diffLeaf(a.values(), b.values(), prefix, yield)
	}
	ka, kb := a.children(), b.children()
	for i := range max(len(ka), len(kb)) {
		var na, nb *node
		if i < len(ka) {
			na = ka[i]
		}
		if i < len(kb) {
			nb = kb[i]
		}
		if na != nb && !diff(na, nb, h-1, prefix|uint64(i)<<shift(h), yield) {
			return false
		}
	}
	return true
}

func diffLeaf(a, b []int64, prefix uint64, yield func(Change) bool) bool {
	for i := range max(len(a), len(b)) {
		c := Change{Key: prefix | uint64(i)}
		if i < len(a) {
			c.Old = a[i]
		}
		if i < len(b) {
			c.New = b[i]
		}
		if c.Old != c.New && !yield(c) {
			return false
		}
	}
	return true
}

func (n *node) values() []int64 {
	if n == nil {
		return nil
	}
	return n.vals
}

func (n *node) children() []*node {
	if n == nil {
		return nil
	}
	return n.kids
}
