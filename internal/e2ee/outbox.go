package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

const (
	// maxChain bounds the updates about one user in one transaction. The rest follows in the next.
	maxChain = 20
	// outboxKept is how long something waits for a server that is away: keys of sessions from before are of no use to anybody.
	outboxKept = 30 * 24 * time.Hour
)

// Route is the way from one of our names to another server.
type Route struct{ Origin, Server id.ServerName }

// Posted is the Data of an entry of kind Outbox: something waits on these routes.
type Posted []Route

// Letter is something that another server is to be told, as EDUs in their order.
type Letter struct {
	EDUs []json.RawMessage

	subject string
	pos     sqldb.Pos
	// told is up to where the other side knows the devices of a user after this; 0 if the letter is not about that.
	told sqldb.Pos
	// signing is the same for cross-signing keys.
	signing sqldb.Pos
	more    bool
}

var (
	stmtPost = sqldb.SQL(`INSERT INTO key_outbox (server, origin, subject, pos, at, content) VALUES ($1, $2, $3, $4, $5, NULL)
		ON CONFLICT (server, origin, subject) DO UPDATE SET pos = excluded.pos`)
	stmtLetters = sqldb.SQL(`SELECT subject, pos, COALESCE(content, '') FROM key_outbox WHERE server = $1 AND origin = $2 ORDER BY pos LIMIT $3`)
	stmtSent    = sqldb.SQL(`DELETE FROM key_outbox WHERE server = $1 AND origin = $2 AND subject = $3 AND pos <= $4`)
	stmtTold    = sqldb.SQL(`SELECT pos, signing FROM told_lists WHERE server = $1 AND user_id = $2`)
	stmtSetTold = sqldb.SQL(`INSERT INTO told_lists (server, user_id, pos, signing) VALUES ($1, $2, $3, $4)
		ON CONFLICT (server, user_id) DO UPDATE SET pos = excluded.pos, signing = excluded.signing`)
	stmtSigningPos   = sqldb.SQL(`SELECT COALESCE(MAX(pos), 0) FROM cross_keys WHERE user_id = $1 AND purpose <> 'user_signing'`)
	stmtRoutes       = sqldb.SQL(`SELECT DISTINCT origin, server FROM key_outbox WHERE pos > $1 AND pos <= $2`)
	stmtForgetOutbox = sqldb.SQL(`DELETE FROM key_outbox WHERE at < $1 AND (content IS NOT NULL OR at < $2)`)
	// The devices that changed after a position, those that are gone with an empty last column.
	stmtChain = sqldb.SQL(`SELECT device_id, name, COALESCE(keys, ''), pos, 1 FROM crypto_devices WHERE user_id = $1 AND pos > $2
		UNION ALL SELECT device_id, '', '', pos, 0 FROM gone_devices WHERE user_id = $1 AND pos > $2 AND $3 = 1 ORDER BY 4 LIMIT $4`)
	stmtLocalChanged = sqldb.SQL(`SELECT user_id, pos FROM key_lists WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
)

// ChangedLists returns the users whose keys changed at positions in (from, to], at most limit of them, and up to which position these are all.
func ChangedLists(tx *sqldb.Tx, from, to sqldb.Pos, limit int) (found []id.UserID, upTo sqldb.Pos, err error) {
	upTo = to
	var last sqldb.Pos
	err = tx.Query(stmtLocalChanged, func(r *sqldb.Row) error {
		var user id.UserID
		err := r.Scan(&user, &last)
		found = append(found, user)
		return err
	}, from, to, limit)
	if len(found) == limit {
		upTo = last
	}
	return found, upTo, err
}

// PostList has servers told that the devices of a user of ours changed, or that the user came to them.
func PostList(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID, servers []id.ServerName) {
	if len(servers) == 0 {
		return
	}
	at := now()
	routes := make(Posted, len(servers))
	for i, server := range servers {
		tx.Queue(stmtPost, server, user.Domain(), string(user), pos, at)
		routes[i] = Route{user.Domain(), server}
	}
	tx.Emit(bus.Entry{Pos: pos, Kind: bus.Outbox, User: user, Data: routes})
}

// Routes returns the routes for which something was written down at positions in (from, to].
func Routes(tx *sqldb.Tx, from, to sqldb.Pos) (found []Route, err error) {
	err = tx.Query(stmtRoutes, func(r *sqldb.Row) error {
		var route Route
		err := r.Scan(&route.Origin, &route.Server)
		found = append(found, route)
		return err
	}, from, to)
	return found, err
}

// Letters returns what waits on a route in its order, at most so many EDUs and, but for the first letter, bytes. more says that there is more.
func (e *Encryption) Letters(ctx context.Context, r Route, edus, bytes int) (letters []*Letter, more bool, err error) {
	err = e.db.Read(ctx, func(tx *sqldb.Tx) error {
		letters, more = nil, false
		var contents []string
		err := tx.Query(stmtLetters, func(row *sqldb.Row) error {
			l := new(Letter)
			var content string
			err := row.Scan(&l.subject, &l.pos, &content)
			letters, contents = append(letters, l), append(contents, content)
			return err
		}, r.Server, r.Origin, edus+1)
		if err != nil {
			return err
		}
		for i, l := range letters {
			if contents[i] != "" {
				l.EDUs = []json.RawMessage{json.RawMessage(contents[i])}
			} else if err := l.chain(tx, r.Server, min(edus, maxChain)); err != nil {
				return err
			}
			edus -= len(l.EDUs)
			for _, edu := range l.EDUs {
				bytes -= len(edu)
			}
			if i > 0 && (edus < 0 || bytes < 0) {
				letters, more = letters[:i], true
				return nil
			}
			more = more || l.more
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("load what waits for %s: %w", r.Server, err)
	}
	return letters, more, nil
}

// chain fills a letter with what a server doesn't know of a user's devices.
//
// Spec: ss Device Management
func (l *Letter) chain(tx *sqldb.Tx, server id.ServerName, most int) error {
	user := id.UserID(l.subject)
	known, err := tx.Get(stmtTold, []any{server, user}, &l.told, &l.signing)
	if err != nil {
		return err
	}
	signatures, err := signaturesOf(tx, []string{l.subject}, "")
	if err != nil {
		return err
	}
	if err := l.sign(tx, user, signatures); err != nil {
		return err
	}
	prev := l.told
	return tx.Query(stmtChain, func(r *sqldb.Row) error {
		var device id.DeviceID
		var name, keys string
		var pos sqldb.Pos
		var there bool
		if err := r.Scan(&device, &name, &keys, &pos, &there); err != nil {
			return err
		}
		if len(l.EDUs) >= most {
			l.more = true
			return nil
		}
		if keys != "" {
			keys = string(signatures.on([]byte(keys), user, string(device)))
		}
		l.EDUs = append(l.EDUs, listUpdate(user, device, name, keys, pos, prev, there))
		prev, l.told = pos, pos
		return nil
	}, user, l.told, known, most+1)
}

// sign adds the cross-signing keys of a user, if the server doesn't know these.
//
// Spec: ss End-to-End Encryption
func (l *Letter) sign(tx *sqldb.Tx, user id.UserID, signatures signed) error {
	var pos sqldb.Pos
	if _, err := tx.Get(stmtSigningPos, []any{user}, &pos); err != nil || pos <= l.signing {
		return err
	}
	crossed, err := crossKeysOf(tx, []string{string(user)})
	if err != nil {
		return err
	}
	b := canon.AppendString([]byte(`{"edu_type":"m.signing_key_update","content":{"user_id":`), string(user))
	for _, purpose := range []string{master, selfSigning} {
		if k := crossed[user][purpose]; k != nil {
			b = append(append(append(b, `,"`...), purpose...), `_key":`...)
			b = append(b, signatures.on(k.raw, user, k.text)...)
		}
	}
	l.EDUs = append(l.EDUs, append(b, "}}"...))
	l.signing = pos
	return nil
}

// listUpdate makes an EDU. prev is 0 for the first one.
func listUpdate(user id.UserID, device id.DeviceID, name, keys string, pos, prev sqldb.Pos, there bool) json.RawMessage {
	b := canon.AppendString([]byte(`{"edu_type":"m.device_list_update","content":{"user_id":`), string(user))
	b = canon.AppendString(append(b, `,"device_id":`...), string(device))
	b = strconv.AppendInt(append(b, `,"stream_id":`...), int64(pos), 10)
	b = append(b, `,"prev_id":[`...)
	if prev != 0 {
		b = strconv.AppendInt(b, int64(prev), 10)
	}
	b = append(b, ']')
	if !there {
		b = append(b, `,"deleted":true`...)
	}
	if name != "" {
		b = canon.AppendString(append(b, `,"device_display_name":`...), name)
	}
	if keys != "" {
		b = append(append(b, `,"keys":`...), keys...)
	}
	return append(b, "}}"...)
}

// Sent writes down, in a transaction of the sender's, that letters arrived.
func Sent(tx *sqldb.Tx, r Route, letters []*Letter) {
	for _, l := range letters {
		if l.told+l.signing != 0 {
			tx.Queue(stmtSetTold, r.Server, l.subject, l.told, l.signing)
		}
		if !l.more {
			tx.Queue(stmtSent, r.Server, r.Origin, l.subject, l.pos)
		}
	}
}

// ForgetOutbox deletes what waits for servers that are away for very long. Of a user's devices they are told with the next change.
func (e *Encryption) ForgetOutbox(ctx context.Context) error {
	return e.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(stmtForgetOutbox, now()-outboxKept.Milliseconds(), now()-goneKept.Milliseconds())
		return err
	})
}
