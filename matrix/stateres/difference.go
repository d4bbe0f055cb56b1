package stateres

import (
	"container/heap"
	"math"
)

// walk is the search for the auth difference and the conflicted state subgraph.
type walk struct {
	*resolution
	// masks holds words words per node: which distinct states have the event in their chain.
	masks []uint64
	full  []uint64
	// queue holds nodes that wait, greatest generation first; queued says for each node whether it
	// has ever been in it.
	queue  nodeHeap
	queued []bool
	// partial counts the nodes in queue that lack a bit.
	partial int
	// taken holds the nodes that were taken, greatest generation first.
	taken []int32
	// unlinked holds nodes that were queued since the last batch was loaded.
	unlinked []int32
}

// fullConflictedSet returns the nodes of the full conflicted set and flags them inChosen.
//
// Spec: rooms/v2 Definitions, rooms/v12 Definitions
func (r *resolution) fullConflictedSet(subgraph bool) ([]int32, error) {
	w := &walk{resolution: r, full: make([]uint64, r.words)}
	w.queue.r = r
	for i := range r.distinct {
		w.full[i/64] |= 1 << (i % 64)
	}
	conflicted, err := w.start()
	if err != nil {
		return nil, err
	}
	// Below the lowest conflicted event there is no path to one.
	floor := int64(math.MaxInt64)
	if subgraph {
		for _, n := range conflicted {
			floor = min(floor, r.nodes[n].gen)
		}
	}
	if err := w.run(floor); err != nil {
		return nil, err
	}
	if err := w.cover(); err != nil {
		return nil, err
	}
	chosen := conflicted
	for _, n := range conflicted {
		r.nodes[n].flags |= inChosen
	}
	for _, n := range w.taken {
		at := &r.nodes[n]
		if at.flags&inChosen == 0 && at.flags&inUnconflicted == 0 && !w.isFull(n) {
			at.flags |= inChosen
			chosen = append(chosen, n)
		}
	}
	if subgraph {
		chosen = w.addSubgraph(chosen)
	}
	return chosen, nil
}

// start loads the conflicted events, sets their bits and queues them.
func (w *walk) start() ([]int32, error) {
	r := w.resolution
	total := 0
	for i := range r.conflicts {
		total += len(r.conflicts[i].ids)
	}
	conflicted := make([]int32, 0, total)
	for i := range r.conflicts {
		conflicted = append(conflicted, r.nodesOf(r.conflicts[i].ids)...)
	}
	if err := r.prepare(conflicted); err != nil {
		return nil, err
	}
	w.grow()
	at := 0
	for i := range r.conflicts {
		c := &r.conflicts[i]
		for set, which := range c.column {
			if which >= 0 {
				w.mask(conflicted[at+int(which)])[set/64] |= 1 << (set % 64)
			}
		}
		at += len(c.ids)
	}
	for _, n := range conflicted {
		r.nodes[n].flags |= inConflict
		w.push(n)
	}
	return conflicted, nil
}

// run takes nodes until no event below could lack a bit or, at or above floor, lead to a
// conflicted event. With floor MaxInt64 only the bits count.
func (w *walk) run(floor int64) error {
	for len(w.queue.list) > 0 {
		if w.partial == 0 && (floor == math.MaxInt64 || w.nodes[w.queue.list[0]].gen <= floor) {
			return nil
		}
		n := heap.Pop(&w.queue).(int32)
		partial := !w.isFull(n)
		if partial {
			w.partial--
		}
		if err := w.linkWith(n); err != nil {
			return err
		}
		w.taken = append(w.taken, n)
		for _, m := range w.nodes[n].auth {
			w.reach(n, m)
		}
	}
	return nil
}

// linkWith loads the auth events of n together with those of everything else that waits: the
// number of batches is the length of the chains, not the number of events.
func (w *walk) linkWith(n int32) error {
	if w.nodes[n].linked {
		return nil
	}
	if err := w.link(w.unlinked); err != nil {
		return err
	}
	w.unlinked = w.unlinked[:0]
	w.grow()
	return nil
}

// reach gives m the bits of n and queues it.
func (w *walk) reach(n, m int32) {
	waiting, wasFull := w.queued[m], w.isFull(m)
	from, to := w.mask(n), w.mask(m)
	for i := range to {
		to[i] |= from[i]
	}
	if !waiting {
		w.push(m)
	} else if !wasFull && w.isFull(m) {
		w.partial--
	}
}

// push queues a node for the first time. An unconflicted event counts as part of every state's
// chain.
//
// Deviates: rooms/v2 Definitions (see the package comment)
func (w *walk) push(n int32) {
	if at := &w.nodes[n]; at.flags&inConflict == 0 && w.isUnconflicted(at.pdu) {
		at.flags |= inUnconflicted
		copy(w.mask(n), w.full)
	}
	w.queued[n] = true
	if !w.isFull(n) {
		w.partial++
	}
	if !w.nodes[n].linked {
		w.unlinked = append(w.unlinked, n)
	}
	heap.Push(&w.queue, n)
}

// grow makes room for nodes that were loaded since.
func (w *walk) grow() {
	if need := len(w.nodes) * w.words; need > len(w.masks) {
		w.masks = append(w.masks, make([]uint64, need-len(w.masks))...)
	}
	if need := len(w.nodes); need > len(w.queued) {
		w.queued = append(w.queued, make([]bool, need-len(w.queued))...)
	}
}

func (w *walk) mask(n int32) []uint64 { return w.masks[int(n)*w.words : (int(n)+1)*w.words] }

func (w *walk) isFull(n int32) bool {
	for i, bits := range w.mask(n) {
		if bits != w.full[i] {
			return false
		}
	}
	return true
}

// addSubgraph adds the events on paths between conflicted events. Everything taken is reachable
// from a conflicted event; those that also reach one are on a path.
//
// Spec: rooms/v12 Definitions
func (w *walk) addSubgraph(chosen []int32) []int32 {
	for _, n := range chosen {
		if w.nodes[n].flags&inConflict != 0 {
			w.nodes[n].flags |= reaches
		}
	}
	for i := len(w.taken) - 1; i >= 0; i-- {
		at := &w.nodes[w.taken[i]]
		for _, m := range at.auth {
			if w.nodes[m].flags&reaches != 0 {
				at.flags |= reaches
				break
			}
		}
		if at.flags&reaches != 0 && at.flags&inChosen == 0 {
			at.flags |= inChosen
			chosen = append(chosen, w.taken[i])
		}
	}
	return chosen
}

// nodeHeap orders nodes by descending generation.
type nodeHeap struct {
	r    *resolution
	list []int32
}

func (h *nodeHeap) Len() int { return len(h.list) }
func (h *nodeHeap) Less(i, j int) bool {
	return h.r.nodes[h.list[i]].gen > h.r.nodes[h.list[j]].gen
}
func (h *nodeHeap) Swap(i, j int) { h.list[i], h.list[j] = h.list[j], h.list[i] }
func (h *nodeHeap) Push(x any)    { h.list = append(h.list, x.(int32)) }
func (h *nodeHeap) Pop() any {
	last := len(h.list) - 1
	x := h.list[last]
	h.list = h.list[:last]
	return x
}
