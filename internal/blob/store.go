package blob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

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

// A blob's file is called as it is in the folder, with a slash. Its size is in bytes.
var migrations = []sqldb.Migration{{Slice: "blob", Version: 1, SQL: `
	CREATE TABLE blobs (
		hash BLOB NOT NULL PRIMARY KEY,
		file TEXT NOT NULL,
		size BIGINT NOT NULL,
		refs BIGINT NOT NULL
	);
	CREATE UNIQUE INDEX blobs_by_file ON blobs (file);
`}}

var (
	sqlRefer = sqldb.SQL(`INSERT INTO blobs (hash, file, size, refs) VALUES ($1, $2, $3, 1)
		ON CONFLICT (hash) DO UPDATE SET refs = blobs.refs + 1`)

	sqlForget = sqldb.SQL(`UPDATE blobs SET refs = refs - 1 WHERE hash = $1`)

	sqlDelete = sqldb.SQL(`DELETE FROM blobs WHERE hash = $1 AND refs <= 0 RETURNING file`)

	sqlFile = sqldb.SQL(`SELECT file, size FROM blobs WHERE hash = $1`)

	sqlKnown = sqldb.SQL(`SELECT file FROM blobs WHERE file = ANY($1)`)
)

// ErrMissing says that there is no such content.
var ErrMissing = errors.New("blob: there is no such content")

// Config is what Open needs.
type Config struct {
	DB *sqldb.DB
	// Folder is made where it does not exist. Nodes that share a database share the folder too.
	Folder string
	Log    *slog.Logger // nil discards
}

// Store is a folder of contents. All methods may be called from any goroutine.
type Store struct {
	db     *sqldb.DB
	folder string
	log    *slog.Logger
	// shards are the folders that this process knows to be durable.
	shards sync.Map
}

// incoming is the folder of contents that are being written. It is within the store's, so that they can be renamed.
const incoming = "incoming"

// Open prepares a store.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Join(c.Folder, incoming), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for media: %w", err)
	}
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("prepare the table of media files: %w", err)
	}
	return &Store{db: c.DB, folder: c.Folder, log: c.Log}, nil
}

// path is where a file of the table stands.
func (s *Store) path(file string) string { return filepath.Join(s.folder, filepath.FromSlash(file)) }

// newFile makes a name for content: a shard of 4096, the hash, and letters that nobody had before.
func newFile(h Hash) string {
	text := h.String()
	return text[:3] + "/" + text + "-" + strings.ToLower(rand.Text()[:12])
}

// Open opens a content for reading. The error wraps ErrMissing where there is none.
func (s *Store) Open(ctx context.Context, h Hash) (*os.File, error) {
	var file string
	var size int64
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := tx.Get(sqlFile, []any{h[:]}, &file, &size)
		if err == nil && !found {
			err = ErrMissing
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", h, err)
	}
	f, err := os.Open(s.path(file))
	if errors.Is(err, fs.ErrNotExist) {
		// It was deleted just now, or the folder is not the one that belongs to the database.
		return nil, fmt.Errorf("open %s: %w (%w)", file, ErrMissing, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open a content: %w", err)
	}
	return f, nil
}

// Keep stores a content and adds a reference to it, in one transaction with what record does: the row that refers to it. Whatever comes
// of it, the content must not be used again. record may run several times.
func (s *Store) Keep(ctx context.Context, c *Content, record func(tx *sqldb.Tx) error) error {
	file, err := c.place()
	if err != nil {
		c.Discard()
		return err
	}
	var kept string
	err = s.db.Write(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(sqlRefer, c.hash[:], file, c.size); err != nil {
			return err
		}
		var size int64
		if _, err := tx.Get(sqlFile, []any{c.hash[:]}, &kept, &size); err != nil {
			return err
		}
		return record(tx)
	})
	switch {
	case errors.Is(err, sqldb.ErrUnknownOutcome):
		// The file may be referred to. If it is not, Sweep finds it.
	case err != nil || kept != file:
		s.remove(file)
	}
	return err
}

// Refer adds a reference to a content that the transaction knows to be there.
func (s *Store) Refer(tx *sqldb.Tx, h Hash) error {
	n, err := tx.Exec(sqlReferAgain, h[:])
	if err == nil && n == 0 {
		err = ErrMissing
	}
	return err
}

var sqlReferAgain = sqldb.SQL(`UPDATE blobs SET refs = refs + 1 WHERE hash = $1`)

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
		s.remove(file)
	}
	return nil
}

// remove deletes a file that nobody refers to. If it fails, Sweep tries again.
func (s *Store) remove(file string) {
	if err := os.Remove(s.path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("a file of media could not be deleted", "error", err)
	}
}
