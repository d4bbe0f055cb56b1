package search

import "myelin/internal/sqldb"

// migrations make the tables.
//
// The number of a block is that of its segment times maxBlocks, plus its place in the segment. state is one of the constants below. docs is the number of
// events, first_ord the least place among them. directory stands last, so that the rest is read without it.
//
// last_ord is the greatest place in a segment, where that is known. search_erased has the places of events that were redacted, until their words are out of the
// index; ts is in milliseconds.
//
// search_state has one row. search_rooms has, for rooms with history that was backfilled, the place down to which it is indexed.
var migrations = []sqldb.Migration{{Slice: "search", Version: 1, SQL: `
	CREATE TABLE search_segments (
		segment_nid INTEGER NOT NULL PRIMARY KEY,
		state BIGINT NOT NULL,
		level BIGINT NOT NULL,
		blocks BIGINT NOT NULL,
		docs BIGINT NOT NULL,
		first_ord BIGINT NOT NULL,
		directory BLOB NOT NULL
	);
	CREATE TABLE search_blocks (
		block_nid INTEGER NOT NULL PRIMARY KEY,
		body BLOB NOT NULL
	);
	CREATE TABLE search_state (
		one BIGINT NOT NULL PRIMARY KEY,
		pos BIGINT NOT NULL
	);
	INSERT INTO search_state (one, pos) VALUES (1, 0);
	CREATE TABLE search_rooms (
		room_nid BIGINT NOT NULL PRIMARY KEY,
		low BIGINT NOT NULL
	);
`}, {Slice: "search", Version: 2, SQL: `
	CREATE TABLE search_erased (
		room_nid BIGINT NOT NULL,
		ord BIGINT NOT NULL,
		ts BIGINT NOT NULL,
		PRIMARY KEY (room_nid, ord)
	) WITHOUT ROWID;
	ALTER TABLE search_segments ADD COLUMN last_ord BIGINT NOT NULL DEFAULT 9223372036854775807;
`}}

// The states of a segment.
const (
	live     = 0
	building = 1 // being merged into
	dead     = 2 // merged into another one
)

var (
	insertSegment = sqldb.SQL(`INSERT INTO search_segments (segment_nid, state, level, blocks, docs, first_ord, last_ord, directory)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`)
	finishSegment = sqldb.SQL(`UPDATE search_segments SET state = 0, blocks = $2, docs = $3, first_ord = $4, last_ord = $5, directory = $6 WHERE segment_nid = $1`)
	endSegments   = sqldb.SQL(`UPDATE search_segments SET state = 2 WHERE segment_nid = ANY($1)`)
	deleteSegment = sqldb.SQL(`DELETE FROM search_segments WHERE segment_nid = $1`)
	uselessOnes   = sqldb.SQL(`SELECT segment_nid, level FROM search_segments WHERE state > 0`)
	liveSegments  = sqldb.SQL(`SELECT segment_nid, level, blocks, docs, first_ord, last_ord FROM search_segments WHERE state = 0`)
	directories   = sqldb.SQL(`SELECT segment_nid, directory FROM search_segments WHERE segment_nid = ANY($1)`)

	insertBlock  = sqldb.SQL(`INSERT INTO search_blocks (block_nid, body) VALUES ($1, $2)`)
	someBlocks   = sqldb.SQL(`SELECT block_nid, body FROM search_blocks WHERE block_nid = ANY($1)`)
	blocksFrom   = sqldb.SQL(`SELECT block_nid, body FROM search_blocks WHERE block_nid >= $1 AND block_nid < $2 ORDER BY block_nid LIMIT $3`)
	lastBlockIn  = sqldb.SQL(`SELECT block_nid FROM search_blocks WHERE block_nid >= $1 AND block_nid < $2 ORDER BY block_nid DESC LIMIT 1`)
	deleteBlocks = sqldb.SQL(`DELETE FROM search_blocks WHERE block_nid >= $1 AND block_nid < $2`)

	indexedTo    = sqldb.SQL(`SELECT pos FROM search_state WHERE one = 1`)
	setIndexedTo = sqldb.SQL(`UPDATE search_state SET pos = $1 WHERE one = 1 AND pos < $1`)
	setLow       = sqldb.SQL(`INSERT INTO search_rooms (room_nid, low) VALUES ($1, $2) ON CONFLICT (room_nid) DO UPDATE SET low = excluded.low`)
	lowOf        = sqldb.SQL(`SELECT room_nid, low FROM search_rooms WHERE room_nid = ANY($1)`)
)
