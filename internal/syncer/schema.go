package syncer

import "myelin/internal/sqldb"

// Migrations make the tables of this package.
//
// sliding_conns has a row for each connection of sliding sync; versions counts the answers that changed what is known of it, used is when
// it was in use, about, in milliseconds since the epoch. sliding_steps has what each of these answers changed: the rows up to a version
// give the ledger of that version.
var Migrations = []sqldb.Migration{{Slice: "syncer", Version: 1, SQL: `
	CREATE TABLE sliding_conns (
		conn_nid BIGINT NOT NULL PRIMARY KEY,
		user_id TEXT NOT NULL,
		device_id TEXT NOT NULL,
		conn_id TEXT NOT NULL,
		versions BIGINT NOT NULL,
		used BIGINT NOT NULL,
		UNIQUE (user_id, device_id, conn_id)
	);
	CREATE INDEX sliding_conns_used ON sliding_conns (used);
	CREATE TABLE sliding_steps (
		conn_nid BIGINT NOT NULL,
		version BIGINT NOT NULL,
		body BLOB NOT NULL,
		PRIMARY KEY (conn_nid, version)
	) WITHOUT ROWID;
`}}

var (
	stmtConn       = sqldb.SQL(`SELECT conn_nid, used FROM sliding_conns WHERE user_id = $1 AND device_id = $2 AND conn_id = $3`)
	stmtConns      = sqldb.SQL(`SELECT conn_nid, conn_id FROM sliding_conns WHERE user_id = $1 AND device_id = $2 ORDER BY used DESC`)
	stmtInsertConn = sqldb.SQL(`INSERT INTO sliding_conns (conn_nid, user_id, device_id, conn_id, versions, used) VALUES ($1, $2, $3, $4, 1, $5)`)
	stmtVersions   = sqldb.SQL(`SELECT versions FROM sliding_conns WHERE conn_nid = $1`)
	stmtUseConn    = sqldb.SQL(`UPDATE sliding_conns SET versions = $2, used = $3 WHERE conn_nid = $1`)
	stmtTouchConn  = sqldb.SQL(`UPDATE sliding_conns SET used = $2 WHERE conn_nid = $1`)
	stmtDropConns  = sqldb.SQL(`DELETE FROM sliding_conns WHERE conn_nid = ANY($1)`)
	stmtOldConns   = sqldb.SQL(`SELECT conn_nid FROM sliding_conns WHERE used < $1 ORDER BY used LIMIT $2`)

	stmtSteps      = sqldb.SQL(`SELECT version, body FROM sliding_steps WHERE conn_nid = $1 AND version <= $2 ORDER BY version`)
	stmtStep       = sqldb.SQL(`SELECT version FROM sliding_steps WHERE conn_nid = $1 AND version = $2`)
	stmtInsertStep = sqldb.SQL(`INSERT INTO sliding_steps (conn_nid, version, body) VALUES ($1, $2, $3)`)
	// What came after an answer that the client didn't get.
	stmtDropLater = sqldb.SQL(`DELETE FROM sliding_steps WHERE conn_nid = $1 AND version > $2`)
	stmtDropUpTo  = sqldb.SQL(`DELETE FROM sliding_steps WHERE conn_nid = $1 AND version <= $2`)
	stmtDropSteps = sqldb.SQL(`DELETE FROM sliding_steps WHERE conn_nid = ANY($1)`)
)
