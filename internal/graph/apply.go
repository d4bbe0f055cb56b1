package graph

import (
	"cmp"
	"fmt"
	"slices"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// apply writes a group of commits in one transaction. First everything that may refuse a commit; what is left is then written
// without waiting for answers. It may run several times for the same jobs.
func (g *Graph) apply(tx *sqldb.Tx, jobs []*job) []error {
	errs := make([]error, len(jobs))
	for _, j := range jobs {
		j.failed, j.at = nil, 0
	}
	err := g.applyAll(tx, jobs)
	for i, j := range jobs {
		if errs[i] = j.failed; errs[i] == nil {
			errs[i] = err
		}
	}
	return errs
}

func (g *Graph) applyAll(tx *sqldb.Tx, jobs []*job) error {
	if err := checkStored(tx, jobs); err != nil {
		return err
	}
	if err := claimTxns(tx, jobs); err != nil {
		return err
	}
	if err := claimAnnotations(tx, jobs); err != nil {
		return err
	}
	if err := moveAll(tx, jobs); err != nil {
		return err
	}
	if err := releaseTxns(tx, jobs); err != nil {
		return err
	}
	releaseAnnotations(tx, jobs)
	jobs = slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return j.failed != nil })
	roots, err := g.rootSenders(tx, jobs)
	if err != nil {
		return err
	}
	if err := place(tx, jobs); err != nil {
		return err
	}
	writeStates(tx, jobs)
	writeEvents(tx, jobs)
	writeRelations(tx, jobs, roots)
	if err := g.writeMembers(tx, jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		if err := g.writeRest(tx, j); err != nil {
			return err
		}
		j.emit(tx)
		// Nobody else has the events before the commit is told of; a failure resets this.
		for _, e := range j.inserts {
			e.stored = true
		}
		g.seq++
		j.seq = g.seq
	}
	return nil
}

// checkStored fails jobs that refer to snapshots which are gone, or that bring events which are stored already.
func checkStored(tx *sqldb.Tx, jobs []*job) error {
	var ids []string
	for _, j := range jobs {
		ids = append(ids, j.ids...)
		if len(j.check) == 0 {
			continue
		}
		var n int
		if _, err := tx.Get(statesExist, []any{j.room, j.check}, &n); err != nil {
			return err
		}
		if n != len(j.check) {
			j.failed = fmt.Errorf("%w: it refers to a snapshot that is gone", ErrConflict)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	stored := make(map[string]bool)
	err := tx.Query(storedIDs, func(r *sqldb.Row) error {
		var event string
		if err := r.Scan(&event, nil); err != nil {
			return err
		}
		stored[event] = true
		return nil
	}, ids)
	for _, j := range jobs {
		for _, event := range j.ids {
			if stored[event] && j.failed == nil {
				j.failed = fmt.Errorf("%w: %s is stored already", ErrConflict, event)
			}
		}
		for _, event := range j.ids {
			stored[event] = stored[event] || j.failed == nil
		}
	}
	return err
}

// claimTxns fails jobs whose client transaction was applied before.
func claimTxns(tx *sqldb.Tx, jobs []*job) error {
	var args []any
	now := nowMillis()
	owner := make(map[string]*job) // who tries to claim a key first
	for _, j := range jobs {
		j.claimed = nil
		if j.failed != nil {
			continue
		}
		for _, t := range j.txns {
			if owner[t.key] != nil {
				j.failed = ErrTxn
				continue
			}
			owner[t.key] = j
			args = append(args, t.key, j.room, t.event, now)
		}
	}
	err := written(insertTxns, tx, args, func(key string) { owner[key].claimed = append(owner[key].claimed, key) })
	for _, j := range jobs {
		if len(j.claimed) < len(j.txns) && j.failed == nil {
			j.failed = ErrTxn
		}
	}
	return err
}

// releaseTxns takes back what claimTxns wrote for jobs that failed.
func releaseTxns(tx *sqldb.Tx, jobs []*job) error {
	var keys []string
	for _, j := range jobs {
		if j.failed != nil {
			keys = append(keys, j.claimed...)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	_, err := tx.Exec(deleteTxns, keys)
	return err
}

// run is a row of commits of one room that follow each other.
type run struct {
	room RoomNID
	base int64
	jobs []*job
}

func (r *run) last() *job { return r.jobs[len(r.jobs)-1] }

// moveAll moves the heads of the rooms, once for each run, and fails the jobs of runs that do not start where the room stands.
func moveAll(tx *sqldb.Tx, jobs []*job) error {
	rounds := [][]*run{}               // each with one run per room at most
	latest := make(map[RoomNID][]*run) // all runs of a room
	for _, j := range jobs {
		if j.failed != nil || j.result == nil {
			continue
		}
		if j.base == 0 {
			if err := nameNewRoom(tx, j); err != nil {
				return err
			}
			if j.failed != nil {
				continue
			}
		}
		of := latest[j.room]
		if len(of) > 0 && of[len(of)-1].last().result.Rev == j.base {
			of[len(of)-1].jobs = append(of[len(of)-1].jobs, j)
			continue
		}
		r := &run{room: j.room, base: j.base, jobs: []*job{j}}
		if len(of) == len(rounds) {
			rounds = append(rounds, nil)
		}
		rounds[len(of)] = append(rounds[len(of)], r)
		latest[j.room] = append(of, r)
	}
	for _, round := range rounds {
		if err := moveRound(tx, round); err != nil {
			return err
		}
	}
	return nil
}

func moveRound(tx *sqldb.Tx, round []*run) error {
	// Every node locks rooms in the same order.
	slices.SortFunc(round, func(a, b *run) int { return cmp.Compare(a.room, b.room) })
	args := make([]any, 0, len(round)*moveHeads.columns)
	for _, r := range round {
		h := r.last().result
		args = append(args, h.Room, h.Rev, r.base, h.epoch, h.StateNID, h.states, h.Joined, h.Invited, h.MinOrd, encodeExtremities(h.Extremities),
			btoi(h.Partial))
	}
	moved := make(map[RoomNID]bool, len(round))
	err := written(moveHeads, tx, args, func(room RoomNID) { moved[room] = true })
	for _, r := range round {
		for _, j := range r.jobs {
			if !moved[r.room] {
				j.failed = ErrConflict
			}
		}
	}
	return err
}

// nameNewRoom stores the name of a room before its first commit. Another node may have given the room another number.
func nameNewRoom(tx *sqldb.Tx, j *job) error {
	h := j.result
	n, err := tx.Exec(insertRoom, h.Room, h.ID, h.Version.ID)
	if err != nil || n == 1 {
		return err
	}
	var nid RoomNID
	if _, err := tx.Get(roomByID, []any{h.ID}, &nid, nil); err != nil {
		return err
	}
	if nid != h.Room {
		j.failed = fmt.Errorf("%w: the room has another number", ErrConflict)
		return nil
	}
	tx.Queue(nameRoom, nid, h.Version.ID)
	return nil
}

// place gives positions to live events. It locks the stream, so it comes after all that can refuse.
func place(tx *sqldb.Tx, jobs []*job) error {
	for _, j := range jobs {
		for _, e := range j.c.Events {
			switch {
			case e.Flags&Outlier != 0:
				e.Ord, e.Pos = 0, 0
			case e.Flags&Backfilled != 0:
				e.Pos = 0
			default:
				pos, err := tx.Pos()
				if err != nil {
					return err
				}
				e.Ord, e.Pos = int64(pos), pos
			}
		}
	}
	return nil
}

func writeStates(tx *sqldb.Tx, jobs []*job) {
	var states, keys []any
	done := make(map[*roomKeys]KeyNID)
	for _, j := range jobs {
		states = append(states, j.states...)
		if j.keys == nil {
			continue
		}
		from, ok := done[j.keys]
		if !ok {
			from = j.keys.durable()
		}
		keys = j.keyRows(tx, keys, from)
		done[j.keys] = max(from, j.keysTo)
	}
	insertKeys.queue(tx, keys)
	insertStates.queue(tx, states)
}

// keyRows appends the rows for keys after from, page by page.
func (j *job) keyRows(tx *sqldb.Tx, args []any, from KeyNID) []any {
	for from < j.keysTo {
		start := from / keyPage * keyPage // pages begin after a multiple
		to := min(start+keyPage, j.keysTo)
		if to == start+keyPage && from > start {
			tx.Queue(dropKeys, j.room, start+1, to)
			from = start
		}
		args = append(args, j.room, from+1, encodeKeys(j.keys.between(from, to)))
		from = to
	}
	return args
}

func writeEvents(tx *sqldb.Tx, jobs []*job) {
	var args, times []any
	for _, j := range jobs {
		for _, e := range j.c.Events {
			if e.Ord < 0 {
				times = append(times, e.Room, e.PDU.OriginServerTS(), e.Ord)
			}
		}
		for _, e := range j.updates {
			tx.Queue(placeEvent, e.Room, e.NID, e.ordArg(), int64(e.Flags), e.StateBefore, e.Replaces, e.HeadState)
			if e.Restored {
				tx.Queue(setBody, e.Room, e.NID, e.PDU.Raw())
			}
		}
		for _, e := range j.inserts {
			args = append(args, e.Room, e.NID, e.PDU.ID(), e.ordArg(), e.PDU.OriginServerTS(), int64(e.Flags), e.StateBefore, e.HeadState,
				e.Replaces, e.RedactedBy, e.Txn.stored(), e.PDU.Raw())
		}
	}
	insertEvents.queue(tx, args)
	timeBackfilled.queue(tx, times)
}

func (e *Event) ordArg() any {
	if e.Ord == 0 {
		return nil
	}
	return int64(e.Ord)
}

// writeMembers updates current memberships. One statement must not touch a row twice, so a second change of a row waits for
// the next statement.
func (g *Graph) writeMembers(tx *sqldb.Tx, jobs []*job) error {
	type rowKey struct {
		user id.UserID
		room RoomNID
	}
	var args []any
	seen := make(map[rowKey]bool)
	for _, j := range jobs {
		for i := range j.members {
			m := &j.members[i]
			pos, err := j.posOf(tx, *m)
			if err != nil {
				return err
			}
			m.pos = pos
			k := rowKey{m.user, j.room}
			if seen[k] {
				setMembers.queue(tx, args)
				args = args[:0]
				clear(seen)
			}
			seen[k] = true
			args = append(args, m.user, j.room, string(m.membership), m.event, pos, pos, string(m.old), g.forgotten(m.membership), nil)
		}
	}
	setMembers.queue(tx, args)
	return nil
}

// posOf returns the position at which a membership changed: that of the event that did it, else that of the commit's last event.
func (j *job) posOf(tx *sqldb.Tx, m memberChange) (sqldb.Pos, error) {
	if m.by != nil && m.by.Pos != 0 {
		return m.by.Pos, nil
	}
	for i := len(j.c.Events) - 1; i >= 0; i-- {
		if pos := j.c.Events[i].Pos; pos != 0 {
			return pos, nil
		}
	}
	if j.at == 0 {
		pos, err := tx.Pos()
		if err != nil {
			return 0, err
		}
		j.at = pos
	}
	return j.at, nil
}

func (g *Graph) writeRest(tx *sqldb.Tx, j *job) error {
	j.stick(tx)
	if j.traits != nil {
		tx.Queue(setTraits, append([]any{j.room}, j.traits...)...)
	}
	for _, r := range j.c.Redactions {
		if err := j.unrelate(tx, r); err != nil {
			return err
		}
		tx.Queue(pruneEvent, j.room, r.Target, r.By, r.Pruned.Raw())
		if r.Was != nil && r.Was.Sticky() > 0 {
			tx.Queue(deleteSticky, j.room, r.Target)
		}
		tx.Queue(dropAwaited, j.room, r.Pruned.ID())
	}
	for _, a := range j.c.Awaiting {
		tx.Queue(insertAwaited, j.room, a.Target, a.By)
	}
	for _, gap := range j.c.Gaps {
		tx.Queue(insertGap, j.room, gap.Missing, gap.Child)
	}
	if j.c.Partial != nil {
		if err := beginPartial(tx, j.c.Partial); err != nil {
			return err
		}
	}
	if j.c.Whole {
		if err := j.endPartial(tx); err != nil {
			return err
		}
		for _, e := range j.c.Rejudged {
			if err := g.rejudge(tx, e); err != nil {
				return err
			}
		}
	}
	if len(j.c.Filled) > 0 {
		tx.Queue(fillGaps, j.room, j.c.Filled)
	}
	if j.c.Also != nil {
		return j.c.Also(tx)
	}
	return nil
}

// emit tells of what clients may see.
func (j *job) emit(tx *sqldb.Tx) {
	for _, e := range j.c.Events {
		if e.Pos == 0 || e.Flags&hidden != 0 {
			continue
		}
		entry := bus.Entry{Pos: e.Pos, Kind: bus.RoomEvent, Room: int64(j.room), Data: e}
		if key := e.PDU.Key(); key.Type == memberType && e.PDU.IsState() {
			entry.User = userOf(key)
		}
		tx.Emit(entry)
	}
	for _, m := range j.members {
		if m.by != nil && m.by.Pos != 0 && m.by.Flags&hidden == 0 && m.by.Change != nil {
			continue // the event tells it
		}
		tx.Emit(bus.Entry{Pos: m.pos, Kind: bus.Membership, Room: int64(j.room), User: m.user,
			Data: &MemberChange{User: m.user, Old: m.old, New: m.membership}})
	}
}
