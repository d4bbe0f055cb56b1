package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/minio/minio-go/v7"
)

// object is a content in the bucket that is read. Where a connection breaks or stands still it goes on over another one.
type object struct {
	bucket *bucket
	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	file   string
	size   int64
	at     int64         // of the next byte
	from   io.ReadCloser // what is under way; nil before it is asked for
	end    context.CancelFunc
	stall  *time.Timer // ends what is under way
	failed int         // attempts since the last byte came
}

// open asks for a content, so that what can't be had is known at once.
func (b *bucket) open(ctx context.Context, file string, size int64) (Body, error) {
	o := &object{bucket: b, file: file, size: size}
	o.ctx, o.stop = context.WithCancel(context.WithoutCancel(ctx))
	leave := context.AfterFunc(ctx, o.stop)
	defer leave()
	if err := o.ask(); err != nil {
		o.stop()
		return nil, b.fault(ctx, "open a content in the bucket", err)
	}
	return o, nil
}

// ask makes a request for what is left.
func (o *object) ask() error {
	var opts minio.GetObjectOptions
	if o.at > 0 {
		if err := opts.SetRange(o.at, 0); err != nil {
			return fmt.Errorf("ask for the rest of a content: %w", err)
		}
	}
	ctx, end := context.WithCancel(o.ctx)
	o.stall = time.AfterFunc(answerTime+stallTime, end)
	from, info, _, err := o.bucket.core.GetObject(ctx, o.bucket.Name, o.bucket.Prefix+o.file, opts)
	o.stall.Stop()
	if err == nil && info.Size != o.size-o.at {
		from.Close()
		err = fmt.Errorf("there are %d bytes where there should be %d", info.Size, o.size-o.at)
	}
	if err != nil {
		end()
		return err
	}
	o.from, o.end = from, end
	return nil
}

// drop ends what is under way.
func (o *object) drop() {
	if o.from != nil {
		o.end()
		o.from.Close()
		o.from = nil
	}
}

func (o *object) Read(p []byte) (int, error) {
	for o.at < o.size {
		n, err := o.read(p)
		o.at += int64(n)
		if n > 0 {
			o.failed = 0
			return n, nil
		}
		if err == nil {
			return 0, nil
		}
		o.drop()
		if o.failed++; o.failed >= attempts || o.ctx.Err() != nil {
			return 0, o.bucket.fault(o.ctx, "read a content from the bucket", err)
		}
	}
	return 0, io.EOF
}

func (o *object) read(p []byte) (int, error) {
	if o.from == nil {
		if err := o.ask(); err != nil {
			return 0, err
		}
	}
	o.stall.Reset(stallTime)
	n, err := o.from.Read(p[:min(int64(len(p)), o.size-o.at)])
	o.stall.Stop()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Seek moves to another place. What is under way is given up, unless it goes on there.
func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.at
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 || offset > o.size {
		return 0, errors.New("seek in a content: there is no such place")
	}
	if offset != o.at {
		o.drop()
		o.at = offset
	}
	return offset, nil
}

func (o *object) Close() error {
	o.drop()
	o.stop()
	return nil
}

// Local returns a body that is read without waiting for a network: the body itself, or else a copy of it on this machine, from its beginning. The
// body is closed with it.
func (s *Store) Local(b Body) (Body, error) {
	o, remote := b.(*object)
	if !remote {
		return b, nil
	}
	defer o.Close()
	f, err := os.CreateTemp(filepath.Join(s.folder, incoming), "*")
	if err != nil {
		return nil, fmt.Errorf("make a file for media: %w", err)
	}
	c := &localCopy{f}
	_, err = o.Seek(0, io.SeekStart)
	if err == nil {
		_, err = io.Copy(f, o)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("copy a content: %w", err), c.Close())
	}
	return c, nil
}

// localCopy is deleted when it is closed.
type localCopy struct{ *os.File }

func (c *localCopy) Close() error { return errors.Join(c.File.Close(), os.Remove(c.Name())) }
