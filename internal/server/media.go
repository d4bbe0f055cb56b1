package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"myelin/internal/blob"
	"myelin/internal/fedclient"
	"myelin/internal/media"
	"myelin/internal/web"
	"myelin/internal/work"
)

// files is where media are.
type files struct {
	blobs *blob.Store
	media *media.Media
}

// openBlobs opens the bytes of files.
func (k *core) openBlobs(ctx context.Context) (*blob.Store, error) {
	own := blob.Config{DB: k.db, Folder: k.config.MediaFolder(), Log: k.log}
	if c := k.config.S3; c.Endpoint != "" {
		own.Bucket = &blob.Bucket{
			Endpoint: c.Endpoint, Name: c.Bucket, Prefix: c.Prefix, Region: c.Region, AccessKey: c.AccessKey, SecretKey: c.SecretKey, Lookup: c.Lookup,
		}
	}
	return blob.Open(ctx, own)
}

// checkTime is how long the start of the server waits for a bucket.
const checkTime = 10 * time.Second

// checkBlobs refuses a bucket that is another server's. One that is away does not keep the rest from working.
func (s *Server) checkBlobs(ctx context.Context) error {
	if s.config.S3.Endpoint == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	err := s.blobs.Check(ctx)
	if errors.Is(err, blob.ErrAway) {
		s.log.Warn("files can't be stored or read at the moment: the server tries again with each of them", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("s3: %w", err)
	}
	return nil
}

// FilesCheck says what keeps files from being stored; empty where nothing does.
type FilesCheck struct {
	Place   string `json:"place"`
	Problem string `json:"problem,omitempty"`
}

// checkFiles is what "myelin doctor" asks.
func (k *core) checkFiles(ctx context.Context, _ *web.Request) (*web.Response, error) {
	found := FilesCheck{Place: k.config.MediaFolder()}
	if c := k.config.S3; c.Endpoint != "" {
		found.Place = fmt.Sprintf("the bucket %s at %s", c.Bucket, c.Endpoint)
	}
	blobs, err := k.openBlobs(ctx)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, checkTime)
		defer cancel()
		err = blobs.Check(ctx)
	}
	if err != nil {
		found.Problem = err.Error()
	}
	return web.JSON(found), nil
}

// openMedia builds the slice of files.
func (s *Server) openMedia(ctx context.Context) (err error) {
	c := s.config
	if s.blobs, err = s.openBlobs(ctx); err != nil {
		return fmt.Errorf("media.folder: %w", err)
	}
	if err := s.checkBlobs(ctx); err != nil {
		return err
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
	w.Schedule(work.Job{Name: "sweep the files of media", Period: 24 * time.Hour, Run: s.blobs.Sweep})
	// Where files are in a bucket, each node has a folder of its own for what is under way.
	w.Every("sweep unfinished media", 24*time.Hour, s.blobs.SweepIncoming)
}
