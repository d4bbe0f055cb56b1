package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"slices"

	"myelin/matrix/event"
)

// v1 is the algorithm of room version 1.
//
// Spec: rooms/v1 State resolution
func (r *resolution) v1() error {
	if err := r.loadConflicts(); err != nil {
		return err
	}
	all := make([]int32, 0, len(r.conflicts))
	for i := range r.conflicts {
		all = append(all, r.nodesOf(r.conflicts[i].ids)...)
	}
	if err := r.prefetch(all); err != nil {
		return err
	}
	// The kinds that authorise others, each kind against the results of those before.
	kinds := []func(event.Key) bool{
		func(k event.Key) bool { return k == powerLevelsKey },
		func(k event.Key) bool { return k == joinRulesKey },
		func(k event.Key) bool { return k.Type == "m.room.member" },
	}
	done := make(map[event.Key]bool)
	for _, kind := range kinds {
		resolved := make(map[event.Key]int32)
		for i := range r.conflicts {
			c := &r.conflicts[i]
			if !kind(c.key) {
				continue
			}
			n, err := r.firstUnbroken(c)
			if err != nil {
				return err
			}
			resolved[c.key], done[c.key] = n, true
		}
		for key, n := range resolved {
			r.state[key] = n
		}
	}
	resolved := make(map[event.Key]int32)
	for i := range r.conflicts {
		c := &r.conflicts[i]
		if done[c.key] {
			continue
		}
		n, err := r.newestAllowed(c)
		if err != nil {
			return err
		}
		resolved[c.key] = n
	}
	for key, n := range resolved {
		r.state[key] = n
	}
	return nil
}

// firstUnbroken takes the oldest event of a conflict and lets each next one replace it, up to the first that
// the state with the replaced one does not allow.
func (r *resolution) firstUnbroken(c *conflict) (int32, error) {
	list := r.byDepth(c)
	now := list[0]
	for _, n := range list[1:] {
		ok, err := r.allowed(n, func(key event.Key) (int32, error) {
			if key == c.key {
				return now, nil
			}
			return r.v1State(key)
		})
		if err != nil {
			return -1, err
		}
		if !ok {
			break
		}
		now = n
	}
	return now, nil
}

// newestAllowed takes the newest event of a conflict that the state allows, or else the oldest.
func (r *resolution) newestAllowed(c *conflict) (int32, error) {
	list := r.byDepth(c)
	for i := len(list) - 1; i > 0; i-- {
		ok, err := r.allowed(list[i], r.v1State)
		if ok || err != nil {
			return list[i], err
		}
	}
	return list[0], nil
}

func (r *resolution) v1State(key event.Key) (int32, error) {
	if n, ok := r.state[key]; ok {
		return n, nil
	}
	return r.baseNode(key)
}

// byDepth sorts by ascending depth, then by descending SHA-1 of the event ID.
func (r *resolution) byDepth(c *conflict) []int32 {
	list := r.nodesOf(c.ids)
	sums := make(map[int32][sha1.Size]byte, len(list))
	for _, n := range list {
		sums[n] = sha1.Sum([]byte(r.nodes[n].pdu.ID()))
	}
	slices.SortFunc(list, func(x, y int32) int {
		if d := cmp.Compare(r.nodes[x].pdu.Depth(), r.nodes[y].pdu.Depth()); d != 0 {
			return d
		}
		a, b := sums[x], sums[y]
		return bytes.Compare(b[:], a[:])
	})
	return list
}
