package server

import (
	"context"
	"fmt"
	"time"

	"myelin/internal/blob"
	"myelin/internal/fedclient"
	"myelin/internal/media"
	"myelin/internal/work"
)

// files is where media are.
type files struct {
	blobs *blob.Store
	media *media.Media
}

// openMedia builds the slice of files.
func (s *Server) openMedia(ctx context.Context) (err error) {
	c := s.config
	if s.blobs, err = blob.Open(ctx, blob.Config{DB: s.db, Folder: c.MediaFolder(), Log: s.log}); err != nil {
		return fmt.Errorf("media.folder: %w", err)
	}
	own := media.Config{
		DB: s.db, Ours: s.ours, Blobs: s.blobs, Client: s.client, Log: s.log, Agent: "Myelin/" + s.own.Version, Legacy: c.Media.LegacyUnauthenticated,
		Limits: media.Limits{
			Upload: int64(c.Media.MaxUpload), Remote: int64(c.Media.MaxRemote), RemoteCache: int64(c.Media.RemoteCache),
			RemoteAge: time.Duration(c.Media.RemoteCacheAge), Thumbnails: int64(c.Media.ThumbnailCache), Previews: int64(c.Media.PreviewCache),
			PerUser: int64(c.Media.UserQuota),
		},
	}
	if !c.Federation.Enabled {
		own.Client = nil
	}
	if c.Media.Previews == "on" {
		own.Web = fedclient.Outbound{Dial: s.own.Dial, Lookup: s.own.Resolver, AllowNetworks: c.Media.Networks()}.Browser()
	}
	if s.media, err = media.Open(ctx, own); err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { s.media.Close(); return nil })
	return nil
}

// startMedia starts what cleans up behind files.
func (s *Server) startMedia(w *work.Runner) {
	w.Go("trim media when much came", s.media.KeepTrim)
	w.Every("note which media are used", time.Minute, s.media.NoteUse)
	w.Schedule(work.Job{Name: "trim media", Period: time.Hour, Run: s.media.Trim})
	w.Schedule(work.Job{Name: "forget media that were not uploaded", Period: time.Hour, Run: s.media.ForgetPromises})
	w.Schedule(work.Job{Name: "sweep the folder of media", Period: 24 * time.Hour, Run: s.blobs.Sweep})
}
