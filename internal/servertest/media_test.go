package servertest

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"mime"
	"net/http"
	"strings"
	"testing"
	"time"

	"myelin/internal/blob/s3test"
	"myelin/internal/config"
	"myelin/internal/spectest"
	"myelin/internal/sqldb"
)

// sends sends bytes of a type.
func (c *Client) sends(method, path, contentType string, body io.Reader) *Answer {
	c.tb.Helper()
	r, err := http.NewRequest(method, c.Server.URL+path, body)
	if err != nil {
		c.tb.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.Token)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := c.Server.http.Do(r)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.tb.Fatal(err)
	}
	a := &Answer{Status: resp.StatusCode, Header: resp.Header, Body: text, what: method + " " + path, tb: c.tb}
	spectest.Check(c.tb, method, path, spectest.Answer{Status: a.Status, Header: a.Header, Body: a.Body})
	return a
}

const mediaUpload = "/_matrix/media/v3/upload"

// uploads sends a file and returns its address without "mxc://".
func (c *Client) uploads(name, contentType string, content []byte) string {
	c.tb.Helper()
	path := mediaUpload
	if name != "" {
		path += Query("filename", name)
	}
	a := c.sends("POST", path, contentType, bytes.NewReader(content))
	if a.Status != http.StatusOK {
		c.tb.Fatalf("upload: status %d %s", a.Status, a.Body)
	}
	return address(a)
}

func address(a *Answer) string {
	a.tb.Helper()
	u, ok := strings.CutPrefix(a.Text("content_uri"), "mxc://")
	if !ok {
		a.tb.Fatalf("%s: no address in %s", a.what, a.Body)
	}
	return u
}

const (
	authed = "/_matrix/client/v1/media/"
	legacy = "/_matrix/media/v3/"
)

// downloads gets a file and checks its type and bytes.
func (c *Client) downloads(path, contentType string, content []byte) *Answer {
	c.tb.Helper()
	a := c.OK("GET", path, nil)
	if got := a.Header.Get("Content-Type"); got != contentType || !bytes.Equal(a.Body, content) {
		c.tb.Errorf("%s: %s, %d bytes", path, got, len(a.Body))
	}
	return a
}

// eachStore runs a test on both engines, with the files in a folder and in a bucket.
func eachStore(t *testing.T, run func(t *testing.T, s *Server), configure ...func(*config.Config)) {
	t.Helper()
	t.Run("folder", func(t *testing.T) { Each(t, run, configure...) })
	t.Run("bucket", func(t *testing.T) {
		Each(t, run, append(configure, func(c *config.Config) { inBucket(s3test.Start(t))(c) })...)
	})
}

// inBucket has a server keep its files in a store.
func inBucket(store *s3test.Server) func(*config.Config) {
	return func(c *config.Config) {
		c.S3 = config.S3{
			Endpoint: store.URL, Bucket: s3test.Bucket, Region: "us-east-1", Lookup: "auto", AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey,
		}
	}
}

func openLegacy(c *config.Config) { c.Media.LegacyUnauthenticated = true }

// Spec: cs uploadContent
// Spec: cs getContentAuthed
// Spec: cs getContentOverrideNameAuthed
// Spec: cs getContent
// Spec: cs getContentOverrideName
func TestMedia(t *testing.T) {
	eachStore(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		content := bytes.Repeat([]byte("content "), 100_000)
		u := alice.uploads("näme.png", "image/png", content)
		again := bob.uploads("", "text/html", content)
		if u == again {
			t.Fatal("two uploads have one address")
		}
		for _, path := range []string{authed, legacy, "/_matrix/media/r0/"} {
			a := bob.downloads(path+"download/"+u, "image/png", content)
			for header, want := range map[string]string{
				"Content-Disposition": `inline; filename="n_me.png"; filename*=utf-8''n%C3%A4me.png`, "X-Content-Type-Options": "nosniff",
				"Cross-Origin-Resource-Policy": "cross-origin", "Content-Length": fmt.Sprint(len(content)),
			} {
				if got := a.Header.Get(header); got != want {
					t.Errorf("%s: %s is %q", path, header, got)
				}
			}
			if got := a.Header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "sandbox; default-src 'none'; script-src 'none';") {
				t.Errorf("%s: the policy is %q", path, got)
			}
			a = bob.downloads(path+"download/"+u+"/o%22ther.txt", "image/png", content)
			if _, params, err := mime.ParseMediaType(a.Header.Get("Content-Disposition")); err != nil || params["filename"] != `o"ther.txt` {
				t.Errorf("another name: %q", a.Header.Get("Content-Disposition"))
			}
			if got := bob.downloads(path+"download/"+again, "text/html", content).Header.Get("Content-Disposition"); got != "attachment" {
				t.Errorf("a page is %q", got)
			}
		}
		if head := bob.sends("HEAD", authed+"download/"+u, "", nil); head.Status != http.StatusOK || len(head.Body) != 0 || head.Header.Get("Content-Length") != fmt.Sprint(len(content)) {
			t.Errorf("HEAD: %d %v", head.Status, head.Header)
		}
		plain := alice.uploads("", "", []byte("x"))
		bob.downloads(authed+"download/"+plain, "application/octet-stream", []byte("x"))

		s.Restart()
		bob.downloads(authed+"download/"+u, "image/png", content)
		anybody := s.Anonymous(t)
		anybody.Fails(http.StatusUnauthorized, "M_MISSING_TOKEN", "GET", authed+"download/"+u, nil)
		anybody.downloads(legacy+"download/"+u, "image/png", content)
		s.Guest(t).downloads(authed+"download/"+u, "image/png", content)
		s.Guest(t).Fails(http.StatusForbidden, "M_GUEST_ACCESS_FORBIDDEN", "POST", mediaUpload, nil)
		bob.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", authed+"download/localhost/unknown", nil)
		for _, bad := range []string{"localhost/..", "localhost/a.b", "localhost/%2e%2e%2fetc", "local%20host/a", "localhost/a%00b", "localhost/" + strings.Repeat("a", 300)} {
			bob.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "GET", authed+"download/"+bad, nil)
		}
		bob.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "GET", authed+"download/"+u+"?timeout_ms=soon", nil)
		bob.Fails(http.StatusBadRequest, "M_INVALID_PARAM", "GET", legacy+"download/"+u+"?allow_remote=maybe", nil)
	}, openLegacy)
}

// Spec: cs getConfig
// Spec: cs getConfigAuthed
func TestMediaLimit(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		for _, path := range []string{legacy + "config", authed + "config"} {
			if n := alice.OK("GET", path, nil).At("m.upload.size").Int(); n != 2048 {
				t.Errorf("%s: %d", path, n)
			}
		}
		alice.uploads("", "text/plain", make([]byte, 2048))
		large := make([]byte, 2049)
		unannounced := io.MultiReader(bytes.NewReader(large))
		for _, body := range []io.Reader{bytes.NewReader(large), unannounced} {
			if a := alice.sends("POST", mediaUpload, "", body); a.Status != http.StatusRequestEntityTooLarge || a.Text("errcode") != "M_TOO_LARGE" {
				t.Errorf("too large: %d %s", a.Status, a.Body)
			}
		}
		long := alice.sends("POST", mediaUpload+Query("filename", strings.Repeat("a", 2000)), "", strings.NewReader("x"))
		if long.Status != http.StatusBadRequest {
			t.Errorf("a long name: %d %s", long.Status, long.Body)
		}
	}, func(c *config.Config) { c.Media.MaxUpload = 2048 })
}

// TestFrozenMedia: what is stored while the old endpoints are closed can't be had through them, then or later; the rest can.
//
// Spec: cs Content repository
func TestFrozenMedia(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		before := alice.uploads("", "text/plain", []byte("before"))
		s.Config.Media.LegacyUnauthenticated = false
		s.Restart()
		after := alice.uploads("", "text/plain", []byte("after"))
		alice.downloads(legacy+"download/"+before, "text/plain", []byte("before"))
		alice.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", legacy+"download/"+after, nil)
		alice.downloads(authed+"download/"+after, "text/plain", []byte("after"))
		s.Config.Media.LegacyUnauthenticated = true
		s.Restart()
		alice.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", legacy+"download/"+after, nil)
	}, openLegacy)
}

// Spec: cs createContent
// Spec: cs uploadContentToMXC
func TestPromisedMedia(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		s := n.Start("a.test", openLegacy)
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		promise := func() string {
			t.Helper()
			a := alice.OK("POST", "/_matrix/media/v1/create", nil)
			if at := time.UnixMilli(a.At("unused_expires_at").Int()); at.Before(time.Now().Add(23 * time.Hour)) {
				t.Errorf("it ends at %s", at)
			}
			return address(a)
		}
		u := promise()
		for _, path := range []string{authed, legacy} {
			alice.Fails(http.StatusGatewayTimeout, "M_NOT_YET_UPLOADED", "GET", path+"download/"+u+"?timeout_ms=100", nil)
		}
		if a := bob.sends("PUT", mediaUpload+"/"+u, "text/plain", strings.NewReader("bob's")); a.Status != http.StatusForbidden {
			t.Errorf("somebody else's upload: %d %s", a.Status, a.Body)
		}
		// Who waits gets it when it comes.
		got := make(chan *Answer, 1)
		go func() {
			a, err := bob.Try("GET", authed+"download/"+u+"?timeout_ms=50000", nil)
			if err != nil {
				t.Error(err)
			}
			got <- a
		}()
		if a := alice.sends("PUT", mediaUpload+"/"+u+"?filename=f", "text/plain", strings.NewReader("late")); a.Status != http.StatusOK {
			t.Errorf("upload: %d %s", a.Status, a.Body)
		}
		if a := <-got; a != nil && (a.Status != http.StatusOK || string(a.Body) != "late") {
			t.Errorf("waited for: %d %s", a.Status, a.Body)
		}
		alice.downloads(authed+"download/"+u, "text/plain", []byte("late"))
		if a := alice.sends("PUT", mediaUpload+"/"+u, "", nil); a.Status != http.StatusConflict || a.Text("errcode") != "M_CANNOT_OVERWRITE_MEDIA" {
			t.Errorf("again: %d %s", a.Status, a.Body)
		}
		if a := alice.sends("PUT", mediaUpload+"/a.test/unknown", "", strings.NewReader("x")); a.Status != http.StatusNotFound {
			t.Errorf("an address that nobody made: %d %s", a.Status, a.Body)
		}
		for range 20 {
			u = promise()
		}
		alice.Fails(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "POST", "/_matrix/media/v1/create", nil)
		alice.sends("PUT", mediaUpload+"/"+u, "text/plain", strings.NewReader("x"))
		promise()
	})
}

// photo is an image with some structure.
func photo(w, h int) image.Image {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.Set(x, y, color.RGBA{uint8(x * 255 / w), uint8(y * 255 / h), 128, 255})
		}
	}
	return m
}

func pngOf(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func jpegOf(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Spec: cs getContentThumbnailAuthed
// Spec: cs getContentThumbnail
func TestThumbnails(t *testing.T) {
	eachStore(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		large := alice.uploads("", "image/gif", pngOf(t, photo(400, 200))) // whose type is a lie
		shot := alice.uploads("", "image/jpeg", jpegOf(t, photo(1000, 800)))
		for range 2 { // made, then found
			for _, row := range []struct {
				u, query, kind string
				w, h           int
			}{
				{large, "?width=32&height=32&method=scale", "png", 64, 32},
				{large, "?width=32&height=32&method=crop", "png", 32, 32},
				{large, "?width=90&height=45&method=crop", "png", 96, 48},
				{large, "?width=2000&height=2000", "png", 400, 200},
				{shot, "?width=300&height=200&animated=true", "jpeg", 320, 256},
				{shot, "?width=96&height=96&method=crop", "jpeg", 96, 96},
				{shot, "?width=1000&height=5", "jpeg", 1000, 800},
			} {
				for _, path := range []string{authed, legacy} {
					a := alice.OK("GET", path+"thumbnail/"+row.u+row.query, nil)
					m, kind, err := image.DecodeConfig(bytes.NewReader(a.Body))
					if err != nil || kind != row.kind || m.Width != row.w || m.Height != row.h {
						t.Errorf("%s: %s of %dx%d %v", row.query, kind, m.Width, m.Height, err)
					}
					if got := a.Header.Get("Content-Type"); got != "image/"+row.kind {
						t.Errorf("%s: type %s", row.query, got)
					}
					if got := a.Header.Get("Content-Disposition"); !strings.HasPrefix(got, `inline; filename="thumbnail.`) {
						t.Errorf("%s: %s", row.query, got)
					}
				}
			}
		}
		page := alice.uploads("", "image/png", []byte("<script>alert(1)</script>"))
		alice.Fails(http.StatusBadRequest, "M_UNKNOWN", "GET", authed+"thumbnail/"+page+"?width=32&height=32", nil)
		for query, code := range map[string]string{
			"": "M_MISSING_PARAM", "?width=32": "M_MISSING_PARAM", "?width=-1&height=32": "M_INVALID_PARAM", "?width=x&height=32": "M_INVALID_PARAM",
			"?width=32&height=32&method=fit": "M_INVALID_PARAM", "?width=32&height=32&animated=1": "M_INVALID_PARAM",
		} {
			alice.Fails(http.StatusBadRequest, code, "GET", authed+"thumbnail/"+large+query, nil)
		}
	}, openLegacy)
}

// Spec: ss getContent
// Spec: ss getContentThumbnail
func TestFederatedMedia(t *testing.T) {
	EachNet(t, func(t *testing.T, n *Net) {
		a, b := n.Start("a.test", openLegacy), n.Start("b.test", openLegacy, func(c *config.Config) { c.Media.MaxRemote = 1 << 20 })
		alice, bob := a.Register(t, "alice"), b.Register(t, "bob")
		content := bytes.Repeat([]byte("line\r\n--x\r\n"), 50_000)
		u := alice.uploads("☕", "text/plain; charset=utf-8", content)
		picture := alice.uploads("", "image/png", pngOf(t, photo(400, 200)))
		huge := alice.uploads("", "text/plain", make([]byte, 1<<20+1))
		empty := alice.uploads("", "text/plain", nil)
		promised := address(alice.OK("POST", "/_matrix/media/v1/create", nil))

		if got := bob.downloads(authed+"download/"+u, "text/plain; charset=utf-8", content).Header.Get("Content-Disposition"); got != `inline; filename="_"; filename*=utf-8''%E2%98%95` {
			t.Errorf("its name: %s", got)
		}
		bob.downloads(authed+"download/"+empty, "text/plain", []byte{})
		bob.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", legacy+"download/"+picture+"?allow_remote=false", nil)
		thumbnail := authed + "thumbnail/" + picture + "?width=32&height=32&method=scale"
		if here, there := alice.OK("GET", thumbnail, nil), bob.OK("GET", thumbnail, nil); !bytes.Equal(here.Body, there.Body) {
			t.Error("the thumbnails differ")
		}
		bob.Fails(http.StatusBadGateway, "M_TOO_LARGE", "GET", authed+"download/"+huge, nil)
		bob.Fails(http.StatusNotFound, "M_NOT_FOUND", "GET", authed+"download/a.test/unknown", nil)
		bob.Fails(http.StatusGatewayTimeout, "M_NOT_YET_UPLOADED", "GET", authed+"download/"+promised+"?timeout_ms=100", nil)
		bob.Fails(http.StatusBadGateway, "M_CONNECTION_FAILED", "GET", authed+"download/nowhere.test/x", nil)

		// A copy stays when its server goes.
		a.Stop()
		b.Restart()
		bob.downloads(authed+"download/"+u, "text/plain; charset=utf-8", content)
		bob.downloads(legacy+"download/"+u, "text/plain; charset=utf-8", content)
		bob.OK("GET", thumbnail, nil)
	})
}

// TestStoreAway: clients learn that files can't be had while the store is away, everything else works, and no acknowledged file is lost.
func TestStoreAway(t *testing.T) {
	store := s3test.Start(t)
	Each(t, func(t *testing.T, s *Server) {
		s.Expect("can't be reached at the moment")
		alice := s.Register(t, "alice")
		content := []byte(Unique("content"))
		u := alice.uploads("", "text/plain", content)
		asks := func(method, path string, body []byte) (int, string) {
			t.Helper()
			r, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+alice.Token)
			resp, err := s.http.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(text)
		}
		store.Refuse(http.StatusServiceUnavailable)
		for _, rq := range [][2]string{{"GET", authed + "download/" + u}, {"POST", mediaUpload}} {
			status, text := asks(rq[0], rq[1], []byte(Unique("more")))
			if status != http.StatusServiceUnavailable || !strings.Contains(text, "M_UNKNOWN") || strings.Contains(text, "bucket") {
				t.Errorf("%v: %d %s", rq, status, text)
			}
		}
		s.Restart()
		alice.CreateRoom(nil)
		store.Refuse(0)
		alice.downloads(authed+"download/"+u, "text/plain", content)
		alice.uploads("", "text/plain", []byte("it is back"))
	}, func(c *config.Config) {
		inBucket(store)(c)
		c.S3.Prefix = Unique("server") + "/"
	})
}

// TestMediaSurvivesACrash: what was acknowledged is there, bytes and all.
func TestMediaSurvivesACrash(t *testing.T) {
	t.Run("folder", func(t *testing.T) { crashWithMedia(t) })
	t.Run("bucket", func(t *testing.T) { crashWithMedia(t, inBucket(s3test.Start(t))) })
}

func crashWithMedia(t *testing.T, configure ...func(*config.Config)) {
	n := NewNet(t, sqldb.SQLite, 1)
	s := n.Start("a.test", configure...)
	alice := s.Register(t, "alice")
	kept := map[string]string{}
	for i := range 20 {
		text := fmt.Sprint("content ", i)
		kept[alice.uploads("", "text/plain", []byte(text))] = text
	}
	s.Crash()
	s.Up()
	for u, text := range kept {
		alice.downloads(authed+"download/"+u, "text/plain", []byte(text))
	}
}
