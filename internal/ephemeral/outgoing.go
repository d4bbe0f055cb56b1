package ephemeral

import (
	"fmt"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

var (
	stmtPublicReceipts = sqldb.SQL(`SELECT pos, room_nid, user_id, type, thread, event_id, ts FROM receipts
		WHERE type = 'm.read' AND pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
	stmtPrivateReceipts = sqldb.SQL(`SELECT pos, room_nid, user_id, type, thread, event_id, ts FROM receipts
		WHERE type = 'm.read.private' AND pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
	stmtTypingSince = sqldb.SQL(`SELECT room_nid FROM typing_changes WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
	stmtShownAfter  = sqldb.SQL(`SELECT ` + presenceColumns + ` WHERE state <> 'offline' AND node <> '' AND user_id > $1 ORDER BY user_id LIMIT $2`)
)

// PublicReceipts reads the receipts of all rooms that everybody may know of and that changed at positions in (from, to], at most limit.
func PublicReceipts(tx *sqldb.Tx, from, to sqldb.Pos, limit int) ([]*Receipt, error) {
	return receiptsSince(tx, stmtPublicReceipts, from, to, limit)
}

// PrivateReceipts is PublicReceipts for those that nobody but their user, and who acts for that user, may know of.
func PrivateReceipts(tx *sqldb.Tx, from, to sqldb.Pos, limit int) ([]*Receipt, error) {
	return receiptsSince(tx, stmtPrivateReceipts, from, to, limit)
}

func receiptsSince(tx *sqldb.Tx, s *sqldb.Stmt, from, to sqldb.Pos, limit int) (found []*Receipt, err error) {
	err = tx.Query(s, func(row *sqldb.Row) error {
		r := new(Receipt)
		found = append(found, r)
		return row.Scan(&r.Pos, &r.Room, &r.User, &r.Type, &r.Thread, &r.Event, &r.TS)
	}, from, to, limit)
	if err != nil {
		return nil, fmt.Errorf("load receipts: %w", err)
	}
	return found, nil
}

// TypingSince reads who types in rooms where that changed at positions in (from, to], in at most limit of them.
func TypingSince(tx *sqldb.Tx, from, to sqldb.Pos, limit int) ([]*Typing, error) {
	var rooms []graph.RoomNID
	err := tx.Query(stmtTypingSince, func(r *sqldb.Row) error {
		var room graph.RoomNID
		err := r.Scan(&room)
		rooms = append(rooms, room)
		return err
	}, from, to, limit)
	if err != nil {
		return nil, fmt.Errorf("load changes of typing: %w", err)
	}
	if len(rooms) == 0 {
		return nil, nil
	}
	return TypingIn(tx, rooms, max(from, 1), to)
}

// Shown reads the presence of local users who are not offline, in the order of their IDs, after one of them.
func Shown(tx *sqldb.Tx, after id.UserID, limit int) (found []*Presence, err error) {
	if err := tx.Query(stmtShownAfter, scanPresence(&found), after, limit); err != nil {
		return nil, fmt.Errorf("load presence: %w", err)
	}
	return found, nil
}

// ShowsPresence reports whether presence is turned on.
func (e *Ephemeral) ShowsPresence() bool { return !e.cfg.NoPresence }
