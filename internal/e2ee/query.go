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
	Devices     map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	Masters     map[id.UserID]json.RawMessage                 `json:"master_keys"`
	SelfSigners map[id.UserID]json.RawMessage                 `json:"self_signing_keys"`
	// UserSigners has that of the one who asks and nobody else's.
	UserSigners map[id.UserID]json.RawMessage `json:"user_signing_keys,omitempty"`
}

// add adds the cross-signing keys of a user, as far as a viewer may see them.
func (k *Keys) add(user, viewer id.UserID, keys crossKeys, s signed) {
	if m := keys[master]; m != nil {
		k.Masters[user] = s.on(m.raw, user, m.text)
	}
	if o := keys[selfSigning]; o != nil {
		k.SelfSigners[user] = s.on(o.raw, user, o.text)
	}
	if o := keys[userSigning]; o != nil && user == viewer {
		k.UserSigners[user] = s.on(o.raw, user, o.text)
	}
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

// QueryLocal returns the keys of our users, with the signatures that a viewer of ours may see; viewer is "" for other servers. Users of other
// servers are left out.
//
// Spec: cs queryKeys
// Spec: ss queryUserEncryptionKeys
func (e *Encryption) QueryLocal(ctx context.Context, viewer id.UserID, want Query) (*Keys, error) {
	if err := want.check(); err != nil {
		return nil, err
	}
	keys := &Keys{
		Devices: make(map[id.UserID]map[id.DeviceID]json.RawMessage), Masters: make(map[id.UserID]json.RawMessage),
		SelfSigners: make(map[id.UserID]json.RawMessage), UserSigners: make(map[id.UserID]json.RawMessage),
	}
	var users []string
	for user := range want {
		if e.cfg.Ours.Is(user.Domain()) {
			keys.Devices[user] = make(map[id.DeviceID]json.RawMessage)
			users = append(users, string(user))
		}
	}
	for part := range slices.Chunk(users, usersAtOnce) {
		err := e.db.Read(ctx, func(tx *sqldb.Tx) error { return keys.load(tx, part, viewer, want) })
		if err != nil {
			return nil, fmt.Errorf("load keys of devices: %w", err)
		}
	}
	return keys, nil
}

func (k *Keys) load(tx *sqldb.Tx, users []string, viewer id.UserID, want Query) error {
	signatures, err := signaturesOf(tx, users, viewer)
	if err != nil {
		return err
	}
	crossed, err := crossKeysOf(tx, users)
	if err != nil {
		return err
	}
	for user, keys := range crossed {
		k.add(user, viewer, keys, signatures)
	}
	return tx.Query(stmtKeysOf, func(r *sqldb.Row) error {
		var user id.UserID
		var device id.DeviceID
		var name, keys string
		err := r.Scan(&user, &device, &name, &keys)
		if asked := want[user]; err == nil && (len(asked) == 0 || slices.Contains(asked, device)) {
			k.Devices[user][device] = named(signatures.on([]byte(keys), user, string(device)), name)
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
