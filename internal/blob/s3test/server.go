package s3test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// What a client needs to know besides the URL.
const (
	Bucket    = "files"
	AccessKey = "test-access"
	SecretKey = "test-secret-which-nobody-may-see"
)

// Server is a store. It ends with its test.
type Server struct {
	// URL is where it is.
	URL string
	// Requests counts those that came.
	Requests atomic.Int64

	tb      testing.TB
	backend gofakes3.Backend
	late    atomic.Int64 // how far its clock is behind, in nanoseconds
	refuse  atomic.Int64 // the status of all answers, 0 for honest ones
	cut     atomic.Int64 // after how many bytes the next answer ends, 0 for at its end
	hang    atomic.Pointer[chan struct{}]
}

// Start runs a store with an empty bucket.
func Start(tb testing.TB) *Server {
	s := &Server{tb: tb}
	s.backend = s3mem.New(s3mem.WithTimeSource(clock{s}))
	if err := s.backend.CreateBucket(Bucket); err != nil {
		tb.Fatal(err)
	}
	protocol := gofakes3.New(s.backend, gofakes3.WithTimeSource(clock{s}), gofakes3.WithTimeSkewLimit(0)).Server()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Requests.Add(1)
		status := int(s.refuse.Load())
		if status == 0 && !strings.Contains(r.Header.Get("Authorization"), "Credential="+AccessKey+"/") {
			status = http.StatusForbidden
		}
		if status != 0 {
			code, message := "ServiceUnavailable", "Reduce your request rate."
			if status == http.StatusForbidden {
				code, message = "InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records."
			}
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code><Message>"+message+"</Message></Error>")
			return
		}
		if hung := s.hang.Swap(nil); hung != nil {
			close(*hung)
			<-r.Context().Done()
			return
		}
		if most := s.cut.Swap(0); most > 0 {
			w = &cutter{ResponseWriter: w, left: most}
		}
		protocol.ServeHTTP(w, r)
	}))
	tb.Cleanup(web.Close)
	s.URL = web.URL
	return s
}

// Refuse answers all requests with a status from now on; 0 ends that.
func (s *Server) Refuse(status int) { s.refuse.Store(int64(status)) }

// Cut ends the connection of the next request after some bytes of its answer.
func (s *Server) Cut(after int64) { s.cut.Store(after) }

// Hang never answers the next request. It returns a channel that is closed when that has come.
func (s *Server) Hang() <-chan struct{} {
	came := make(chan struct{})
	s.hang.Store(&came)
	return came
}

// Late sets the clock of what is stored from now on back.
func (s *Server) Late(by time.Duration) { s.late.Store(int64(by)) }

// Names are the objects in the bucket.
func (s *Server) Names() (names []string) {
	s.tb.Helper()
	list, err := s.backend.ListBucket(Bucket, &gofakes3.Prefix{}, gofakes3.ListBucketPage{MaxKeys: 1 << 20})
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, c := range list.Contents {
		names = append(names, c.Key)
	}
	return names
}

// Put stores an object.
func (s *Server) Put(name, content string) {
	s.tb.Helper()
	if _, err := s.backend.PutObject(Bucket, name, nil, strings.NewReader(content), int64(len(content)), nil); err != nil {
		s.tb.Fatal(err)
	}
}

// clock is the store's.
type clock struct{ s *Server }

func (c clock) Now() time.Time                  { return time.Now().Add(-time.Duration(c.s.late.Load())) }
func (c clock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// cutter ends a connection in the middle of an answer.
type cutter struct {
	http.ResponseWriter
	left int64
}

func (c *cutter) Write(p []byte) (int, error) {
	if int64(len(p)) <= c.left {
		c.left -= int64(len(p))
		n, err := c.ResponseWriter.Write(p)
		if err != nil {
			err = fmt.Errorf("answer: %w", err)
		}
		return n, err
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}
