package fedclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"myelin/matrix/mxerr"
)

const (
	// mediaTimeout bounds a download, and mediaOverhead what the parts around the content may take.
	mediaTimeout  = 10 * time.Minute
	mediaOverhead = 64 << 10
)

// Media is content of another server on its way. Body must be closed.
type Media struct {
	// ContentType and Disposition are headers as the other server wrote them; may be empty.
	ContentType, Disposition string
	// Body fails with ErrTooLarge beyond the limit that was given.
	Body io.ReadCloser
}

// Thumbnail says which thumbnail is wanted.
type Thumbnail struct {
	Width, Height int
	// Method is "crop" or "scale", "" to leave it to the other server.
	Method string
	// Animated is nil to leave it to the other server.
	Animated *bool
}

// Download fetches media of at most limit bytes. Wait is how long the other server may wait for content that was not uploaded yet, 0 for its default.
//
// Spec: ss getContent
func (c *Client) Download(ctx context.Context, call Call, mediaID string, wait time.Duration, limit int64) (*Media, error) {
	rq := request{op: "getContent", path: segments(v1, "media", "download", mediaID), query: url.Values{}}
	return c.media(ctx, call, rq, segments("/_matrix/media/v3/download", string(call.Destination), mediaID), wait, limit)
}

// Thumbnail fetches a thumbnail of at most limit bytes.
//
// Spec: ss getContentThumbnail
func (c *Client) Thumbnail(ctx context.Context, call Call, mediaID string, t Thumbnail, wait time.Duration, limit int64) (*Media, error) {
	query := url.Values{"width": {strconv.Itoa(t.Width)}, "height": {strconv.Itoa(t.Height)}}
	if t.Method != "" {
		query.Set("method", t.Method)
	}
	if t.Animated != nil {
		query.Set("animated", strconv.FormatBool(*t.Animated))
	}
	rq := request{op: "getContentThumbnail", path: segments(v1, "media", "thumbnail", mediaID), query: query}
	return c.media(ctx, call, rq, segments("/_matrix/media/v3/thumbnail", string(call.Destination), mediaID), wait, limit)
}

// media asks by the operation of today and, where the other server doesn't know it, by the older one that needs no signature.
//
// Spec: ss Content Repository
func (c *Client) media(ctx context.Context, call Call, rq request, oldPath string, wait time.Duration, limit int64) (*Media, error) {
	rq.method, rq.accept = http.MethodGet, "multipart/mixed"
	rq.timeout, rq.limit = mediaTimeout, limit+mediaOverhead
	if wait > 0 {
		rq.query.Set("timeout_ms", strconv.FormatInt(wait.Milliseconds(), 10))
	}
	a, err := c.send(ctx, call, rq)
	if unknownEndpoint(err) || unknownMedia(err) {
		rq.path, rq.unsigned, rq.accept, rq.limit = oldPath, true, "*/*", limit
		rq.query.Set("allow_remote", "false")
		if a, err = c.send(ctx, call, rq); err == nil {
			return &Media{a.header.Get("Content-Type"), a.header.Get("Content-Disposition"), body{a.body, a.Close}}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	m, location, err := openParts(a, limit)
	if err == nil && location == "" {
		return m, nil
	}
	a.Close()
	if err != nil {
		return nil, c.malformed(call, rq.op, err)
	}
	if m, err = c.redirected(ctx, location, limit); err != nil {
		return nil, c.malformed(call, rq.op, fmt.Errorf("it is kept elsewhere, where it can't be had: %w", err))
	}
	return m, nil
}

// unknownMedia reports whether the other server refused without an errcode, which no server does that knows the operation.
func unknownMedia(err error) bool {
	remote, ok := errors.AsType[*RemoteError](err)
	return ok && remote.silent && remote.Status == http.StatusBadRequest
}

// body closes more than a reader.
type body struct {
	io.Reader
	close func()
}

func (b body) Close() error {
	b.close()
	return nil
}

// openParts reads up to the content of an answer in two parts: metadata, and the content or where it is.
func openParts(a *answer, limit int64) (m *Media, location string, err error) {
	kind, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || params["boundary"] == "" {
		return nil, "", fmt.Errorf("the type is %.100q", a.header.Get("Content-Type"))
	}
	parts := multipart.NewReader(a.body, params["boundary"])
	if _, err := parts.NextRawPart(); err != nil {
		return nil, "", fmt.Errorf("read the metadata: %w", err)
	}
	part, err := parts.NextRawPart()
	if err != nil {
		return nil, "", fmt.Errorf("read the head of the content: %w", err)
	}
	if location = part.Header.Get("Location"); location != "" {
		return nil, location, nil
	}
	return &Media{part.Header.Get("Content-Type"), part.Header.Get("Content-Disposition"), body{&bounded{from: part, left: limit}, a.Close}}, "", nil
}

// redirected fetches content that the other server keeps elsewhere.
func (c *Client) redirected(ctx context.Context, location string, limit int64) (*Media, error) {
	ctx, cancel := context.WithTimeout(ctx, mediaTimeout)
	stop := context.AfterFunc(c.ctx, cancel)
	resp, err := c.fetch(ctx, location, "*/*")
	if err != nil {
		stop()
		cancel()
		return nil, err
	}
	patient := &pausing{from: resp.Body, limit: idleLimit, cancel: cancel}
	end := func() { patient.stop(); resp.Body.Close(); stop(); cancel() }
	switch {
	case resp.StatusCode != http.StatusOK:
		err = mxerr.New(mxerr.CodeUnknown, "The status is %d.", resp.StatusCode)
	case resp.ContentLength > limit:
		err = ErrTooLarge
	case resp.Header.Get("Content-Encoding") != "":
		err = errors.New("it is encoded, which was not asked for")
	}
	if err != nil {
		end()
		return nil, err
	}
	return &Media{resp.Header.Get("Content-Type"), resp.Header.Get("Content-Disposition"), body{&bounded{from: patient, left: limit}, end}}, nil
}
