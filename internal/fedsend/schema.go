package fedsend

import (
	"context"
	"fmt"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// A row of destinations is a server that fails. A row of destination_rooms says that a server may lack what this one has to send of a
// room after a position. What has no row has everything up to the sender's cursor.
var migrations = []sqldb.Migration{{Slice: "fedsend", Version: 1, SQL: `
	CREATE TABLE destinations (
		origin TEXT NOT NULL,
		server TEXT NOT NULL,
		failures BIGINT NOT NULL,
		failing_since BIGINT NOT NULL,
		retry_at BIGINT NOT NULL,
		reason TEXT NOT NULL,
		heard BIGINT NOT NULL,
		PRIMARY KEY (server, origin)
	);
	CREATE TABLE destination_rooms (
		origin TEXT NOT NULL,
		server TEXT NOT NULL,
		room_nid BIGINT NOT NULL,
		after_pos BIGINT NOT NULL,
		PRIMARY KEY (server, origin, room_nid)
	) WITHOUT ROWID;
	CREATE TABLE sender_cursor (
		name TEXT NOT NULL PRIMARY KEY,
		pos BIGINT NOT NULL
	);
`}, {Slice: "fedsend", Version: 2, SQL: `
	CREATE TABLE sticky_debts (
		origin TEXT NOT NULL,
		server TEXT NOT NULL,
		room_nid BIGINT NOT NULL,
		after_pos BIGINT NOT NULL,
		upto_pos BIGINT NOT NULL,
		PRIMARY KEY (server, origin, room_nid)
	) WITHOUT ROWID;
`}}

var (
	stmtCursor     = sqldb.SQL(`SELECT pos FROM sender_cursor WHERE name = 'events'`)
	stmtSetCursor  = sqldb.SQL(`INSERT INTO sender_cursor (name, pos) VALUES ('events', $1) ON CONFLICT (name) DO UPDATE SET pos = excluded.pos`)
	stmtFailing    = sqldb.SQL(`SELECT origin, server, failures, failing_since, retry_at, reason FROM destinations`)
	stmtSetFailing = sqldb.SQL(`INSERT INTO destinations (origin, server, failures, failing_since, retry_at, reason, heard)
		VALUES ($1, $2, $3, $4, $5, $6, 0)
		ON CONFLICT (server, origin) DO UPDATE SET failures = excluded.failures, failing_since = excluded.failing_since,
		retry_at = excluded.retry_at, reason = excluded.reason`)
	stmtWell    = sqldb.SQL(`DELETE FROM destinations WHERE origin = $1 AND server = $2`)
	stmtHeard   = sqldb.SQL(`UPDATE destinations SET heard = $1 WHERE server = ANY($2)`)
	stmtHeardOf = sqldb.SQL(`SELECT DISTINCT server FROM destinations WHERE heard >= $1`)
	stmtMarks   = sqldb.SQL(`SELECT origin, server, room_nid, after_pos FROM destination_rooms`)
	stmtSetMark = sqldb.SQL(`INSERT INTO destination_rooms (origin, server, room_nid, after_pos) VALUES ($1, $2, $3, $4)
		ON CONFLICT (server, origin, room_nid) DO UPDATE SET after_pos = excluded.after_pos`)
	stmtClearMark = sqldb.SQL(`DELETE FROM destination_rooms WHERE origin = $1 AND server = $2 AND room_nid = $3`)
	stmtForget    = sqldb.SQL(`DELETE FROM destinations WHERE retry_at < $1
		AND NOT EXISTS (SELECT 1 FROM destination_rooms r WHERE r.server = destinations.server AND r.origin = destinations.origin)`)
	stmtTroubles = sqldb.SQL(`SELECT d.origin, d.server, d.failures, d.failing_since, d.retry_at, d.reason,
		(SELECT COUNT(*) FROM destination_rooms r WHERE r.server = d.server AND r.origin = d.origin)
		FROM destinations d ORDER BY d.failing_since, d.server, d.origin LIMIT $1`)
)

// Trouble is a server that can't be told anything at the moment.
type Trouble struct {
	// Origin is the name of ours that speaks to it.
	Origin, Server id.ServerName
	// Failures counts attempts since the server was last heard of.
	Failures int
	// Since is when the first attempt failed that no success followed, Retry when the next one is due.
	Since, Retry time.Time
	// Reason is why the last attempt failed, for people.
	Reason string
	// Rooms is in how many rooms the server may lack events.
	Rooms int
}

// Troubles lists the servers that fail, those that have failed for longest first, at most limit of them.
func Troubles(ctx context.Context, db *sqldb.DB, limit int) (found []Trouble, err error) {
	err = db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(stmtTroubles, func(r *sqldb.Row) error {
			var t Trouble
			var since, retry int64
			err := r.Scan(&t.Origin, &t.Server, &t.Failures, &since, &retry, &t.Reason, &t.Rooms)
			t.Since, t.Retry = time.UnixMilli(since), time.UnixMilli(retry)
			found = append(found, t)
			return err
		}, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("list servers that fail: %w", err)
	}
	return found, nil
}
