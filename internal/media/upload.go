package media

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"myelin/internal/blob"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// promiseTime is how long an address waits for its upload.
	promiseTime = 24 * time.Hour
	// maxPromises bounds the addresses of one user that wait.
	maxPromises = 20
	// promiseRetry is when to try again who has too many of them.
	promiseRetry = time.Minute
	// copyBuffer is the size of the pieces in which a file is stored, in bytes.
	copyBuffer = 128 << 10
)

var (
	sqlAdd = sqldb.SQL(`INSERT INTO media (server, media_id, user_id, hash, size, content_type, name, at, expires, legacy)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9)`)

	sqlPromise = sqldb.SQL(`INSERT INTO media (server, media_id, user_id, hash, size, content_type, name, at, expires, legacy)
		VALUES ($1, $2, $3, NULL, 0, '', '', $4, $5, 0)`)

	sqlPromises = sqldb.SQL(`SELECT COUNT(*) FROM media WHERE user_id = $1 AND hash IS NULL AND expires > $2`)

	sqlFulfil = sqldb.SQL(`UPDATE media SET hash = $3, size = $4, content_type = $5, name = $6, at = $7, expires = 0, legacy = $8
		WHERE server = $1 AND media_id = $2 AND hash IS NULL AND expires > $7`)

	sqlCharge = sqldb.SQL(`INSERT INTO media_use (user_id, bytes, files) VALUES ($1, $2, 1)
		ON CONFLICT (user_id) DO UPDATE SET bytes = media_use.bytes + excluded.bytes, files = media_use.files + 1`)

	sqlUse = sqldb.SQL(`SELECT bytes FROM media_use WHERE user_id = $1`)

	sqlExpire = sqldb.SQL(`DELETE FROM media WHERE hash IS NULL AND expires <= $1`)
)

// Upload is a file on its way in.
type Upload struct {
	User id.UserID
	// ContentType and Name are as the uploader gave them; may be empty.
	ContentType, Name string
	Body              io.Reader
}

// Upload stores a file under a new address. It is there when Upload returns.
//
// Spec: cs uploadContent
func (m *Media) Upload(ctx context.Context, up Upload) (URI, error) {
	if err := checkName(up.Name); err != nil {
		return URI{}, err
	}
	if err := m.mayUpload(ctx, up.User); err != nil {
		return URI{}, err
	}
	c, err := m.receive(up.Body, m.limits.Upload)
	if err != nil {
		return URI{}, err
	}
	u := URI{up.User.Domain(), rand.Text()}
	err = m.keep(ctx, c, func(tx *sqldb.Tx) error {
		h := c.Hash()
		_, err := tx.Exec(sqlAdd, u.Server, u.ID, up.User, h[:], c.Size(), cleanType(up.ContentType), up.Name, time.Now().UnixMilli(), m.legacy)
		if err != nil {
			return err
		}
		return m.charge(tx, up.User, c.Size())
	})
	if err != nil {
		return URI{}, fmt.Errorf("keep an upload of %s: %w", up.User, err)
	}
	return u, nil
}

// charge counts a file that a user uploads, and refuses it where they have too much then.
func (m *Media) charge(tx *sqldb.Tx, user id.UserID, size int64) error {
	if _, err := tx.Exec(sqlCharge, user, size); err != nil || m.limits.PerUser <= 0 {
		return err
	}
	var used int64
	if _, err := tx.Get(sqlUse, []any{user}, &used); err != nil {
		return err
	}
	if used > m.limits.PerUser {
		return m.noSpace()
	}
	return nil
}

// mayUpload refuses whom no file could be taken from, before it is all sent.
func (m *Media) mayUpload(ctx context.Context, user id.UserID) error {
	if m.limits.PerUser <= 0 {
		return nil
	}
	var used int64
	err := m.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(sqlUse, []any{user}, &used)
		return err
	})
	if err != nil {
		return fmt.Errorf("look up what %s uploaded: %w", user, err)
	}
	if used >= m.limits.PerUser {
		return m.noSpace()
	}
	return nil
}

// Spec: cs uploadContent
func (m *Media) noSpace() error {
	return mxerr.Forbidden("The files of a user may have %d bytes together here. Yours would have more.", m.limits.PerUser)
}

// receive stores bytes as they come.
func (m *Media) receive(from io.Reader, limit int64) (*blob.Content, error) {
	c, err := m.blobs.Create(limit)
	if err != nil {
		return nil, err
	}
	_, err = io.CopyBuffer(c, from, make([]byte, copyBuffer))
	if errors.Is(err, blob.ErrTooLarge) {
		err = mxerr.TooLarge("A file has at most %d bytes here.", limit)
	}
	if err != nil {
		c.Discard()
		return nil, err
	}
	return c, nil
}

// Promise makes an address for a file that its user uploads until a time.
//
// Spec: cs createContent
func (m *Media) Promise(ctx context.Context, user id.UserID) (URI, time.Time, error) {
	u := URI{user.Domain(), rand.Text()}
	now := time.Now()
	until := now.Add(promiseTime)
	err := m.db.Write(ctx, func(tx *sqldb.Tx) error {
		var n int
		if _, err := tx.Get(sqlPromises, []any{user, now.UnixMilli()}, &n); err != nil {
			return err
		}
		if n >= maxPromises {
			e := mxerr.LimitExceeded(promiseRetry)
			e.Text = fmt.Sprintf("You have %d uploads that are not complete. Complete one before you begin another.", n)
			return e
		}
		_, err := tx.Exec(sqlPromise, u.Server, u.ID, user, now.UnixMilli(), until.UnixMilli())
		return err
	})
	return u, until, err
}

// Fulfil stores the file of an address that was promised to its user.
//
// Spec: cs uploadContentToMXC
func (m *Media) Fulfil(ctx context.Context, u URI, up Upload) error {
	if err := checkName(up.Name); err != nil {
		return err
	}
	// Who may not upload shall not send it all first.
	f, err := m.find(ctx, u)
	if err != nil {
		return err
	}
	if err := m.mayFulfil(u, f, up.User, time.Now()); err != nil {
		return err
	}
	if err := m.mayUpload(ctx, up.User); err != nil {
		return err
	}
	c, err := m.receive(up.Body, m.limits.Upload)
	if err != nil {
		return err
	}
	err = m.keep(ctx, c, func(tx *sqldb.Tx) error {
		h, now := c.Hash(), time.Now()
		n, err := tx.Exec(sqlFulfil, u.Server, u.ID, h[:], c.Size(), cleanType(up.ContentType), up.Name, now.UnixMilli(), m.legacy)
		if err != nil {
			return err
		}
		if n == 1 {
			return m.charge(tx, up.User, c.Size())
		}
		f, err := findTx(tx, u)
		if err != nil {
			return err
		}
		if err := m.mayFulfil(u, f, up.User, now); err != nil {
			return err
		}
		return fmt.Errorf("the promise of %s was not taken", u)
	})
	if err != nil {
		return err
	}
	m.arrivals.tell(u)
	return nil
}

// mayFulfil checks an address before something is uploaded to it.
func (m *Media) mayFulfil(u URI, f *row, user id.UserID, now time.Time) error {
	switch {
	case f == nil, f.promised && f.expires <= now.UnixMilli():
		return mxerr.NotFound("%s waits for no upload.", u)
	case f.user != user:
		return mxerr.Forbidden("%s was not made for you.", u)
	case !f.promised:
		return mxerr.New(mxerr.CodeCannotOverwriteMedia, "%s has been uploaded already.", u)
	}
	return nil
}

// ForgetPromises deletes addresses that nobody uploaded to in time.
func (m *Media) ForgetPromises(ctx context.Context) error {
	return m.db.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlExpire, time.Now().UnixMilli())
		return err
	})
}
