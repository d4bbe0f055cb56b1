package clientapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"myelin/internal/media"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// mediaRoutes is the chapter on files.
//
// Spec: cs Content repository
func (a *API) mediaRoutes() []web.Route {
	const v1 = "/_matrix/client/v1/media"
	return append([]web.Route{
		{Method: "POST", Path: "/_matrix/media/v3/upload", Op: "uploadContent", NotSuspended: true, Handle: a.upload},
		{Method: "POST", Path: "/_matrix/media/v1/create", Op: "createContent", NotSuspended: true, EmptyBody: true, Handle: a.createMedia},
		{Method: "PUT", Path: "/_matrix/media/v3/upload/{serverName}/{mediaId}", Op: "uploadContentToMXC", NotSuspended: true, Handle: a.uploadTo},
		{Method: "GET", Path: "/_matrix/media/v3/config", Op: "getConfig", Auth: web.Guest, Handle: a.mediaConfig},
		{Method: "GET", Path: v1 + "/config", Op: "getConfigAuthed", Auth: web.Guest, Handle: a.mediaConfig},
		{Method: "GET", Path: v1 + "/download/{serverName}/{mediaId}", Op: "getContentAuthed", Auth: web.Guest, Handle: a.download},
		{Method: "GET", Path: v1 + "/download/{serverName}/{mediaId}/{fileName}", Op: "getContentOverrideNameAuthed", Auth: web.Guest, Handle: a.download},
		{Method: "GET", Path: v1 + "/thumbnail/{serverName}/{mediaId}", Op: "getContentThumbnailAuthed", Auth: web.Guest, Handle: a.thumbnail},
		{Method: "GET", Path: v1 + "/preview_url", Op: "getUrlPreviewAuthed", Rate: web.RateHeavy, Handle: a.previewPage},
		{Method: "GET", Path: "/_matrix/media/v3/preview_url", Op: "getUrlPreview", Rate: web.RateHeavy, Handle: a.previewPage},
		{Method: "GET", Path: "/_matrix/media/r0/preview_url", Op: "getUrlPreview", Rate: web.RateHeavy, Handle: a.previewPage},
	}, a.LegacyMediaRoutes()...)
}

// LegacyMediaRoutes are the endpoints that ask for no access token. Other servers use them too, where they know no others.
//
// Spec: cs Content repository
func (a *API) LegacyMediaRoutes() []web.Route {
	const v3, r0 = "/_matrix/media/v3", "/_matrix/media/r0"
	routes := []web.Route{
		{Method: "GET", Path: v3 + "/download/{serverName}/{mediaId}", Op: "getContent", Auth: web.None, Handle: a.download},
		{Method: "GET", Path: v3 + "/download/{serverName}/{mediaId}/{fileName}", Op: "getContentOverrideName", Auth: web.None, Handle: a.download},
		{Method: "GET", Path: v3 + "/thumbnail/{serverName}/{mediaId}", Op: "getContentThumbnail", Auth: web.None, Handle: a.thumbnail},
	}
	for _, r := range routes {
		r.Path = r0 + r.Path[len(v3):]
		routes = append(routes, r)
	}
	return routes
}

// Spec: cs getConfigAuthed
// Spec: cs getConfig
func (a *API) mediaConfig(context.Context, *web.Request) (*web.Response, error) {
	return web.JSON(map[string]any{"m.upload.size": a.Media.MaxUpload()}), nil
}

// Spec: cs uploadContent
func (a *API) upload(ctx context.Context, r *web.Request) (*web.Response, error) {
	up, err := a.uploaded(r)
	if err != nil {
		return nil, err
	}
	u, err := a.Media.Upload(ctx, up)
	if err != nil {
		return nil, mediaError(err)
	}
	return web.JSON(map[string]any{"content_uri": u.String()}), nil
}

// uploaded reads what stands around the bytes of an upload.
func (a *API) uploaded(r *web.Request) (media.Upload, error) {
	body, err := r.BodyStream(a.Media.MaxUpload())
	if err != nil {
		return media.Upload{}, err
	}
	return media.Upload{User: r.Caller.User, ContentType: r.HTTP.Header.Get("Content-Type"), Name: r.Query("filename"), Body: body}, nil
}

// Spec: cs createContent
func (a *API) createMedia(ctx context.Context, r *web.Request) (*web.Response, error) {
	u, until, err := a.Media.Promise(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return web.JSON(map[string]any{"content_uri": u.String(), "unused_expires_at": until.UnixMilli()}), nil
}

// Spec: cs uploadContentToMXC
func (a *API) uploadTo(ctx context.Context, r *web.Request) (*web.Response, error) {
	u, err := media.ParseURI(r.Path("serverName"), r.Path("mediaId"))
	if err != nil {
		return nil, err
	}
	up, err := a.uploaded(r)
	if err != nil {
		return nil, err
	}
	if err := a.Media.Fulfil(ctx, u, up); err != nil {
		return nil, mediaError(err)
	}
	return web.Empty, nil
}

// Spec: cs getContentAuthed
// Spec: cs getContentOverrideNameAuthed
// Spec: cs getContent
// Spec: cs getContentOverrideName
func (a *API) download(ctx context.Context, r *web.Request) (*web.Response, error) {
	w, err := a.wanted(r)
	if err != nil {
		return nil, err
	}
	f, err := a.Media.Download(ctx, w)
	if err != nil {
		return nil, mediaError(err)
	}
	if name := r.Path("fileName"); name != "" {
		f.Name = name
	}
	return serveFile(r, f), nil
}

// Spec: cs getContentThumbnailAuthed
// Spec: cs getContentThumbnail
func (a *API) thumbnail(ctx context.Context, r *web.Request) (*web.Response, error) {
	w, err := a.wanted(r)
	if err != nil {
		return nil, err
	}
	size, err := media.ParseSize(r.Query("width"), r.Query("height"), r.Query("method"), r.Query("animated"))
	if err != nil {
		return nil, err
	}
	f, err := a.Media.Thumbnail(ctx, w, size)
	if err != nil {
		if !a.Ours.Is(w.Server) && errors.Is(err, media.ErrTooManyPixels) {
			err = web.Status(err, http.StatusBadGateway)
		}
		return nil, mediaError(err)
	}
	return serveFile(r, f), nil
}

// Spec: cs getUrlPreviewAuthed
// Spec: cs getUrlPreview
func (a *API) previewPage(ctx context.Context, r *web.Request) (*web.Response, error) {
	if !r.HasQuery("url") {
		return nil, mxerr.MissingParam("The query parameter \"url\" is missing.")
	}
	at, err := media.ParseTime(r.Query("ts"))
	if err != nil {
		return nil, err
	}
	preview, err := a.Media.Preview(ctx, r.Caller.User, r.Query("url"), at)
	if err != nil {
		return nil, mediaError(err)
	}
	return web.JSON(preview), nil
}

// wanted reads which file is wanted, and under which conditions.
func (a *API) wanted(r *web.Request) (w media.Want, err error) {
	if w.URI, err = media.ParseURI(r.Path("serverName"), r.Path("mediaId")); err != nil {
		return w, err
	}
	if w.Wait, err = media.ParseWait(r.Query("timeout_ms")); err != nil {
		return w, err
	}
	if w.Remote, err = r.QueryBool("allow_remote", true); err != nil {
		return w, err
	}
	w.Who, w.Asker, w.Stop = string(r.Caller.User), a.Ours.Primary(), r.Draining()
	if w.Legacy = r.Caller.User == ""; !w.Legacy {
		w.Asker, w.Remote = r.Caller.User.Domain(), true
	}
	return w, nil
}

// mediaError gives errors of files the status that the specification has for them.
func mediaError(err error) error {
	switch {
	case errors.Is(err, media.ErrRemoteTooLarge):
		return web.Status(err, http.StatusBadGateway)
	case errors.Is(err, media.ErrNoThumbnail):
		return web.Status(err, http.StatusBadRequest)
	case errors.Is(err, media.ErrAway):
		return web.Status(err, http.StatusServiceUnavailable)
	}
	return err
}

// serveFile sends a file as it is read.
//
// Spec: cs Content repository
func serveFile(r *web.Request, f *media.File) *web.Response {
	header := http.Header{
		"Content-Type":                 {f.ContentType},
		"Content-Disposition":          {media.Disposition(f.ContentType, f.Name)},
		"Content-Length":               {strconv.FormatInt(f.Size, 10)},
		"Content-Security-Policy":      {"sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';"},
		"Cross-Origin-Resource-Policy": {"cross-origin"},
		"X-Content-Type-Options":       {"nosniff"},
		"Cache-Control":                {"private, max-age=86400, immutable"},
	}
	return &web.Response{Header: header, Stream: func(w io.Writer) error {
		defer f.Body.Close()
		if r.HTTP.Method == http.MethodHead {
			return nil
		}
		_, err := io.Copy(w, f.Body)
		return err
	}}
}
