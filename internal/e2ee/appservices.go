package e2ee

import (
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// What package appservice reads for those who are told instead of asking.

// Notice says that something of a user, or of a device of theirs, changed at a position.
type Notice struct {
	Pos    sqldb.Pos
	User   id.UserID
	Device id.DeviceID
}

// Mail is a message in the inbox of a device.
type Mail struct {
	Notice
	// Event is the message as clients see it, an object.
	Event []byte
}

// Inboxed are the messages in an inbox at positions in (After, UpTo].
type Inboxed struct {
	User        id.UserID
	Device      id.DeviceID
	After, UpTo sqldb.Pos
}

var (
	stmtMailSince   = sqldb.SQL(`SELECT pos, user_id, device_id FROM device_inbox WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
	stmtListsSince  = sqldb.SQL(`SELECT pos, user_id, '' FROM key_lists WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
	stmtStocksSince = sqldb.SQL(`SELECT pos, user_id, device_id FROM crypto_notes WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
	stmtEmpty       = sqldb.SQL(`DELETE FROM device_inbox WHERE user_id = $1 AND device_id = $2 AND pos > $3 AND pos <= $4`)
)

func notices(tx *sqldb.Tx, s *sqldb.Stmt, from, to sqldb.Pos, limit int) (found []Notice, err error) {
	err = tx.Query(s, func(r *sqldb.Row) error {
		var n Notice
		err := r.Scan(&n.Pos, &n.User, &n.Device)
		found = append(found, n)
		return err
	}, from, to, limit)
	if err != nil {
		return nil, fmt.Errorf("load changes of keys: %w", err)
	}
	return found, nil
}

// MailSince lists the messages in all inboxes at positions in (from, to], in that order, at most limit.
func MailSince(tx *sqldb.Tx, from, to sqldb.Pos, limit int) ([]Notice, error) {
	return notices(tx, stmtMailSince, from, to, limit)
}

// ListsSince lists the users whose devices or keys changed at positions in (from, to] and not since.
func ListsSince(tx *sqldb.Tx, from, to sqldb.Pos, limit int) ([]Notice, error) {
	return notices(tx, stmtListsSince, from, to, limit)
}

// StocksSince lists the devices whose number of keys changed at positions in (from, to] and not since.
func StocksSince(tx *sqldb.Tx, from, to sqldb.Pos, limit int) ([]Notice, error) {
	return notices(tx, stmtStocksSince, from, to, limit)
}

// maxMail bounds the messages that are read of one inbox at once; an inbox holds no more.
const maxMail = maxInbox + 1

// MailOf returns the messages for a device at positions in (from, to].
func MailOf(tx *sqldb.Tx, user id.UserID, device id.DeviceID, from, to sqldb.Pos) (found []Mail, err error) {
	err = tx.Query(stmtMessages, func(r *sqldb.Row) error {
		m := Mail{Notice: Notice{User: user, Device: device}}
		err := r.Scan(&m.Pos, &m.Event)
		found = append(found, m)
		return err
	}, user, device, from, to, maxMail)
	if err != nil {
		return nil, fmt.Errorf("load messages for a device of %s: %w", user, err)
	}
	return found, nil
}

// Empty takes messages that arrived out of their inboxes.
func Empty(tx *sqldb.Tx, list []Inboxed) error {
	for _, in := range list {
		n, err := tx.Exec(stmtEmpty, in.User, in.Device, in.After, in.UpTo)
		if err != nil {
			return fmt.Errorf("empty an inbox of %s: %w", in.User, err)
		}
		if n > 0 {
			tx.Queue(stmtFewer, in.User, in.Device, n)
		}
	}
	return nil
}
