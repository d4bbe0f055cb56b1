package media

import (
	"context"
	"errors"
	"fmt"
	"time"

	"myelin/internal/blob"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// OperatorPage is the most files that one call changes or lists.
const OperatorPage = 500

var (
	sqlQuarantined = sqldb.SQL(`SELECT 1 FROM media_quarantine WHERE server = $1 AND media_id = $2
		UNION ALL SELECT 1 FROM media_quarantine WHERE hash = $3`)

	sqlQuarantine = sqldb.SQL(`INSERT INTO media_quarantine (server, media_id, hash, at) VALUES ($1, $2, $3, $4) ON CONFLICT (server, media_id) DO NOTHING`)

	sqlRelease = sqldb.SQL(`DELETE FROM media_quarantine WHERE server = $1 AND media_id = $2 RETURNING hash`)

	sqlReleaseHash = sqldb.SQL(`DELETE FROM media_quarantine WHERE hash = $1`)

	sqlListQuarantine = sqldb.SQL(`SELECT server, media_id, at FROM media_quarantine WHERE (server, media_id) > ($1, $2) ORDER BY server, media_id LIMIT $3`)

	sqlHashOf = sqldb.SQL(`SELECT hash FROM media WHERE server = $1 AND media_id = $2 AND hash IS NOT NULL
		UNION ALL SELECT hash FROM remote_media WHERE server = $1 AND media_id = $2`)

	sqlFilesOf = sqldb.SQL(`SELECT server, media_id, size, content_type, name, at FROM media
		WHERE user_id = $1 AND media_id > $2 AND hash IS NOT NULL ORDER BY media_id LIMIT $3`)

	sqlUses = sqldb.SQL(`SELECT user_id, bytes, files FROM media_use WHERE user_id > $1 AND files > 0 ORDER BY user_id LIMIT $2`)

	sqlOwner = sqldb.SQL(`SELECT user_id, size FROM media WHERE server = $1 AND media_id = $2 AND hash IS NOT NULL`)

	sqlDischarge = sqldb.SQL(`UPDATE media_use SET bytes = bytes - $2, files = files - 1 WHERE user_id = $1`)
)

// Held is a file of a user's.
type Held struct {
	Address     string `json:"address"`
	ContentType string `json:"content_type"`
	Name        string `json:"name,omitempty"`
	Size        int64  `json:"size"`
	// TS is when it was uploaded, in milliseconds since the epoch.
	TS int64 `json:"ts"`

	uri URI
}

// Use is how much a user's files take.
type Use struct {
	User  id.UserID `json:"user"`
	Bytes int64     `json:"bytes"`
	Files int64     `json:"files"`
}

// Secluded is an address in quarantine, since a time in milliseconds since the epoch.
type Secluded struct {
	Address string `json:"address"`
	TS      int64  `json:"ts"`
}

// free refuses a file that is in quarantine, by its address or, unless it is nil, by its content.
func (m *Media) free(ctx context.Context, u URI, hash []byte) error {
	var held bool
	err := m.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		var one int
		held, err = tx.Get(sqlQuarantined, []any{u.Server, u.ID, hash}, &one)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("look up the quarantine: %w", err)
	case held:
		return errNoFile
	}
	return nil
}

// Quarantine keeps files from everybody, by their address and by their content, whoever uploads that again. The bytes stay, and
// nothing is fetched again. It is no error if there is no such file: one of another server may be yet to come.
func (m *Media) Quarantine(ctx context.Context, files ...URI) error {
	err := m.db.Write(ctx, func(tx *sqldb.Tx) error {
		for _, u := range files {
			var hash []byte
			if _, err := tx.Get(sqlHashOf, []any{u.Server, u.ID}, &hash); err != nil {
				return err
			}
			if _, err := tx.Exec(sqlQuarantine, u.Server, u.ID, hash, time.Now().UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("put files into quarantine: %w", err)
	}
	return nil
}

// Release takes a file out of quarantine, with all others of the same content; M_NOT_FOUND where it isn't there.
func (m *Media) Release(ctx context.Context, u URI) error {
	err := m.db.Write(ctx, func(tx *sqldb.Tx) error {
		var hash []byte
		found, err := tx.Get(sqlRelease, []any{u.Server, u.ID}, &hash)
		if err != nil {
			return err
		}
		if !found {
			return mxerr.NotFound("%s is not in quarantine.", u)
		}
		if hash != nil {
			_, err = tx.Exec(sqlReleaseHash, hash)
		}
		return err
	})
	if _, told := mxerr.Of(err); err != nil && !told {
		return fmt.Errorf("release a file: %w", err)
	}
	return err
}

// Remove deletes files for good: those of this server, and copies of those of others, which are fetched again when somebody asks. It returns how many there were.
func (m *Media) Remove(ctx context.Context, files ...URI) (removed int, err error) {
	err = m.blobs.Drop(ctx, func(tx *sqldb.Tx) (gone []blob.Hash, err error) {
		for _, u := range files {
			hashes, err := removeTx(tx, u)
			if err != nil {
				return nil, err
			}
			gone = append(gone, hashes...)
		}
		removed = len(gone)
		orphans, err := dropOrphans(tx, gone)
		return append(gone, orphans...), err
	})
	if err != nil {
		return 0, fmt.Errorf("remove files: %w", err)
	}
	return removed, nil
}

func removeTx(tx *sqldb.Tx, u URI) ([]blob.Hash, error) {
	var user id.UserID
	var size int64
	found, err := tx.Get(sqlOwner, []any{u.Server, u.ID}, &user, &size)
	if err != nil {
		return nil, err
	}
	if !found {
		return hashesOf(tx, sqlDropCopy, u.Server, u.ID)
	}
	if _, err := tx.Exec(sqlDischarge, user, size); err != nil {
		return nil, err
	}
	return hashesOf(tx, sqlDropFile, u.Server, u.ID)
}

// QuarantineOf puts a page of a user's files into quarantine, those after a media ID, and returns how many and the last.
func (m *Media) QuarantineOf(ctx context.Context, user id.UserID, after string) (int, string, error) {
	return m.ofUser(ctx, user, after, func(files []URI) error { return m.Quarantine(ctx, files...) })
}

// RemoveOf deletes a page of a user's files, those after a media ID, and returns how many and the last.
func (m *Media) RemoveOf(ctx context.Context, user id.UserID, after string) (int, string, error) {
	return m.ofUser(ctx, user, after, func(files []URI) error {
		_, err := m.Remove(ctx, files...)
		return err
	})
}

func (m *Media) ofUser(ctx context.Context, user id.UserID, after string, do func([]URI) error) (int, string, error) {
	held, err := m.Files(ctx, user, after)
	if err != nil || len(held) == 0 {
		return 0, "", err
	}
	files := make([]URI, len(held))
	for i, h := range held {
		files[i] = h.uri
	}
	return len(files), files[len(files)-1].ID, do(files)
}

// Files lists a page of the files of a user, by their media IDs, those after one.
func (m *Media) Files(ctx context.Context, user id.UserID, after string) (list []Held, err error) {
	if user == "" {
		return nil, errors.New("list files: whose?")
	}
	err = m.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = nil
		return tx.Query(sqlFilesOf, func(r *sqldb.Row) error {
			var h Held
			err := r.Scan(&h.uri.Server, &h.uri.ID, &h.Size, &h.ContentType, &h.Name, &h.TS)
			h.Address = h.uri.String()
			list = append(list, h)
			return err
		}, user, after, OperatorPage)
	})
	if err != nil {
		return nil, fmt.Errorf("list files of %s: %w", user, err)
	}
	return list, nil
}

// Uses lists how much users have, by their names, those after one.
func (m *Media) Uses(ctx context.Context, after id.UserID) (list []Use, err error) {
	err = m.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = nil
		return tx.Query(sqlUses, func(r *sqldb.Row) error {
			var u Use
			err := r.Scan(&u.User, &u.Bytes, &u.Files)
			list = append(list, u)
			return err
		}, after, OperatorPage)
	})
	if err != nil {
		return nil, fmt.Errorf("list what users uploaded: %w", err)
	}
	return list, nil
}

// Quarantined lists what is in quarantine, by address, those after one.
func (m *Media) Quarantined(ctx context.Context, after URI) (list []Secluded, err error) {
	err = m.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = nil
		return tx.Query(sqlListQuarantine, func(r *sqldb.Row) error {
			var u URI
			var s Secluded
			err := r.Scan(&u.Server, &u.ID, &s.TS)
			s.Address = u.String()
			list = append(list, s)
			return err
		}, after.Server, after.ID, OperatorPage)
	})
	if err != nil {
		return nil, fmt.Errorf("list the quarantine: %w", err)
	}
	return list, nil
}
