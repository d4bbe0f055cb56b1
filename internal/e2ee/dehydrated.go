package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxDehydrated bounds what is kept of a dehydrated device, in bytes. Clients need about 10 KiB.
const maxDehydrated = 256 << 10

// Dehydrated is a device that nobody is signed in on. It gets messages, with the keys of rooms in them, while all devices of its user are off; a new
// one takes it over, for which it needs Data, an object that the user's client has encrypted.
//
// MSC3814: dehydrated devices with SSSS
type Dehydrated struct {
	Device id.DeviceID     `json:"device_id"`
	Data   json.RawMessage `json:"device_data"`
}

var (
	stmtDehydrated    = sqldb.SQL(`SELECT device_id, data FROM dehydrated_devices WHERE user_id = $1`)
	stmtSetDehydrated = sqldb.SQL(`INSERT INTO dehydrated_devices (user_id, device_id, data) VALUES ($1, $2, $3)
		ON CONFLICT (user_id) DO UPDATE SET device_id = excluded.device_id, data = excluded.data`)
	stmtDropDehydrated = sqldb.SQL(`DELETE FROM dehydrated_devices WHERE user_id = $1 AND device_id = $2`)
)

// Dehydrated returns a user's dehydrated device, and M_NOT_FOUND where there is none.
func (e *Encryption) Dehydrated(ctx context.Context, user id.UserID) (d Dehydrated, err error) {
	var found bool
	err = e.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		d, found, err = dehydrated(tx, user)
		return err
	})
	if err == nil && !found {
		err = mxerr.NotFound("You have no dehydrated device.")
	}
	return d, err
}

func dehydrated(tx *sqldb.Tx, user id.UserID) (d Dehydrated, found bool, err error) {
	var data string
	if found, err = tx.Get(stmtDehydrated, []any{user}, &d.Device, &data); err != nil {
		return d, false, fmt.Errorf("load the dehydrated device of %s: %w", user, err)
	}
	d.Data = json.RawMessage(data)
	return d, found, nil
}

// DehydratedID returns the ID of a user's dehydrated device; empty where there is none.
func DehydratedID(tx *sqldb.Tx, user id.UserID) (id.DeviceID, error) {
	d, _, err := dehydrated(tx, user)
	return d.Device, err
}

// Dehydrate checks a dehydrated device and its keys, of which those of the device itself must be there. What it returns writes them, in the
// transaction that makes the device.
func (e *Encryption) Dehydrate(ctx context.Context, user id.UserID, d Dehydrated, up Upload) (func(tx *sqldb.Tx) error, error) {
	switch {
	case len(d.Data) == 0 || d.Data[0] != '{':
		return nil, mxerr.InvalidParam("\"device_data\" must be an object.")
	case len(d.Data) > maxDehydrated:
		return nil, mxerr.TooLarge("\"device_data\" has at most %d bytes.", maxDehydrated)
	}
	p, err := e.parse(ctx, user, d.Device, up)
	if err != nil {
		return nil, err
	}
	if p.identity == nil {
		return nil, mxerr.MissingParam("\"device_keys\" is missing")
	}
	return func(tx *sqldb.Tx) error {
		pos, err := tx.Pos()
		if err != nil {
			return err
		}
		if err := p.write(tx, pos, user, d.Device); err != nil {
			return err
		}
		tx.Queue(stmtSetDehydrated, user, d.Device, string(d.Data))
		return nil
	}, nil
}

// DehydratedInbox returns the messages after a position for the dehydrated device, as many as fit into one answer, and the position of the
// last. They stay until the device goes: whoever takes it over may fail, and another try then.
func (e *Encryption) DehydratedInbox(ctx context.Context, user id.UserID, device id.DeviceID, from sqldb.Pos) (events []json.RawMessage, last sqldb.Pos, err error) {
	d, err := e.Dehydrated(ctx, user)
	if err != nil {
		return nil, 0, err
	}
	if d.Device != device {
		return nil, 0, mxerr.Forbidden("This is not your dehydrated device.")
	}
	err = e.db.Read(ctx, func(tx *sqldb.Tx) error {
		events, last = []json.RawMessage{}, from
		size, full := 0, false
		return tx.Query(stmtMessages, func(r *sqldb.Row) error {
			var pos sqldb.Pos
			var event string
			if err := r.Scan(&pos, &event); err != nil {
				return err
			}
			if full = full || len(events) > 0 && size+len(event) > maxAnswerBytes; !full {
				events, last, size = append(events, json.RawMessage(event)), pos, size+len(event)
			}
			return nil
		}, user, device, from, int64(math.MaxInt64), maxAnswer)
	})
	if err != nil {
		return nil, 0, fmt.Errorf("load messages for the dehydrated device of %s: %w", user, err)
	}
	return events, last, nil
}
