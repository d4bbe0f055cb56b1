package graph

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

const (
	createType     = "m.room.create"
	encryptionType = "m.room.encryption"
)

// Recency is what a list of a user's rooms is sorted and filtered by.
type Recency struct {
	Room RoomNID
	// Last is the position of the room's newest live event, 0 where there is none.
	Last sqldb.Pos
	// Kind is the room's type, "" for none.
	Kind string
	// Encrypted: the room's state has an m.room.encryption event.
	Encrypted bool
}

const recencyColumns = `m.room_nid, COALESCE((SELECT e.ord FROM events e WHERE e.room_nid = m.room_nid AND e.ord > 0
	ORDER BY e.ord DESC LIMIT 1), 0), r.kind, r.encrypted FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid
	WHERE m.user_id = $1 AND m.membership IN ('join', 'invite', 'knock')`

var (
	recencyOf = sqldb.SQL(`SELECT ` + recencyColumns)
	recencyIn = sqldb.SQL(`SELECT ` + recencyColumns + ` AND m.room_nid = ANY($2)`)
	setTraits = sqldb.SQL(`UPDATE rooms SET kind = $2, encrypted = $3 WHERE room_nid = $1`)
	// What was learned from a state must not replace what a later commit wrote.
	learnTraits = sqldb.SQL(`UPDATE rooms SET kind = $2, encrypted = $3 WHERE room_nid = $1 AND kind IS NULL`)
	eventsAny   = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.event_nid = ANY($1)`)
)

// RecencyOf returns an entry for each room that a user is joined to, invited to or knocks at. It looks up one entry of an index for each
// room, and reads no events.
func (g *Graph) RecencyOf(ctx context.Context, user id.UserID) ([]Recency, error) {
	return g.recency(ctx, recencyOf, user)
}

// RecencyIn is RecencyOf for some rooms.
func (g *Graph) RecencyIn(ctx context.Context, user id.UserID, rooms []RoomNID) (all []Recency, err error) {
	for part := range slices.Chunk(rooms, maxLookup) {
		found, err := g.recency(ctx, recencyIn, user, part)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func (g *Graph) recency(ctx context.Context, s *sqldb.Stmt, args ...any) ([]Recency, error) {
	var found []Recency
	var unknown []int // indices of found
	err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, unknown = nil, nil
		return tx.Query(s, func(row *sqldb.Row) error {
			var r Recency
			var kind sql.Null[string]
			var encrypted int
			if err := row.Scan(&r.Room, &r.Last, &kind, &encrypted); err != nil {
				return err
			}
			if r.Kind, r.Encrypted = kind.V, encrypted != 0; !kind.Valid && r.Last != 0 {
				unknown = append(unknown, len(found))
			}
			found = append(found, r)
			return nil
		}, args...)
	})
	if err != nil {
		return nil, fmt.Errorf("load the recency of rooms: %w", err)
	}
	return found, g.learnAll(ctx, found, unknown)
}

// learnAll finds the type and the encryption of rooms that are older than the columns that hold them, and writes them down.
func (g *Graph) learnAll(ctx context.Context, all []Recency, unknown []int) error {
	if len(unknown) == 0 {
		return nil
	}
	for _, i := range unknown {
		r := &all[i]
		head, err := g.HeadOf(ctx, r.Room)
		if err != nil {
			return err
		}
		_, r.Encrypted = head.State.Get(encryptionType, "")
		if nid, ok := head.State.Get(createType, ""); ok {
			events, err := g.Events(ctx, r.Room, []EventNID{nid})
			if err != nil {
				return err
			}
			r.Kind = kindOf(events[0])
		}
	}
	err := g.db.Write(ctx, func(tx *sqldb.Tx) error {
		for _, i := range unknown {
			tx.Queue(learnTraits, all[i].Room, all[i].Kind, btoi(all[i].Encrypted))
		}
		return nil
	})
	return wrap(err, "note what rooms are")
}

// kindOf returns the room type that a create event says.
func kindOf(e *Event) string {
	kind, _ := canon.GetText(e.PDU.Content(), "type")
	if checkedText(kind) {
		return kind
	}
	return ""
}

// checkedText refuses what the database can't keep, and what is too long to be the name of a type.
func checkedText(s string) bool { return len(s) <= 255 && !strings.ContainsRune(s, 0) }

// traits returns the arguments of setTraits for a commit that changes what the room is.
func (g *Graph) traits(j *job, s *State) []any {
	_, encrypted := s.Get(encryptionType, "")
	kind := any(nil) // unknown until somebody asks
	if nid, ok := s.Get(createType, ""); ok {
		for _, e := range j.c.Events {
			if e.NID == nid {
				kind = kindOf(e)
			}
		}
		if e, ok := g.pending.Load(nid); ok && kind == nil {
			kind = kindOf(e.(*Event))
		}
		if e, ok := g.events.GetIfPresent(nid); ok && kind == nil {
			kind = kindOf(e)
		}
	}
	return []any{kind, btoi(encrypted)}
}

// EventsOfAny returns those of the events, of whatever rooms, that are stored, in no order.
func (g *Graph) EventsOfAny(ctx context.Context, nids []EventNID) (out []*Event, err error) {
	var missing []int64
	for _, nid := range nids {
		if e, ok := g.events.GetIfPresent(nid); ok {
			out = append(out, e)
		} else {
			missing = append(missing, int64(nid))
		}
	}
	for part := range slices.Chunk(missing, maxLookup) {
		found, err := g.query(ctx, eventsAny, part)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}
