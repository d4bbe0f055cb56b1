package server

import (
	"context"
	"net/http"
	"strings"

	"myelin/internal/media"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// MediaPage is the most files or users that one answer lists, and that one request changes.
const MediaPage = media.OperatorPage

type (
	// MediaChoice names a file by its address, or a page of the files of a user: those after a media ID.
	MediaChoice struct {
		Address string `json:"address,omitempty"`
		User    string `json:"user,omitempty"`
		After   string `json:"after,omitempty"`
	}
	// MediaDone says how many files were concerned, and for those of a user the last one.
	MediaDone struct {
		Files int    `json:"files"`
		Last  string `json:"last,omitempty"`
	}
	// MediaFiles is a page of the files of a user.
	MediaFiles struct {
		Files []media.Held `json:"files"`
	}
	// MediaUses is a page of users who uploaded something.
	MediaUses struct {
		Users []media.Use `json:"users"`
	}
	// MediaQuarantine is a page of addresses in quarantine.
	MediaQuarantine struct {
		Files []media.Secluded `json:"files"`
	}
)

func (k *core) mediaCommands() []web.Route {
	return []web.Route{
		{Method: http.MethodGet, Path: "/media/users", Op: "listMediaUsers", Handle: k.withMedia(listMediaUsers)},
		{Method: http.MethodGet, Path: "/media/files", Op: "listMedia", Handle: k.withMedia(k.listMedia)},
		{Method: http.MethodGet, Path: "/media/quarantine", Op: "listQuarantine", Handle: k.withMedia(listQuarantine)},
		{Method: http.MethodPost, Path: "/media/quarantine", Op: "quarantineMedia", Handle: k.withMedia(k.quarantineMedia)},
		{Method: http.MethodPost, Path: "/media/release", Op: "releaseMedia", Handle: k.withMedia(releaseMedia)},
		{Method: http.MethodGet, Path: "/media/store", Op: "checkMediaStore", Handle: k.checkFiles},
		{Method: http.MethodPost, Path: "/media/remove", Op: "removeMedia", Handle: k.withMedia(k.removeMedia)},
	}
}

// withMedia opens the files for one command: the server may not run, and may never have run. What commands do is all in the database and
// the folder, so that a running server needs not be told.
func (k *core) withMedia(do func(context.Context, *media.Media, *web.Request) (*web.Response, error)) web.Handler {
	return func(ctx context.Context, r *web.Request) (*web.Response, error) {
		blobs, err := k.openBlobs(ctx)
		if err != nil {
			return nil, err
		}
		m, err := media.Open(ctx, media.Config{DB: k.db, Ours: k.ours, Blobs: blobs, Log: k.log})
		if err != nil {
			return nil, err
		}
		defer m.Close()
		return do(ctx, m, r)
	}
}

// mediaAddress reads an address as people copy it.
func mediaAddress(text string) (media.URI, error) {
	server, name, ok := strings.Cut(strings.TrimPrefix(text, "mxc://"), "/")
	if !ok {
		return media.URI{}, mxerr.InvalidParam("%.100q is no address of a file; write mxc://example.org/abc", text)
	}
	return media.ParseURI(server, name)
}

func listMediaUsers(ctx context.Context, m *media.Media, r *web.Request) (*web.Response, error) {
	list, err := m.Uses(ctx, id.UserID(r.Query("after")))
	if err != nil {
		return nil, err
	}
	return web.JSON(MediaUses{list}), nil
}

func (k *core) listMedia(ctx context.Context, m *media.Media, r *web.Request) (*web.Response, error) {
	user, err := k.user(r.Query("user"))
	if err != nil {
		return nil, err
	}
	list, err := m.Files(ctx, user, r.Query("after"))
	if err != nil {
		return nil, err
	}
	return web.JSON(MediaFiles{list}), nil
}

func listQuarantine(ctx context.Context, m *media.Media, r *web.Request) (*web.Response, error) {
	var after media.URI
	if text := r.Query("after"); text != "" {
		var err error
		if after, err = mediaAddress(text); err != nil {
			return nil, err
		}
	}
	list, err := m.Quarantined(ctx, after)
	if err != nil {
		return nil, err
	}
	return web.JSON(MediaQuarantine{list}), nil
}

// chosen reads what a command is about: an address, or else a user.
func (k *core) chosen(r *web.Request) (c MediaChoice, address media.URI, user id.UserID, err error) {
	if err = r.Decode(&c); err != nil {
		return c, address, user, err
	}
	switch {
	case c.Address != "" && c.User != "":
		err = mxerr.InvalidParam("name a file or a user, not both")
	case c.Address != "":
		address, err = mediaAddress(c.Address)
	default:
		user, err = k.user(c.User)
	}
	return c, address, user, err
}

func (k *core) quarantineMedia(ctx context.Context, m *media.Media, r *web.Request) (*web.Response, error) {
	c, address, user, err := k.chosen(r)
	if err != nil {
		return nil, err
	}
	done := MediaDone{Files: 1}
	if user == "" {
		err = m.Quarantine(ctx, address)
	} else {
		done.Files, done.Last, err = m.QuarantineOf(ctx, user, c.After)
	}
	if err != nil {
		return nil, err
	}
	return web.JSON(done), nil
}

func releaseMedia(ctx context.Context, m *media.Media, r *web.Request) (*web.Response, error) {
	var c MediaChoice
	if err := r.Decode(&c); err != nil {
		return nil, err
	}
	address, err := mediaAddress(c.Address)
	if err != nil {
		return nil, err
	}
	return web.Empty, m.Release(ctx, address)
}

func (k *core) removeMedia(ctx context.Context, m *media.Media, r *web.Request) (*web.Response, error) {
	c, address, user, err := k.chosen(r)
	if err != nil {
		return nil, err
	}
	var done MediaDone
	if user != "" {
		done.Files, done.Last, err = m.RemoveOf(ctx, user, c.After)
	} else if done.Files, err = m.Remove(ctx, address); err == nil && done.Files == 0 {
		err = mxerr.NotFound("There is no file at %s.", address)
	}
	if err != nil {
		return nil, err
	}
	return web.JSON(done), nil
}
