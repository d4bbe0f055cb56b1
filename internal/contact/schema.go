package contact

import "myelin/internal/sqldb"

// Times are in milliseconds since the epoch. A validation is found by its sid; secret and token are hashes. validated is 0 until the link in the
// mail was followed, attempt the client's send_attempt of the newest mail, and sent how many mails there were.
var migrations = []sqldb.Migration{{Slice: "contact", Version: 1, SQL: `
CREATE TABLE threepids (
	medium    TEXT NOT NULL,
	address   TEXT NOT NULL,
	user_id   TEXT NOT NULL,
	validated BIGINT NOT NULL,
	added     BIGINT NOT NULL,
	PRIMARY KEY (medium, address)
);
CREATE INDEX threepids_user ON threepids (user_id);

CREATE TABLE validations (
	sid       TEXT NOT NULL PRIMARY KEY,
	purpose   TEXT NOT NULL,
	secret    TEXT NOT NULL,
	address   TEXT NOT NULL,
	token     TEXT NOT NULL,
	attempt   BIGINT NOT NULL,
	sent      BIGINT NOT NULL,
	next_link TEXT NOT NULL,
	created   BIGINT NOT NULL,
	expires   BIGINT NOT NULL,
	validated BIGINT NOT NULL,
	UNIQUE (purpose, secret, address)
);
CREATE INDEX validations_address ON validations (address, created);
CREATE INDEX validations_expires ON validations (expires);
`}}

var (
	sqlOwner = sqldb.SQL(`SELECT user_id FROM threepids WHERE medium = $1 AND address = $2`)

	sqlList = sqldb.SQL(`SELECT medium, address, validated, added FROM threepids WHERE user_id = $1 ORDER BY added, address`)

	sqlCount = sqldb.SQL(`SELECT COUNT(*) FROM threepids WHERE user_id = $1`)

	sqlAdd = sqldb.SQL(`INSERT INTO threepids (medium, address, user_id, validated, added) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (medium, address) DO NOTHING`)

	sqlRemove = sqldb.SQL(`DELETE FROM threepids WHERE medium = $1 AND address = $2 AND user_id = $3`)

	sqlRemoveAll = sqldb.SQL(`DELETE FROM threepids WHERE user_id = $1`)

	sqlSession = sqldb.SQL(`SELECT sid, attempt FROM validations WHERE purpose = $1 AND secret = $2 AND address = $3 AND expires > $4`)

	sqlMails = sqldb.SQL(`SELECT COALESCE(SUM(sent), 0), COALESCE(MIN(created), 0) FROM validations WHERE address = $1 AND created > $2`)

	// The mails of a session are counted from anew when those counted so far are old.
	sqlPutSession = sqldb.SQL(`INSERT INTO validations (sid, purpose, secret, address, token, attempt, sent, next_link, created, expires, validated)
		VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, 0)
		ON CONFLICT (purpose, secret, address) DO UPDATE SET sid = excluded.sid, token = excluded.token, attempt = excluded.attempt,
			sent = CASE WHEN validations.created <= $10 THEN 1 ELSE validations.sent + 1 END,
			created = CASE WHEN validations.created <= $10 THEN excluded.created ELSE validations.created END,
			next_link = excluded.next_link, expires = excluded.expires, validated = 0`)

	sqlForgetMail = sqldb.SQL(`UPDATE validations SET attempt = $2 WHERE sid = $1`)

	sqlConfirm = sqldb.SQL(`UPDATE validations SET validated = $4, expires = $5
		WHERE sid = $1 AND secret = $2 AND token = $3 AND expires > $4 RETURNING next_link`)

	sqlValidated = sqldb.SQL(`SELECT purpose, address, validated FROM validations WHERE sid = $1 AND secret = $2 AND expires > $3`)

	sqlSpend = sqldb.SQL(`DELETE FROM validations WHERE sid = $1 AND validated > 0`)

	sqlSweep = sqldb.SQL(`DELETE FROM validations WHERE expires <= $1 AND created <= $2`)
)
