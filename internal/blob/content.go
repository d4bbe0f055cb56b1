package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"

	"myelin/internal/sqldb"
)

// ErrTooLarge says that a content has more bytes than its writer allowed.
var ErrTooLarge = errors.New("blob: the content is too large")

const (
	// flushEvery is after how many bytes the disk is told to begin to write them.
	flushEvery = 8 << 20
	// besides is from how many bytes on they are hashed beside the writing of them.
	besides = 64 << 10
)

// Content is what is being written. It is used by one goroutine, and ends with Store.Keep or Discard.
type Content struct {
	store *Store
	file  *os.File // nil when it ended
	sum   hash.Hash
	limit int64
	size  int64
	begun int64 // up to where the disk was told to write
	hash  Hash
}

// Create begins a content of at most limit bytes.
func (s *Store) Create(limit int64) (*Content, error) {
	f, err := os.CreateTemp(filepath.Join(s.folder, incoming), "*")
	if err != nil {
		return nil, fmt.Errorf("make a file for media: %w", err)
	}
	return &Content{store: s, file: f, sum: sha256.New(), limit: limit}, nil
}

// Write appends. Beyond the limit the error is ErrTooLarge.
func (c *Content) Write(p []byte) (int, error) {
	if int64(len(p)) > c.limit-c.size {
		return 0, ErrTooLarge
	}
	n, err := c.write(p)
	c.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("write media: %w", err)
	}
	if c.size-c.begun >= flushEvery {
		// Otherwise the disk would have nothing to do until all is here.
		beginSync(c.file, c.begun, c.size-c.begun)
		c.begun = c.size
	}
	return n, nil
}

// write gives the bytes to the file and to the hash, at the same time where there are many of them.
func (c *Content) write(p []byte) (int, error) {
	if len(p) < besides {
		n, err := c.file.Write(p)
		c.sum.Write(p[:n])
		return n, err
	}
	hashed := make(chan struct{})
	go func() {
		c.sum.Write(p)
		close(hashed)
	}()
	n, err := c.file.Write(p)
	<-hashed
	if err != nil {
		// The hash is of more than what was written, and of no use: no content is kept whose writing failed.
		c.limit = -1
	}
	return n, err
}

// ReadAt reads what was written.
func (c *Content) ReadAt(p []byte, at int64) (int, error) {
	if c.file == nil {
		return 0, errors.New("read media: the content has ended")
	}
	return c.file.ReadAt(p, at)
}

// Size is the number of bytes written.
func (c *Content) Size() int64 { return c.size }

// Hash is the hash of what was written.
func (c *Content) Hash() Hash {
	c.sum.Sum(c.hash[:0])
	return c.hash
}

// Discard ends a content that is not wanted. It does nothing after Store.Keep.
func (c *Content) Discard() {
	if c.file == nil {
		return
	}
	name := c.file.Name()
	c.file.Close()
	c.file = nil
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.store.log.Warn("an unfinished file of media could not be deleted", "error", err)
	}
}

// errGone says that a content which was there is not any more.
var errGone = errors.New("blob: the content is gone")

// Keep stores a content and adds a reference to it, in one transaction with what record does: the row that refers to it. Whatever comes
// of it, the content must not be used again. record may run several times.
func (s *Store) Keep(ctx context.Context, c *Content, record func(tx *sqldb.Tx) error) error {
	defer c.Discard()
	if c.file == nil || c.limit < 0 {
		return errors.New("keep media: the content has ended or could not be written")
	}
	if err := s.keepAgain(ctx, c.Hash(), record); !errors.Is(err, errGone) {
		return err
	}
	file := newFile(c.hash)
	if err := s.shelf.put(ctx, c, file); err != nil {
		return err
	}
	var kept string
	err := s.db.Write(ctx, func(tx *sqldb.Tx) error {
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
		s.remove(ctx, file)
	}
	return err
}

// keepAgain refers to a content that is there already, which saves the writing of it. The error is errGone where it isn't.
func (s *Store) keepAgain(ctx context.Context, h Hash, record func(tx *sqldb.Tx) error) error {
	switch _, _, err := s.find(ctx, h); {
	case errors.Is(err, ErrMissing):
		return errGone
	case err != nil:
		return err
	}
	return s.db.Write(ctx, func(tx *sqldb.Tx) error {
		n, err := tx.Exec(sqlReferAgain, h[:])
		if err == nil && n == 0 {
			err = errGone
		}
		if err != nil {
			return err
		}
		return record(tx)
	})
}
