package media

import (
	"myelin/internal/blob"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Times are in milliseconds since the epoch and sizes in bytes. In media, hash is NULL as long as nothing was uploaded; expires is when a promised address
// ends, 0 once it is used. legacy says whether the old endpoints were open when the content was stored. used is when a copy or a thumbnail was last asked for, give or
// take an hour. source is the hash of the image that a thumbnail was made of.
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
