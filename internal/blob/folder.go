package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
)

// folder is a shelf on this machine, or on a file system that nodes share.
type folder struct {
	root string
	// shards are the folders that this process knows to be durable.
	shards sync.Map
}

// path is where a file of the table stands.
func (d *folder) path(file string) string { return filepath.Join(d.root, filepath.FromSlash(file)) }

// put puts a content's file where it stays, for good.
func (d *folder) put(_ context.Context, c *Content, file string) error {
	if err := c.file.Sync(); err != nil {
		return fmt.Errorf("sync media: %w", err)
	}
	name := c.file.Name()
	err := c.file.Close()
	c.file = nil
	if err == nil {
		if err = d.move(name, file); err == nil {
			return nil
		}
	}
	return errors.Join(fmt.Errorf("place media: %w", err), os.Remove(name))
}

func (d *folder) move(name, file string) error {
	shard := d.path(path.Dir(file))
	if _, known := d.shards.Load(shard); !known {
		if err := os.Mkdir(shard, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// Whoever made it may not have come to this yet.
		if err := syncFolder(d.root); err != nil {
			return err
		}
		d.shards.Store(shard, true)
	}
	if err := os.Rename(name, d.path(file)); err != nil {
		return err
	}
	return syncFolder(shard)
}

func (d *folder) open(_ context.Context, file string, _ int64) (Body, error) {
	f, err := os.Open(d.path(file))
	if errors.Is(err, fs.ErrNotExist) {
		// It was deleted just now, or the folder is not the one that belongs to the database.
		return nil, fmt.Errorf("open %s: %w (%w)", file, ErrMissing, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open a content: %w", err)
	}
	return f, nil
}

func (d *folder) remove(_ context.Context, file string) error {
	if err := os.Remove(d.path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// old visits the folders of the shards.
func (d *folder) old(_ context.Context, _ string, before time.Time, page func(files []string) error) error {
	shards, err := os.ReadDir(d.root)
	if err != nil {
		return err
	}
	for _, shard := range shards {
		if !shard.IsDir() || len(shard.Name()) != shardLetters {
			continue // not ours
		}
		if err := oldFiles(d.root, shard.Name(), before, page); err != nil {
			return err
		}
	}
	return nil
}

// oldFiles calls page with names of files in a folder within root that were last written before a time, a page of names at a time.
func oldFiles(root, within string, before time.Time, page func(files []string) error) error {
	f, err := os.Open(filepath.Join(root, within))
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(sweepPage)
		if len(entries) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		var names []string
		for _, e := range entries {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if info.Mode().IsRegular() && info.ModTime().Before(before) {
				names = append(names, within+"/"+e.Name())
			}
		}
		if err := page(names); err != nil {
			return err
		}
	}
}

// check writes a file and deletes it again.
func (d *folder) check(context.Context, string) error {
	f, err := os.CreateTemp(filepath.Join(d.root, incoming), "*")
	if err != nil {
		return err
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}
