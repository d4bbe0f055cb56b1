package blob

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// ErrTooLarge says that a content has more bytes than its writer allowed.
var ErrTooLarge = errors.New("blob: the content is too large")

// Content is what is being written. It is used by one goroutine, and ends with Store.Keep or Discard.
type Content struct {
	store *Store
	file  *os.File // nil when it ended
	sum   hash.Hash
	limit int64
	size  int64
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
	n, err := c.file.Write(p)
	c.sum.Write(p[:n])
	c.size += int64(n)
	if err != nil {
		err = fmt.Errorf("write media: %w", err)
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

// place puts the file where it stays, for good, and returns its name there.
func (c *Content) place() (string, error) {
	if c.file == nil {
		return "", errors.New("place media: the content has ended")
	}
	if err := c.file.Sync(); err != nil {
		return "", fmt.Errorf("sync media: %w", err)
	}
	name := c.file.Name()
	err := c.file.Close()
	c.file = nil
	if err == nil {
		var file string
		if file, err = c.move(name); err == nil {
			return file, nil
		}
	}
	return "", errors.Join(fmt.Errorf("place media: %w", err), os.Remove(name))
}

func (c *Content) move(name string) (string, error) {
	file := newFile(c.Hash())
	shard := c.store.path(path.Dir(file))
	if _, known := c.store.shards.Load(shard); !known {
		if err := os.Mkdir(shard, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		// Whoever made it may not have come to this yet.
		if err := syncFolder(c.store.folder); err != nil {
			return "", err
		}
		c.store.shards.Store(shard, true)
	}
	if err := os.Rename(name, c.store.path(file)); err != nil {
		return "", err
	}
	return file, syncFolder(shard)
}
