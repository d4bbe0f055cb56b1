package media

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"math"
	"runtime"
	"strconv"
	"time"

	"myelin/internal/blob"
	"myelin/internal/sqldb"
	"myelin/matrix/mxerr"
)

var (
	sqlFindThumbnail = sqldb.SQL(`SELECT hash, size, content_type, '', 0, used FROM thumbnails
		WHERE source = $1 AND width = $2 AND height = $3 AND method = $4`)

	sqlAddThumbnail = sqldb.SQL(`INSERT INTO thumbnails (source, width, height, method, hash, size, content_type, used)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (source, width, height, method) DO NOTHING`)

	sqlTouchThumbnails = sqldb.SQL(`UPDATE thumbnails SET used = $2 WHERE source = $1 AND used < $2`)
)

// ErrNoThumbnail says that there can be no thumbnail of a file.
var ErrNoThumbnail = mxerr.New(mxerr.CodeUnknown, "There can be no thumbnail of this file.")

// ErrTooManyPixels says that an image would take too much memory.
var ErrTooManyPixels = mxerr.TooLarge("The image is too large for a thumbnail to be made of it.")

// Size is the size of a thumbnail that is wanted.
type Size struct {
	Width, Height int
	// Crop cuts the image to the proportions of the size. Otherwise it keeps its own.
	Crop bool
	// Animated wants what moves to move in the thumbnail too.
	Animated bool
}

// ParseSize reads the parameters of a request for a thumbnail.
//
// Spec: cs getContentThumbnailAuthed
func ParseSize(width, height, method, animated string) (s Size, err error) {
	for _, side := range []struct {
		name, text string
		to         *int
	}{{"width", width, &s.Width}, {"height", height, &s.Height}} {
		if side.text == "" {
			return s, mxerr.MissingParam("The query parameter %q is missing.", side.name)
		}
		n, err := strconv.ParseInt(side.text, 10, 64)
		if err != nil || n < 1 {
			return s, mxerr.InvalidParam("The query parameter %q must be an integer of at least 1.", side.name)
		}
		*side.to = int(min(n, maxSide))
	}
	switch method {
	case "", "scale":
	case "crop":
		s.Crop = true
	default:
		return s, mxerr.InvalidParam("The query parameter \"method\" must be crop or scale.")
	}
	switch animated {
	case "", "false":
	case "true":
		s.Animated = true
	default:
		return s, mxerr.InvalidParam("The query parameter \"animated\" must be true or false.")
	}
	return s, nil
}

// method is what a thumbnail is made by, as it is stored. Of what moves there are two, one of which is still.
func (s Size) method() string {
	method := "scale"
	if s.Crop {
		method = "crop"
	}
	if s.Animated {
		method += " animated"
	}
	return method
}

// boxes are the sizes that scaled thumbnails are made in, and sides are the longer sides of those that are cropped: few, so that clients which each want
// another size share them. The specification's recommended ones are among them.
//
// Spec: cs Thumbnails
var (
	boxes = [][2]int{{32, 32}, {96, 96}, {160, 160}, {320, 240}, {320, 320}, {640, 480}, {800, 600}, {1280, 960}, {1920, 1440}}
	sides = []int{32, 96, 160, 320, 640, 800, 1280, 1920}
)

// round returns the next size that thumbnails are made in. It is false where none is large enough: then the original is.
func (s Size) round() (Size, bool) {
	if s.Crop {
		longer := max(s.Width, s.Height)
		for _, side := range sides {
			if side >= longer {
				s.Width = max(s.Width*side/longer, 1)
				s.Height = max(s.Height*side/longer, 1)
				return s, true
			}
		}
		return s, false
	}
	for _, box := range boxes {
		if box[0] >= s.Width && box[1] >= s.Height {
			s.Width, s.Height = box[0], box[1]
			return s, true
		}
	}
	return s, false
}

// Thumbnail opens a thumbnail of a file, and makes it if there is none. An image that is no larger than wanted is returned as it is.
//
// Spec: cs Thumbnails
func (m *Media) Thumbnail(ctx context.Context, w Want, size Size) (*File, error) {
	f, err := m.locate(ctx, w)
	if err != nil {
		return nil, err
	}
	rounded, ok := size.round()
	if !ok {
		rounded.Width, rounded.Height = math.MaxInt32, math.MaxInt32
	}
	t, err := m.findThumbnail(ctx, f.hash, rounded)
	if err == nil && t == nil {
		t, err = m.makeOnce(ctx, w.Who, f.hash, rounded)
	}
	if err != nil {
		return nil, err
	}
	m.touched.note(use{thumbnail: true, source: f.hash}, t.expires)
	t.name = "thumbnail" + extensions[t.contentType]
	return m.open(ctx, t)
}

// findThumbnail looks up a thumbnail that was made; nil where there is none. Its last use is in expires.
func (m *Media) findThumbnail(ctx context.Context, source blob.Hash, size Size) (found *row, err error) {
	err = m.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(sqlFindThumbnail, func(r *sqldb.Row) error {
			found = new(row)
			return found.scan(r, &found.expires)
		}, source[:], size.Width, size.Height, size.method())
	})
	return found, err
}

// Bounds of thumbnails that are made, or wait for memory: all of them, and those that one user or server wants.
const (
	maxShrinkers        = 64
	maxShrinkersPerUser = 4
)

// makeOnce makes a thumbnail for all who want the same one now. It counts for who was the first.
func (m *Media) makeOnce(ctx context.Context, who string, source blob.Hash, size Size) (*row, error) {
	name := fmt.Sprintf("%s %d %d %s", source, size.Width, size.Height, size.method())
	made, err := once(ctx, m, name, func() (*row, error) {
		seat := place{who, maxShrinkersPerUser}
		short, cancel := context.WithTimeout(m.ctx, queueTime)
		err := m.shrinkers.enter(short, seat)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			err = mxerr.LimitExceeded(queueTime)
		}
		if err != nil {
			return nil, err
		}
		defer m.shrinkers.leave(seat)
		return m.makeThumbnail(m.ctx, source, size)
	})
	if err != nil {
		return nil, err
	}
	own := *made // others have it too
	return &own, nil
}

// makeThumbnail makes a thumbnail, or finds that the original is one.
func (m *Media) makeThumbnail(ctx context.Context, source blob.Hash, size Size) (*row, error) {
	in, err := m.blobs.Open(ctx, source)
	if err != nil {
		return nil, told(err)
	}
	defer func() { in.Close() }()
	now := time.Now().UnixMilli()
	picture, err := inspect(in)
	if err != nil {
		return nil, told(err)
	}
	if picture.fits(size) {
		length, err := in.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, fmt.Errorf("look at an image: %w", err)
		}
		return &row{hash: source, size: length, contentType: picture.contentType, expires: now}, nil
	}
	if picture.memory > maxDecoding {
		return nil, ErrTooManyPixels
	}
	// Nobody waits for the memory while the store is slow.
	local, err := m.blobs.Local(in)
	if err != nil {
		return nil, told(err)
	}
	in = local
	c, err := m.blobs.Create(math.MaxInt64)
	if err != nil {
		return nil, err
	}
	t := &row{expires: now}
	if t.contentType, err = m.drawThumbnail(ctx, c, picture, in, size); err != nil {
		c.Discard()
		return nil, err
	}
	t.hash, t.size = c.Hash(), c.Size()
	err = m.keep(ctx, c, func(tx *sqldb.Tx) error {
		n, err := tx.Exec(sqlAddThumbnail, source[:], size.Width, size.Height, size.method(), t.hash[:], t.size, t.contentType, now)
		if err == nil && n == 0 {
			err = errTwice
		}
		return err
	})
	if errors.Is(err, errTwice) {
		if t, err = m.findThumbnail(ctx, source, size); err == nil && t == nil {
			err = errNoFile
		}
		return t, err
	}
	if err != nil {
		return nil, fmt.Errorf("keep a thumbnail: %w", err)
	}
	m.grew(t.size)
	return t, nil
}

// drawThumbnail writes a thumbnail, one that moves if that is wanted and possible, and returns its type.
func (m *Media) drawThumbnail(ctx context.Context, out io.Writer, p picture, in io.ReadSeeker, size Size) (contentType string, err error) {
	if size.Animated && p.moves {
		memory, err := p.survey(in, size)
		if err == nil {
			err = m.decode(ctx, in, memory, func() error { return p.animate(ctx, out, in, size) })
			if err == nil {
				return typeGIF, nil
			}
		}
		if !errors.Is(err, errStill) {
			return "", err
		}
	}
	var small *image.RGBA
	err = m.decode(ctx, in, p.memory, func() (err error) {
		small, err = p.shrink(in, size)
		return err
	})
	if err != nil {
		return "", err
	}
	contentType = p.thumbnailType(small)
	if err := encode(out, small, contentType); err != nil {
		return "", fmt.Errorf("write a thumbnail: %w", err)
	}
	return contentType, nil
}

// decode reads an image from its beginning when there is memory for it.
func (m *Media) decode(ctx context.Context, in io.Seeker, memory int64, read func() error) error {
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read an image: %w", err)
	}
	share := quota(memory)
	if err := m.decoding.Acquire(ctx, share); err != nil {
		return fmt.Errorf("wait for other images: %w", err)
	}
	defer m.decoding.Release(share)
	err := read()
	if memory > largeImage {
		runtime.GC() // Otherwise it would lie there beside the next one.
	}
	return err
}
