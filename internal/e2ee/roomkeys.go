package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxBackupPut bounds the keys of one request, maxSessionData each in bytes, and maxBackupKeys those of a backup. Clients send 100 at a
	// time; one that has read 5,000 rooms for years has some 100,000.
	maxBackupPut   = 5000
	maxSessionData = 16 << 10
	maxBackupKeys  = 1_000_000
	// keysAtOnce bounds the keys that are in memory while a backup is read.
	keysAtOnce = 500
)

// BackedUp is the key of a session in a backup.
//
// Spec: cs putRoomKeyBySessionId
type BackedUp struct {
	FirstIndex *int64          `json:"first_message_index"`
	Forwarded  *int64          `json:"forwarded_count"`
	Verified   *bool           `json:"is_verified"`
	Data       json.RawMessage `json:"session_data"`
}

// RoomBackup are the keys of a room by their sessions, and BackupKeys those of rooms.
type (
	RoomBackup struct {
		Sessions map[string]BackedUp `json:"sessions"`
	}
	BackupKeys map[id.RoomID]RoomBackup
)

// check bounds keys that a client uploads.
func (k BackupKeys) check() error {
	n := 0
	for room, sessions := range k {
		if _, err := id.ParseRoomID(string(room)); err != nil {
			return mxerr.InvalidParam("%v.", err)
		}
		if n += len(sessions.Sessions); n > maxBackupPut {
			return mxerr.TooLarge("An upload has at most %d keys.", maxBackupPut)
		}
		for session, b := range sessions.Sessions {
			switch {
			case session == "" || !storable(session):
				return mxerr.InvalidParam("%.40q is no ID of a session.", session)
			case b.FirstIndex == nil || b.Forwarded == nil || b.Verified == nil || b.Data == nil:
				return mxerr.BadJSON("A key needs \"first_message_index\", \"forwarded_count\", \"is_verified\" and \"session_data\".")
			case b.Data[0] != '{':
				return mxerr.BadJSON("\"session_data\" must be an object.")
			case len(b.Data) > maxSessionData:
				return mxerr.TooLarge("\"session_data\" has more than %d bytes.", maxSessionData)
			}
		}
	}
	return nil
}

// replaces reports whether a key takes the place of another one of the same session.
//
// Spec: cs Server-side key backups
func (b *BackedUp) replaces(old *BackedUp) bool {
	switch {
	case *b.Verified != *old.Verified:
		return *b.Verified
	case *b.FirstIndex != *old.FirstIndex:
		return *b.FirstIndex < *old.FirstIndex
	}
	return *b.Forwarded < *old.Forwarded
}

var (
	stmtSessionMeta = sqldb.SQL(`SELECT first_index, forwarded, verified FROM backup_keys
		WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4`)
	stmtSetSession = sqldb.SQL(`INSERT INTO backup_keys (user_id, version, room_id, session_id, first_index, forwarded, verified, data)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (user_id, version, room_id, session_id)
		DO UPDATE SET first_index = excluded.first_index, forwarded = excluded.forwarded, verified = excluded.verified, data = excluded.data`)
	stmtSessions = sqldb.SQL(`SELECT room_id, session_id, first_index, forwarded, verified, data FROM backup_keys
		WHERE user_id = $1 AND version = $2 AND (room_id > $3 OR room_id = $3 AND session_id > $4) ORDER BY room_id, session_id LIMIT $5`)
	stmtRoomSessions = sqldb.SQL(`SELECT room_id, session_id, first_index, forwarded, verified, data FROM backup_keys
		WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id > $4 ORDER BY session_id LIMIT $5`)
	stmtSession = sqldb.SQL(`SELECT room_id, session_id, first_index, forwarded, verified, data FROM backup_keys
		WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4`)
	stmtDropSessions = sqldb.SQL(`DELETE FROM backup_keys WHERE user_id = $1 AND version = $2
		AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4)`)
)

// open reads a backup inside of a transaction that changes it: other nodes wait.
func open(tx *sqldb.Tx, user id.UserID, version string) (*Backup, error) {
	if _, err := tx.Get(stmtLock, []any{user, parseVersion(version)}, new(int64)); err != nil {
		return nil, err
	}
	return openRead(tx, user, version)
}

// openRead reads a backup that a client names.
func openRead(tx *sqldb.Tx, user id.UserID, version string) (*Backup, error) {
	number := parseVersion(version)
	if number == 0 {
		return nil, errNoBackup
	}
	return backup(tx, user, number)
}

// PutRoomKeys adds keys to the current backup, each if it is better than what is there. M_WRONG_ROOM_KEYS_VERSION says that the backup isn't
// the current one.
//
// Spec: cs putRoomKeys
// Spec: cs putRoomKeysByRoomId
// Spec: cs putRoomKeyBySessionId
func (e *Encryption) PutRoomKeys(ctx context.Context, user id.UserID, version string, keys BackupKeys) (s Stored, err error) {
	if err := keys.check(); err != nil {
		return s, err
	}
	err = e.db.Write(ctx, func(tx *sqldb.Tx) error {
		current, err := backup(tx, user, 0)
		if err != nil {
			return err
		}
		if current.Version != version {
			return mxerr.New(mxerr.CodeWrongRoomKeysVersion, "The current backup is another one.").With("current_version", current.Version)
		}
		b, err := open(tx, user, version)
		if err != nil {
			return err
		}
		changed := false
		for room, sessions := range keys {
			for session, key := range sessions.Sessions {
				added, replaced, err := b.put(tx, user, room, session, &key)
				if err != nil {
					return err
				}
				if added {
					b.Count++
				}
				changed = changed || added || replaced
			}
		}
		if b.Count > maxBackupKeys {
			return mxerr.TooLarge("A backup has at most %d keys.", maxBackupKeys)
		}
		s = b.stored(tx, user, changed)
		return nil
	})
	return s, err
}

func (b *Backup) put(tx *sqldb.Tx, user id.UserID, room id.RoomID, session string, key *BackedUp) (added, replaced bool, err error) {
	old := BackedUp{FirstIndex: new(int64), Forwarded: new(int64), Verified: new(bool)}
	found, err := tx.Get(stmtSessionMeta, []any{user, b.number, room, session}, old.FirstIndex, old.Forwarded, old.Verified)
	if err != nil || found && !key.replaces(&old) {
		return false, false, err
	}
	tx.Queue(stmtSetSession, user, b.number, room, session, *key.FirstIndex, *key.Forwarded, *key.Verified, string(key.Data))
	return !found, found, nil
}

// stored writes down that keys changed, if they did.
func (b *Backup) stored(tx *sqldb.Tx, user id.UserID, changed bool) Stored {
	if changed {
		b.etag++
		tx.Queue(stmtChanged, user, b.number, b.etag, b.Count)
	}
	return Stored{strconv.FormatInt(b.etag, 10), b.Count}
}

// DeleteRoomKeys deletes keys from a backup: those of a room, or of a session of it, where these are not empty.
//
// Spec: cs deleteRoomKeys
// Spec: cs deleteRoomKeysByRoomId
// Spec: cs deleteRoomKeyBySessionId
func (e *Encryption) DeleteRoomKeys(ctx context.Context, user id.UserID, version string, room id.RoomID, session string) (s Stored, err error) {
	if !storable(session) {
		return s, mxerr.InvalidParam("The session ID is too long.")
	}
	err = e.db.Write(ctx, func(tx *sqldb.Tx) error {
		b, err := open(tx, user, version)
		if err != nil {
			return err
		}
		n, err := tx.Exec(stmtDropSessions, user, b.number, room, session)
		b.Count -= n
		s = b.stored(tx, user, n > 0)
		return err
	})
	return s, err
}

// row is a key as it is read.
type row struct {
	room    id.RoomID
	session string
	json    []byte
}

func scanSession(r *sqldb.Row) (o row, err error) {
	var first, forwarded int64
	var verified bool
	var data string
	err = r.Scan(&o.room, &o.session, &first, &forwarded, &verified, &data)
	b := strconv.AppendInt([]byte(`{"first_message_index":`), first, 10)
	b = strconv.AppendInt(append(b, `,"forwarded_count":`...), forwarded, 10)
	b = strconv.AppendBool(append(b, `,"is_verified":`...), verified)
	o.json = append(append(append(b, `,"session_data":`...), data...), '}')
	return o, err
}

// SessionKey returns the key of one session as JSON; M_NOT_FOUND if there is none.
//
// Spec: cs getRoomKeyBySessionId
func (e *Encryption) SessionKey(ctx context.Context, user id.UserID, version string, room id.RoomID, session string) (key []byte, err error) {
	if !storable(session) {
		return nil, mxerr.NotFound("There is no key of this session.")
	}
	err = e.db.Read(ctx, func(tx *sqldb.Tx) error {
		b, err := openRead(tx, user, version)
		if err != nil {
			return err
		}
		key = nil
		err = tx.Query(stmtSession, func(r *sqldb.Row) error {
			o, err := scanSession(r)
			key = o.json
			return err
		}, user, b.number, room, session)
		if err == nil && key == nil {
			err = mxerr.NotFound("There is no key of this session.")
		}
		return err
	})
	return key, err
}

// RoomKeys returns what writes the keys of a backup as JSON, those of one room if it is not empty, a page of them in memory at a time.
//
// Spec: cs getRoomKeys
// Spec: cs getRoomKeysByRoomId
func (e *Encryption) RoomKeys(ctx context.Context, user id.UserID, version string, room id.RoomID) (func(w io.Writer) error, error) {
	b, err := e.Backup(ctx, user, version)
	if err != nil {
		return nil, err
	}
	return func(w io.Writer) error { return e.writeKeys(ctx, w, user, b.number, room) }, nil
}

func (e *Encryption) writeKeys(ctx context.Context, w io.Writer, user id.UserID, version int64, only id.RoomID) error {
	last, open := row{room: only}, false
	out := []byte(`{"rooms":{`)
	if only != "" {
		out, open = []byte(`{"sessions":{`), true
	}
	for first := true; ; first = false {
		stmt := stmtSessions
		if only != "" {
			stmt = stmtRoomSessions
		}
		var page []row
		err := e.db.Read(ctx, func(tx *sqldb.Tx) error {
			page = nil
			return tx.Query(stmt, func(r *sqldb.Row) error {
				o, err := scanSession(r)
				page = append(page, o)
				return err
			}, user, version, last.room, last.session, keysAtOnce)
		})
		if err != nil {
			return fmt.Errorf("read a backup: %w", err)
		}
		for i, o := range page {
			begun := !first || i > 0
			switch {
			case only == "" && (!begun || o.room != last.room):
				if begun {
					out = append(out, `}},`...)
				}
				out, open = append(canon.AppendString(out, string(o.room)), `:{"sessions":{`...), true
			case begun:
				out = append(out, ',')
			}
			out = append(append(canon.AppendString(out, o.session), ':'), o.json...)
			last = o
		}
		if len(page) < keysAtOnce {
			break
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
		out = out[:0]
	}
	if open && only == "" {
		out = append(out, `}}`...)
	}
	_, err := w.Write(append(out, `}}`...))
	return err
}
