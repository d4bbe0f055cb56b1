package account

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Device is a device as its user sees it.
//
// Spec: cs getDevices
type Device struct {
	ID          id.DeviceID `json:"device_id"`
	DisplayName string      `json:"display_name,omitempty"`
	LastSeenIP  string      `json:"last_seen_ip,omitempty"`
	// LastSeenTS is in milliseconds since the epoch; 0 means never.
	LastSeenTS int64     `json:"last_seen_ts,omitempty"`
	CreatedTS  int64     `json:"-"`
	Pos        sqldb.Pos `json:"-"` // of its making or last renaming
}

// DeviceEvent says what happened to a device.
type DeviceEvent uint8

const (
	DeviceAdded DeviceEvent = iota
	DeviceRenamed
	DeviceDeleted
)

// DeviceChange is the Data of a bus entry of kind DeviceListLocal, and what Config.DevicesChanged gets.
type DeviceChange struct {
	User        id.UserID
	Device      id.DeviceID
	Event       DeviceEvent
	DisplayName string
}

const deviceColumns = `device_id, display_name, created, seen_ts, seen_ip, pos`

var (
	sqlDevices = sqldb.SQL(`SELECT ` + deviceColumns + ` FROM devices WHERE user_id = $1 ORDER BY device_id`)

	sqlDevice = sqldb.SQL(`SELECT ` + deviceColumns + ` FROM devices WHERE user_id = $1 AND device_id = $2`)

	sqlDeviceIDs = sqldb.SQL(`SELECT device_id FROM devices WHERE user_id = $1 ORDER BY device_id`)

	sqlCountDevices = sqldb.SQL(`SELECT COUNT(*) FROM devices WHERE user_id = $1`)

	sqlAddDevice = sqldb.SQL(`INSERT INTO devices (user_id, device_id, display_name, created, seen_ts, seen_ip, pos)
		VALUES ($1, $2, $3, $4, 0, '', $5)`)

	sqlRenameDevice = sqldb.SQL(`UPDATE devices SET display_name = $3, pos = $4 WHERE user_id = $1 AND device_id = $2`)

	sqlDeleteDevice = sqldb.SQL(`DELETE FROM devices WHERE user_id = $1 AND device_id = $2`)
)

func scanDevice(r *sqldb.Row, d *Device) error {
	return r.Scan(&d.ID, &d.DisplayName, &d.CreatedTS, &d.LastSeenTS, &d.LastSeenIP, &d.Pos)
}

// Devices lists the devices of a user by ID.
//
// Spec: cs getDevices
func (a *Accounts) Devices(ctx context.Context, user id.UserID) ([]Device, error) {
	list := []Device{}
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = list[:0]
		return tx.Query(sqlDevices, func(r *sqldb.Row) error {
			var d Device
			if err := scanDevice(r, &d); err != nil {
				return err
			}
			list = append(list, d)
			return nil
		}, user)
	})
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", user, err)
	}
	for i := range list {
		a.seen.merge(user, &list[i])
	}
	return list, nil
}

// Device returns one device, and M_NOT_FOUND where the user has no such device.
//
// Spec: cs getDevice
func (a *Accounts) Device(ctx context.Context, user id.UserID, device id.DeviceID) (Device, error) {
	var d Device
	if checkIdentifier("device ID", string(device)) != nil {
		return d, errNoDevice
	}
	found := false
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(sqlDevice, func(r *sqldb.Row) error {
			found = true
			return scanDevice(r, &d)
		}, user, device)
	})
	switch {
	case err != nil:
		return d, fmt.Errorf("load device of %s: %w", user, err)
	case !found:
		return d, errNoDevice
	}
	a.seen.merge(user, &d)
	return d, nil
}

var errNoDevice = mxerr.NotFound("You have no device with this ID.")

// RenameDevice sets the display name of a device.
//
// Spec: cs updateDevice
func (a *Accounts) RenameDevice(ctx context.Context, user id.UserID, device id.DeviceID, name string) error {
	if checkIdentifier("device ID", string(device)) != nil {
		return errNoDevice
	}
	name = text(name, maxNameRunes)
	return a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		var d Device
		found := false
		err := tx.Query(sqlDevice, func(r *sqldb.Row) error {
			found = true
			return scanDevice(r, &d)
		}, user, device)
		switch {
		case err != nil:
			return fmt.Errorf("load device of %s: %w", user, err)
		case !found:
			return errNoDevice
		case d.DisplayName == name:
			return errUnchanged
		}
		if _, err := tx.Exec(sqlRenameDevice, user, device, name, c.pos); err != nil {
			return fmt.Errorf("rename device of %s: %w", user, err)
		}
		return a.devicesChanged(tx, c.pos, []DeviceChange{{user, device, DeviceRenamed, name}})
	})
}

// DeleteDevices deletes devices with their tokens. Devices that don't exist are skipped.
//
// Spec: cs deleteDevice
// Spec: cs deleteDevices
func (a *Accounts) DeleteDevices(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	devices = slices.DeleteFunc(slices.Clone(devices), func(d id.DeviceID) bool {
		return checkIdentifier("device ID", string(d)) != nil
	})
	return a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		return a.deleteDevices(tx, c, user, devices)
	})
}

// ReplaceDevice makes a device that nobody is signed in on, in the place of the one that old names, which goes; the empty name stands for none.
// The transaction is the same for both and for what then writes. An ID that another device has is M_INVALID_PARAM.
//
// MSC3814: dehydrated devices with SSSS
func (a *Accounts) ReplaceDevice(
	ctx context.Context, user id.UserID, device id.DeviceID, name string, old func(*sqldb.Tx) (id.DeviceID, error), then func(*sqldb.Tx) error,
) error {
	if err := checkIdentifier("device ID", string(device)); err != nil {
		return mxerr.InvalidParam("%v.", err)
	}
	name = text(name, maxNameRunes)
	return a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		gone, err := old(tx)
		if err != nil {
			return err
		}
		if gone != "" {
			if err := a.deleteDevices(tx, c, user, []id.DeviceID{gone}); err != nil {
				return err
			}
			if c.pos, err = tx.Pos(); err != nil { // other servers are told of the two one after the other
				return err
			}
		}
		var known Device
		taken := false
		err = tx.Query(sqlDevice, func(r *sqldb.Row) error {
			taken = true
			return scanDevice(r, &known)
		}, user, device)
		switch {
		case err != nil:
			return fmt.Errorf("load device of %s: %w", user, err)
		case taken:
			return mxerr.InvalidParam("You have a device with this ID.")
		}
		if err := a.openDevice(tx, c, user, device, name); err != nil {
			return err
		}
		return then(tx)
	})
}

// deleteDevices is the only way that devices go. All of them share the transaction's position.
func (a *Accounts) deleteDevices(tx *sqldb.Tx, c *changes, user id.UserID, devices []id.DeviceID) error {
	var gone []DeviceChange
	for _, device := range devices {
		dead, err := dropTokens(tx, user, device)
		if err != nil {
			return fmt.Errorf("delete tokens of %s: %w", user, err)
		}
		c.revoked(tx, user, device, dead)
		rows, err := tx.Exec(sqlDeleteDevice, user, device)
		if err != nil {
			return fmt.Errorf("delete device of %s: %w", user, err)
		}
		if rows > 0 {
			gone = append(gone, DeviceChange{User: user, Device: device, Event: DeviceDeleted})
			if err := dropNotificationSettings(tx, c, user, device); err != nil {
				return err
			}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return a.devicesChanged(tx, c.pos, gone)
}

// dropNotificationSettings deletes what a user's clients noted about the notifications of a device that is gone.
//
// MSC3890: local notification settings.
func dropNotificationSettings(tx *sqldb.Tx, c *changes, user id.UserID, device id.DeviceID) error {
	for _, prefix := range []string{"org.matrix.msc3890.local_notification_settings.", "m.local_notification_settings."} {
		err := updateData(tx, c, user, "", prefix+string(device), func(json.RawMessage) (json.RawMessage, error) { return nil, nil })
		if err != nil && !errors.Is(err, errUnchanged) {
			return err
		}
	}
	return nil
}

// devicesChanged tells the rest of the server, inside the transaction.
func (a *Accounts) devicesChanged(tx *sqldb.Tx, pos sqldb.Pos, list []DeviceChange) error {
	for _, d := range list {
		e := entry(pos, bus.DeviceListLocal, d.User, d)
		e.Device = d.Device
		tx.Emit(e)
	}
	if a.cfg.DevicesChanged == nil || len(list) == 0 {
		return nil
	}
	return a.cfg.DevicesChanged(tx, pos, list)
}

// openDevice makes sure that a device is there for new tokens. Tokens that a device has
// already are deleted: there is one session per device.
//
// Spec: cs Relationship between access tokens and devices
func (a *Accounts) openDevice(tx *sqldb.Tx, c *changes, user id.UserID, device id.DeviceID, name string) error {
	var d Device
	known := false
	err := tx.Query(sqlDevice, func(r *sqldb.Row) error {
		known = true
		return scanDevice(r, &d)
	}, user, device)
	if err != nil {
		return fmt.Errorf("load device of %s: %w", user, err)
	}
	if known {
		dead, err := dropTokens(tx, user, device)
		if err != nil {
			return fmt.Errorf("delete tokens of %s: %w", user, err)
		}
		c.revoked(tx, user, device, dead)
		return nil
	}
	if a.cfg.DeviceConflict != nil {
		conflict, err := a.cfg.DeviceConflict(tx, user, device)
		if err != nil {
			return fmt.Errorf("compare device with keys of %s: %w", user, err)
		}
		if conflict {
			return mxerr.Forbidden("This device ID is the name of one of your keys.")
		}
	}
	var count int
	if _, err := tx.Get(sqlCountDevices, []any{user}, &count); err != nil {
		return fmt.Errorf("count devices of %s: %w", user, err)
	}
	if count >= maxDevices {
		return mxerr.Forbidden("You have %d devices. Delete some before you add another.", count)
	}
	if _, err := tx.Exec(sqlAddDevice, user, device, name, now(), c.pos); err != nil {
		return fmt.Errorf("add device of %s: %w", user, err)
	}
	return a.devicesChanged(tx, c.pos, []DeviceChange{{user, device, DeviceAdded, name}})
}

func deviceIDs(tx *sqldb.Tx, user id.UserID) ([]id.DeviceID, error) {
	list, err := stringsOf(tx, sqlDeviceIDs, user)
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", user, err)
	}
	devices := make([]id.DeviceID, len(list))
	for i, d := range list {
		devices[i] = id.DeviceID(d)
	}
	return devices, nil
}

// newDeviceID makes an ID of ten capital letters, as users are used to compare.
func newDeviceID() id.DeviceID {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return id.DeviceID(b[:])
}
