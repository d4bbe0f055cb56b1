package graph

import (
	"strconv"
	"strings"

	"myelin/internal/sqldb"
)

// Migrations make the tables of this package.
//
// rooms names rooms, also those known only from outside; heads has a row for each room that this server is, or was, part of. A room that
// is deleted must leave its row in heads, with another rev, until no writer can hold its head any more.
//
// events lies in the order of its numbers, which is about that of arrival, whatever the rooms: the events of a commit share pages, and
// SQLite fills pages to their end. Clustered by room, 64 busy rooms wrote twice the pages, and a row of more than a quarter of a page
// spilled into a page of its own. ord is NULL for outliers. ts repeats the event's
// origin_server_ts. event_times has the events of a room by ts. What is live comes there a moment later, many at once, since each busy room
// has a page of its own there: those up to the ord of times_done are in it, and those that were backfilled. head_state is the state of the head once the event was in, so that what clients were told of a forked room can be
// compared exactly. txn is device, NUL, transaction ID.
//
// states is described at the package. body and full_state stand last so that the columns before them are read without them.
//
// A row of state_keys names a run of keys, numbered from first_nid on. Runs may overlap. Once a page of keyPage numbers is full, one row
// holds it.
//
// The key of txns is a hash of user, device, scope and transaction ID.
//
// awaited has the redactions that came before what they redact.
//
// relations has a row for each event of a timeline that relates to another event, which need not be here. What is known of a parent's children at
// once stands in aggregates: for each sender and type of m.replace events the last one that may be valid, for a thread its newest event
// and how many it has, for references how many there are. thread_users counts the events that each user has in a thread; began says that they sent its root.
// annotations has of each user's equal annotations of an event the first; annotation is a hash of the key.
//
// kind and encrypted of rooms repeat what the room's state says: its type, NULL where nobody has looked yet, and whether it is encrypted.
//
// partial_rooms has the rooms that were joined without knowing all their members. done is the position at which they were known, 0 before
// that; the heads of those say so as well. since is the join of an earlier stay that ended before that, "" if there is none. The indexes of
// thin events are empty but for such rooms: they are found among any number of others, by attempts that may be made for weeks.
var Migrations = []sqldb.Migration{{Slice: "graph", Version: 1, SQL: `
	CREATE TABLE rooms (
		room_nid INTEGER NOT NULL PRIMARY KEY,
		room_id TEXT NOT NULL UNIQUE,
		version TEXT NOT NULL
	);
	CREATE TABLE heads (
		room_nid INTEGER NOT NULL PRIMARY KEY,
		rev BIGINT NOT NULL,
		prev_rev BIGINT NOT NULL,
		epoch BIGINT NOT NULL,
		state_nid BIGINT NOT NULL,
		states BIGINT NOT NULL,
		joined BIGINT NOT NULL,
		invited BIGINT NOT NULL,
		min_ord BIGINT NOT NULL,
		extremities BLOB NOT NULL
	);
	CREATE TABLE events (
		room_nid BIGINT NOT NULL,
		event_nid BIGINT NOT NULL,
		event_id TEXT NOT NULL,
		ord BIGINT,
		ts BIGINT NOT NULL,
		flags BIGINT NOT NULL,
		state_nid BIGINT NOT NULL,
		head_state BIGINT NOT NULL,
		replaces BIGINT NOT NULL,
		redacted_by BIGINT NOT NULL,
		txn BLOB,
		body BLOB NOT NULL,
		PRIMARY KEY (room_nid, event_nid)
	) WITHOUT ROWID;
	CREATE UNIQUE INDEX events_by_id ON events (event_id);
	CREATE INDEX events_by_ord ON events (room_nid, ord) WHERE ord IS NOT NULL;
	CREATE INDEX events_by_pos ON events (ord) WHERE ord > 0;
	CREATE INDEX events_by_time ON events (room_nid, ts) WHERE ord IS NOT NULL;
	CREATE TABLE states (
		room_nid BIGINT NOT NULL,
		state_nid BIGINT NOT NULL,
		parent_nid BIGINT NOT NULL,
		step BIGINT NOT NULL,
		delta BLOB NOT NULL,
		full_state BLOB,
		PRIMARY KEY (room_nid, state_nid)
	) WITHOUT ROWID;
	CREATE TABLE state_keys (
		room_nid BIGINT NOT NULL,
		first_nid BIGINT NOT NULL,
		names BLOB NOT NULL,
		PRIMARY KEY (room_nid, first_nid)
	) WITHOUT ROWID;
	CREATE TABLE memberships (
		user_id TEXT NOT NULL,
		room_nid BIGINT NOT NULL,
		membership TEXT NOT NULL,
		event_nid BIGINT NOT NULL,
		pos BIGINT NOT NULL,
		since BIGINT NOT NULL,
		prev TEXT NOT NULL,
		forgotten BIGINT NOT NULL,
		stripped BLOB,
		PRIMARY KEY (user_id, room_nid)
	) WITHOUT ROWID;
	CREATE INDEX memberships_by_room ON memberships (room_nid, membership, since);
	CREATE TABLE txns (
		txn_key TEXT NOT NULL PRIMARY KEY,
		room_nid BIGINT NOT NULL,
		event_nid BIGINT NOT NULL,
		ts BIGINT NOT NULL
	) WITHOUT ROWID;
	CREATE TABLE gaps (
		room_nid BIGINT NOT NULL,
		missing TEXT NOT NULL,
		child_nid BIGINT NOT NULL,
		PRIMARY KEY (room_nid, missing, child_nid)
	) WITHOUT ROWID;
`}, {Slice: "graph", Version: 2, SQL: `
	CREATE TABLE awaited (
		room_nid BIGINT NOT NULL,
		target TEXT NOT NULL,
		by_nid BIGINT NOT NULL,
		PRIMARY KEY (room_nid, target, by_nid)
	) WITHOUT ROWID;
`}, {Slice: "graph", Version: 3, SQL: `
	DROP INDEX events_by_id;
	DROP INDEX events_by_ord;
	DROP INDEX events_by_pos;
	DROP INDEX events_by_time;
	ALTER TABLE events RENAME TO events_by_room;
	CREATE TABLE events (
		event_nid INTEGER NOT NULL PRIMARY KEY,
		room_nid BIGINT NOT NULL,
		event_id TEXT NOT NULL,
		ord BIGINT,
		ts BIGINT NOT NULL,
		flags BIGINT NOT NULL,
		state_nid BIGINT NOT NULL,
		head_state BIGINT NOT NULL,
		replaces BIGINT NOT NULL,
		redacted_by BIGINT NOT NULL,
		txn BLOB,
		body BLOB NOT NULL
	);
	INSERT INTO events (event_nid, room_nid, event_id, ord, ts, flags, state_nid, head_state, replaces, redacted_by, txn, body)
		SELECT event_nid, room_nid, event_id, ord, ts, flags, state_nid, head_state, replaces, redacted_by, txn, body
		FROM events_by_room ORDER BY event_nid;
	DROP TABLE events_by_room;
	CREATE UNIQUE INDEX events_by_id ON events (event_id);
	CREATE INDEX events_by_ord ON events (room_nid, ord) WHERE ord IS NOT NULL;
	CREATE INDEX events_by_pos ON events (ord) WHERE ord > 0;
	CREATE INDEX events_by_time ON events (room_nid, ts) WHERE ord IS NOT NULL;
`}, {Slice: "graph", Version: 4, SQL: `
	CREATE TABLE partial_rooms (
		room_nid BIGINT NOT NULL PRIMARY KEY,
		join_id TEXT NOT NULL,
		servers BLOB NOT NULL,
		done BIGINT NOT NULL
	) WITHOUT ROWID;
	ALTER TABLE heads ADD COLUMN partial BIGINT NOT NULL DEFAULT 0;
`}, {Slice: "graph", Version: 5, SQL: `
	CREATE TABLE relations (
		room_nid BIGINT NOT NULL,
		parent_id TEXT NOT NULL,
		kind BIGINT NOT NULL,
		ord BIGINT NOT NULL,
		event_nid BIGINT NOT NULL,
		rel_type TEXT NOT NULL,
		type TEXT NOT NULL,
		sender TEXT NOT NULL,
		PRIMARY KEY (room_nid, parent_id, kind, ord)
	) WITHOUT ROWID;
	CREATE TABLE aggregates (
		room_nid BIGINT NOT NULL,
		parent_id TEXT NOT NULL,
		kind BIGINT NOT NULL,
		sender TEXT NOT NULL,
		type TEXT NOT NULL,
		event_nid BIGINT NOT NULL,
		ord BIGINT NOT NULL,
		ts BIGINT NOT NULL,
		event_id TEXT NOT NULL,
		total BIGINT NOT NULL,
		PRIMARY KEY (room_nid, parent_id, kind, sender, type)
	) WITHOUT ROWID;
	CREATE INDEX threads_by_activity ON aggregates (room_nid, ord) WHERE kind = 2;
	CREATE TABLE thread_users (
		room_nid BIGINT NOT NULL,
		user_id TEXT NOT NULL,
		root_id TEXT NOT NULL,
		total BIGINT NOT NULL,
		began BIGINT NOT NULL,
		PRIMARY KEY (room_nid, user_id, root_id)
	) WITHOUT ROWID;
	CREATE TABLE annotations (
		room_nid BIGINT NOT NULL,
		parent_id TEXT NOT NULL,
		sender TEXT NOT NULL,
		type TEXT NOT NULL,
		annotation TEXT NOT NULL,
		event_nid BIGINT NOT NULL,
		PRIMARY KEY (room_nid, parent_id, sender, type, annotation)
	) WITHOUT ROWID;
`}, {Slice: "graph", Version: 6, SQL: `
	ALTER TABLE rooms ADD COLUMN kind TEXT;
	ALTER TABLE rooms ADD COLUMN encrypted BIGINT NOT NULL DEFAULT 0;
`}, {Slice: "graph", Version: 7, SQL: `
	CREATE INDEX memberships_outside ON memberships (pos) WHERE event_nid = 0;
`}, {Slice: "graph", Version: 8, SQL: `
	ALTER TABLE partial_rooms ADD COLUMN since TEXT NOT NULL DEFAULT '';
`}, {Slice: "graph", Version: 9, SQL: `
	CREATE TABLE event_times (
		room_nid BIGINT NOT NULL,
		ts BIGINT NOT NULL,
		ord BIGINT NOT NULL,
		PRIMARY KEY (room_nid, ts, ord)
	) WITHOUT ROWID;
	INSERT INTO event_times (room_nid, ts, ord) SELECT room_nid, ts, ord FROM events WHERE ord IS NOT NULL ORDER BY room_nid, ts, ord;
	CREATE TABLE times_done (
		one INTEGER NOT NULL PRIMARY KEY,
		ord BIGINT NOT NULL
	);
	INSERT INTO times_done (one, ord) SELECT 1, COALESCE(MAX(ord), 0) FROM event_times WHERE ord > 0;
	DROP INDEX events_by_time;
`}, {Slice: "graph", Version: 10, SQL: `
	CREATE TABLE sticky_events (
		room_nid BIGINT NOT NULL,
		event_nid BIGINT NOT NULL,
		pos BIGINT NOT NULL,
		until BIGINT NOT NULL,
		PRIMARY KEY (room_nid, event_nid)
	) WITHOUT ROWID;
	CREATE INDEX sticky_events_until ON sticky_events (until);
`}, {Slice: "graph", Version: 11, SQL: `
	ALTER TABLE memberships ADD COLUMN told_id TEXT NOT NULL DEFAULT '';
	ALTER TABLE memberships ADD COLUMN told_ts BIGINT NOT NULL DEFAULT 0;
`}, {Slice: "graph", Version: 12, SQL: `
	CREATE TABLE sticky_waiting (
		room_nid BIGINT NOT NULL,
		event_nid BIGINT NOT NULL,
		until BIGINT NOT NULL,
		state_nid BIGINT NOT NULL,
		PRIMARY KEY (room_nid, event_nid)
	) WITHOUT ROWID;
`}, {Slice: "graph", Version: 13, SQL: `
	CREATE INDEX events_thin ON events (room_nid, ord) WHERE flags & 512 <> 0;
	CREATE INDEX events_thin_torn ON events (room_nid, ord) WHERE flags & 768 = 768;
`}}

// multi is one statement prepared for several numbers of rows.
type multi struct {
	columns int
	stmts   [len(multiSizes)]*sqldb.Stmt
}

var multiSizes = [...]int{64, 8, 1}

// rows registers "head (…), (…) tail" with rows of so many columns.
func rows(head string, columns int, tail string) *multi {
	return rowsReturning(head, columns, tail, "")
}

// rowsReturning is rows with a RETURNING clause where there are several rows: a single row tells by the number of changes whether
// it was written, and SQLite would make a temporary table and a journal for each statement that returns something.
func rowsReturning(head string, columns int, tail, returning string) *multi {
	m := &multi{columns: columns}
	for i, size := range multiSizes {
		var b strings.Builder
		b.WriteString(head)
		for r := range size {
			if r > 0 {
				b.WriteString(", ")
			}
			for c := range columns {
				b.WriteString([2]string{", $", "($"}[btoi(c == 0)])
				b.WriteString(strconv.Itoa(r*columns + c + 1))
			}
			b.WriteString(")")
		}
		b.WriteString(tail)
		if size > 1 {
			b.WriteString(returning)
		}
		m.stmts[i] = sqldb.SQL(b.String())
	}
	return m
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// each calls fn with statements and their arguments until all rows are done. args holds the rows one after the other. On SQLite a
// statement of several rows costs more than several statements: it keeps a journal of its own, a copy of each page that it changes.
func (m *multi) each(tx *sqldb.Tx, args []any, fn func(s *sqldb.Stmt, args []any) error) error {
	for i, size := range multiSizes {
		if size > 1 && tx.Dialect() == sqldb.SQLite {
			continue
		}
		for n := size * m.columns; len(args) >= n; args = args[n:] {
			if err := fn(m.stmts[i], args[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// queue executes the statement for all rows, without waiting.
func (m *multi) queue(tx *sqldb.Tx, args []any) {
	_ = m.each(tx, args, func(s *sqldb.Stmt, args []any) error {
		tx.Queue(s, args...)
		return nil
	})
}

// written executes the statement, which returns the first column of the rows that it writes, and calls each for every one of them.
func written[K any](m *multi, tx *sqldb.Tx, args []any, each func(first K)) error {
	return m.each(tx, args, func(s *sqldb.Stmt, args []any) error {
		if len(args) == m.columns {
			n, err := tx.Exec(s, args...)
			if err == nil && n == 1 {
				each(args[0].(K))
			}
			return err
		}
		return tx.Query(s, func(r *sqldb.Row) error {
			var first K
			err := r.Scan(&first)
			if err == nil {
				each(first)
			}
			return err
		}, args...)
	})
}

var (
	insertRoom = sqldb.SQL(`INSERT INTO rooms (room_nid, room_id, version) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	nameRoom   = sqldb.SQL(`UPDATE rooms SET version = $2 WHERE room_nid = $1 AND version = ''`)
	// What was said of a room that this server was not in gives way to what it finds there.
	renameRoom = sqldb.SQL(`UPDATE rooms SET version = $2 WHERE room_nid = $1 AND NOT EXISTS (SELECT 1 FROM heads WHERE room_nid = $1)`)
	roomByID   = sqldb.SQL(`SELECT room_nid, version FROM rooms WHERE room_id = $1`)
	roomByNID  = sqldb.SQL(`SELECT room_id, version FROM rooms WHERE room_nid = $1`)

	// The compare-and-swap: only rows that were written were moved.
	moveHeads = rowsReturning(`INSERT INTO heads
		(room_nid, rev, prev_rev, epoch, state_nid, states, joined, invited, min_ord, extremities, partial) VALUES `, 11,
		` ON CONFLICT (room_nid) DO UPDATE SET rev = excluded.rev, prev_rev = excluded.prev_rev, state_nid = excluded.state_nid,
		states = excluded.states, joined = excluded.joined, invited = excluded.invited, min_ord = excluded.min_ord,
		extremities = excluded.extremities, partial = excluded.partial WHERE heads.rev = excluded.prev_rev`, ` RETURNING room_nid`)
	headOf = sqldb.SQL(`SELECT rev, epoch, state_nid, states, joined, invited, min_ord, extremities, partial FROM heads WHERE room_nid = $1`)

	insertEvents = rows(`INSERT INTO events
		(room_nid, event_nid, event_id, ord, ts, flags, state_nid, head_state, replaces, redacted_by, txn, body) VALUES `, 12, ``)
	placeEvent = sqldb.SQL(`UPDATE events SET ord = $3, flags = $4, state_nid = $5, replaces = $6, head_state = $7
		WHERE room_nid = $1 AND event_nid = $2`)
	setBody    = sqldb.SQL(`UPDATE events SET body = $3 WHERE room_nid = $1 AND event_nid = $2`)
	pruneEvent = sqldb.SQL(`UPDATE events SET flags = flags | 16, redacted_by = $3, body = $4 WHERE room_nid = $1 AND event_nid = $2`)
	storedIDs  = sqldb.SQL(`SELECT event_id, event_nid FROM events WHERE event_id = ANY($1)`)

	insertStates = rows(`INSERT INTO states (room_nid, state_nid, parent_nid, step, delta, full_state) VALUES `, 6, ``)
	statesExist  = sqldb.SQL(`SELECT COUNT(*) FROM states WHERE room_nid = $1 AND state_nid = ANY($2)`)

	// What stands already has the same keys, if fewer: the head's revision says so.
	insertKeys = rows(`INSERT INTO state_keys (room_nid, first_nid, names) VALUES `, 3,
		` ON CONFLICT (room_nid, first_nid) DO UPDATE SET names = excluded.names`)
	dropKeys  = sqldb.SQL(`DELETE FROM state_keys WHERE room_nid = $1 AND first_nid > $2 AND first_nid <= $3`)
	keysAfter = sqldb.SQL(`SELECT first_nid, names FROM state_keys WHERE room_nid = $1 AND first_nid > $2 ORDER BY first_nid`)

	setMembers = rows(`INSERT INTO memberships
		(user_id, room_nid, membership, event_nid, pos, since, prev, forgotten, stripped) VALUES `, 9,
		` ON CONFLICT (user_id, room_nid) DO UPDATE SET
		since = CASE WHEN memberships.membership = excluded.membership THEN memberships.since ELSE excluded.since END,
		prev = CASE WHEN memberships.membership = excluded.membership THEN memberships.prev ELSE memberships.membership END,
		forgotten = CASE WHEN memberships.membership = excluded.membership AND excluded.membership IN ('leave', 'ban')
			THEN memberships.forgotten ELSE excluded.forgotten END,
		membership = excluded.membership, event_nid = excluded.event_nid, pos = excluded.pos, stripped = excluded.stripped`)

	insertTxns = rowsReturning(`INSERT INTO txns (txn_key, room_nid, event_nid, ts) VALUES `, 4, ` ON CONFLICT DO NOTHING`, ` RETURNING txn_key`)
	deleteTxns = sqldb.SQL(`DELETE FROM txns WHERE txn_key = ANY($1)`)
	txnEvent   = sqldb.SQL(`SELECT e.event_id FROM txns t JOIN events e ON e.room_nid = t.room_nid AND e.event_nid = t.event_nid
		WHERE t.txn_key = $1`)
	expireTxns = sqldb.SQL(`DELETE FROM txns WHERE txn_key >= $1 AND txn_key < $2 AND ts < $3`)

	insertGap    = sqldb.SQL(`INSERT INTO gaps (room_nid, missing, child_nid) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	fillGaps     = sqldb.SQL(`DELETE FROM gaps WHERE room_nid = $1 AND missing = ANY($2)`)
	partialRooms = sqldb.SQL(`SELECT p.room_nid, r.room_id, p.join_id, p.since, p.servers FROM partial_rooms AS p
		JOIN rooms AS r ON r.room_nid = p.room_nid WHERE p.room_nid > $1 AND p.done = 0 ORDER BY p.room_nid LIMIT $2`)
	insertPartial = sqldb.SQL(`INSERT INTO partial_rooms (room_nid, join_id, since, servers, done) VALUES ($1, $2, $3, $4, 0)
		ON CONFLICT (room_nid) DO UPDATE SET join_id = excluded.join_id, since = excluded.since, servers = excluded.servers, done = 0`)
	partialOnce  = sqldb.SQL(`SELECT join_id, since FROM partial_rooms WHERE room_nid = $1`)
	endPartial   = sqldb.SQL(`UPDATE partial_rooms SET done = $2 WHERE room_nid = $1`)
	partialEnded = sqldb.SQL(`SELECT room_nid FROM partial_rooms WHERE done > $1 AND done <= $2 LIMIT 1`)
	// The numbers are those of Thin, and of Thin and Torn together, as the indexes have them.
	thinSince  = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.ord >= $2 AND e.flags & 512 <> 0 ORDER BY e.ord LIMIT $3`)
	tornWithin = sqldb.SQL(`SELECT ` + eventColumns + ` WHERE e.room_nid = $1 AND e.ord >= $2 AND e.ord < $3 AND e.flags & 768 = 768 ORDER BY e.ord DESC LIMIT $4`)

	isGap  = sqldb.SQL(`SELECT DISTINCT e.flags FROM gaps g JOIN events e ON e.event_nid = g.child_nid WHERE g.room_nid = $1 AND g.missing = $2`)
	gapsOf = sqldb.SQL(`SELECT missing, child_nid FROM gaps WHERE room_nid = $1 ORDER BY child_nid DESC LIMIT $2`)
)
