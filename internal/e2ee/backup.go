package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxBackups bounds the backups of a user that are not deleted. Clients keep one and replace it now and then.
	maxBackups = 100
	// maxAuthData bounds what a backup says of its key, in bytes.
	maxAuthData = 64 << 10
	// sweptAtOnce is how many keys of deleted backups go in one transaction.
	sweptAtOnce = 500
)

// Backup is a version of a user's backup of room keys.
//
// Spec: cs Server-side key backups
type Backup struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count"`
	ETag      string          `json:"etag"`
	Version   string          `json:"version"`

	number, etag int64
}

// Stored is what a change of the keys in a backup leads to.
type Stored struct {
	ETag  string `json:"etag"`
	Count int64  `json:"count"`
}

const backupColumns = `SELECT version, algorithm, auth_data, etag, keys FROM backups`

var (
	stmtBackup       = sqldb.SQL(backupColumns + ` WHERE user_id = $1 AND version = $2 AND deleted = 0`)
	stmtCurrent      = sqldb.SQL(backupColumns + ` WHERE user_id = $1 AND deleted = 0 ORDER BY version DESC LIMIT 1`)
	stmtLock         = sqldb.SQL(`SELECT version FROM backups WHERE user_id = $1 AND version = $2 FOR UPDATE`)
	stmtLastBackup   = sqldb.SQL(`SELECT COALESCE(MAX(version), 0), COALESCE(SUM(1 - deleted), 0) FROM backups WHERE user_id = $1`)
	stmtAddBackup    = sqldb.SQL(`INSERT INTO backups (user_id, version, algorithm, auth_data, etag, keys, deleted) VALUES ($1, $2, $3, $4, 0, 0, 0)`)
	stmtSetAuthData  = sqldb.SQL(`UPDATE backups SET auth_data = $3 WHERE user_id = $1 AND version = $2`)
	stmtDeleteBackup = sqldb.SQL(`UPDATE backups SET deleted = 1, auth_data = '{}' WHERE user_id = $1 AND version = $2`)
	stmtChanged      = sqldb.SQL(`UPDATE backups SET etag = $3, keys = $4 WHERE user_id = $1 AND version = $2`)
	stmtEndBackups   = sqldb.SQL(`UPDATE backups SET deleted = 1, auth_data = '{}' WHERE user_id = $1`)
	stmtSweepable    = sqldb.SQL(`SELECT user_id, version FROM backups WHERE deleted = 1 AND keys > 0 LIMIT 1`)
	stmtSweepKeys    = sqldb.SQL(`DELETE FROM backup_keys WHERE user_id = $1 AND version = $2 AND session_id IN
		(SELECT session_id FROM backup_keys WHERE user_id = $1 AND version = $2 LIMIT $3)`)
	stmtSwept = sqldb.SQL(`UPDATE backups SET keys = 0 WHERE user_id = $1 AND version = $2`)
)

var errNoBackup = mxerr.NotFound("There is no such backup.")

// parseVersion reads a version as clients name it; 0, which no backup has, stands for what is none.
func parseVersion(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || strconv.FormatInt(n, 10) != text {
		return 0
	}
	return n
}

// backup reads a backup, or with 0 the current one.
func backup(tx *sqldb.Tx, user id.UserID, version int64) (*Backup, error) {
	b := new(Backup)
	stmt, args := stmtBackup, []any{user, version}
	if version == 0 {
		stmt, args = stmtCurrent, args[:1]
	}
	var authData string
	found, err := tx.Get(stmt, args, &b.number, &b.Algorithm, &authData, &b.etag, &b.Count)
	if err == nil && !found {
		err = errNoBackup
	}
	b.AuthData, b.Version, b.ETag = json.RawMessage(authData), strconv.FormatInt(b.number, 10), strconv.FormatInt(b.etag, 10)
	return b, err
}

// Backup returns a backup of a user's, the current one if version is empty, and M_NOT_FOUND if there is none.
//
// Spec: cs getRoomKeysVersion
// Spec: cs getRoomKeysVersionCurrent
func (e *Encryption) Backup(ctx context.Context, user id.UserID, version string) (b *Backup, err error) {
	number := parseVersion(version)
	if version != "" && number == 0 {
		return nil, errNoBackup
	}
	err = e.db.Read(ctx, func(tx *sqldb.Tx) error {
		b, err = backup(tx, user, number)
		return err
	})
	return b, err
}

// check bounds a backup that a client describes.
func (b *Backup) check() error {
	switch {
	case b.Algorithm == "":
		return mxerr.MissingParam("\"algorithm\" is missing.")
	case !storable(b.Algorithm):
		return mxerr.InvalidParam("\"algorithm\" is too long.")
	case len(b.AuthData) == 0:
		return mxerr.MissingParam("\"auth_data\" is missing.")
	case b.AuthData[0] != '{':
		return mxerr.BadJSON("\"auth_data\" must be an object.")
	case len(b.AuthData) > maxAuthData:
		return mxerr.TooLarge("\"auth_data\" has more than %d bytes.", maxAuthData)
	}
	return nil
}

// CreateBackup makes a new backup, which is the current one from then on, and returns its version.
//
// Spec: cs postRoomKeysVersion
func (e *Encryption) CreateBackup(ctx context.Context, user id.UserID, b Backup) (version string, err error) {
	if err := b.check(); err != nil {
		return "", err
	}
	err = e.db.Write(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Pos(); err != nil { // other nodes wait
			return err
		}
		var last, count int64
		if _, err := tx.Get(stmtLastBackup, []any{user}, &last, &count); err != nil {
			return err
		}
		if count >= maxBackups {
			return mxerr.Forbidden("You have %d backups. Delete some before you make another.", count)
		}
		version = strconv.FormatInt(last+1, 10)
		tx.Queue(stmtAddBackup, user, last+1, b.Algorithm, string(b.AuthData))
		return nil
	})
	return version, err
}

// UpdateBackup changes what a backup says of its key. The algorithm stays.
//
// Spec: cs putRoomKeysVersion
func (e *Encryption) UpdateBackup(ctx context.Context, user id.UserID, version string, b Backup) error {
	if err := b.check(); err != nil {
		return err
	}
	if b.Version != "" && b.Version != version {
		return mxerr.InvalidParam("\"version\" is not that of the path.")
	}
	number := parseVersion(version)
	if number == 0 {
		return errNoBackup
	}
	return e.db.Write(ctx, func(tx *sqldb.Tx) error {
		old, err := backup(tx, user, number)
		if err == nil && old.Algorithm != b.Algorithm {
			err = mxerr.InvalidParam("\"algorithm\" is not that of the backup.")
		}
		if err == nil {
			tx.Queue(stmtSetAuthData, user, number, string(b.AuthData))
		}
		return err
	})
}

// DeleteBackup deletes a backup; one that was deleted before is no error.
//
// Spec: cs deleteRoomKeysVersion
func (e *Encryption) DeleteBackup(ctx context.Context, user id.UserID, version string) error {
	return e.db.Write(ctx, func(tx *sqldb.Tx) error {
		n, err := tx.Exec(stmtDeleteBackup, user, parseVersion(version))
		if err == nil && n == 0 {
			err = errNoBackup
		}
		return err
	})
}

// SweepBackups deletes the keys of backups that were deleted.
func (e *Encryption) SweepBackups(ctx context.Context) error {
	for {
		var user id.UserID
		var version, n int64
		var found bool
		err := e.db.Write(ctx, func(tx *sqldb.Tx) (err error) {
			if found, err = tx.Get(stmtSweepable, nil, &user, &version); err != nil || !found {
				return err
			}
			if n, err = tx.Exec(stmtSweepKeys, user, version, sweptAtOnce); err == nil && n == 0 {
				tx.Queue(stmtSwept, user, version)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("delete keys of deleted backups: %w", err)
		}
		if !found {
			return nil
		}
	}
}
