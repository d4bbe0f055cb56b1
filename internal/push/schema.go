package push

import "myelin/internal/sqldb"

// Migrations make the tables of this package.
//
// push_state has one row: the position up to which the other tables are complete.
//
// push_events has the events that users who changed no rules are notified of, by their place in the stream. n and h are running numbers within the
// thread: how many such events, and how many of them with a highlight, there are up to this one. So a count is the difference of two rows,
// however much there is to count. thread is the ID of the root, empty for the main timeline. push_threads repeats the last row of each thread.
// push_redacted has those of push_events that were redacted since.
//
// push_marks says in what an event means something else to a user than their base lets expect: n and h are the differences, -1, 0 or 1;
// outcome is what the event means to them: 0 nothing, 1 a notification, 2 a highlight. Of what was read the newest few remain, for lists of
// notifications; of what was not, as many as are counted.
//
// push_bases says from which place on a user's base in a room is to be notified of nothing (1), or of what stands in push_events (0), which
// it is from the start.
//
// push_own has the newest message of a user in each thread: who writes has read.
//
// push_due has what pushers have not been told: places of events, or 0 for the number on the badge alone.
var Migrations = []sqldb.Migration{{Slice: "push", Version: 1, SQL: `
	CREATE TABLE push_state (one BIGINT NOT NULL PRIMARY KEY, pos BIGINT NOT NULL);
	CREATE TABLE push_events (
		ord INTEGER NOT NULL PRIMARY KEY,
		room_nid BIGINT NOT NULL,
		thread TEXT NOT NULL,
		n BIGINT NOT NULL,
		h BIGINT NOT NULL
	);
	CREATE INDEX push_events_by_thread ON push_events (room_nid, thread, ord);
	CREATE TABLE push_threads (
		room_nid BIGINT NOT NULL,
		thread TEXT NOT NULL,
		last BIGINT NOT NULL,
		n BIGINT NOT NULL,
		h BIGINT NOT NULL,
		PRIMARY KEY (room_nid, thread)
	) WITHOUT ROWID;
	CREATE INDEX push_threads_by_last ON push_threads (room_nid, last);
	CREATE TABLE push_redacted (
		room_nid BIGINT NOT NULL,
		thread TEXT NOT NULL,
		ord BIGINT NOT NULL,
		h BIGINT NOT NULL,
		PRIMARY KEY (room_nid, thread, ord)
	) WITHOUT ROWID;
	CREATE TABLE push_marks (
		user_id TEXT NOT NULL,
		room_nid BIGINT NOT NULL,
		ord BIGINT NOT NULL,
		thread TEXT NOT NULL,
		n BIGINT NOT NULL,
		h BIGINT NOT NULL,
		outcome BIGINT NOT NULL,
		PRIMARY KEY (user_id, room_nid, ord)
	) WITHOUT ROWID;
	CREATE INDEX push_marks_by_event ON push_marks (ord);
	CREATE TABLE push_bases (
		room_nid BIGINT NOT NULL,
		user_id TEXT NOT NULL,
		ord BIGINT NOT NULL,
		silent BIGINT NOT NULL,
		PRIMARY KEY (room_nid, user_id, ord)
	) WITHOUT ROWID;
	CREATE TABLE push_own (
		user_id TEXT NOT NULL,
		room_nid BIGINT NOT NULL,
		thread TEXT NOT NULL,
		ord BIGINT NOT NULL,
		PRIMARY KEY (user_id, room_nid, thread)
	) WITHOUT ROWID;
	CREATE TABLE pushers (
		pusher_id INTEGER NOT NULL PRIMARY KEY,
		user_id TEXT NOT NULL,
		app_id TEXT NOT NULL,
		pushkey TEXT NOT NULL,
		device_id TEXT NOT NULL,
		host TEXT NOT NULL,
		shown TEXT NOT NULL,
		badge BIGINT NOT NULL,
		failures BIGINT NOT NULL,
		retry BIGINT NOT NULL,
		created BIGINT NOT NULL,
		pos BIGINT NOT NULL,
		UNIQUE (user_id, app_id, pushkey)
	);
	CREATE INDEX pushers_by_key ON pushers (pushkey, app_id);
	CREATE INDEX pushers_by_pos ON pushers (pos);
	CREATE TABLE push_due (
		pusher_id BIGINT NOT NULL,
		ord BIGINT NOT NULL,
		since BIGINT NOT NULL,
		PRIMARY KEY (pusher_id, ord)
	) WITHOUT ROWID;
`}}

var (
	sqlDone    = sqldb.SQL(`SELECT pos FROM push_state WHERE one = 1`)
	sqlSetDone = sqldb.SQL(`INSERT INTO push_state (one, pos) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET pos = excluded.pos`)

	sqlThread     = sqldb.SQL(`SELECT n, h FROM push_threads WHERE room_nid = $1 AND thread = $2`)
	sqlAddEvent   = sqldb.SQL(`INSERT INTO push_events (ord, room_nid, thread, n, h) VALUES ($1, $2, $3, $4, $5)`)
	sqlMoveThread = sqldb.SQL(`INSERT INTO push_threads (room_nid, thread, last, n, h) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (room_nid, thread) DO UPDATE SET last = excluded.last, n = excluded.n, h = excluded.h`)
	sqlAddMark = sqldb.SQL(`INSERT INTO push_marks (user_id, room_nid, ord, thread, n, h, outcome) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT DO NOTHING`)
	sqlDropMarks = sqldb.SQL(`DELETE FROM push_marks WHERE ord = $1`)
	sqlSetBase   = sqldb.SQL(`INSERT INTO push_bases (room_nid, user_id, ord, silent) VALUES ($1, $2, $3, $4)
		ON CONFLICT (room_nid, user_id, ord) DO UPDATE SET silent = excluded.silent`)
	sqlSetOwn = sqldb.SQL(`INSERT INTO push_own (user_id, room_nid, thread, ord) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, room_nid, thread) DO UPDATE SET ord = excluded.ord`)
	// A redacted event has its own place in its thread: h is what it adds to the running number.
	sqlRedactedEvent = sqldb.SQL(`SELECT e.room_nid, e.thread, e.h - COALESCE((SELECT p.h FROM push_events p
		WHERE p.room_nid = e.room_nid AND p.thread = e.thread AND p.ord < e.ord ORDER BY p.ord DESC LIMIT 1), 0)
		FROM push_events e WHERE e.ord = $1`)
	sqlAddRedacted = sqldb.SQL(`INSERT INTO push_redacted (room_nid, thread, ord, h) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)

	sqlThreadsSince = sqldb.SQL(`SELECT thread, last, n, h FROM push_threads WHERE room_nid = $1 AND last > $2 ORDER BY last DESC LIMIT $3`)
	sqlMarksSince   = sqldb.SQL(`SELECT ord, thread, n, h FROM push_marks WHERE user_id = $1 AND room_nid = $2 AND ord > $3 ORDER BY ord DESC LIMIT $4`)
	sqlUpTo         = sqldb.SQL(`SELECT n, h FROM push_events WHERE room_nid = $1 AND thread = $2 AND ord <= $3 ORDER BY ord DESC LIMIT 1`)
	sqlRedactedIn   = sqldb.SQL(`SELECT COUNT(*), COALESCE(SUM(h), 0) FROM push_redacted WHERE room_nid = $1 AND thread = $2 AND ord > $3 AND ord <= $4`)
	sqlOwn          = sqldb.SQL(`SELECT room_nid, thread, ord FROM push_own WHERE user_id = $1 AND room_nid = ANY($2)`)
	sqlBases        = sqldb.SQL(`SELECT room_nid, ord, silent FROM push_bases WHERE room_nid = ANY($1) AND user_id = $2 ORDER BY room_nid, ord`)
	sqlBasesIn      = sqldb.SQL(`SELECT user_id, silent FROM push_bases WHERE room_nid = $1 ORDER BY ord`)

	sqlNewPushers = sqldb.SQL(`SELECT user_id, pusher_id FROM pushers WHERE pos > $1 AND pos <= $2`)
	sqlAddDue     = sqldb.SQL(`INSERT INTO push_due (pusher_id, ord, since)
		SELECT pusher_id, CAST($2 AS BIGINT), CAST($3 AS BIGINT) FROM pushers WHERE pusher_id = $1 ON CONFLICT DO NOTHING`)

	sqlDropNoMarks  = sqldb.SQL(`DELETE FROM push_marks WHERE user_id = $1 AND room_nid = $2 AND ord <= $3 AND outcome = 0`)
	sqlDropOldMarks = sqldb.SQL(`DELETE FROM push_marks WHERE user_id = $1 AND room_nid = $2 AND ord <= $3`)
	sqlMarkAfter    = sqldb.SQL(`SELECT ord FROM push_marks WHERE user_id = $1 AND room_nid = $2 AND ord <= $3 ORDER BY ord DESC LIMIT 1 OFFSET $4`)
	sqlNextMarked   = sqldb.SQL(`SELECT user_id, room_nid FROM push_marks WHERE (user_id, room_nid) > ($1, $2)
		ORDER BY user_id, room_nid LIMIT 1`)
)
