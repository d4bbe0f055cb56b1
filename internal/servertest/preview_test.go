package servertest

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/config"
)

// site is a web server on this machine.
type site struct {
	*httptest.Server
	asked atomic.Int64 // pages and images that were asked for
	// held ends the waiting of /held, and each request of it is told to arrived.
	held, arrived chan struct{}
}

func newSite(t *testing.T) *site {
	s := &site{held: make(chan struct{}), arrived: make(chan struct{}, 100)}
	picture := pngOf(t, photo(279, 129))
	var mux http.ServeMux
	page := func(path, contentType, text string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			io.WriteString(w, text)
		})
	}
	redirect := func(path, to string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		})
	}
	page("/page", "text/html", `<head><meta property="og:title" content="The Rock"><meta property="og:type" content="video.movie"><meta property="og:image" content="missing.png">
		<meta property="og:image" content="picture"></head>`)
	page("/picture", "text/plain", string(picture)) // whose type is a lie
	page("/image", "image/png", string(picture))
	page("/fake", "image/png", "<script>alert(1)</script>")
	page("/latin", "text/html; charset=iso-8859-1", "<title>caf\xe9</title>")
	page("/film", "video/mp4", "...")
	page("/private-image", "text/html", `<title>T</title><meta property="og:image" content="http://127.0.0.2:1/x.png">`)
	redirect("/moved", "/page")
	redirect("/circle", "/circle")
	redirect("/inside", "http://127.0.0.2:1/")
	redirect("/metadata", "http://169.254.169.254/latest/meta-data")
	redirect("/file", "file:///etc/passwd")
	mux.HandleFunc("/packed", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		io.WriteString(z, "<title>Packed</title>")
		z.Close()
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<title>Endless</title>")
		for more := strings.Repeat("<p>more ", 1000); r.Context().Err() == nil; {
			if _, err := io.WriteString(w, more); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/held", func(w http.ResponseWriter, r *http.Request) {
		s.arrived <- struct{}{}
		select {
		case <-s.held:
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<title>Held</title>")
	})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// field is one of a preview, whose names have colons in them.
func field(a *Answer, name string) gjson.Result {
	return gjson.GetBytes(a.Body, strings.ReplaceAll(name, ":", `\:`))
}

// TestPreviews: pages are asked once for all, and their images are kept here.
//
// Spec: cs getUrlPreviewAuthed
// Spec: cs getUrlPreview
func TestPreviews(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		web := newSite(t)
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		see := func(c *Client, page string, more ...any) *Answer {
			t.Helper()
			return c.OK("GET", authed+"preview_url"+Query(append([]any{"url", web.URL + page}, more...)...), nil)
		}
		a := see(alice, "/page")
		for name, want := range map[string]string{
			"og:title": "The Rock", "og:type": "video.movie", "og:image:type": "image/png", "og:image:width": "279", "og:image:height": "129",
		} {
			if got := field(a, name).String(); got != want {
				t.Errorf("%s is %q", name, got)
			}
		}
		image, ok := strings.CutPrefix(field(a, "og:image").Str, "mxc://")
		if raw := bob.OK("GET", authed+"download/"+image, nil); !ok || int64(len(raw.Body)) != field(a, "matrix:image:size").Int() || raw.Header.Get("Content-Type") != "image/png" {
			t.Errorf("the image: %d bytes of %s", len(raw.Body), a.Body)
		}
		before := web.asked.Load()
		for _, again := range []*Answer{
			see(bob, "/page#part"), see(bob, "/page", "ts", fmt.Sprint(time.Now().Add(-time.Hour).UnixMilli())),
			bob.OK("GET", legacy+"preview_url"+Query("url", web.URL+"/page"), nil),
		} {
			if string(again.Body) != string(a.Body) {
				t.Errorf("again: %s", again.Body)
			}
		}
		s.Restart()
		see(bob, "/page")
		if n := web.asked.Load(); n != before {
			t.Errorf("it was asked %d times more", n-before)
		}
		for page, title := range map[string]string{
			"/moved": "The Rock", "/latin": "café", "/packed": "Packed", "/endless": "Endless", "/image": "", "/fake": "", "/film": "", "/private-image": "T",
		} {
			if a := see(alice, page); field(a, "og:title").Str != title || field(a, "og:image").Exists() != (page == "/moved" || page == "/image") {
				t.Errorf("%s: %s", page, a.Body)
			}
		}
	}, func(c *config.Config) { c.Media.PreviewNetworks = []string{"127.0.0.1"} })
}

// TestRefusedPreviews: nothing leads to a private address or to what is no page, and each refusal is an error of the specification.
func TestRefusedPreviews(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		web := newSite(t)
		alice := s.Register(t, "alice")
		refused := func(status int, code string, words ...any) {
			t.Helper()
			alice.Fails(status, code, "GET", authed+"preview_url"+Query(words...), nil)
		}
		port := web.URL[strings.LastIndexByte(web.URL, ':'):]
		for _, page := range []string{"http://127.0.0.2" + port + "/page", "http://[::1]" + port + "/page", "http://[::ffff:127.0.0.2]/", "http://10.0.0.1/", "http://169.254.169.254/", "http://0.0.0.0" + port + "/",
			"https://192.168.0.1/", web.URL + "/inside", web.URL + "/metadata"} {
			refused(http.StatusForbidden, "M_FORBIDDEN", "url", page)
		}
		for _, page := range []string{"/missing", "/circle", "/file"} {
			refused(http.StatusNotFound, "M_NOT_FOUND", "url", web.URL+page)
		}
		before := web.asked.Load()
		refused(http.StatusNotFound, "M_NOT_FOUND", "url", web.URL+"/missing") // remembered
		if web.asked.Load() != before {
			t.Error("a page that failed was asked again at once")
		}
		refused(http.StatusBadRequest, "M_MISSING_PARAM")
		refused(http.StatusBadRequest, "M_INVALID_PARAM", "url", web.URL+"/page", "ts", "now")
		for _, bad := range []string{"", "page", "ftp://example.org/", "file:///etc/passwd", "http://u:p@example.org/", "http://example.org/" + strings.Repeat("x", 5000)} {
			refused(http.StatusBadRequest, "M_INVALID_PARAM", "url", bad)
		}
		s.Anonymous(t).Fails(http.StatusUnauthorized, "M_MISSING_TOKEN", "GET", authed+"preview_url"+Query("url", web.URL+"/page"), nil)

		s.Config.Media.PreviewNetworks = nil
		s.Restart()
		refused(http.StatusForbidden, "M_FORBIDDEN", "url", web.URL+"/page")
		refused(http.StatusForbidden, "M_FORBIDDEN", "url", "http://localhost"+port+"/page") // by its name
		s.Config.Media.Previews = "off"
		s.Restart()
		refused(http.StatusNotFound, "M_UNRECOGNIZED", "url", web.URL+"/page")
	}, func(c *config.Config) { c.Media.PreviewNetworks = []string{"127.0.0.1"} })
}

// TestPreviewsAreShared: who waits for pages that do not answer has no more than a share, and others are served meanwhile.
func TestPreviewsAreShared(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		web := newSite(t)
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		var waiting sync.WaitGroup
		for i := range 8 {
			waiting.Go(func() {
				a, err := alice.Try("GET", authed+"preview_url"+Query("url", fmt.Sprintf("%s/held?%d", web.URL, i)), nil)
				if err != nil || field(a, "og:title").Str != "Held" {
					t.Errorf("held: %v", err)
				}
			})
		}
		for range 4 {
			<-web.arrived
		}
		if a := bob.OK("GET", authed+"preview_url"+Query("url", web.URL+"/latin"), nil); field(a, "og:title").Str != "café" {
			t.Errorf("another user's: %s", a.Body)
		}
		if n := web.asked.Load(); n != 5 {
			t.Errorf("%d pages are being asked", n)
		}
		close(web.held)
		waiting.Wait()
	}, func(c *config.Config) { c.Media.PreviewNetworks = []string{"127.0.0.0/8"} })
}
