package web

import (
	"errors"
	"io"
	"net/http"
	"time"

	"myelin/matrix/mxerr"
)

// BodyStream returns a request's body to be read piece by piece, for what is too large to be held at once. Reading fails with
// M_TOO_LARGE beyond limit bytes, which is what counts here instead of Route.MaxBody. A client may be as slow as those that read an answer may be.
func (r *Request) BodyStream(limit int64) (io.Reader, error) {
	if r.HTTP.ContentLength > limit {
		return nil, tooLargeBody(limit)
	}
	if r.read || r.HTTP.Body == nil {
		return nil, errors.New("read a body as a stream that was read already")
	}
	r.read = true
	b := &bodyStream{from: r.HTTP.Body, control: http.NewResponseController(r.writer), until: time.Now().Add(bodyTimeout), limit: limit, left: limit}
	_ = b.control.SetReadDeadline(b.until) // no connection, as in tests
	return b, nil
}

// bodyStream moves the deadline on with what came.
type bodyStream struct {
	from        io.Reader
	control     *http.ResponseController
	until       time.Time
	limit, left int64
}

func (b *bodyStream) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, tooLargeBody(b.limit)
	}
	switch {
	case errors.Is(err, io.EOF):
		_ = b.control.SetReadDeadline(time.Time{})
	case err != nil:
		err = Status(mxerr.New(mxerr.CodeUnknown, "The request's body could not be read to its end."), http.StatusBadRequest)
	default:
		b.until = b.until.Add(time.Duration(n) * time.Second / minWriteRate)
		_ = b.control.SetReadDeadline(b.until)
	}
	return n, err
}
