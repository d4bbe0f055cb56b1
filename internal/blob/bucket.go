package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Bucket says where an S3-compatible store is, and how to use it.
type Bucket struct {
	// Endpoint is its URL, without a path.
	Endpoint string
	Name     string
	// Prefix stands before the names of all files; may be empty.
	Prefix string
	Region string
	// AccessKey and SecretKey sign requests. They appear in no error.
	AccessKey, SecretKey string
	// Lookup says where requests name the bucket: "path", "dns", or "auto" for what is usual at the endpoint.
	Lookup string
}

const (
	// Bounds of requests: connecting, and until the answer begins.
	connectTime = 5 * time.Second
	answerTime  = 30 * time.Second
	// stallTime is how long a content that is read may stand still before another request is made.
	stallTime = 30 * time.Second
	// attempts is how often a request is made that may succeed later.
	attempts = 3
	// sendRate is how slow sending may be, in bytes per second.
	sendRate = 256 << 10
	// markName is the object that says to which database the files belong.
	markName = "myelin-owner"
	maxMark  = 1 << 10
)

// bucket is a shelf in an S3-compatible store.
type bucket struct {
	Bucket
	core minio.Core
}

// openBucket makes a client. It does not use it yet.
func openBucket(c Bucket) (*bucket, error) {
	at, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, errors.New("the endpoint of the bucket is no URL")
	}
	lookups := map[string]minio.BucketLookupType{"dns": minio.BucketLookupDNS, "path": minio.BucketLookupPath}
	client, err := minio.New(at.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(c.AccessKey, c.SecretKey, ""),
		Secure: at.Scheme == "https", Region: c.Region, BucketLookup: lookups[c.Lookup], MaxRetries: attempts,
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: connectTime, KeepAlive: connectTime}).DialContext,
			TLSHandshakeTimeout:   2 * connectTime,
			ResponseHeaderTimeout: answerTime,
			ExpectContinueTimeout: time.Second,
			IdleConnTimeout:       time.Minute,
			MaxIdleConnsPerHost:   32,
			DisableCompression:    true, // sizes are those of the stored bytes
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make a client for the bucket: %w", err)
	}
	return &bucket{Bucket: c, core: minio.Core{Client: client}}, nil
}

// fault says what went wrong with a request. It is ErrMissing where there is no such file, and nobody's fault where the caller left.
func (b *bucket) fault(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	switch answer := minio.ToErrorResponse(err); answer.Code {
	case minio.NoSuchKey:
		return fmt.Errorf("%s: %w (%w)", what, ErrMissing, err)
	case minio.NoSuchBucket:
		err = fmt.Errorf("there is no bucket %q", b.Name)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrAway, err)
}

func (b *bucket) remove(ctx context.Context, file string) error {
	err := b.fault(ctx, "delete a content from the bucket", b.core.Client.RemoveObject(ctx, b.Name, b.Prefix+file, minio.RemoveObjectOptions{}))
	if errors.Is(err, ErrMissing) {
		return nil
	}
	return err
}

// ourFile matches the names that newFile makes.
var ourFile = regexp.MustCompile(`^[0-9a-f]{3}/[0-9a-f]{64}-[a-z0-9]{12}$`)

// old lists the bucket, and ends what was sent in parts and not to its end.
func (b *bucket) old(ctx context.Context, owner string, before time.Time, page func(files []string) error) error {
	if err := b.claim(ctx, owner); err != nil {
		return err
	}
	var names []string
	flush := func() error {
		full := names
		names = names[:0]
		return page(full)
	}
	for object := range b.core.Client.ListObjectsIter(ctx, b.Name, minio.ListObjectsOptions{Prefix: b.Prefix, Recursive: true, MaxKeys: sweepPage}) {
		if object.Err != nil {
			return b.fault(ctx, "list the bucket", object.Err)
		}
		name, ok := strings.CutPrefix(object.Key, b.Prefix)
		if !ok || !ourFile.MatchString(name) || !object.LastModified.Before(before) {
			continue
		}
		if names = append(names, name); len(names) == sweepPage {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return b.dropParts(ctx, before)
}

// dropParts ends uploads in parts that crashes left.
func (b *bucket) dropParts(ctx context.Context, before time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what lists ends with it
	for upload := range b.core.Client.ListIncompleteUploads(ctx, b.Name, b.Prefix, true) {
		switch minio.ToErrorResponse(upload.Err).Code {
		case minio.NoSuchUpload, minio.NotImplemented:
			return nil // some say so where there are none
		}
		if upload.Err != nil {
			return b.fault(ctx, "list unfinished uploads of the bucket", upload.Err)
		}
		name, ok := strings.CutPrefix(upload.Key, b.Prefix)
		if !ok || !ourFile.MatchString(name) || !upload.Initiated.Before(before) {
			continue
		}
		if err := b.core.AbortMultipartUpload(ctx, b.Name, upload.Key, upload.UploadID); err != nil {
			return b.fault(ctx, "end an unfinished upload of the bucket", err)
		}
	}
	return nil
}

// claim marks the bucket as that of a database, and fails where it is another one's: what has no row here may have one there.
func (b *bucket) claim(ctx context.Context, owner string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	const what = "read the mark of the bucket"
	mark, _, _, err := b.core.GetObject(ctx, b.Name, b.Prefix+markName, minio.GetObjectOptions{})
	if err = b.fault(ctx, what, err); errors.Is(err, ErrMissing) {
		return b.fault(ctx, "write a mark into the bucket", b.write(ctx, markName, owner))
	}
	if err != nil {
		return err
	}
	defer mark.Close()
	text, err := io.ReadAll(io.LimitReader(mark, maxMark))
	if err != nil {
		return b.fault(ctx, what, err)
	}
	if string(text) != owner {
		return fmt.Errorf("the bucket %q holds files of another database under the prefix %q; choose another prefix, or, if this database replaces that one, delete the object %q",
			b.Name, b.Prefix, b.Prefix+markName)
	}
	return nil
}

// write stores a short text.
func (b *bucket) write(ctx context.Context, file, text string) error {
	sum := sha256.Sum256([]byte(text))
	return b.send(ctx, file, strings.NewReader(text), int64(len(text)), Hash(sum))
}

// check claims the bucket, and lists, writes, reads and deletes in it.
func (b *bucket) check(ctx context.Context, owner string) error {
	if err := b.claim(ctx, owner); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for object := range b.core.Client.ListObjectsIter(ctx, b.Name, minio.ListObjectsOptions{Prefix: b.Prefix + markName, MaxKeys: 1}) {
		if object.Err != nil {
			return b.fault(ctx, "list the bucket", object.Err)
		}
		break
	}
	file := newFile(Hash{})
	if err := b.write(ctx, file, "x"); err != nil {
		return b.fault(ctx, "write into the bucket", err)
	}
	return b.remove(ctx, file)
}
