package e2ee

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxRecipients bounds the devices of one request or EDU, "*" counted as one.
	maxRecipients = 5000
	// maxMessage bounds a message in bytes, as the specification does events.
	maxMessage = 64 << 10
	// maxInbox bounds the messages that wait for a device. Beyond, whoever has most of them there loses the oldest.
	maxInbox = 10_000
	// evicted is how many at a time, so that a flood pays for counting rarely.
	evicted = maxInbox / 10
	// maxAnswer bounds the messages of one sync, maxAnswerBytes, but for the first, their size.
	//
	// Spec: cs Send-to-Device messaging
	maxAnswer      = 100
	maxAnswerBytes = 1 << 20
	// transactionsKept is how long a repeated request is known to be one, seenKept a repeated EDU.
	transactionsKept = 14 * 24 * time.Hour
	seenKept         = outboxKept
)

// Messages are contents for devices of users; the device "*" stands for all of a user's.
type Messages map[id.UserID]map[id.DeviceID]json.RawMessage

// everyDevice is the device ID that stands for all.
const everyDevice = "*"

// check bounds messages.
func (m Messages) check(typ string) error {
	if typ == "" || !storable(typ) {
		return mxerr.InvalidParam("The type of a message must be a text of at most %d bytes.", maxKeyName)
	}
	n := 0
	for user, devices := range m {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return mxerr.InvalidParam("\"messages\": %v.", err)
		}
		n += len(devices)
		for _, content := range devices {
			switch {
			case len(content) > maxMessage:
				return mxerr.TooLarge("A message has at most %d bytes.", maxMessage)
			case len(content) == 0 || content[0] != '{':
				return mxerr.BadJSON("The content of a message must be an object.")
			}
		}
	}
	if n > maxRecipients {
		return mxerr.TooLarge("Messages go to at most %d devices at once.", maxRecipients)
	}
	return nil
}

// message is what is being sent, to whomever.
type message struct {
	sender id.UserID
	typ    string
	to     Messages
}

var (
	stmtTxn     = sqldb.SQL(`INSERT INTO device_txns (user_id, device_id, txn, at) VALUES ($1, $2, $3, $4) ON CONFLICT (user_id, device_id, txn) DO NOTHING`)
	stmtSeen    = sqldb.SQL(`INSERT INTO messages_seen (origin, message_id, at) VALUES ($1, $2, $3) ON CONFLICT (origin, message_id) DO NOTHING`)
	stmtDevices = sqldb.SQL(`SELECT device_id FROM crypto_devices WHERE user_id = $1`)
	stmtInbox   = sqldb.SQL(`INSERT INTO device_inbox (user_id, device_id, pos, sender, event) VALUES ($1, $2, $3, $4, $5)`)
	stmtWaiting = sqldb.SQL(`UPDATE crypto_devices SET waiting = waiting + 1 WHERE user_id = $1 AND device_id = $2 RETURNING waiting`)
	stmtGreedy  = sqldb.SQL(`SELECT sender FROM device_inbox WHERE user_id = $1 AND device_id = $2
		GROUP BY sender ORDER BY COUNT(*) DESC, sender LIMIT 1`)
	stmtEvict = sqldb.SQL(`DELETE FROM device_inbox WHERE user_id = $1 AND device_id = $2 AND pos IN
		(SELECT pos FROM device_inbox WHERE user_id = $1 AND device_id = $2 AND sender = $3 ORDER BY pos LIMIT $4)`)
	stmtFewer      = sqldb.SQL(`UPDATE crypto_devices SET waiting = waiting - $3 WHERE user_id = $1 AND device_id = $2`)
	stmtPostLetter = sqldb.SQL(`INSERT INTO key_outbox (server, origin, subject, pos, at, content, sender) VALUES ($1, $2, $3, $4, $5, $6, $7)`)
	stmtForgetTxns = sqldb.SQL(`DELETE FROM device_txns WHERE at < $1`)
	stmtForgetSeen = sqldb.SQL(`DELETE FROM messages_seen WHERE at < $1`)
)

// Send sends messages of one type from a device of ours to other devices. The same transaction ID for the same type is answered without
// effect. It returns once all messages are in the inboxes of devices here, or written down for other servers.
//
// Spec: cs sendToDevice
func (e *Encryption) Send(ctx context.Context, sender id.UserID, device id.DeviceID, typ, txn string, to Messages) error {
	if err := to.check(typ); err != nil {
		return err
	}
	if !storable(txn) {
		return mxerr.InvalidParam("The transaction ID must be a text of at most %d bytes.", maxKeyName)
	}
	m := &message{sender, typ, to}
	letters := e.letters(m)
	err := e.db.Write(ctx, func(tx *sqldb.Tx) error {
		n, err := tx.Exec(stmtTxn, sender, device, typ+" "+txn, now())
		if err != nil || n == 0 {
			return err
		}
		for route, edu := range letters {
			if err := e.postLetter(tx, route, sender, edu); err != nil {
				return err
			}
		}
		return e.deliver(tx, m)
	})
	if err != nil {
		return fmt.Errorf("send to devices: %w", err)
	}
	return nil
}

// letters makes an EDU for each other server.
//
// Spec: ss Send-to-device messaging
func (e *Encryption) letters(m *message) map[Route]*directEDU {
	letters := make(map[Route]*directEDU)
	for user, devices := range m.to {
		server := user.Domain()
		if e.cfg.Ours.Is(server) || !e.cfg.Client.Permitted(server) || len(devices) == 0 {
			continue
		}
		route := Route{m.sender.Domain(), server}
		if letters[route] == nil {
			letters[route] = &directEDU{Sender: m.sender, Type: m.typ, ID: rand.Text(), Messages: make(Messages)}
		}
		letters[route].Messages[user] = devices
	}
	return letters
}

// directEDU is the content of an m.direct_to_device EDU.
type directEDU struct {
	Sender   id.UserID `json:"sender"`
	Type     string    `json:"type"`
	ID       string    `json:"message_id"`
	Messages Messages  `json:"messages"`
}

// postLetter writes down an EDU for another server.
func (e *Encryption) postLetter(tx *sqldb.Tx, r Route, user id.UserID, edu *directEDU) error {
	pos, err := tx.Pos()
	if err != nil {
		return err
	}
	content, err := json.Marshal(map[string]any{"edu_type": "m.direct_to_device", "content": edu})
	if err != nil {
		return err
	}
	tx.Queue(stmtPostLetter, r.Server, r.Origin, edu.ID, pos, now(), string(content), user)
	if err := e.thin(tx, r); err != nil {
		return err
	}
	tx.Emit(bus.Entry{Pos: pos, Kind: bus.Outbox, User: user, Data: Posted{r}})
	return nil
}

// parcel is a message for one device.
type parcel struct {
	user    id.UserID
	device  id.DeviceID
	content json.RawMessage
}

// deliver puts messages for our users into the inboxes of their devices. Devices that don't exist are passed over.
func (e *Encryption) deliver(tx *sqldb.Tx, m *message) error {
	var here []id.UserID
	for user := range m.to {
		if e.cfg.Ours.Is(user.Domain()) {
			here = append(here, user)
		}
	}
	var parcels []parcel
	err := tx.Each(stmtDevices, len(here), func(i int) []any { return []any{here[i]} }, func(i int, r *sqldb.Row) error {
		var device id.DeviceID
		err := r.Scan(&device)
		content, ok := m.to[here[i]][device]
		if !ok {
			content, ok = m.to[here[i]][everyDevice]
		}
		if ok {
			parcels = append(parcels, parcel{here[i], device, content})
		}
		return err
	})
	if err != nil {
		return err
	}
	return m.put(tx, parcels...)
}

// put adds messages to inboxes, and takes from those that are full.
func (m *message) put(tx *sqldb.Tx, parcels ...parcel) error {
	for _, p := range parcels {
		pos, err := tx.Pos()
		if err != nil {
			return err
		}
		event := append(append([]byte(`{"content":`), p.content...), `,"sender":`...)
		event = canon.AppendString(append(canon.AppendString(event, string(m.sender)), `,"type":`...), m.typ)
		tx.Queue(stmtInbox, p.user, p.device, pos, m.sender, string(append(event, '}')))
		tx.Emit(bus.Entry{Pos: pos, Kind: bus.ToDevice, User: p.user, Device: p.device})
	}
	var full []parcel
	err := tx.Each(stmtWaiting, len(parcels), func(i int) []any { return []any{parcels[i].user, parcels[i].device} }, func(i int, r *sqldb.Row) error {
		var waiting int
		err := r.Scan(&waiting)
		if waiting > maxInbox {
			full = append(full, parcels[i])
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range full {
		if err := evict(tx, p.user, p.device); err != nil {
			return err
		}
	}
	return nil
}

// evict takes from an inbox some messages of whoever has the most there.
func evict(tx *sqldb.Tx, user id.UserID, device id.DeviceID) error {
	var greedy id.UserID
	if _, err := tx.Get(stmtGreedy, []any{user, device}, &greedy); err != nil {
		return err
	}
	n, err := tx.Exec(stmtEvict, user, device, greedy, evicted)
	if err == nil {
		tx.Queue(stmtFewer, user, device, n)
	}
	return err
}

// Receive takes messages that another server brings. One that comes again is passed over. The sender must be a user of that server.
//
// Spec: ss Send-to-device messaging
func (e *Encryption) Receive(ctx context.Context, sender id.UserID, typ, messageID string, to Messages) error {
	if err := to.check(typ); err != nil {
		return err
	}
	if messageID == "" || !storable(messageID) {
		return mxerr.InvalidParam("the message ID is empty or too long")
	}
	err := e.db.Write(ctx, func(tx *sqldb.Tx) error {
		n, err := tx.Exec(stmtSeen, sender.Domain(), messageID, now())
		if err != nil || n == 0 {
			return err
		}
		return e.deliver(tx, &message{sender, typ, to})
	})
	if err != nil {
		return fmt.Errorf("receive messages of %s: %w", sender, err)
	}
	return nil
}

// ForgetMessages deletes the memory of transactions and EDUs that nobody will repeat any more.
func (e *Encryption) ForgetMessages(ctx context.Context) error {
	return e.db.Write(ctx, func(tx *sqldb.Tx) error {
		tx.Queue(stmtForgetTxns, now()-transactionsKept.Milliseconds())
		tx.Queue(stmtForgetSeen, now()-seenKept.Milliseconds())
		return nil
	})
}
