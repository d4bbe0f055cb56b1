package graph

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// PartialRoom is a room that this server joined without learning of all its members yet: member events are absent from its states.
type PartialRoom struct {
	Room   RoomNID
	RoomID id.RoomID
	// Join is the event by which this server joined.
	Join id.EventID
	// Since is the join of an earlier stay in the room whose members were not learned while it lasted, empty if there is none.
	Since id.EventID
	// Servers are in the room as the server through which we joined said.
	Servers []id.ServerName
}

// Partial returns rooms whose members are not all known yet, in the order of their numbers, from after on.
func (g *Graph) Partial(ctx context.Context, after RoomNID, limit int) (found []PartialRoom, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(partialRooms, func(r *sqldb.Row) error {
			var p PartialRoom
			var servers []byte
			if err := r.Scan(&p.Room, &p.RoomID, &p.Join, &p.Since, &servers); err != nil {
				return err
			}
			if err := json.Unmarshal(servers, &p.Servers); err != nil {
				return fmt.Errorf("servers of room %s: %w", p.RoomID, err)
			}
			found = append(found, p)
			return nil
		}, after, limit)
	})
	return found, wrap(err, "list rooms whose members are not all known")
}

// LastPartial returns the join by which this server last came into a room without its members, and Since with it, whether or not these are known
// by now.
func (g *Graph) LastPartial(ctx context.Context, room RoomNID) (join, since id.EventID, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(partialOnce, []any{room}, &join, &since)
		return err
	})
	return join, since, wrap(err, "read whether a room's members were known")
}

// ServersTold returns the servers of a room whose members are not all known yet, as the join was told, and whether it is such a room.
func (g *Graph) ServersTold(ctx context.Context, room RoomNID) (servers []id.ServerName, partial bool, err error) {
	head, err := g.HeadOf(ctx, room)
	if err != nil || !head.Partial {
		return nil, false, err
	}
	rooms, err := g.Partial(ctx, room-1, 1)
	if err != nil || len(rooms) == 0 || rooms[0].Room != room {
		return nil, false, err
	}
	return rooms[0].Servers, true, nil
}

// beginPartial notes in a transaction that a room's members are not all known.
func beginPartial(tx *sqldb.Tx, p *PartialRoom) error {
	servers, err := json.Marshal(p.Servers)
	if err != nil {
		return err
	}
	tx.Queue(insertPartial, p.Room, p.Join, p.Since, servers)
	return nil
}

// endPartial writes what was learned of a room when all its members became known.
func (j *job) endPartial(tx *sqldb.Tx) error {
	pos, err := j.posOf(tx, memberChange{})
	if err != nil {
		return err
	}
	tx.Queue(endPartial, j.room, pos)
	for _, e := range j.c.Rejudged {
		tx.Queue(placeEvent, j.room, e.NID, e.ordArg(), int64(e.Flags), e.StateBefore, e.Replaces, e.HeadState)
	}
	return nil
}

// ThinSince returns the events of a room at positions from ord on that are [Thin], those that clients don't see too, at most limit of them. What it
// costs doesn't grow with the others.
func (g *Graph) ThinSince(ctx context.Context, room RoomNID, ord int64, limit int) ([]*Event, error) {
	return g.query(ctx, thinSince, room, ord, limit)
}

// TornWithin is ThinSince for those that are [Torn] too, up to before a position, the newest first.
func (g *Graph) TornWithin(ctx context.Context, room RoomNID, from, before int64, limit int) ([]*Event, error) {
	return g.query(ctx, tornWithin, room, from, before, limit)
}

// Rejudged is a stored event with what is thought of it now.
type Rejudged struct {
	// Event is a copy of the stored event with its new flags.
	Event  *Event
	Before *State
}

// Whole returns the head of a room whose members are all known now: with the state after all extremities, and with events whose states
// before them, or flags, have changed by that. It sets StateBefore and Replaces of these.
func (h *Head) Whole(state *State, rejudged []Rejudged) *Head {
	n := h.next(new(Event))
	for _, r := range rejudged {
		before := n.keep(r.Before)
		r.Event.StateBefore = before.nid
		if r.Event.PDU.IsState() {
			key := r.Event.PDU.Key()
			r.Event.Replaces, _ = before.Get(key.Type, key.StateKey)
		}
	}
	n.moveTo(state, new(Event))
	n.Partial = false
	buf := binary.BigEndian.AppendUint64([]byte("whole"), uint64(h.Rev))
	n.Rev = hash63(binary.BigEndian.AppendUint64(buf, uint64(n.StateNID)))
	return n
}
