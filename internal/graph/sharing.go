package graph

import (
	"context"
	"fmt"
	"slices"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Who meets whom in rooms.
var (
	sharesSince = sqldb.SQL(`SELECT 1 FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid AND b.user_id = $2
		WHERE a.user_id = $1 AND a.membership = 'join' AND a.since <= $3 AND b.membership = 'join' AND b.since <= $3 LIMIT 1`)
	joinedOf    = sqldb.SQL(`SELECT user_id FROM memberships WHERE user_id = ANY($2) AND room_nid = $1 AND membership = 'join'`)
	roomsJoined = sqldb.SQL(`SELECT room_nid FROM memberships WHERE user_id = $1 AND membership = 'join'`)
	cameSince   = sqldb.SQL(`SELECT DISTINCT b.user_id FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.membership = 'join' AND b.since > $2 AND b.user_id <> $1 LIMIT $3`)
	wentSince = sqldb.SQL(`SELECT DISTINCT b.user_id FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.membership IN ('leave', 'ban') AND b.since > $2
		AND (b.prev = 'join' OR b.membership = 'ban') AND b.user_id <> $1 LIMIT $3`)
	roomsOfUsers = sqldb.SQL(`SELECT user_id, room_nid FROM memberships WHERE user_id = ANY($1) AND membership = 'join' LIMIT $2`)
	// Who shares several rooms is there several times: to sort that out here would cost more than the reading.
	metBy = sqldb.SQL(`SELECT b.user_id FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.membership = 'join' LIMIT $2`)
	someSharing = sqldb.SQL(`SELECT DISTINCT b.user_id FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.membership = 'join' AND b.user_id <> $1 LIMIT $2`)
)

// RoomsOfUsers returns the rooms that users are joined to, at most limit pairs of both.
func RoomsOfUsers(tx *sqldb.Tx, users []string, limit int) (found map[id.UserID][]RoomNID, n int, err error) {
	found = make(map[id.UserID][]RoomNID)
	err = tx.Query(roomsOfUsers, func(r *sqldb.Row) error {
		var user id.UserID
		var room RoomNID
		err := r.Scan(&user, &room)
		found[user] = append(found[user], room)
		n++
		return err
	}, users, limit)
	return found, n, wrap(err, "load rooms of users")
}

// SomeSharing returns other users who are joined to a room that the user is joined to, at most limit of them.
func SomeSharing(tx *sqldb.Tx, user id.UserID, limit int) ([]id.UserID, error) {
	found, err := usersOf(tx, someSharing, user, limit)
	return found, wrap(err, "load users who share rooms")
}

// ShareSince reports whether two users are in a room together in which both have been since a position, without a break.
func ShareSince(tx *sqldb.Tx, a, b id.UserID, since sqldb.Pos) (bool, error) {
	var one int
	found, err := tx.Get(sharesSince, []any{a, b, since}, &one)
	return found, wrap(err, "find out whether users share a room")
}

// JoinedRooms returns the rooms that a user is joined to.
func JoinedRooms(tx *sqldb.Tx, user id.UserID) (found []RoomNID, err error) {
	err = tx.Query(roomsJoined, func(r *sqldb.Row) error {
		var room RoomNID
		err := r.Scan(&room)
		found = append(found, room)
		return err
	}, user)
	return found, wrap(err, "load rooms of a user")
}

// JoinedOf returns those of the users who are joined to a room.
func (g *Graph) JoinedOf(ctx context.Context, room RoomNID, users []id.UserID) (found []id.UserID, err error) {
	for part := range slices.Chunk(users, maxLookup) {
		names := make([]string, len(part))
		for i, u := range part {
			names[i] = string(u)
		}
		var some []id.UserID
		err := g.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			some, err = usersOf(tx, joinedOf, room, names)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("find who is joined: %w", err)
		}
		found = append(found, some...)
	}
	return found, nil
}

// Encounters returns the users who came into rooms of a user's after a position and are there, and those who went out of them and are not; at
// most limit of each.
func (g *Graph) Encounters(ctx context.Context, user id.UserID, after sqldb.Pos, limit int) (came, went []id.UserID, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if came, err = usersOf(tx, cameSince, user, after, limit); err == nil {
			went, err = usersOf(tx, wentSince, user, after, limit)
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("find whom %s met: %w", user, err)
	}
	return came, went, nil
}

func usersOf(tx *sqldb.Tx, s *sqldb.Stmt, args ...any) (found []id.UserID, err error) {
	err = tx.Query(s, func(r *sqldb.Row) error {
		var user id.UserID
		err := r.Scan(&user)
		found = append(found, user)
		return err
	}, args...)
	return found, err
}
