package report

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Migrations make the table of this package. Of event_id and user_id those are empty that a report is not about; ts is in milliseconds.
var Migrations = []sqldb.Migration{{Slice: "report", Version: 1, SQL: `
	CREATE TABLE reports (
		report_id BIGINT NOT NULL PRIMARY KEY,
		reporter TEXT NOT NULL,
		room_id TEXT NOT NULL,
		event_id TEXT NOT NULL,
		user_id TEXT NOT NULL,
		ts BIGINT NOT NULL,
		reason BLOB NOT NULL,
		UNIQUE (reporter, room_id, event_id, user_id)
	);
`}}

const (
	// MaxReason is the longest reason, in bytes.
	MaxReason = 4096
	// maxPerUser is how many reports one user may have open.
	maxPerUser = 500
)

var (
	stmtAdd = sqldb.SQL(`INSERT INTO reports (report_id, reporter, room_id, event_id, user_id, ts, reason) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (reporter, room_id, event_id, user_id) DO UPDATE SET ts = excluded.ts, reason = excluded.reason`)
	stmtCount  = sqldb.SQL(`SELECT COUNT(*) FROM reports WHERE reporter = $1`)
	stmtList   = sqldb.SQL(`SELECT report_id, reporter, room_id, event_id, user_id, ts, reason FROM reports WHERE report_id > $1 ORDER BY report_id LIMIT $2`)
	stmtDelete = sqldb.SQL(`DELETE FROM reports WHERE report_id = $1`)
)

// Report is what a user says of an event, of a room or of another user.
type Report struct {
	ID       int64     `json:"id"`
	Reporter id.UserID `json:"reporter"`
	// Room is set for reports of events and of rooms, Event for those of events, User for those of users.
	Room  id.RoomID  `json:"room,omitempty"`
	Event id.EventID `json:"event,omitempty"`
	User  id.UserID  `json:"user,omitempty"`
	// TS is in milliseconds since the epoch.
	TS int64 `json:"ts"`
	// Reason is what the reporter wrote; it may be empty.
	Reason string `json:"reason,omitempty"`
}

// Reports keeps the reports. It is safe for concurrent use.
type Reports struct {
	db  *sqldb.DB
	log *slog.Logger
	ids *sqldb.IDs
}

// Open prepares the table. A nil log discards.
func Open(ctx context.Context, db *sqldb.DB, log *slog.Logger) (*Reports, error) {
	if err := db.Migrate(ctx, Migrations...); err != nil {
		return nil, fmt.Errorf("open reports: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Reports{db: db, log: log, ids: db.IDs("reports")}, nil
}

// Add keeps a report. It returns M_TOO_LARGE for a reason that is too long and M_LIMIT_EXCEEDED where the user has made very many.
//
// Spec: cs reportEvent
// Spec: cs reportRoom
// Spec: cs reportUser
func (s *Reports) Add(ctx context.Context, r Report) error {
	if len(r.Reason) > MaxReason {
		return mxerr.TooLarge("the reason is longer than %d bytes", MaxReason)
	}
	next, err := s.ids.Next(ctx)
	if err != nil {
		return fmt.Errorf("number a report: %w", err)
	}
	err = s.db.Write(ctx, func(tx *sqldb.Tx) error {
		var n int
		if _, err := tx.Get(stmtCount, []any{r.Reporter}, &n); err != nil {
			return err
		}
		if n >= maxPerUser {
			return mxerr.New(mxerr.CodeLimitExceeded, "you have made %d reports that nobody has dealt with yet", n)
		}
		tx.Queue(stmtAdd, next, r.Reporter, r.Room, r.Event, r.User, time.Now().UnixMilli(), []byte(r.Reason))
		return nil
	})
	if _, told := mxerr.Of(err); err != nil && !told {
		return fmt.Errorf("keep a report: %w", err)
	}
	if err == nil {
		s.log.Warn("something was reported", "user", r.Reporter, "room", r.Room, "event", r.Event, "reported", r.User)
	}
	return err
}

// List returns reports by their numbers, those after one.
func (s *Reports) List(ctx context.Context, after int64, limit int) (found []Report, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(stmtList, func(row *sqldb.Row) error {
			var r Report
			var reason []byte
			err := row.Scan(&r.ID, &r.Reporter, &r.Room, &r.Event, &r.User, &r.TS, &reason)
			r.Reason = string(reason)
			found = append(found, r)
			return err
		}, after, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("list reports: %w", err)
	}
	return found, nil
}

// Delete forgets a report, M_NOT_FOUND where there is none.
func (s *Reports) Delete(ctx context.Context, number int64) error {
	var n int64
	err := s.db.Write(ctx, func(tx *sqldb.Tx) (err error) {
		n, err = tx.Exec(stmtDelete, number)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete a report: %w", err)
	}
	if n == 0 {
		return mxerr.NotFound("there is no report %d", number)
	}
	return nil
}
