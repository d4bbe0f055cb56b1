package graph

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"myelin/internal/sqldb"
)

var (
	roomsAfter = sqldb.SQL(`SELECT room_nid FROM heads WHERE room_nid > $1 ORDER BY room_nid LIMIT $2`)
	statesPage = sqldb.SQL(`SELECT state_nid, parent_nid, step FROM states WHERE room_nid = $1 AND state_nid > $2 ORDER BY state_nid LIMIT $3`)
	refsPage   = sqldb.SQL(`SELECT ord, state_nid, head_state FROM events WHERE room_nid = $1 AND ord > $2 ORDER BY ord LIMIT $3`)
	refsSince  = sqldb.SQL(`SELECT state_nid, head_state FROM events WHERE room_nid = $1 AND ord IS NOT NULL AND (ord > $2 OR ord < $3)`)
	minOrdOf   = sqldb.SQL(`SELECT min_ord FROM heads WHERE room_nid = $1`)
	lockHead   = sqldb.SQL(`SELECT rev, epoch, state_nid, min_ord FROM heads WHERE room_nid = $1 FOR UPDATE`)
	bumpHead   = sqldb.SQL(`UPDATE heads SET rev = $2, prev_rev = $3, epoch = $4 WHERE room_nid = $1`)
	linkOf     = sqldb.SQL(`SELECT parent_nid, step, delta FROM states WHERE room_nid = $1 AND state_nid = $2`)
	setLink    = sqldb.SQL(`UPDATE states SET parent_nid = $3, delta = $4 WHERE room_nid = $1 AND state_nid = $2`)
	setRoot    = sqldb.SQL(`UPDATE states SET parent_nid = $3, step = 0, delta = $4, full_state = $5 WHERE room_nid = $1 AND state_nid = $2`)
	dropState  = sqldb.SQL(`DELETE FROM states WHERE room_nid = $1 AND state_nid = $2`)
)

const (
	scanPage    = 1000 // rows read in one transaction
	reclaimStep = 128  // snapshots removed in one transaction
)

// Rooms returns rooms with a head in the order of their numbers, from after on.
func (g *Graph) Rooms(ctx context.Context, after RoomNID, limit int) (found []RoomNID, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(roomsAfter, func(r *sqldb.Row) error {
			var nid RoomNID
			err := r.Scan(&nid)
			found = append(found, nid)
			return err
		}, after, limit)
	})
	return found, wrap(err, "list rooms")
}

// snapshotTree is what reclaiming knows of a room's snapshots.
type snapshotTree struct {
	parent   map[StateNID]StateNID
	children map[StateNID][]StateNID
	used     map[StateNID]bool // an event or the head refers to it
	newest   StateNID
	// Events with an ord beyond these were not looked at.
	maxOrd, minOrd int64
}

func (t *snapshotTree) add(nid, parent StateNID) {
	t.parent[nid] = parent
	t.children[parent] = append(t.children[parent], nid)
	t.newest = max(t.newest, nid)
}

// remove takes out a snapshot with one child at most, which its parent inherits.
func (t *snapshotTree) remove(nid StateNID) {
	parent, kids := t.parent[nid], t.children[nid]
	siblings := slices.DeleteFunc(t.children[parent], func(s StateNID) bool { return s == nid })
	for _, k := range kids {
		t.parent[k] = parent
		siblings = append(siblings, k)
	}
	t.children[parent] = siblings
	delete(t.parent, nid)
	delete(t.children, nid)
}

// ReclaimStates removes snapshots that nothing refers to and returns how many. A snapshot that several others are stored as differences
// from is kept until at most one is left: such are fewer than those that are referred to. It works in
// bounded transactions and may be ended by its context, and begun again, at any time. Writers of the room lose the
// compare-and-swap to it now and then.
func (g *Graph) ReclaimStates(ctx context.Context, room RoomNID) (int, error) {
	t, err := g.snapshots(ctx, room)
	if err != nil {
		return 0, fmt.Errorf("reclaim states of room %d: %w", room, err)
	}
	total := 0
	for {
		step := t.reclaimable(reclaimStep)
		if len(step) == 0 {
			return total, nil
		}
		removed, err := g.removeStates(ctx, room, t, step)
		if err != nil {
			return total, fmt.Errorf("reclaim states of room %d: %w", room, err)
		}
		total += len(removed)
	}
}

// reclaimable returns unused snapshots with one child at most, no two of them parent and child.
func (t *snapshotTree) reclaimable(limit int) []StateNID {
	var out []StateNID
	taken := make(map[StateNID]bool)
	for nid, parent := range t.parent {
		if len(out) == limit {
			break
		}
		kids := t.children[nid]
		if t.used[nid] || len(kids) > 1 || taken[parent] || len(kids) == 1 && taken[kids[0]] {
			continue
		}
		taken[nid] = true
		out = append(out, nid)
	}
	return out
}

// snapshots reads which snapshots a room has, and then which of them are referred to.
func (g *Graph) snapshots(ctx context.Context, room RoomNID) (*snapshotTree, error) {
	t := &snapshotTree{parent: map[StateNID]StateNID{}, children: map[StateNID][]StateNID{}, used: map[StateNID]bool{}}
	err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
		last, err := tx.Last()
		t.maxOrd = int64(last)
		if err != nil {
			return err
		}
		_, err = tx.Get(minOrdOf, []any{room}, &t.minOrd)
		return err
	})
	if err != nil {
		return nil, err
	}
	after, n := StateNID(0), scanPage
	for n == scanPage {
		err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
			n = 0
			return tx.Query(statesPage, func(r *sqldb.Row) error {
				var nid, parent StateNID
				if err := r.Scan(&nid, &parent, nil); err != nil {
					return err
				}
				n++
				t.add(nid, parent)
				after = nid
				return nil
			}, room, after, scanPage)
		})
		if err != nil {
			return nil, err
		}
	}
	ord := int64(math.MinInt64) // outliers, which have none, refer to no state
	for n = scanPage; n == scanPage; {
		err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
			n = 0
			return tx.Query(refsPage, func(r *sqldb.Row) error {
				var before, head StateNID
				if err := r.Scan(&ord, &before, &head); err != nil {
					return err
				}
				n++
				t.used[before], t.used[head] = true, true
				return nil
			}, room, ord, scanPage)
		})
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// removeStates removes those of the snapshots that are still unused, under a new revision of the room: commits that were built
// before fail, and readers of heads learn that chains changed by the epoch.
func (g *Graph) removeStates(ctx context.Context, room RoomNID, t *snapshotTree, step []StateNID) ([]StateNID, error) {
	var removed []StateNID
	var fresh []link
	var used []StateNID
	err := g.db.Write(ctx, func(tx *sqldb.Tx) error {
		removed, fresh, used = nil, nil, nil
		var rev, epoch, minOrd int64
		var head StateNID
		if found, err := tx.Get(lockHead, []any{room}, &rev, &epoch, &head, &minOrd); err != nil || !found {
			return err
		}
		var err error
		if used, fresh, err = t.catchUp(tx, room); err != nil {
			return err
		}
		used = append(used, head)
		for _, nid := range step {
			kids := t.children[nid]
			if slices.Contains(used, nid) || slices.ContainsFunc(fresh, func(l link) bool { return l.parent == nid }) {
				continue
			}
			if len(kids) == 1 {
				if err := splice(tx, room, nid, kids[0]); err != nil {
					return err
				}
			}
			tx.Queue(dropState, room, nid)
			removed = append(removed, nid)
		}
		buf := binary.BigEndian.AppendUint64([]byte("reclaim"), uint64(rev))
		_, err = tx.Exec(bumpHead, room, hash63(binary.BigEndian.AppendUint64(buf, uint64(epoch))), rev, epoch+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, l := range fresh {
		t.add(l.nid, l.parent)
	}
	for _, nid := range used {
		t.used[nid] = true
	}
	for _, nid := range removed {
		t.remove(nid)
		g.states.Invalidate(stateKey{room, nid})
	}
	return removed, nil
}

// catchUp reads what was written since the snapshots were listed. The tree itself is left alone: the transaction may be run again.
func (t *snapshotTree) catchUp(tx *sqldb.Tx, room RoomNID) (used []StateNID, fresh []link, err error) {
	err = tx.Query(refsSince, func(r *sqldb.Row) error {
		var before, head StateNID
		err := r.Scan(&before, &head)
		used = append(used, before, head)
		return err
	}, room, t.maxOrd, t.minOrd)
	if err != nil {
		return nil, nil, err
	}
	err = tx.Query(statesPage, func(r *sqldb.Row) error {
		var l link
		err := r.Scan(&l.nid, &l.parent, nil)
		fresh = append(fresh, l)
		return err
	}, room, t.newest, 1<<30)
	return used, fresh, err
}

// splice makes the only child of a snapshot independent of it.
func splice(tx *sqldb.Tx, room RoomNID, nid, child StateNID) error {
	var up, down link
	var upRaw, downRaw []byte
	for _, l := range []struct {
		nid StateNID
		l   *link
		raw *[]byte
	}{{nid, &up, &upRaw}, {child, &down, &downRaw}} {
		if found, err := tx.Get(linkOf, []any{room, l.nid}, &l.l.parent, &l.l.step, l.raw); err != nil || !found {
			return fmt.Errorf("snapshot %d: %w", l.nid, orElse(err, errChain))
		}
		var err error
		if l.l.delta, err = decodeDelta(*l.raw); err != nil {
			return err
		}
	}
	merged := merge(append(slices.Clone(up.delta), down.delta...))
	if up.parent == 0 {
		merged = nil // a first checkpoint has no delta
	}
	if up.step > 0 {
		tx.Queue(setLink, room, child, up.parent, encodeDelta(merged))
		return nil
	}
	if down.step == 0 {
		// A checkpoint whose own state stays; only what it is compared with changes.
		tx.Queue(setLink, room, child, up.parent, encodeDelta(merged))
		return nil
	}
	var raw []byte
	if found, err := tx.Get(fullOf, []any{room, nid}, &raw); err != nil || !found {
		return orElse(err, errChain)
	}
	m, err := decodeFull(raw)
	if err != nil {
		return err
	}
	tx.Queue(setRoot, room, child, up.parent, encodeDelta(merged), encodeFull(apply(m, down.delta)))
	return nil
}

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
