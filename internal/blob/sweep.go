package blob

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"myelin/internal/sqldb"
)

const (
	// orphanAge is how old a file without a row must be before it is deleted: no upload takes as long.
	orphanAge = 24 * time.Hour
	// sweepPage is how many names are looked up at once.
	sweepPage = 500
)

// Sweep deletes files that no row names, as crashes leave them behind.
func (s *Store) Sweep(ctx context.Context) error {
	before, deleted := time.Now().Add(-orphanAge), 0
	err := s.shelf.old(ctx, s.owner, before, func(files []string) error {
		orphans, err := s.orphans(ctx, files)
		if err != nil {
			return err
		}
		for _, file := range orphans {
			if s.remove(ctx, file) {
				deleted++
			}
		}
		return nil
	})
	if deleted > 0 {
		s.log.Info("files of media that nobody needs deleted", slog.Int("count", deleted))
	}
	if err != nil {
		return fmt.Errorf("sweep the files of media: %w", err)
	}
	return s.SweepIncoming(ctx)
}

// SweepIncoming deletes what uploads left behind on this machine when they were cut off.
func (s *Store) SweepIncoming(ctx context.Context) error {
	here := folder{root: s.folder}
	err := oldFiles(s.folder, incoming, time.Now().Add(-orphanAge), func(files []string) error {
		for _, file := range files {
			if err := here.remove(ctx, file); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sweep the folder of unfinished media: %w", err)
	}
	return nil
}

// orphans picks the files that the table doesn't know.
func (s *Store) orphans(ctx context.Context, files []string) ([]string, error) {
	if len(files) == 0 {
		return nil, nil
	}
	unknown := make(map[string]bool, len(files))
	for _, file := range files {
		unknown[file] = true
	}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.Query(sqlKnown, func(r *sqldb.Row) error {
			var file string
			err := r.Scan(&file)
			delete(unknown, file)
			return err
		}, files)
	})
	if err != nil {
		return nil, err
	}
	orphans := make([]string, 0, len(unknown))
	for _, file := range files {
		if unknown[file] {
			orphans = append(orphans, file)
		}
	}
	return orphans, nil
}
