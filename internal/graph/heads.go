package graph

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// NewHead returns the head of a room that has no events yet. Nothing is stored until the first commit.
// It returns ErrConflict for a room that has a head.
func (g *Graph) NewHead(ctx context.Context, name id.RoomID, v *roomver.Version) (*Head, error) {
	nid, known, err := g.RoomNID(ctx, name)
	if err != nil {
		return nil, err
	}
	if known {
		r, err := g.room(ctx, nid)
		if err != nil {
			return nil, err
		}
		switch head, err := g.load(ctx, r); {
		case err != nil:
			return nil, err
		case head != nil:
			return nil, fmt.Errorf("%w: the room exists", ErrConflict)
		}
	} else {
		n, err := g.roomNIDs.Next(ctx)
		if err != nil {
			return nil, fmt.Errorf("number room %s: %w", name, err)
		}
		nid = RoomNID(n)
	}
	return &Head{Room: nid, ID: name, Version: v, State: &State{keys: newKeys()}, settled: true}, nil
}

// Head returns the newest durable head of a room, M_NOT_FOUND if there is none.
func (g *Graph) Head(ctx context.Context, name id.RoomID) (*Head, error) {
	nid, known, err := g.RoomNID(ctx, name)
	if err != nil {
		return nil, err
	}
	if known {
		r, err := g.room(ctx, nid)
		if err != nil {
			return nil, err
		}
		head, err := g.load(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("load head of %s: %w", name, err)
		}
		if head != nil {
			return head, nil
		}
	}
	return nil, mxerr.NotFound("this server has no part in room %s", name)
}

// HeadOf is Head by number.
func (g *Graph) HeadOf(ctx context.Context, nid RoomNID) (*Head, error) {
	r, err := g.room(ctx, nid)
	if err != nil {
		return nil, err
	}
	head, err := g.load(ctx, r)
	if err == nil && head == nil {
		err = mxerr.NotFound("this server has no part in room %s", r.id)
	}
	return head, wrap(err, "load head")
}

// JoinedCount returns how many users are joined to a room. Of another node's joins and leaves it knows once this node has heard of them.
func (g *Graph) JoinedCount(ctx context.Context, nid RoomNID) (int64, error) {
	if r, ok := g.rooms.GetIfPresent(nid); ok {
		r.mu.Lock()
		head := r.head
		r.mu.Unlock()
		if head != nil {
			return head.Joined, nil
		}
	}
	head, err := g.HeadOf(ctx, nid)
	if err != nil {
		return 0, err
	}
	return head.Joined, nil
}

// forgetHead makes the next reader of a room's head read it from the database.
func (g *Graph) forgetHead(nid RoomNID) {
	if r, ok := g.rooms.GetIfPresent(nid); ok {
		r.mu.Lock()
		r.head = nil
		r.mu.Unlock()
	}
}

// load reads the head, nil if there is none. What is in memory is taken if its revision is the one on disk.
func (g *Graph) load(ctx context.Context, r *room) (head *Head, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		h := &Head{Room: r.nid, ID: r.id, settled: true}
		var extremities []byte
		var partial int
		found, err := tx.Get(headOf, []any{r.nid}, &h.Rev, &h.epoch, &h.StateNID, &h.states, &h.Joined, &h.Invited, &h.MinOrd, &extremities, &partial)
		if err != nil || !found {
			return err
		}
		r.mu.Lock()
		known, version := r.head, r.version
		r.mu.Unlock()
		if known != nil && known.Rev == h.Rev {
			head = known
			return nil
		}
		if version == nil {
			if version, err = g.versionOf(tx, r); err != nil {
				return err
			}
		}
		h.Version, h.Partial = version, partial != 0
		if h.Extremities, err = decodeExtremities(extremities); err != nil {
			return err
		}
		keys, err := r.learnKeys(tx)
		if err != nil {
			return err
		}
		if h.State, err = g.loadState(tx, r.nid, h.StateNID, keys, h.epoch); err != nil {
			return err
		}
		head = h
		return nil
	})
	if err != nil || head == nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.head = head
	return head, nil
}

func (g *Graph) versionOf(tx *sqldb.Tx, r *room) (*roomver.Version, error) {
	var version string
	if _, err := tx.Get(roomByNID, []any{r.nid}, nil, &version); err != nil {
		return nil, err
	}
	v, ok := roomver.Get(version)
	if !ok {
		return nil, fmt.Errorf("room %s has version %q, which this server doesn't know", r.id, version)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version = v
	return v, nil
}

// knownKeys returns the room's keys, and whether those of the changes are among what is known to be on disk: then no writer can have given their numbers
// to others, and nothing has to be read.
func (r *room) knownKeys(changes []change) (*roomKeys, bool) {
	r.mu.Lock()
	keys := r.keys
	r.mu.Unlock()
	durable := keys.durable()
	return keys, !slices.ContainsFunc(changes, func(c change) bool { return c.key > durable })
}

// learnKeys brings the room's keys up to what the transaction sees.
func (r *room) learnKeys(tx *sqldb.Tx) (*roomKeys, error) {
	r.mu.Lock()
	keys := r.keys
	r.mu.Unlock()
	from := keys.durable()
	var fresh []event.Key
	err := tx.Query(keysAfter, func(row *sqldb.Row) error {
		var first KeyNID
		var names []byte
		if err := row.Scan(&first, &names); err != nil {
			return err
		}
		run, err := decodeKeys(names)
		if err != nil {
			return err
		}
		known := int(from) + len(fresh) - int(first) + 1 // of the run
		switch {
		case known < 0:
			return fmt.Errorf("state keys of room %d: %w", r.nid, errSnapshot)
		case known < len(run):
			fresh = append(fresh, run[known:]...)
		}
		return nil
	}, r.nid, from/keyPage*keyPage)
	if err != nil || len(fresh) == 0 {
		return keys, err
	}
	learned := keys.learn(from, fresh)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys == keys {
		r.keys = learned
	}
	return learned, nil
}

// room returns the memory of a stored room.
func (g *Graph) room(ctx context.Context, nid RoomNID) (*room, error) {
	if r, ok := g.rooms.GetIfPresent(nid); ok {
		return r, nil
	}
	var name id.RoomID
	var version string
	found := false
	err := g.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err = tx.Get(roomByNID, []any{nid}, &name, &version)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load room %d: %w", nid, err)
	}
	if !found {
		return nil, mxerr.NotFound("there is no such room")
	}
	return g.remember(nid, name, version), nil
}

func (g *Graph) remember(nid RoomNID, name id.RoomID, version string) *room {
	v, _ := roomver.Get(version)
	r := &room{nid: nid, id: name, version: v, keys: newKeys()}
	if was, fresh := g.rooms.SetIfAbsent(nid, r); !fresh {
		r = was
	}
	g.names.Set(name, nid)
	return r
}

// RoomNID returns the number of a room, also of one known only from outside.
func (g *Graph) RoomNID(ctx context.Context, name id.RoomID) (nid RoomNID, ok bool, err error) {
	if nid, ok := g.names.GetIfPresent(name); ok {
		return nid, true, nil
	}
	var version string
	err = g.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		ok, err = tx.Get(roomByID, []any{name}, &nid, &version)
		return err
	})
	if err != nil {
		return 0, false, fmt.Errorf("find room %s: %w", name, err)
	}
	if ok {
		g.remember(nid, name, version)
	}
	return nid, ok, nil
}

// NameRoom makes sure that a room has a number and this version. It comes before outliers are stored of a room that has no head yet; what an invite
// claimed before does not count. It returns M_INVALID_PARAM for a room that has a head and is of another version.
func (g *Graph) NameRoom(ctx context.Context, name id.RoomID, v *roomver.Version) (RoomNID, error) {
	nid, known, err := g.RoomNID(ctx, name)
	if err != nil {
		return 0, err
	}
	if known {
		r, err := g.room(ctx, nid)
		if err != nil {
			return 0, err
		}
		r.mu.Lock()
		version := r.version
		r.mu.Unlock()
		if version == v {
			return nid, nil
		}
	} else if n, err := g.roomNIDs.Next(ctx); err != nil {
		return 0, fmt.Errorf("number room %s: %w", name, err)
	} else {
		nid = RoomNID(n)
	}
	held := ""
	err = g.db.Write(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(insertRoom, nid, name, v.ID); err != nil {
			return err
		}
		if _, err := tx.Get(roomByID, []any{name}, &nid, nil); err != nil {
			return err
		}
		if _, err := tx.Exec(renameRoom, nid, v.ID); err != nil {
			return err
		}
		_, err := tx.Get(roomByID, []any{name}, &nid, &held)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("name room %s: %w", name, err)
	}
	if held != v.ID {
		return 0, mxerr.InvalidParam("the room %s is of version %s, and not of version %s", name, held, v.ID)
	}
	r := g.remember(nid, name, v.ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version = v
	return nid, nil
}

// RoomID returns the ID and the version of a room. The version is nil if this server doesn't know it.
func (g *Graph) RoomID(ctx context.Context, nid RoomNID) (id.RoomID, *roomver.Version, error) {
	r, err := g.room(ctx, nid)
	if err != nil {
		return "", nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id, r.version, nil
}

// settled notes in memory what a durable commit did. Outcomes may be learned out of order; the newest commit wins.
func (g *Graph) settled(j *job) {
	if h := j.result; h != nil {
		j.keys.settle(j.keysTo)
		for _, s := range j.fresh {
			g.states.Set(stateKey{h.Room, s.nid}, s)
		}
		r := g.remember(h.Room, h.ID, h.Version.ID)
		r.mu.Lock()
		if j.seq > r.seq {
			r.version, r.head, r.seq = h.Version, h, j.seq
			r.keys = h.State.keys // readers may have begun to learn the room by numbers of their own
		}
		r.mu.Unlock()
	}
	var changed []EventNID
	for _, e := range j.updates {
		changed = append(changed, e.NID)
	}
	for _, e := range j.c.Rejudged {
		changed = append(changed, e.NID)
	}
	for _, red := range j.c.Redactions {
		changed = append(changed, red.Target)
	}
	g.replaced(changed...)
	for _, e := range j.inserts {
		if !slices.Contains(changed, e.NID) {
			g.keepEvent(e)
		}
	}
}

// failed forgets what memory holds of a room whose commit failed: it may be older than the disk.
func (g *Graph) failed(j *job) {
	for _, e := range j.inserts {
		e.stored = false
	}
	r, ok := g.rooms.GetIfPresent(j.room)
	if !ok || j.result == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.head = nil
}

func encodeExtremities(all []Extremity) []byte {
	out := []byte{}
	for _, x := range all {
		out = binary.AppendUvarint(out, uint64(x.NID))
		out = binary.AppendUvarint(out, uint64(x.Depth))
		out = binary.AppendUvarint(out, uint64(len(x.ID)))
		out = append(out, x.ID...)
	}
	return out
}

func decodeExtremities(raw []byte) ([]Extremity, error) {
	var out []Extremity
	b := blob{rest: raw}
	for len(b.rest) > 0 {
		x := Extremity{NID: EventNID(b.next()), Depth: b.depth()}
		n := b.next()
		if b.bad || n > uint64(len(b.rest)) {
			return nil, fmt.Errorf("forward extremities: %w", errSnapshot)
		}
		x.ID = id.EventID(b.rest[:n])
		b.rest = b.rest[n:]
		out = append(out, x)
	}
	return out, nil
}
