package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"myelin/internal/sqldb"
)

const (
	// orphanAge is how old a file without a row must be before it is deleted: no upload takes as long.
	orphanAge = 24 * time.Hour
	// sweepPage is how many names of a folder are looked up at once.
	sweepPage = 500
)

// Sweep deletes files that no row names, as crashes leave them behind.
func (s *Store) Sweep(ctx context.Context) error {
	before := time.Now().Add(-orphanAge)
	shards, err := os.ReadDir(s.folder)
	if err != nil {
		return fmt.Errorf("read the folder of media: %w", err)
	}
	deleted := 0
	for _, shard := range shards {
		if !shard.IsDir() || shard.Name() != incoming && len(shard.Name()) != 3 {
			continue // not ours
		}
		n, err := s.sweepFolder(ctx, shard.Name(), before)
		if err != nil {
			return fmt.Errorf("sweep the folder of media: %w", err)
		}
		deleted += n
	}
	if deleted > 0 {
		s.log.Info("files of media that nobody needs deleted", slog.Int("count", deleted))
	}
	return nil
}

// sweepFolder looks at a page of names at a time.
func (s *Store) sweepFolder(ctx context.Context, shard string, before time.Time) (deleted int, err error) {
	f, err := os.Open(filepath.Join(s.folder, shard))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(sweepPage)
		if len(entries) == 0 {
			break
		}
		if err != nil {
			return deleted, err
		}
		orphans, err := s.orphans(ctx, shard, entries, before)
		if err != nil {
			return deleted, err
		}
		for _, file := range orphans {
			s.remove(file)
			deleted++
		}
	}
	return deleted, nil
}

// orphans picks the files that are old and that the table doesn't know.
func (s *Store) orphans(ctx context.Context, shard string, entries []fs.DirEntry, before time.Time) ([]string, error) {
	old := make(map[string]bool)
	var names []string
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if file := shard + "/" + e.Name(); info.Mode().IsRegular() && info.ModTime().Before(before) {
			old[file] = true
			names = append(names, file)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(sqlKnown, func(r *sqldb.Row) error {
			var file string
			err := r.Scan(&file)
			delete(old, file)
			return err
		}, names)
	})
	if err != nil {
		return nil, err
	}
	orphans := names[:0]
	for _, file := range names {
		if old[file] {
			orphans = append(orphans, file)
		}
	}
	return orphans, nil
}
