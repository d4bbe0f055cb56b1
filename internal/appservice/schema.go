package appservice

import "myelin/internal/sqldb"

// A row of appservices is a registration that was added by a command, as JSON without its as_token, of which it has the SHA-256 hash. The
// row of appservice_change has the position of the last such change. A row of appservice_queues says up to where in the stream an application
// service has everything; if body is set it is the transaction under way, after which pos becomes to_pos.
var migrations = []sqldb.Migration{{Slice: "appservice", Version: 1, SQL: `
	CREATE TABLE appservices (
		id TEXT NOT NULL PRIMARY KEY,
		registration TEXT NOT NULL,
		as_hash TEXT NOT NULL,
		added BIGINT NOT NULL
	);
	CREATE TABLE appservice_change (
		one BIGINT NOT NULL PRIMARY KEY,
		pos BIGINT NOT NULL
	);
	INSERT INTO appservice_change (one, pos) VALUES (1, 0);
	CREATE TABLE appservice_queues (
		id TEXT NOT NULL PRIMARY KEY,
		pos BIGINT NOT NULL,
		to_pos BIGINT NOT NULL,
		body BLOB
	);
`}}

var (
	stmtList    = sqldb.SQL(`SELECT id, registration, as_hash FROM appservices ORDER BY id`)
	stmtAdd     = sqldb.SQL(`INSERT INTO appservices (id, registration, as_hash, added) VALUES ($1, $2, $3, $4)`)
	stmtRemove  = sqldb.SQL(`DELETE FROM appservices WHERE id = $1`)
	stmtChange  = sqldb.SQL(`SELECT pos FROM appservice_change WHERE one = 1`)
	stmtChanged = sqldb.SQL(`UPDATE appservice_change SET pos = $1 WHERE one = 1`)

	stmtQueue    = sqldb.SQL(`SELECT pos, to_pos, body FROM appservice_queues WHERE id = $1`)
	stmtQueues   = sqldb.SQL(`SELECT id, pos, CASE WHEN body IS NULL THEN 0 ELSE 1 END FROM appservice_queues ORDER BY id`)
	stmtNewQueue = sqldb.SQL(`INSERT INTO appservice_queues (id, pos, to_pos, body) VALUES ($1, $2, $2, NULL) ON CONFLICT (id) DO NOTHING`)
	stmtMove     = sqldb.SQL(`UPDATE appservice_queues SET pos = $2, to_pos = $3, body = $4 WHERE id = $1`)
	stmtNoQueue  = sqldb.SQL(`DELETE FROM appservice_queues WHERE id = $1`)
)
