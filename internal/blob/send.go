package blob

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"
)

const (
	// partSize is the size of the parts in which a large content is sent, in bytes.
	partSize = 16 << 20
	// partsAtOnce is how many parts of a content are sent at the same time.
	partsAtOnce = 3
)

// sending says how contents are sent: with the hash of the bytes in the signature, which the store checks them by.
var sending = minio.PutObjectOptions{ContentType: "application/octet-stream", DisableContentSha256: true}

// put sends a content, in parts where it is large.
func (b *bucket) put(ctx context.Context, c *Content, file string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime+time.Duration(c.size/sendRate)*time.Second)
	defer cancel()
	var err error
	if c.size <= partSize {
		err = b.send(ctx, file, io.NewSectionReader(c.file, 0, c.size), c.size, c.hash)
	} else {
		err = b.sendParts(ctx, file, c.file, c.size)
	}
	return b.fault(ctx, "send a content to the bucket", err)
}

// send stores bytes whose hash is known.
func (b *bucket) send(ctx context.Context, file string, from io.ReadSeeker, size int64, sum Hash) error {
	_, err := b.core.PutObject(ctx, b.Name, b.Prefix+file, from, size, "", sum.String(), sending)
	return err
}

// sendParts stores bytes piece by piece. What a crash leaves of that is swept.
func (b *bucket) sendParts(ctx context.Context, file string, from io.ReaderAt, size int64) error {
	name := b.Prefix + file
	upload, err := b.core.NewMultipartUpload(ctx, b.Name, name, sending)
	if err != nil {
		return err
	}
	parts := make([]minio.CompletePart, (size+partSize-1)/partSize)
	all, within := errgroup.WithContext(ctx)
	all.SetLimit(partsAtOnce)
	for i := range parts {
		all.Go(func() error {
			at := int64(i) * partSize
			length := min(partSize, size-at)
			sum := sha256.New()
			if _, err := io.Copy(sum, io.NewSectionReader(from, at, length)); err != nil {
				return fmt.Errorf("read media: %w", err)
			}
			opts := minio.PutObjectPartOptions{Sha256Hex: Hash(sum.Sum(nil)).String(), DisableContentSha256: true}
			part, err := b.core.PutObjectPart(within, b.Name, name, upload, i+1, io.NewSectionReader(from, at, length), length, opts)
			parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: part.ETag}
			return err
		})
	}
	if err = all.Wait(); err == nil {
		_, err = b.core.CompleteMultipartUpload(ctx, b.Name, name, upload, parts, sending)
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTime)
		defer cancel()
		_ = b.core.AbortMultipartUpload(ctx, b.Name, name, upload) // else it is swept
	}
	return err
}
