package graph

import (
	"context"
	"fmt"
	"slices"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// What readers of the stream ask about places in it.
var (
	headStateAt = sqldb.SQL(`SELECT head_state FROM events WHERE room_nid = $1 AND ord <= $2 AND ord > 0 ORDER BY ord DESC LIMIT 1`)
	activeIn    = sqldb.SQL(`SELECT room_nid, MAX(ord) FROM events WHERE room_nid = ANY($1) AND ord > $2 AND ord <= $3 GROUP BY room_nid`)
)

// HeadStateAt returns what this server held to be the state of a room once the stream had come to a position; 0, the empty state, where
// the room began later.
func (g *Graph) HeadStateAt(ctx context.Context, room RoomNID, pos sqldb.Pos) (nid StateNID, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(headStateAt, []any{room, pos}, &nid)
		return err
	})
	return nid, wrap(err, "find the state at a position")
}

// ActiveRooms returns those of the rooms that have live events at positions in (from, to], with the last of these.
func (g *Graph) ActiveRooms(ctx context.Context, rooms []RoomNID, from, to sqldb.Pos) (map[RoomNID]sqldb.Pos, error) {
	active := make(map[RoomNID]sqldb.Pos)
	for part := range slices.Chunk(rooms, maxLookup) {
		nids := make([]int64, len(part))
		for i, r := range part {
			nids[i] = int64(r)
		}
		err := g.db.Read(ctx, func(tx *sqldb.Tx) error {
			return tx.Query(activeIn, func(r *sqldb.Row) error {
				var room RoomNID
				var last sqldb.Pos
				err := r.Scan(&room, &last)
				active[room] = last
				return err
			}, nids, from, to)
		})
		if err != nil {
			return nil, fmt.Errorf("find active rooms: %w", err)
		}
	}
	return active, nil
}

// MembershipsNow returns a user's rows for all rooms, forgotten ones too, and the position that the stream had come to: later changes have
// later positions.
func (g *Graph) MembershipsNow(ctx context.Context, user id.UserID) (found []MemberRow, at sqldb.Pos, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		if at, err = tx.Last(); err != nil {
			return err
		}
		return tx.Query(membersOfUser, func(r *sqldb.Row) error {
			m, err := scanMember(r)
			found = append(found, m)
			return err
		}, user)
	})
	return found, at, wrap(err, "load memberships")
}
