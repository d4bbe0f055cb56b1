package account

import "myelin/internal/sqldb"

// Times are milliseconds since the epoch; 0 means never, or not yet. Flags are 0 or 1.
// Hashes of tokens are base64url without padding.
var migrations = []sqldb.Migration{{Slice: "account", Version: 1, SQL: `
CREATE TABLE users (
	user_id     TEXT NOT NULL PRIMARY KEY,
	kind        BIGINT NOT NULL,
	password    TEXT NOT NULL,
	admin       BIGINT NOT NULL,
	locked      BIGINT NOT NULL,
	suspended   BIGINT NOT NULL,
	deactivated BIGINT NOT NULL,
	erased      BIGINT NOT NULL,
	created     BIGINT NOT NULL,
	pos         BIGINT NOT NULL
);
CREATE INDEX users_pos ON users (pos);

CREATE TABLE devices (
	user_id      TEXT NOT NULL,
	device_id    TEXT NOT NULL,
	display_name TEXT NOT NULL,
	created      BIGINT NOT NULL,
	seen_ts      BIGINT NOT NULL,
	seen_ip      TEXT NOT NULL,
	pos          BIGINT NOT NULL,
	PRIMARY KEY (user_id, device_id)
);

CREATE TABLE access_tokens (
	token_id   BIGINT NOT NULL PRIMARY KEY,
	hash       TEXT NOT NULL UNIQUE,
	user_id    TEXT NOT NULL,
	device_id  TEXT NOT NULL,
	refresh_id BIGINT NOT NULL,
	created    BIGINT NOT NULL,
	expires    BIGINT NOT NULL
);
CREATE INDEX access_tokens_device ON access_tokens (user_id, device_id);
CREATE INDEX access_tokens_refresh ON access_tokens (refresh_id);

CREATE TABLE refresh_tokens (
	token_id  BIGINT NOT NULL PRIMARY KEY,
	hash      TEXT NOT NULL UNIQUE,
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	parent    BIGINT NOT NULL,
	created   BIGINT NOT NULL,
	expires   BIGINT NOT NULL
);
CREATE INDEX refresh_tokens_device ON refresh_tokens (user_id, device_id);
CREATE INDEX refresh_tokens_parent ON refresh_tokens (parent);

CREATE TABLE one_time_tokens (
	hash    TEXT NOT NULL PRIMARY KEY,
	purpose TEXT NOT NULL,
	user_id TEXT NOT NULL,
	expires BIGINT NOT NULL
);
CREATE INDEX one_time_tokens_expires ON one_time_tokens (expires);
CREATE INDEX one_time_tokens_user ON one_time_tokens (user_id);

CREATE TABLE registration_tokens (
	token        TEXT NOT NULL PRIMARY KEY,
	uses_allowed BIGINT,
	pending      BIGINT NOT NULL,
	completed    BIGINT NOT NULL,
	created      BIGINT NOT NULL,
	expires      BIGINT NOT NULL
);

CREATE TABLE auth_sessions (
	hash      TEXT NOT NULL PRIMARY KEY,
	operation TEXT NOT NULL,
	user_id   TEXT NOT NULL,
	params    TEXT NOT NULL,
	completed TEXT NOT NULL,
	facts     TEXT NOT NULL,
	result    TEXT NOT NULL,
	expires   BIGINT NOT NULL
);
CREATE INDEX auth_sessions_expires ON auth_sessions (expires);

CREATE TABLE profiles (
	user_id TEXT NOT NULL,
	field   TEXT NOT NULL,
	value   TEXT,
	pos     BIGINT NOT NULL,
	PRIMARY KEY (user_id, field)
);
CREATE INDEX profiles_pos ON profiles (pos);

CREATE TABLE account_data (
	user_id TEXT NOT NULL,
	room_id TEXT NOT NULL,
	type    TEXT NOT NULL,
	content TEXT,
	pos     BIGINT NOT NULL,
	PRIMARY KEY (user_id, room_id, type)
);
CREATE INDEX account_data_pos ON account_data (user_id, pos);

CREATE TABLE filters (
	user_id   TEXT NOT NULL,
	filter_id BIGINT NOT NULL,
	hash      TEXT NOT NULL,
	content   TEXT NOT NULL,
	PRIMARY KEY (user_id, filter_id),
	UNIQUE (user_id, hash)
);

CREATE TABLE cache_changes (
	pos  BIGINT NOT NULL,
	kind BIGINT NOT NULL,
	key  TEXT NOT NULL,
	at   BIGINT NOT NULL,
	PRIMARY KEY (pos, kind, key)
);
`}, {Slice: "account", Version: 2, SQL: `
CREATE INDEX account_data_rules ON account_data (pos) WHERE type IN ('m.push_rules', 'm.ignored_user_list') AND room_id = '';
`}}
