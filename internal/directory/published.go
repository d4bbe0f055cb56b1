package directory

import (
	"context"
	"fmt"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

var (
	stmtPublish   = sqldb.SQL(`INSERT INTO published (room_id, created) VALUES ($1, $2) ON CONFLICT (room_id) DO NOTHING`)
	stmtPublishAs = sqldb.SQL(`INSERT INTO published (room_id, created) SELECT $2, created FROM published WHERE room_id = $1
		ON CONFLICT (room_id) DO NOTHING`)
	stmtUnpublish   = sqldb.SQL(`DELETE FROM published WHERE room_id = $1`)
	stmtIsPublished = sqldb.SQL(`SELECT 1 FROM published WHERE room_id = $1`)
	stmtPublished   = sqldb.SQL(`SELECT room_id, 1 FROM published UNION ALL SELECT DISTINCT n.room_id, 0 FROM network_rooms n
		WHERE NOT EXISTS (SELECT 1 FROM published p WHERE p.room_id = n.room_id)`)
)

// changed tells all nodes that the list of published rooms is another one.
func changed(tx *sqldb.Tx, room id.RoomID) {
	pos, err := tx.Pos()
	if err != nil {
		return // the transaction has failed, and says so itself
	}
	tx.Emit(bus.Entry{Pos: pos, Kind: bus.DirectoryChange, Data: room})
}

// Publish puts a room on the list, in the transaction that creates the room.
func (d *Directory) Publish(tx *sqldb.Tx, room id.RoomID) {
	tx.Queue(stmtPublish, room, now())
	changed(tx, room)
}

// SetPublished puts a room on the list or takes it off. It returns M_NOT_FOUND for a room that this server has no
// part in.
//
// Spec: cs setRoomVisibilityOnDirectory
func (d *Directory) SetPublished(ctx context.Context, room id.RoomID, public bool, who Actor) error {
	head, err := d.graph.Head(ctx, room)
	if err != nil {
		return err
	}
	if err := d.mayManage(ctx, who, head); err != nil {
		return err
	}
	return d.db.Write(ctx, func(tx *sqldb.Tx) error {
		n, err := int64(0), error(nil)
		if public {
			n, err = tx.Exec(stmtPublish, room, now())
		} else {
			n, err = tx.Exec(stmtUnpublish, room)
		}
		if err == nil && n > 0 {
			changed(tx, room)
		}
		return err
	})
}

// IsPublished reports whether a room is on the list. It returns M_NOT_FOUND for a room that this server has no part in.
//
// Spec: cs getRoomVisibilityOnDirectory
func (d *Directory) IsPublished(ctx context.Context, room id.RoomID) (public bool, err error) {
	if _, err := d.graph.Head(ctx, room); err != nil {
		return false, err
	}
	err = d.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		public, err = tx.Get(stmtIsPublished, []any{room}, nil)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look %s up in the list of rooms: %w", room, err)
	}
	return public, nil
}

// published lists the rooms on any list, with whether they are on the server's own.
func (d *Directory) published(ctx context.Context) (rooms map[id.RoomID]bool, err error) {
	err = d.db.Read(ctx, func(tx *sqldb.Tx) error {
		rooms = make(map[id.RoomID]bool)
		return tx.Query(stmtPublished, func(r *sqldb.Row) error {
			var room id.RoomID
			var own bool
			err := r.Scan(&room, &own)
			rooms[room] = own
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the list of rooms: %w", err)
	}
	return rooms, nil
}
