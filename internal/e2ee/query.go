package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxQuery bounds the users of one query: an answer is held in memory, and has a kilobyte for each device. Clients ask for 250.
	maxQuery = 2000
	// usersAtOnce bounds those of one statement.
	usersAtOnce = 200
)

// Query names users, and devices of theirs; none means all.
type Query map[id.UserID][]id.DeviceID

// Keys are what is published about users.
type Keys struct {
	Devices map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
}

var stmtKeysOf = sqldb.SQL(`SELECT user_id, device_id, name, keys FROM crypto_devices WHERE user_id = ANY($1) AND keys IS NOT NULL`)

// check bounds a query.
func (q Query) check() error {
	if len(q) > maxQuery {
		return mxerr.TooLarge("A query is for at most %d users.", maxQuery)
	}
	for user := range q {
		if _, err := id.ParseUserID(string(user)); err != nil {
			return mxerr.InvalidParam("\"device_keys\": %v.", err)
		}
	}
	return nil
}

// QueryLocal returns the keys of our users. Users of other servers are left out.
//
// Spec: cs queryKeys
// Spec: ss queryUserEncryptionKeys
func (e *Encryption) QueryLocal(ctx context.Context, want Query) (*Keys, error) {
	if err := want.check(); err != nil {
		return nil, err
	}
	keys := &Keys{Devices: make(map[id.UserID]map[id.DeviceID]json.RawMessage)}
	var users []string
	for user := range want {
		if e.cfg.Ours.Is(user.Domain()) {
			keys.Devices[user] = make(map[id.DeviceID]json.RawMessage)
			users = append(users, string(user))
		}
	}
	for part := range slices.Chunk(users, usersAtOnce) {
		err := e.db.Read(ctx, func(tx *sqldb.Tx) error { return keys.load(tx, part, want) })
		if err != nil {
			return nil, fmt.Errorf("load keys of devices: %w", err)
		}
	}
	return keys, nil
}

func (k *Keys) load(tx *sqldb.Tx, users []string, want Query) error {
	return tx.Query(stmtKeysOf, func(r *sqldb.Row) error {
		var user id.UserID
		var device id.DeviceID
		var name, keys string
		err := r.Scan(&user, &device, &name, &keys)
		if asked := want[user]; err == nil && (len(asked) == 0 || slices.Contains(asked, device)) {
			k.Devices[user][device] = named([]byte(keys), name)
		}
		return err
	}, users)
}

// named adds the device's name for people to its keys.
func named(keys []byte, name string) json.RawMessage {
	if name == "" {
		return keys
	}
	unsigned := append(canon.AppendString([]byte(`{"device_display_name":`), name), '}')
	return canon.With(make([]byte, 0, len(keys)+len(unsigned)+len(`"unsigned":,`)), keys, "unsigned", unsigned)
}

// storable reports whether the database has a way to write a text: what it can't hold is not there.
func storable(text string) bool {
	return len(text) <= maxKeyName && utf8.ValidString(text) && strings.IndexByte(text, 0) < 0
}
