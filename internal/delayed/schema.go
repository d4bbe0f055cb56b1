package delayed

import "myelin/internal/sqldb"

// Migrations make the table. Times are in milliseconds since the epoch, delay in milliseconds. due is when the loop next looks at a row: the time of sending, or, of an event
// that is being sent, when somebody else has to go on with it. A finalised event has never as its due. txn is a hash of the client's
// transaction; NULL means that the request had none.
var Migrations = []sqldb.Migration{{Slice: "delayed", Version: 1, SQL: `
CREATE TABLE delayed_events (
	delay_id  TEXT NOT NULL PRIMARY KEY,
	user_id   TEXT NOT NULL,
	room_id   TEXT NOT NULL,
	type      TEXT NOT NULL,
	state_key TEXT,
	content   TEXT NOT NULL,
	delay     BIGINT NOT NULL,
	scheduled BIGINT NOT NULL,
	due       BIGINT NOT NULL,
	status    BIGINT NOT NULL,
	finalised BIGINT NOT NULL,
	event_id  TEXT NOT NULL,
	error     TEXT NOT NULL,
	txn       TEXT UNIQUE
);
CREATE INDEX delayed_events_due ON delayed_events (due);
CREATE INDEX delayed_events_user ON delayed_events (user_id, finalised);
`}, {Slice: "delayed", Version: 2, SQL: `
	ALTER TABLE delayed_events ADD COLUMN sticky BIGINT NOT NULL DEFAULT 0;
`}, {Slice: "delayed", Version: 3, SQL: `
	UPDATE delayed_events SET content = '{}' WHERE status = 2;
`}}

// never is later than any due.
const never = int64(1) << 62

const columns = `delay_id, user_id, room_id, type, state_key, content, delay, scheduled, due, status, finalised, event_id, error, sticky`

var (
	sqlAdd = sqldb.SQL(`INSERT INTO delayed_events (` + columns + `, txn) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, '', '', $11, $10)`)

	sqlByTxn = sqldb.SQL(`SELECT delay_id FROM delayed_events WHERE txn = $1`)

	sqlWaiting = sqldb.SQL(`SELECT COUNT(*), COALESCE(MIN(due), 0) FROM delayed_events WHERE user_id = $1 AND finalised = 0`)

	sqlGet = sqldb.SQL(`SELECT ` + columns + ` FROM delayed_events WHERE delay_id = $1`)

	sqlList = sqldb.SQL(`SELECT ` + columns + ` FROM delayed_events WHERE user_id = $1 AND finalised = 0 ORDER BY scheduled + delay, delay_id`)

	sqlNext = sqldb.SQL(`SELECT due FROM delayed_events ORDER BY due LIMIT 1`)

	// Who takes an event has it until the new due.
	sqlTakeDue = sqldb.SQL(`UPDATE delayed_events SET status = 1, due = $2
		WHERE delay_id IN (SELECT delay_id FROM delayed_events WHERE due <= $1 ORDER BY due, delay_id LIMIT $3)
		RETURNING ` + columns)

	sqlTakeUp = sqldb.SQL(`UPDATE delayed_events SET due = $1 WHERE status = 1`)

	sqlTake = sqldb.SQL(`UPDATE delayed_events SET status = 1, due = $2 WHERE delay_id = $1 AND status = 0 RETURNING ` + columns)

	sqlGiveBack = sqldb.SQL(`UPDATE delayed_events SET status = 0, due = scheduled + delay WHERE delay_id = $1 AND status = 1`)

	sqlRestart = sqldb.SQL(`UPDATE delayed_events SET scheduled = $2, due = $2 + delay WHERE delay_id = $1 AND status = 0`)

	sqlPutOff = sqldb.SQL(`UPDATE delayed_events SET due = $2 WHERE delay_id = $1 AND status = 1`)

	// What was sent is in the room, where it may be redacted.
	sqlFinalise = sqldb.SQL(`UPDATE delayed_events SET status = $3, due = $4, finalised = $5, event_id = $6, error = $7,
		content = CASE WHEN CAST($3 AS BIGINT) = 2 THEN '{}' ELSE content END WHERE delay_id = $1 AND status = $2`)

	sqlForgetUser = sqldb.SQL(`DELETE FROM delayed_events WHERE user_id = $1`)

	// Of what a user's events came to, only the newest are kept.
	sqlTrim = sqldb.SQL(`DELETE FROM delayed_events WHERE user_id = $1 AND finalised > 0 AND finalised < (
		SELECT finalised FROM delayed_events WHERE user_id = $1 AND finalised > 0 ORDER BY finalised DESC LIMIT 1 OFFSET $2)`)

	sqlForget = sqldb.SQL(`DELETE FROM delayed_events WHERE finalised > 0 AND finalised < $1`)
)
