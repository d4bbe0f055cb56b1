package fedapi

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"strconv"

	"myelin/internal/media"
	"myelin/internal/web"
)

// mediaRoutes is about the files of our users.
//
// Spec: ss Content Repository
func (a *API) mediaRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: v1 + "/media/download/{mediaId}", Op: "getContent", Auth: web.Server, Rate: web.RateServer, Handle: a.download},
		{Method: "GET", Path: v1 + "/media/thumbnail/{mediaId}", Op: "getContentThumbnail", Auth: web.Server, Rate: web.RateServer, Handle: a.thumbnail},
	}
}

// Spec: ss getContent
func (a *API) download(ctx context.Context, r *web.Request) (*web.Response, error) {
	w, err := wanted(r)
	if err != nil {
		return nil, err
	}
	f, err := a.Media.Download(ctx, w)
	if err != nil {
		return nil, mediaError(err)
	}
	return inParts(r, f), nil
}

// Spec: ss getContentThumbnail
func (a *API) thumbnail(ctx context.Context, r *web.Request) (*web.Response, error) {
	w, err := wanted(r)
	if err != nil {
		return nil, err
	}
	size, err := media.ParseSize(r.Query("width"), r.Query("height"), r.Query("method"), r.Query("animated"))
	if err != nil {
		return nil, err
	}
	f, err := a.Media.Thumbnail(ctx, w, size)
	if err != nil {
		return nil, mediaError(err)
	}
	return inParts(r, f), nil
}

// mediaError gives errors of files the status that the specification has for them.
func mediaError(err error) error {
	switch {
	case errors.Is(err, media.ErrNoThumbnail):
		return web.Status(err, http.StatusBadRequest)
	case errors.Is(err, media.ErrAway):
		return web.Status(err, http.StatusServiceUnavailable)
	}
	return err
}

// wanted reads which file of the name that was asked is wanted.
func wanted(r *web.Request) (w media.Want, err error) {
	if w.URI, err = media.ParseURI(string(r.Destination), r.Path("mediaId")); err != nil {
		return w, err
	}
	w.Who, w.Stop = string(r.Origin), r.Draining()
	w.Wait, err = media.ParseWait(r.Query("timeout_ms"))
	return w, err
}

// inParts sends a file as it is read, behind its metadata, of which there are none.
//
// Spec: ss getContent
func inParts(r *web.Request, f *media.File) *web.Response {
	boundary := rand.Text()
	before := "--" + boundary + "\r\nContent-Type: application/json\r\n\r\n{}\r\n--" + boundary +
		"\r\nContent-Type: " + f.ContentType + "\r\nContent-Disposition: " + media.Disposition(f.ContentType, f.Name) + "\r\n\r\n"
	after := "\r\n--" + boundary + "--\r\n"
	header := http.Header{
		"Content-Type":   {"multipart/mixed; boundary=" + boundary},
		"Content-Length": {strconv.FormatInt(int64(len(before)+len(after))+f.Size, 10)},
	}
	return &web.Response{Header: header, Stream: func(w io.Writer) error {
		defer f.Body.Close()
		if r.HTTP.Method == http.MethodHead {
			return nil
		}
		_, err := io.WriteString(w, before)
		if err == nil {
			_, err = io.Copy(w, f.Body)
		}
		if err == nil {
			_, err = io.WriteString(w, after)
		}
		return err
	}}
}
