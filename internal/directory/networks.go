package directory

import (
	"context"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// maxNetworkRooms bounds the rooms that are published in the list of one network.
const maxNetworkRooms = 100_000

var (
	stmtNetworkAdd = sqldb.SQL(`INSERT INTO network_rooms (network, room_id)
		SELECT $1, $2 WHERE (SELECT COUNT(*) FROM network_rooms WHERE network = $1) < $3 ON CONFLICT (network, room_id) DO NOTHING`)
	stmtNetworkDrop  = sqldb.SQL(`DELETE FROM network_rooms WHERE network = $1 AND room_id = $2`)
	stmtNetworkRooms = sqldb.SQL(`SELECT room_id FROM network_rooms WHERE network = $1`)
)

// SetInNetwork puts a room on the list of a third-party network, or takes it off. Whoever may speak for the network may do so. It returns
// M_NOT_FOUND for a room that this server has no part in.
//
// Spec: cs updateAppserviceRoomDirectoryVisibility
func (d *Directory) SetInNetwork(ctx context.Context, network string, room id.RoomID, public bool) error {
	if _, err := d.graph.Head(ctx, room); err != nil {
		return err
	}
	return d.db.Write(ctx, func(tx *sqldb.Tx) error {
		n, err := int64(0), error(nil)
		if public {
			n, err = tx.Exec(stmtNetworkAdd, network, room, maxNetworkRooms)
		} else {
			n, err = tx.Exec(stmtNetworkDrop, network, room)
		}
		if err == nil && n > 0 {
			changed(tx, room)
		}
		return err
	})
}

// inNetwork returns those of the rooms that are on the list of a network, in their order.
func (d *Directory) inNetwork(ctx context.Context, network string, rooms []*Summary) ([]*Summary, error) {
	listed := make(map[id.RoomID]bool)
	err := d.db.Read(ctx, func(tx *sqldb.Tx) error {
		clear(listed)
		return tx.Query(stmtNetworkRooms, func(r *sqldb.Row) error {
			var room id.RoomID
			err := r.Scan(&room)
			listed[room] = true
			return err
		}, network)
	})
	if err != nil {
		return nil, fmt.Errorf("read the list of a network: %w", err)
	}
	var found []*Summary
	for _, s := range rooms {
		if listed[s.RoomID] {
			found = append(found, s)
		}
	}
	return found, nil
}
