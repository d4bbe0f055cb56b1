package fedroom

import "myelin/internal/sqldb"

// migrations make the tables of this package.
//
// staged holds events of other servers that can't be judged yet: something that they refer to, or a key, is missing. tries counts
// attempts to get that; the next one is due at next. given_up names those for which that was in vain, and why.
// knocks says through which server a user of ours knocked last. All times are in milliseconds. host is the origin without its port, by which what one machine may stage is bounded, outsider says that the
// origin had nobody in the room, proof is how much of the copy is known to be genuine, and size is that of the body in bytes.
var migrations = []sqldb.Migration{{Slice: "fedroom", Version: 1, SQL: `
	CREATE TABLE staged (
		room_id TEXT NOT NULL,
		event_id TEXT NOT NULL,
		origin TEXT NOT NULL,
		since BIGINT NOT NULL,
		tries BIGINT NOT NULL,
		next BIGINT NOT NULL,
		body BLOB NOT NULL,
		PRIMARY KEY (room_id, event_id)
	) WITHOUT ROWID;
	CREATE INDEX staged_by_time ON staged (next);
	CREATE INDEX staged_by_origin ON staged (origin);
	CREATE TABLE given_up (
		room_id TEXT NOT NULL,
		event_id TEXT NOT NULL,
		origin TEXT NOT NULL,
		since BIGINT NOT NULL,
		at BIGINT NOT NULL,
		reason TEXT NOT NULL,
		PRIMARY KEY (room_id, event_id)
	) WITHOUT ROWID;
	CREATE INDEX given_up_by_time ON given_up (at);
`}, {Slice: "fedroom", Version: 2, SQL: `
	ALTER TABLE staged ADD COLUMN host TEXT NOT NULL DEFAULT '';
	ALTER TABLE staged ADD COLUMN outsider BIGINT NOT NULL DEFAULT 0;
	ALTER TABLE staged ADD COLUMN proof BIGINT NOT NULL DEFAULT 0;
	ALTER TABLE staged ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
	UPDATE staged SET host = origin, size = LENGTH(body);
	DROP INDEX staged_by_time;
	DROP INDEX staged_by_origin;
	CREATE INDEX staged_by_room ON staged (room_id, outsider, next, host, since);
	CREATE INDEX staged_by_host ON staged (host, outsider, size);
`}, {Slice: "fedroom", Version: 3, SQL: `
	CREATE TABLE knocks (
		room_id TEXT NOT NULL,
		user_id TEXT NOT NULL,
		server TEXT NOT NULL,
		PRIMARY KEY (room_id, user_id)
	) WITHOUT ROWID;
`}}

var (
	// A copy takes the place of one of which less is proven.
	insertStaged = sqldb.SQL(`INSERT INTO staged (room_id, event_id, origin, since, tries, next, body, host, outsider, proof, size)
		VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (room_id, event_id) DO UPDATE SET origin = excluded.origin, tries = 0, next = excluded.next, body = excluded.body,
			host = excluded.host, outsider = excluded.outsider, proof = excluded.proof, size = excluded.size
		WHERE staged.proof < excluded.proof`)
	countStaged = sqldb.SQL(`SELECT COUNT(*), CAST(COALESCE(SUM(outsider), 0) AS BIGINT), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM staged WHERE host = $1`)
	sumStaged   = sqldb.SQL(`SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM staged`)
	stagedRooms = sqldb.SQL(`SELECT room_id, MIN(next) FROM staged GROUP BY room_id HAVING MIN(outsider) = $1 ORDER BY MIN(next) LIMIT $2`)
	// Each host has its turn, so that the events of one don't hide those of another.
	stagedIn = sqldb.SQL(`SELECT s.event_id, s.origin, s.since, s.tries, s.outsider, s.proof, s.body FROM staged s JOIN (
			SELECT event_id, since, ROW_NUMBER() OVER (PARTITION BY host ORDER BY since, event_id) AS turn FROM staged
			WHERE room_id = $1 AND next <= $2 ORDER BY turn, since, event_id LIMIT $3
		) t ON t.event_id = s.event_id
		WHERE s.room_id = $1 ORDER BY t.turn, t.since, s.event_id`)
	dropStaged = sqldb.SQL(`DELETE FROM staged WHERE room_id = $1 AND event_id = ANY($2)`)
	postpone   = sqldb.SQL(`UPDATE staged SET tries = tries + 1, next = $3 WHERE room_id = $1 AND event_id = ANY($2)`)
	forget     = sqldb.SQL(`DELETE FROM staged WHERE room_id = $1 AND event_id = $2 AND origin = $3 AND proof = $4`)

	insertKnock = sqldb.SQL(`INSERT INTO knocks (room_id, user_id, server) VALUES ($1, $2, $3)
		ON CONFLICT (room_id, user_id) DO UPDATE SET server = excluded.server`)
	knockedAt = sqldb.SQL(`SELECT server FROM knocks WHERE room_id = $1 AND user_id = $2`)
	dropKnock = sqldb.SQL(`DELETE FROM knocks WHERE room_id = $1 AND user_id = $2`)

	insertGivenUp = sqldb.SQL(`INSERT INTO given_up (room_id, event_id, origin, since, at, reason) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (room_id, event_id) DO UPDATE SET at = excluded.at, reason = excluded.reason`)
	dropGivenUp = sqldb.SQL(`DELETE FROM given_up WHERE room_id = $1 AND event_id = ANY($2)`)
	oldGivenUp  = sqldb.SQL(`DELETE FROM given_up WHERE at < $1`)
	listGivenUp = sqldb.SQL(`SELECT room_id, event_id, origin, since, at, reason FROM given_up ORDER BY at DESC LIMIT $1`)
)
