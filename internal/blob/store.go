package blob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"myelin/internal/sqldb"
)

// Hash is the SHA-256 of a content.
type Hash [32]byte

// HashFrom reads a hash as it is stored.
func HashFrom(b []byte) (Hash, error) {
	var h Hash
	if len(b) != len(h) {
		return h, fmt.Errorf("a hash of %d bytes", len(b))
	}
	copy(h[:], b)
	return h, nil
}

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// A blob's file is called as it is in the folder, with a slash, and in the bucket behind the prefix. Its size is in bytes.
var migrations = []sqldb.Migration{{Slice: "blob", Version: 1, SQL: `
	CREATE TABLE blobs (
		hash BLOB NOT NULL PRIMARY KEY,
		file TEXT NOT NULL,
		size BIGINT NOT NULL,
		refs BIGINT NOT NULL
	);
	CREATE UNIQUE INDEX blobs_by_file ON blobs (file);
`}, {Slice: "blob", Version: 2, SQL: `
	CREATE TABLE blob_owner (
		one BIGINT NOT NULL PRIMARY KEY,
		name TEXT NOT NULL
	);
`}}

var (
	sqlRefer = sqldb.SQL(`INSERT INTO blobs (hash, file, size, refs) VALUES ($1, $2, $3, 1)
		ON CONFLICT (hash) DO UPDATE SET refs = blobs.refs + 1`)

	sqlForget = sqldb.SQL(`UPDATE blobs SET refs = refs - 1 WHERE hash = $1`)

	sqlDelete = sqldb.SQL(`DELETE FROM blobs WHERE hash = $1 AND refs <= 0 RETURNING file`)

	sqlFile = sqldb.SQL(`SELECT file, size FROM blobs WHERE hash = $1`)

	sqlReferAgain = sqldb.SQL(`UPDATE blobs SET refs = refs + 1 WHERE hash = $1`)

	sqlOwn = sqldb.SQL(`INSERT INTO blob_owner (one, name) VALUES (1, $1) ON CONFLICT (one) DO NOTHING`)

	sqlOwner = sqldb.SQL(`SELECT name FROM blob_owner WHERE one = 1`)

	sqlKnown = sqldb.SQL(`SELECT file FROM blobs WHERE file = ANY($1)`)
)

// ErrMissing says that there is no such content.
var ErrMissing = errors.New("blob: there is no such content")

// ErrAway says that the bucket can't be reached, or refuses what is asked of it. It may be better later.
var ErrAway = errors.New("blob: the store of files can't be used")

// Config is what Open needs.
type Config struct {
	DB *sqldb.DB
	// Folder is made where it does not exist. Nodes that share a database share the folder too, unless they share a bucket: then each has
	// a folder of its own for what is under way.
	Folder string
	// Bucket is where contents stay, unless it is nil: then they stay in the folder.
	Bucket *Bucket
	Log    *slog.Logger // nil discards
}

// Store keeps contents. All methods may be called from any goroutine.
type Store struct {
	db     *sqldb.DB
	folder string
	shelf  shelf
	owner  string
	log    *slog.Logger
}

// Body is a content that is read: a file where the store is a folder. It must be closed.
type Body interface {
	io.ReadSeeker
	io.Closer
}

// shelf is where contents stay: a folder or a bucket.
type shelf interface {
	// put stores a content under a name that was never used. It may end the content.
	put(ctx context.Context, c *Content, file string) error
	// open fails with ErrMissing where there is no such file.
	open(ctx context.Context, file string, size int64) (Body, error)
	remove(ctx context.Context, file string) error
	// old calls page with the names of files that were stored before a time.
	old(ctx context.Context, owner string, before time.Time, page func(files []string) error) error
	// check says what keeps the shelf from being used.
	check(ctx context.Context, owner string) error
}

// incoming is the folder of contents that are being written. It is within the store's, so that they can be renamed.
const incoming = "incoming"

// Open prepares a store. It does not ask a bucket: see Check.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Join(c.Folder, incoming), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for media: %w", err)
	}
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("prepare the tables of media files: %w", err)
	}
	s := &Store{db: c.DB, folder: c.Folder, shelf: &folder{root: c.Folder}, log: c.Log}
	if c.Bucket == nil {
		return s, nil
	}
	b, err := openBucket(*c.Bucket)
	if err != nil {
		return nil, err
	}
	s.shelf = b
	err = s.db.Write(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(sqlOwn, rand.Text()); err != nil {
			return err
		}
		_, err := tx.Get(sqlOwner, nil, &s.owner)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("name the owner of the bucket: %w", err)
	}
	return s, nil
}

// Check says what keeps the store from being used, as a clause. The error wraps ErrAway where it may be better later by itself.
func (s *Store) Check(ctx context.Context) error { return s.shelf.check(ctx, s.owner) }

// shardLetters is how many letters of a hash name the folder of its file.
const shardLetters = 3

// newFile makes a name for content: a shard of 4096, the hash, and letters that nobody had before.
func newFile(h Hash) string {
	text := h.String()
	return text[:shardLetters] + "/" + text + "-" + strings.ToLower(rand.Text()[:12])
}

// find looks up a content. The error wraps ErrMissing where there is none.
func (s *Store) find(ctx context.Context, h Hash) (file string, size int64, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := tx.Get(sqlFile, []any{h[:]}, &file, &size)
		if err == nil && !found {
			err = ErrMissing
		}
		return err
	})
	if err != nil {
		return "", 0, fmt.Errorf("find %s: %w", h, err)
	}
	return file, size, nil
}

// Open opens a content for reading, which may go on after ctx has ended. The error wraps ErrMissing where there is none.
func (s *Store) Open(ctx context.Context, h Hash) (Body, error) {
	file, size, err := s.find(ctx, h)
	if err != nil {
		return nil, err
	}
	return s.shelf.open(ctx, file, size)
}

// Refer adds a reference to a content that the transaction knows to be there.
func (s *Store) Refer(tx *sqldb.Tx, h Hash) error {
	n, err := tx.Exec(sqlReferAgain, h[:])
	if err == nil && n == 0 {
		err = ErrMissing
	}
	return err
}

// Drop takes references away: choose deletes the rows that referred and returns the hashes, one for each row. Contents that nobody
// refers to any more are deleted. choose may run several times.
func (s *Store) Drop(ctx context.Context, choose func(tx *sqldb.Tx) ([]Hash, error)) error {
	var files []string
	err := s.db.Write(ctx, func(tx *sqldb.Tx) error {
		files = nil
		hashes, err := choose(tx)
		if err != nil {
			return err
		}
		for _, h := range hashes {
			if _, err := tx.Exec(sqlForget, h[:]); err != nil {
				return err
			}
			var file string
			found, err := tx.Get(sqlDelete, []any{h[:]}, &file)
			if err != nil {
				return err
			}
			if found {
				files = append(files, file)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, file := range files {
		if !s.remove(ctx, file) {
			break // Sweep finds them.
		}
	}
	return nil
}

// removeTime bounds deleting a file.
const removeTime = 30 * time.Second

// remove deletes a file that nobody refers to. If it fails, Sweep tries again.
func (s *Store) remove(ctx context.Context, file string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	err := s.shelf.remove(ctx, file)
	if err != nil {
		s.log.Warn("a file of media could not be deleted", "error", err)
	}
	return err == nil
}
