package media

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"myelin/internal/blob"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// previewTime bounds all that is fetched for a preview, and pageTime the page alone.
	previewTime = 25 * time.Second
	pageTime    = 12 * time.Second
	// Bounds of pages that are fetched at once: for all users, and for one of them.
	maxPreviews        = 24
	maxPreviewsPerUser = 4
	// maxPreviewImage is the largest image of a page that is kept, in bytes, and maxTries is how many of its images are tried.
	maxPreviewImage = 10 << 20
	maxTries        = 3
	// previewFresh is how long a page is not asked again, previewAge how long is kept what it said.
	previewFresh = time.Hour
	previewAge   = 7 * 24 * time.Hour
	// failureTime is how long a page is not asked again of which there was no preview, and maxFailures how many of them are remembered.
	failureTime = time.Minute
	maxFailures = 10_000
)

var (
	sqlFindPreview = sqldb.SQL(`SELECT answer FROM url_previews WHERE url_hash = $1 AND at >= $2 ORDER BY at LIMIT 1`)

	sqlAddPreview = sqldb.SQL(`INSERT INTO url_previews (url_hash, at, answer, size, server, media_id) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (url_hash, at) DO NOTHING`)

	sqlPreviews = sqldb.SQL(`SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM url_previews`)

	sqlOldPreviews = sqldb.SQL(`SELECT size, at, url_hash, server, media_id FROM url_previews ORDER BY at, url_hash LIMIT $1`)

	sqlDropPreview = sqldb.SQL(`DELETE FROM url_previews WHERE url_hash = $1 AND at = $2`)

	sqlDropFile = sqldb.SQL(`DELETE FROM media WHERE server = $1 AND media_id = $2 AND hash IS NOT NULL RETURNING hash`)
)

// ErrNoPreviews is M_UNRECOGNIZED of a server that makes no previews.
var ErrNoPreviews = mxerr.New(mxerr.CodeUnrecognized, "There are no previews of links on this server.")

// failure is why there was no preview, and until when that counts.
type failure struct {
	err   error
	until time.Time
}

// Preview returns what the page at a URL says of itself, as a JSON object. at is when that is of interest, the zero time for this moment: what is kept of about
// that time or of later is returned, the earliest of it; otherwise the page is asked.
//
// Spec: cs getUrlPreviewAuthed
func (m *Media) Preview(ctx context.Context, user id.UserID, address string, at time.Time) (json.RawMessage, error) {
	if m.web == nil {
		return nil, ErrNoPreviews
	}
	u, err := parsePage(address)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if at.IsZero() || at.After(now) {
		at = now
	}
	key := sha256.Sum256([]byte(u.String()))
	if found, err := m.findPreview(ctx, key, at.Add(-previewFresh)); found != nil || err != nil {
		return found, err
	}
	if f, known := m.failures.GetIfPresent(key); known && now.Before(f.until) {
		return nil, f.err
	}
	seat := place{string(user), maxPreviewsPerUser}
	// Who waits for a page has a place until it is done, also after leaving: otherwise leaving would make room for more.
	if err := m.previewers.enter(ctx, seat); err != nil {
		return nil, err
	}
	type result struct {
		answer json.RawMessage
		err    error
	}
	done := make(chan result, 1)
	m.busy.Go(func() {
		defer m.previewers.leave(seat)
		answer, err := once(m.ctx, m, "preview "+string(key[:]), func() (json.RawMessage, error) { return m.preview(m.ctx, user, u, key) })
		done <- result{answer, err}
	})
	select {
	case r := <-done:
		return r.answer, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// findPreview looks up the earliest preview that is not older than a time; nil where there is none.
func (m *Media) findPreview(ctx context.Context, key [32]byte, since time.Time) (found json.RawMessage, err error) {
	err = m.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		_, err := tx.Get(sqlFindPreview, []any{key[:], since.UnixMilli()}, (*[]byte)(&found))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find a preview: %w", err)
	}
	return found, nil
}

// preview makes a preview, unless somebody did just now, and keeps it.
func (m *Media) preview(ctx context.Context, user id.UserID, u *url.URL, key [32]byte) (json.RawMessage, error) {
	if found, err := m.findPreview(ctx, key, time.Now().Add(-previewFresh)); found != nil || err != nil {
		return found, err
	}
	fields, pic, err := m.browse(ctx, u)
	if err != nil {
		err = pageError(err)
		if ctx.Err() == nil {
			m.failures.Set(key, failure{err, time.Now().Add(failureTime)})
		}
		return nil, err
	}
	return m.keepPreview(ctx, user, key, fields, pic)
}

// found is an image of a page. Its content is kept or discarded by whoever has it.
type found struct {
	picture
	content *blob.Content
}

// browse asks a page what it says of itself, and fetches the image that stands for it; nil where there is none.
func (m *Media) browse(ctx context.Context, u *url.URL) (map[string]any, *found, error) {
	ctx, cancel := context.WithTimeout(ctx, previewTime)
	defer cancel()
	p, at, pic, err := m.visit(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	if pic != nil || p == nil {
		return map[string]any{}, pic, nil
	}
	for i, address := range p.imageURLs(at) {
		if i == maxTries || ctx.Err() != nil {
			break
		}
		if pic, err = m.fetchImage(ctx, address); err != nil {
			return nil, nil, err
		}
		if pic != nil {
			break
		}
	}
	return p.fields(), pic, nil
}

// visit asks for a page, and returns where it was found. What is an image itself is returned as that; what is neither is nothing.
func (m *Media) visit(ctx context.Context, u *url.URL) (*page, *url.URL, *found, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	resp, at, err := m.get(ctx, u, "text/html,application/xhtml+xml,image/*;q=0.8,*/*;q=0.1")
	if err != nil {
		return nil, nil, nil, err
	}
	defer resp.Body.Close()
	contentType := resp.Header.Get("Content-Type")
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		kind = ""
	}
	switch {
	case kind == "text/html", kind == "application/xhtml+xml":
		in, err := body(resp)
		if err != nil {
			return nil, nil, nil, err
		}
		p, err := readPage(in, contentType)
		if err != nil && len(p.fields()) == 0 {
			return nil, nil, nil, err // what broke off after it said something is as good as what ended
		}
		return p, at, nil, nil
	case strings.HasPrefix(kind, "image/"):
		pic, err := m.takeImage(resp)
		return nil, at, pic, err
	}
	return nil, at, nil, nil
}

// fetchImage fetches an image of a page; nil where it can't be had or is none. The error is one of this server's own.
func (m *Media) fetchImage(ctx context.Context, u *url.URL) (*found, error) {
	resp, _, err := m.get(ctx, u, "image/jpeg,image/png,image/gif,image/webp;q=0.9,*/*;q=0.1")
	if err != nil {
		return nil, nil //nolint:nilerr // A page whose image can't be had is shown without.
	}
	defer resp.Body.Close()
	return m.takeImage(resp)
}

// takeImage stores an answer that is an image by its bytes, whatever its type claims; nil where it is none.
func (m *Media) takeImage(resp *http.Response) (*found, error) {
	in, err := body(resp)
	if err != nil || resp.ContentLength > maxPreviewImage {
		return nil, nil //nolint:nilerr // as above
	}
	c, err := m.blobs.Create(maxPreviewImage)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyBuffer(c, in, make([]byte, copyBuffer)); err != nil {
		c.Discard()
		return nil, nil //nolint:nilerr // It is too large, too slow or broken off.
	}
	p, err := inspect(io.NewSectionReader(c, 0, c.Size()))
	if err != nil {
		c.Discard()
		return nil, nil //nolint:nilerr // It is no image that we know.
	}
	return &found{p, c}, nil
}

// keepPreview stores a preview with its image, and returns what clients get.
//
// Spec: cs getUrlPreviewAuthed
func (m *Media) keepPreview(ctx context.Context, user id.UserID, key [32]byte, fields map[string]any, pic *found) (json.RawMessage, error) {
	var image URI
	size := int64(0)
	if pic != nil {
		image, size = URI{user.Domain(), rand.Text()}, pic.content.Size()
		width, height := pic.upright()
		fields["og:image"], fields["og:image:type"], fields["matrix:image:size"] = image.String(), pic.contentType, size
		fields["og:image:width"], fields["og:image:height"] = width, height
	}
	answer, err := json.Marshal(fields)
	if err != nil {
		if pic != nil {
			pic.content.Discard()
		}
		return nil, fmt.Errorf("write a preview: %w", err)
	}
	now := time.Now().UnixMilli()
	size += int64(len(answer))
	record := func(tx *sqldb.Tx) error {
		n, err := tx.Exec(sqlAddPreview, key[:], now, answer, size, image.Server, image.ID)
		if err == nil && n == 0 {
			err = errTwice
		}
		if err != nil || pic == nil {
			return err
		}
		h := pic.content.Hash()
		_, err = tx.Exec(sqlAdd, image.Server, image.ID, "", h[:], pic.content.Size(), pic.contentType, "preview"+extensions[pic.contentType], now, m.legacy)
		return err
	}
	if pic != nil {
		err = m.keep(ctx, pic.content, record)
	} else {
		err = m.db.Write(ctx, record)
	}
	if errors.Is(err, errTwice) {
		return m.findPreview(ctx, key, time.UnixMilli(now))
	}
	if err != nil {
		return nil, fmt.Errorf("keep a preview: %w", err)
	}
	m.grew(size)
	return answer, nil
}

// dropPreviews deletes a page of previews, with their images: the old ones, and more until excess bytes are gone.
func dropPreviews(tx *sqldb.Tx, excess int64) (gone []blob.Hash, freed int64, err error) {
	type preview struct {
		key   []byte
		at    int64
		image URI
	}
	var old []preview
	expired := time.Now().Add(-previewAge).UnixMilli()
	err = tx.Query(sqlOldPreviews, func(r *sqldb.Row) error {
		var p preview
		var size int64
		if err := r.Scan(&size, &p.at, &p.key, &p.image.Server, &p.image.ID); err != nil {
			return err
		}
		if p.at < expired || freed < excess {
			old = append(old, p)
			freed += size
		}
		return nil
	}, trimPage)
	if err != nil {
		return nil, 0, err
	}
	for _, p := range old {
		if _, err := tx.Exec(sqlDropPreview, p.key, p.at); err != nil {
			return nil, 0, err
		}
		if p.image.ID == "" {
			continue
		}
		hashes, err := hashesOf(tx, sqlDropFile, p.image.Server, p.image.ID)
		if err != nil {
			return nil, 0, err
		}
		gone = append(gone, hashes...)
	}
	orphans, err := dropOrphans(tx, gone)
	return append(gone, orphans...), freed, err
}

// ParseTime reads at which time a preview is of interest, in milliseconds since the epoch.
//
// Spec: cs getUrlPreviewAuthed
func ParseTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 {
		return time.Time{}, mxerr.InvalidParam("The query parameter \"ts\" must be a number of milliseconds since 1970.")
	}
	if ms == 0 {
		ms = 1
	}
	return time.UnixMilli(ms), nil
}
