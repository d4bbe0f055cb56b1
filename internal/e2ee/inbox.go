package e2ee

import (
	"context"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

var (
	stmtInboxEnds = sqldb.SQL(`SELECT COALESCE(MIN(pos), 0), COALESCE(MAX(pos), 0) FROM device_inbox WHERE user_id = $1 AND device_id = $2`)
	stmtMessages  = sqldb.SQL(`SELECT pos, event FROM device_inbox WHERE user_id = $1 AND device_id = $2 AND pos > $3 AND pos <= $4
		ORDER BY pos LIMIT $5`)
	stmtDelivered = sqldb.SQL(`DELETE FROM device_inbox WHERE user_id = $1 AND device_id = $2 AND pos <= $3`)
)

// receipt is the proof that a device has its messages up to a position.
type receipt struct {
	deviceKey
	upTo sqldb.Pos
}

// newReaper returns what deletes messages that arrived. Nobody waits for it: what it has not deleted is not told again, since the device says
// each time from where on it wants messages.
func newReaper(db *sqldb.DB) *sqldb.Batcher[receipt] {
	return sqldb.NewBatcher(db, "delivered messages", func(tx *sqldb.Tx, list []receipt) []error {
		for _, r := range list {
			n, err := tx.Exec(stmtDelivered, r.user, r.device, r.upTo)
			if err == nil && n > 0 {
				_, err = tx.Exec(stmtFewer, r.user, r.device, n)
			}
			if err != nil {
				return []error{err}
			}
		}
		return nil
	})
}

// Inbox returns the messages for a device at positions in (from, to] as a JSON array, in their order, as many as fit into one answer, and up to
// where these are all. That the device asks from a position on proves that it has those before: they are deleted.
//
// Spec: cs Send-to-Device messaging
func (e *Encryption) Inbox(ctx context.Context, user id.UserID, device id.DeviceID, from, to sqldb.Pos) (events []byte, upTo sqldb.Pos, err error) {
	return e.InboxPage(ctx, user, device, from, to, -1)
}

// InboxPage is Inbox for a client that wants no more than so many messages; a negative limit stands for none. With 0 there are no messages,
// and nothing counts as delivered but what was before.
//
// MSC3885: Sliding Sync Extension: To-Device
func (e *Encryption) InboxPage(ctx context.Context, user id.UserID, device id.DeviceID, from, to sqldb.Pos, limit int) (events []byte, upTo sqldb.Pos, err error) {
	most := maxAnswer
	if limit >= 0 {
		most = min(most, limit)
	}
	k := deviceKey{user, device}
	s, err := e.stock(ctx, k)
	if err != nil {
		return nil, 0, err
	}
	if s.first != 0 && s.first <= from && sqldb.Pos(s.reaped.Load()) < min(from, s.last) {
		s.reaped.Store(int64(from))
		e.reaper.Submit(receipt{k, from})
	}
	from = max(from, sqldb.Pos(s.reaped.Load()))
	if s.last <= from {
		return nil, to, nil
	}
	if most == 0 {
		return nil, from, nil
	}
	err = e.db.Read(ctx, func(tx *sqldb.Tx) error {
		events, upTo = nil, to
		n, last := 0, from
		return tx.Query(stmtMessages, func(r *sqldb.Row) error {
			var pos sqldb.Pos
			var event string
			if err := r.Scan(&pos, &event); err != nil {
				return err
			}
			if upTo < to {
				return nil
			}
			if n >= most || n > 0 && len(events)+len(event) > maxAnswerBytes {
				upTo = last
				return nil
			}
			if n > 0 {
				events = append(events, ',')
			} else {
				events = append(events, '[')
			}
			n, last = n+1, pos
			events = append(events, event...)
			return nil
		}, user, device, from, to, most+1)
	})
	if err != nil {
		return nil, 0, fmt.Errorf("load messages for a device of %s: %w", user, err)
	}
	if events != nil {
		events = append(events, ']')
	}
	return events, upTo, nil
}
