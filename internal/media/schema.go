package media

import (
	"myelin/internal/blob"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Times are in milliseconds since the epoch and sizes in bytes. In media, hash is NULL as long as nothing was uploaded; expires is when a promised address
// ends, 0 once it is used. legacy says whether the old endpoints were open when the content was stored. used is when a copy or a thumbnail was last asked for, give or
// take an hour. source is the hash of the image that a thumbnail was made of.
//
// media_use counts what each user has in media. In media_quarantine, hash is NULL where the file was not known here. A row of url_previews is what a page said at
// some time; url_hash is the SHA-256 of its URL, answer the JSON that clients get, size that of the answer and of the image together. server and media_id are the address of
// the image, which is a row of media without a user; empty where there is none.
var migrations = []sqldb.Migration{{Slice: "media", Version: 1, SQL: `
	CREATE TABLE media (
		server TEXT NOT NULL,
		media_id TEXT NOT NULL,
		user_id TEXT NOT NULL,
		hash BLOB,
		size BIGINT NOT NULL,
		content_type TEXT NOT NULL,
		name TEXT NOT NULL,
		at BIGINT NOT NULL,
		expires BIGINT NOT NULL,
		legacy BIGINT NOT NULL,
		PRIMARY KEY (server, media_id)
	);
	CREATE INDEX media_promised ON media (user_id, expires) WHERE hash IS NULL;
	CREATE INDEX media_by_hash ON media (hash) WHERE hash IS NOT NULL;
	CREATE TABLE remote_media (
		server TEXT NOT NULL,
		media_id TEXT NOT NULL,
		hash BLOB NOT NULL,
		size BIGINT NOT NULL,
		content_type TEXT NOT NULL,
		name TEXT NOT NULL,
		at BIGINT NOT NULL,
		used BIGINT NOT NULL,
		legacy BIGINT NOT NULL,
		PRIMARY KEY (server, media_id)
	);
	CREATE INDEX remote_media_by_use ON remote_media (used);
	CREATE INDEX remote_media_by_hash ON remote_media (hash);
	CREATE TABLE thumbnails (
		source BLOB NOT NULL,
		width BIGINT NOT NULL,
		height BIGINT NOT NULL,
		method TEXT NOT NULL,
		hash BLOB NOT NULL,
		size BIGINT NOT NULL,
		content_type TEXT NOT NULL,
		used BIGINT NOT NULL,
		PRIMARY KEY (source, width, height, method)
	);
	CREATE INDEX thumbnails_by_use ON thumbnails (used);
`}, {Slice: "media", Version: 2, SQL: `
	CREATE TABLE media_use (
		user_id TEXT NOT NULL PRIMARY KEY,
		bytes BIGINT NOT NULL,
		files BIGINT NOT NULL
	);
	INSERT INTO media_use (user_id, bytes, files)
		SELECT user_id, CAST(SUM(size) AS BIGINT), COUNT(*) FROM media WHERE hash IS NOT NULL GROUP BY user_id;
	CREATE INDEX media_by_user ON media (user_id, media_id) WHERE hash IS NOT NULL;
	CREATE TABLE media_quarantine (
		server TEXT NOT NULL,
		media_id TEXT NOT NULL,
		hash BLOB,
		at BIGINT NOT NULL,
		PRIMARY KEY (server, media_id)
	);
	CREATE INDEX media_quarantine_by_hash ON media_quarantine (hash) WHERE hash IS NOT NULL;
	CREATE TABLE url_previews (
		url_hash BLOB NOT NULL,
		at BIGINT NOT NULL,
		answer BLOB NOT NULL,
		size BIGINT NOT NULL,
		server TEXT NOT NULL,
		media_id TEXT NOT NULL,
		PRIMARY KEY (url_hash, at)
	);
	CREATE INDEX url_previews_by_age ON url_previews (at);
`}}

// URI is the address of a file.
//
// Spec: cs Matrix Content (mxc://) URIs
type URI struct {
	Server id.ServerName
	ID     string
}

func (u URI) String() string { return "mxc://" + string(u.Server) + "/" + u.ID }

// row is what the database knows of a file.
type row struct {
	hash        blob.Hash
	size        int64
	contentType string
	name        string
	legacy      bool
	promised    bool // nothing was uploaded yet
	user        id.UserID
	expires     int64
}

// scan reads a row; dest are variables for what follows the common columns.
func (f *row) scan(r *sqldb.Row, dest ...any) error {
	var hash []byte
	if err := r.Scan(append([]any{&hash, &f.size, &f.contentType, &f.name, &f.legacy}, dest...)...); err != nil {
		return err
	}
	if hash == nil {
		f.promised = true
		return nil
	}
	var err error
	f.hash, err = blob.HashFrom(hash)
	return err
}
