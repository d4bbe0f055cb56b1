package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

var (
	stmtListChanged = sqldb.SQL(`INSERT INTO key_lists (user_id, pos, own_pos) VALUES ($1, $2, 0)
		ON CONFLICT (user_id) DO UPDATE SET pos = excluded.pos`)
	stmtGone = sqldb.SQL(`INSERT INTO gone_devices (user_id, device_id, pos, at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, device_id) DO UPDATE SET pos = excluded.pos, at = excluded.at`)
	stmtNotGone    = sqldb.SQL(`DELETE FROM gone_devices WHERE user_id = $1 AND device_id = $2`)
	stmtForgetGone = sqldb.SQL(`DELETE FROM gone_devices WHERE at < $1`)
	stmtListPos    = sqldb.SQL(`SELECT pos FROM key_lists WHERE user_id = $1`)
	stmtListOf     = sqldb.SQL(`SELECT device_id, name, keys FROM crypto_devices WHERE user_id = $1 AND keys IS NOT NULL ORDER BY device_id`)
)

// listChanged notes that what others see of a user's keys changed.
func listChanged(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID) { tx.Queue(stmtListChanged, user, pos) }

// tellLocal notes that what others see of the keys of a user of ours changed, and wakes those who share rooms with them.
func tellLocal(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID) error {
	rooms, err := graph.JoinedRooms(tx, user)
	if err == nil {
		listChanged(tx, pos, user)
		tx.Emit(bus.Entry{Pos: pos, Kind: bus.DeviceListLocal, User: user, Data: ListChange{rooms}})
	}
	return err
}

// PublishedDevice is a device as other servers see it.
type PublishedDevice struct {
	ID   id.DeviceID     `json:"device_id"`
	Name string          `json:"device_display_name,omitempty"`
	Keys json.RawMessage `json:"keys"`
}

// List is the list of a user's devices that have keys.
//
// Spec: ss getUserDevices
type List struct {
	User     id.UserID         `json:"user_id"`
	StreamID sqldb.Pos         `json:"stream_id"`
	Devices  []PublishedDevice `json:"devices"`
	Master   json.RawMessage   `json:"master_key,omitempty"`
	Self     json.RawMessage   `json:"self_signing_key,omitempty"`
}

// ListOf returns the devices of a user of ours for other servers. M_NOT_FOUND where there is no such user.
//
// Spec: ss getUserDevices
func (e *Encryption) ListOf(ctx context.Context, user id.UserID) (*List, error) {
	l := &List{User: user}
	err := e.db.Read(ctx, func(tx *sqldb.Tx) error {
		l.Devices = []PublishedDevice{}
		if _, err := tx.Get(stmtListPos, []any{user}, &l.StreamID); err != nil {
			return err
		}
		signatures, err := signaturesOf(tx, []string{string(user)}, "")
		if err != nil {
			return err
		}
		crossed, err := crossKeysOf(tx, []string{string(user)})
		if err != nil {
			return err
		}
		if k := crossed[user][master]; k != nil {
			l.Master = signatures.on(k.raw, user, k.text)
		}
		if k := crossed[user][selfSigning]; k != nil {
			l.Self = signatures.on(k.raw, user, k.text)
		}
		return tx.Query(stmtListOf, func(r *sqldb.Row) error {
			var d PublishedDevice
			var keys string
			err := r.Scan(&d.ID, &d.Name, &keys)
			d.Keys = signatures.on([]byte(keys), user, string(d.ID))
			l.Devices = append(l.Devices, d)
			return err
		}, user)
	})
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", user, err)
	}
	return l, nil
}

// ListChange is the Data of an entry of kind DeviceListLocal or DeviceListRemote: the rooms of the user, whose members may want to know.
type ListChange struct{ Rooms []graph.RoomNID }

// Update says what happened to a device of another server's user.
//
// Spec: ss Device Management
type Update struct {
	User     id.UserID
	Device   id.DeviceID
	Name     string
	StreamID int64
	PrevID   []int64
	Deleted  bool
	Keys     []byte // nil where there are none
}

var (
	stmtRemoteList   = sqldb.SQL(`SELECT stream_id, stale FROM remote_lists WHERE user_id = $1`)
	stmtStale        = sqldb.SQL(`UPDATE remote_lists SET stale = 1 WHERE user_id = $1`)
	stmtFollowed     = sqldb.SQL(`UPDATE remote_lists SET stream_id = $2 WHERE user_id = $1`)
	stmtRemoteDevice = sqldb.SQL(`SELECT name, keys FROM remote_devices WHERE user_id = $1 AND device_id = $2`)
	stmtCountRemote  = sqldb.SQL(`SELECT COUNT(*) FROM remote_devices WHERE user_id = $1`)
	stmtDropRemote   = sqldb.SQL(`DELETE FROM remote_devices WHERE user_id = $1 AND device_id = $2`)
	stmtSetRemote    = sqldb.SQL(`INSERT INTO remote_devices (user_id, device_id, name, keys) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, device_id) DO UPDATE SET name = excluded.name, keys = excluded.keys`)
)

// RemoteUpdate takes the word of their server that a device of a user changed. A list that is kept here follows, if the update is the next
// one; otherwise it is stale, and asked for again when somebody wants it. Users who share no room with ours are passed over.
//
// Spec: ss Device Management
func (e *Encryption) RemoteUpdate(ctx context.Context, u Update) error {
	if _, err := id.ParseDeviceID(string(u.Device)); err != nil {
		return mxerr.InvalidParam("%v", err)
	}
	if u.Keys != nil {
		if !describes(u.Keys, u.User, u.Device) {
			return mxerr.InvalidParam("the keys are not those of the device")
		}
		keys, err := canonicalObject(u.Keys)
		if err != nil {
			return err
		}
		u.Keys = keys
	}
	u.Name = shortName(u.Name)
	return e.remoteChange(ctx, u.User, func(tx *sqldb.Tx) (bool, error) { return u.apply(tx) })
}

// remoteChange has fn change what is kept of a user of another server, and tells those who share rooms with them unless it says that nothing
// changed.
func (e *Encryption) remoteChange(ctx context.Context, user id.UserID, fn func(tx *sqldb.Tx) (changed bool, err error)) error {
	if e.cfg.Ours.Is(user.Domain()) {
		return mxerr.Forbidden("%s is a user of this server.", user)
	}
	rooms, err := e.roomsOf(ctx, user)
	if err != nil || len(rooms) == 0 {
		return err
	}
	err = e.db.Write(ctx, func(tx *sqldb.Tx) error {
		pos, err := tx.Pos()
		if err != nil {
			return err
		}
		changed, err := fn(tx)
		if err != nil || !changed {
			return err
		}
		listChanged(tx, pos, user)
		tx.Emit(bus.Entry{Pos: pos, Kind: bus.DeviceListRemote, User: user, Data: ListChange{rooms}})
		return nil
	})
	if err != nil {
		return fmt.Errorf("take a change of keys of %s: %w", user, err)
	}
	return nil
}

// apply changes the list that is kept. It reports false where the update is known already.
func (u *Update) apply(tx *sqldb.Tx) (changed bool, err error) {
	var stream, stale int64
	found, err := tx.Get(stmtRemoteList, []any{u.User}, &stream, &stale)
	if err != nil || !found || stale != 0 {
		// There is nothing to keep current. A device without keys is no news to anybody: nothing can be encrypted for it.
		return u.Deleted || u.Keys != nil, err
	}
	next := stream != 0 && u.StreamID > stream
	for _, prev := range u.PrevID {
		next = next && prev <= stream // a later one got lost on the way
	}
	if !next {
		same, err := u.known(tx)
		if err != nil || same && stream != 0 && u.StreamID <= stream {
			return false, err
		}
		tx.Queue(stmtStale, u.User)
		return true, nil
	}
	changed = true
	if u.Deleted || u.Keys == nil {
		n, err := tx.Exec(stmtDropRemote, u.User, u.Device)
		if changed = n > 0; err != nil {
			return false, err
		}
	} else {
		var n int
		if _, err := tx.Get(stmtCountRemote, []any{u.User}, &n); err != nil {
			return false, err
		}
		if n >= maxRemoteDevices {
			tx.Queue(stmtStale, u.User)
			return true, nil
		}
		tx.Queue(stmtSetRemote, u.User, u.Device, u.Name, string(u.Keys))
	}
	tx.Queue(stmtFollowed, u.User, u.StreamID)
	return changed, nil
}

// known reports whether the update says what is kept already.
func (u *Update) known(tx *sqldb.Tx) (bool, error) {
	var name, keys string
	found, err := tx.Get(stmtRemoteDevice, []any{u.User, u.Device}, &name, &keys)
	if err != nil || !found {
		return !found && (u.Deleted || u.Keys == nil), err
	}
	return !u.Deleted && name == u.Name && keys == string(u.Keys), nil
}

// roomsOf returns the rooms that a user is in.
func (e *Encryption) roomsOf(ctx context.Context, user id.UserID) ([]graph.RoomNID, error) {
	var rooms []graph.RoomNID
	err := e.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		rooms, err = graph.JoinedRooms(tx, user)
		return err
	})
	return rooms, err
}

// maxDeviceName bounds the name of another server's device, in bytes.
const maxDeviceName = 1024

func shortName(name string) string {
	if len(name) > maxDeviceName {
		name = name[:maxDeviceName]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(name, "\x00", ""), "")
}
