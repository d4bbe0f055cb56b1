package sqldb

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	"zombiezen.com/go/sqlite"
)

// SQLSTATE codes of PostgreSQL.
const (
	pgUniqueViolation      = "23505"
	pgSerializationFailure = "40001"
	pgDeadlock             = "40P01"
)

// IsUnique reports that err is the violation of a primary key or of a unique index.
func IsUnique(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == pgUniqueViolation
	}
	switch sqliteCode(err) {
	case sqlite.ResultConstraintUnique, sqlite.ResultConstraintPrimaryKey, sqlite.ResultConstraintRowID:
		return true
	}
	return false
}

// retryable reports that the same transaction may well succeed when run again.
func retryable(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == pgSerializationFailure || pg.Code == pgDeadlock
	}
	switch sqliteCode(err).ToPrimary() {
	case sqlite.ResultBusy, sqlite.ResultLocked:
		return true
	}
	return false
}

// wholeTransaction reports that err is not about one statement: going on in the transaction is impossible or pointless.
func wholeTransaction(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		if len(pg.Code) < 2 {
			return true
		}
		switch pg.Code[:2] {
		case "08", "40", "53", "57", "58", "XX": // connection, rollback, resources, operator, system, internal
			return true
		}
		return false
	}
	switch sqliteCode(err).ToPrimary() {
	case sqlite.ResultFull, sqlite.ResultIOErr, sqlite.ResultNoMem, sqlite.ResultCorrupt, sqlite.ResultNotADB, sqlite.ResultReadOnly,
		sqlite.ResultBusy, sqlite.ResultLocked, sqlite.ResultInterrupt, sqlite.ResultCantOpen:
		return true
	}
	return false
}

// sqliteCode is the extended result code within err, or ResultOK.
func sqliteCode(err error) sqlite.ResultCode {
	if err == nil {
		return sqlite.ResultOK
	}
	code := sqlite.ErrCode(err)
	if code == sqlite.ResultError && !isSQLiteError(err) {
		return sqlite.ResultOK
	}
	return code
}

// isSQLiteError tells SQLite's own generic error from errors of other origin, for which ErrCode says ResultError too.
func isSQLiteError(err error) bool {
	return errors.Is(err, sqlite.ResultError.ToError())
}
