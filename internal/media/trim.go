package media

import (
	"context"
	"time"

	"myelin/internal/blob"
	"myelin/internal/sqldb"
)

const (
	// trimPage is how many rows one transaction deletes.
	trimPage = 100
	// trimPart of a cache's size may come before it is counted again.
	trimPart = 50
)

var (
	sqlCopies = sqldb.SQL(`SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM remote_media`)

	sqlOldCopies = sqldb.SQL(`SELECT size, used, server, media_id FROM remote_media ORDER BY used, server, media_id LIMIT $1`)

	sqlDropCopy = sqldb.SQL(`DELETE FROM remote_media WHERE server = $1 AND media_id = $2 RETURNING hash`)

	sqlThumbnails = sqldb.SQL(`SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM thumbnails`)

	sqlOldThumbnails = sqldb.SQL(`SELECT size, used, source FROM thumbnails ORDER BY used, source LIMIT $1`)

	sqlDropThumbnails = sqldb.SQL(`DELETE FROM thumbnails WHERE source = $1 RETURNING hash`)

	sqlReferred = sqldb.SQL(`SELECT 1 FROM media WHERE hash = $1 UNION ALL SELECT 1 FROM remote_media WHERE hash = $1`)
)

// grew counts what was stored, and has the caches trimmed when it is much.
func (m *Media) grew(size int64) {
	if m.stored.Add(size) < min(m.limits.RemoteCache, m.limits.Thumbnails, m.limits.Previews)/trimPart {
		return
	}
	select {
	case m.full <- struct{}{}:
	default: // it is told already
	}
}

// KeepTrim trims the caches whenever much was stored, until ctx ends.
func (m *Media) KeepTrim(ctx context.Context) error {
	for {
		select {
		case <-m.full:
			if err := m.Trim(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Trim deletes the copies that nobody asked for in a long time and the previews that are old, and of copies and of thumbnails those not asked for the longest and
// of previews the oldest, until the rest fits.
func (m *Media) Trim(ctx context.Context) error {
	m.stored.Store(0)
	expired := int64(0)
	if age := m.limits.RemoteAge; age > 0 {
		expired = time.Now().Add(-age).UnixMilli()
	}
	if err := m.trim(ctx, sqlCopies, m.limits.RemoteCache, func(tx *sqldb.Tx, excess int64) ([]blob.Hash, int64, error) {
		return dropCopies(tx, excess, expired)
	}); err != nil {
		return err
	}
	if err := m.trim(ctx, sqlPreviews, m.limits.Previews, dropPreviews); err != nil {
		return err
	}
	return m.trim(ctx, sqlThumbnails, m.limits.Thumbnails, dropThumbnails)
}

// trim deletes page after page, as long as there is too much and something goes.
func (m *Media) trim(ctx context.Context, count *sqldb.Stmt, limit int64, drop func(*sqldb.Tx, int64) ([]blob.Hash, int64, error)) error {
	var total int64
	err := m.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(count, nil, &total)
		return err
	})
	for more := true; more && err == nil; {
		var freed int64
		err = m.blobs.Drop(ctx, func(tx *sqldb.Tx) (gone []blob.Hash, err error) {
			gone, freed, err = drop(tx, total-limit)
			more = len(gone) > 0 || freed > 0 // a preview may be without an image
			return gone, err
		})
		total -= freed
	}
	return err
}

// dropCopies deletes a page of copies: those that expired, and more until excess bytes are gone.
func dropCopies(tx *sqldb.Tx, excess, expired int64) (gone []blob.Hash, freed int64, err error) {
	var old []URI
	err = tx.Query(sqlOldCopies, func(r *sqldb.Row) error {
		var u URI
		var size, used int64
		if err := r.Scan(&size, &used, &u.Server, &u.ID); err != nil {
			return err
		}
		if used < expired || freed < excess {
			old = append(old, u)
			freed += size
		}
		return nil
	}, trimPage)
	if err != nil {
		return nil, 0, err
	}
	for _, u := range old {
		hashes, err := hashesOf(tx, sqlDropCopy, u.Server, u.ID)
		if err != nil {
			return nil, 0, err
		}
		gone = append(gone, hashes...)
	}
	orphans, err := dropOrphans(tx, gone)
	return append(gone, orphans...), freed, err
}

// dropOrphans deletes the thumbnails of contents that are no file any more.
func dropOrphans(tx *sqldb.Tx, sources []blob.Hash) (gone []blob.Hash, err error) {
	for _, source := range sources {
		var one int
		found, err := tx.Get(sqlReferred, []any{source[:]}, &one)
		if err != nil {
			return nil, err
		}
		if found {
			continue
		}
		hashes, err := hashesOf(tx, sqlDropThumbnails, source[:])
		if err != nil {
			return nil, err
		}
		gone = append(gone, hashes...)
	}
	return gone, nil
}

// dropThumbnails deletes a page of thumbnails, all of an image at once.
func dropThumbnails(tx *sqldb.Tx, excess int64) (gone []blob.Hash, freed int64, err error) {
	var old []blob.Hash
	err = tx.Query(sqlOldThumbnails, func(r *sqldb.Row) error {
		var size, used int64
		var source []byte
		if err := r.Scan(&size, &used, &source); err != nil {
			return err
		}
		if freed < excess {
			h, err := blob.HashFrom(source)
			if err != nil {
				return err
			}
			old = append(old, h)
			freed += size
		}
		return nil
	}, trimPage)
	if err != nil {
		return nil, 0, err
	}
	for _, source := range old {
		hashes, err := hashesOf(tx, sqlDropThumbnails, source[:])
		if err != nil {
			return nil, 0, err
		}
		gone = append(gone, hashes...)
	}
	return gone, freed, nil
}

func hashesOf(tx *sqldb.Tx, s *sqldb.Stmt, args ...any) (hashes []blob.Hash, err error) {
	err = tx.Query(s, func(r *sqldb.Row) error {
		var raw []byte
		if err := r.Scan(&raw); err != nil {
			return err
		}
		h, err := blob.HashFrom(raw)
		hashes = append(hashes, h)
		return err
	}, args...)
	return hashes, err
}
