package graph

import (
	"context"
	"fmt"
	"slices"

	"myelin/internal/graph/statemap"
	"myelin/internal/sqldb"
)

var (
	// A snapshot and its ancestors down to the checkpoint, without the checkpoint's delta.
	chainOf = sqldb.SQL(`WITH RECURSIVE chain (state_nid, parent_nid, step, delta) AS (
			SELECT state_nid, parent_nid, step, CASE WHEN step > 0 THEN delta END FROM states WHERE room_nid = $1 AND state_nid = $2
			UNION ALL
			SELECT s.state_nid, s.parent_nid, s.step, CASE WHEN s.step > 0 THEN s.delta END
			FROM chain c JOIN states s ON s.room_nid = $1 AND s.state_nid = c.parent_nid WHERE c.step > 0)
		SELECT state_nid, parent_nid, step, delta FROM chain`)
	fullOf   = sqldb.SQL(`SELECT full_state FROM states WHERE room_nid = $1 AND state_nid = $2`)
	deltaOf  = sqldb.SQL(`SELECT parent_nid, delta FROM states WHERE room_nid = $1 AND state_nid = $2`)
	errChain = fmt.Errorf("a chain of state snapshots is broken: %w", errSnapshot)
)

// StateAt returns a snapshot of a room's state.
func (g *Graph) StateAt(ctx context.Context, room RoomNID, nid StateNID) (*State, error) {
	r, err := g.room(ctx, room)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	keys := r.keys
	if r.head != nil {
		keys = r.head.State.keys // states that meet should share their keys
	}
	r.mu.Unlock()
	if nid == 0 {
		return &State{keys: keys}, nil
	}
	if s, ok := g.states.GetIfPresent(stateKey{room, nid}); ok {
		return s, nil
	}
	var s *State
	err = g.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		s, err = g.loadState(tx, room, nid, keys, anyEpoch)
		if err != nil || s.m.Max() <= uint64(keys.durable()) {
			return err
		}
		if keys, err = r.learnKeys(tx); err == nil {
			read := *s // by the numbers of the disk, which its own keys didn't know yet
			read.keys = keys
			s = &read
			g.states.Set(stateKey{room, nid}, s)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load state %d of %s: %w", nid, r.id, err)
	}
	return s, nil
}

// anyEpoch accepts a snapshot from the cache although its chain may have been reclaimed since: good for reading.
const anyEpoch = -1

// loadState reads a snapshot: its deltas down to the nearest ancestor in memory, or to the checkpoint.
func (g *Graph) loadState(tx *sqldb.Tx, room RoomNID, nid StateNID, keys *roomKeys, epoch int64) (*State, error) {
	if nid == 0 {
		return &State{keys: keys}, nil
	}
	if s, ok := g.states.GetIfPresent(stateKey{room, nid}); ok && (epoch == anyEpoch || s.epoch == epoch) {
		return s.in(keys), nil
	}
	chain, err := readChain(tx, room, nid)
	if err != nil {
		return nil, err
	}
	var m statemap.Map
	known := false
	at := len(chain) - 1
	for ; at >= 0; at-- {
		if s, ok := g.states.GetIfPresent(stateKey{room, chain[at].nid}); ok {
			m, known = s.m, true
			break
		}
	}
	cost := 0
	if !known {
		var raw []byte
		found, err := tx.Get(fullOf, []any{room, chain[0].nid}, &raw)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, errChain
		}
		if m, err = decodeFull(raw); err != nil {
			return nil, err
		}
		cost = 10 * m.Len()
		at = 0
	}
	for _, l := range chain[at+1:] {
		m = apply(m, l.delta)
	}
	for _, l := range chain {
		cost += 24 * len(l.delta)
	}
	s := &State{m: m, keys: keys, nid: nid, chain: chain, epoch: max(epoch, 0), cost: uint32(min(cost, 1<<30))}
	if epoch == anyEpoch {
		s.epoch = anyEpoch
	}
	if s.m.Max() <= uint64(keys.durable()) {
		g.states.Set(stateKey{room, nid}, s)
	}
	return s, nil
}

// readChain returns the links from the checkpoint to the snapshot.
func readChain(tx *sqldb.Tx, room RoomNID, nid StateNID) ([]link, error) {
	var chain []link
	err := tx.Query(chainOf, func(r *sqldb.Row) error {
		var l link
		var delta []byte
		if err := r.Scan(&l.nid, &l.parent, &l.step, &delta); err != nil {
			return err
		}
		var err error
		l.delta, err = decodeDelta(delta)
		chain = append(chain, l)
		return err
	}, room, nid)
	if err != nil {
		return nil, err
	}
	// Parents have smaller numbers than their children; the order of rows is not promised.
	slices.SortFunc(chain, func(a, b link) int { return int(a.nid - b.nid) })
	if len(chain) == 0 || chain[0].step != 0 || chain[len(chain)-1].nid != nid {
		return nil, errChain
	}
	return chain, nil
}

// StateBefore returns the state before an event.
func (g *Graph) StateBefore(ctx context.Context, e *Event) (*State, error) {
	return g.StateAt(ctx, e.Room, e.StateBefore)
}

// StateAfter returns the state after an event: that before it, with the event applied if it is an accepted state event.
func (g *Graph) StateAfter(ctx context.Context, e *Event) (*State, error) {
	s, err := g.StateAt(ctx, e.Room, e.StateBefore)
	if err != nil || !e.PDU.IsState() || e.Flags&Rejected != 0 {
		return s, err
	}
	return s.With(e.change()), nil
}

// StateDiff returns what must change to turn one snapshot into another. If one of them is not in memory it reads deltas rather than
// states where that is less.
func (g *Graph) StateDiff(ctx context.Context, room RoomNID, old, new StateNID) ([]StateDiff, error) {
	if old == new {
		return nil, nil
	}
	_, haveOld := g.states.GetIfPresent(stateKey{room, old})
	_, haveNew := g.states.GetIfPresent(stateKey{room, new})
	if old != 0 && new != 0 && !(haveOld && haveNew) {
		diff, ok, err := g.diffByChains(ctx, room, old, new)
		if ok || err != nil {
			return diff, wrap(err, "compare states")
		}
	}
	a, err := g.StateAt(ctx, room, old)
	if err != nil {
		return nil, err
	}
	b, err := g.StateAt(ctx, room, new)
	if err != nil {
		return nil, err
	}
	return slices.Collect(Diff(a, b)), nil
}

// maxChainDiff bounds the changes that a comparison by deltas reads; beyond that loading the states is cheaper.
const maxChainDiff = 20_000

// diffByChains walks from both snapshots towards their common ancestor, always from the younger one. It gives up if that is far.
func (g *Graph) diffByChains(ctx context.Context, room RoomNID, old, new StateNID) (diff []StateDiff, ok bool, err error) {
	r, err := g.room(ctx, room)
	if err != nil {
		return nil, false, err
	}
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		read := 0
		a, b := chainWalk{at: old}, chainWalk{at: new}
		for a.at != b.at {
			w := &a
			if b.at > a.at {
				w = &b
			}
			n, err := w.up(tx, room)
			if err != nil {
				return err
			}
			if w.at == 0 { // a checkpoint without another before it has no delta
				return nil
			}
			if read += n; read > maxChainDiff {
				return nil
			}
		}
		all := a.back()
		for _, delta := range slices.Backward(b.deltas) {
			all = append(all, delta...)
		}
		keys, known := r.knownKeys(all)
		if !known {
			if keys, err = r.learnKeys(tx); err != nil {
				return err
			}
		}
		for _, c := range merge(all) {
			diff = append(diff, stateDiff(keys, c))
		}
		ok = true
		return nil
	})
	return diff, ok, err
}

// chainWalk goes from a snapshot to its ancestors, over checkpoints.
type chainWalk struct {
	at     StateNID
	ahead  []link     // of the current group, the next ancestor last
	deltas [][]change // youngest first
}

// shortWalk is how many links are read one by one before the rest of a chain is read at once: most comparisons are of neighbours.
const shortWalk = 4

// up moves to the parent and returns the number of changes between.
func (w *chainWalk) up(tx *sqldb.Tx, room RoomNID) (int, error) {
	if len(w.ahead) == 0 && len(w.deltas) >= shortWalk {
		chain, err := readChain(tx, room, w.at)
		if err != nil {
			return 0, err
		}
		w.ahead = chain
	}
	var l link
	if n := len(w.ahead); n > 0 {
		l, w.ahead = w.ahead[n-1], w.ahead[:n-1]
	}
	if l.step == 0 { // read alone; a checkpoint's own delta is not read with its chain
		var raw []byte
		found, err := tx.Get(deltaOf, []any{room, w.at}, &l.parent, &raw)
		if err != nil {
			return 0, err
		}
		if !found {
			return 0, errChain
		}
		if l.delta, err = decodeDelta(raw); err != nil {
			return 0, err
		}
	}
	w.deltas = append(w.deltas, l.delta)
	w.at = l.parent
	return len(l.delta), nil
}

// back returns the changes that lead from the snapshot where the walk began to where it is.
func (w *chainWalk) back() []change {
	var all []change
	for _, delta := range w.deltas {
		all = append(all, invert(delta)...)
	}
	return all
}
