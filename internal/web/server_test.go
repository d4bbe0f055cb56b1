package web_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// signedBy takes the text after the scheme for the origin, and "forged" for a wrong signature.
func signedBy(_ context.Context, r *web.Request, read func() ([]byte, error)) (origin, destination id.ServerName, err error) {
	_, name, _ := strings.Cut(r.HTTP.Header.Get("Authorization"), " ")
	if name == "unknown" {
		return "", "", mxerr.New(mxerr.CodeUnauthorized, "The key is out of reach.")
	}
	body, err := read()
	if err != nil {
		return "", "", err
	}
	if name == "forged" || bytes.Contains(body, []byte("changed")) {
		return "", "", mxerr.New(mxerr.CodeUnauthorized, "The signature is wrong.")
	}
	return id.ServerName(name), "here.test", nil
}

func serverRequest(h http.Handler, scheme, origin string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest("PUT", "/send", body)
	if scheme != "" {
		r.Header.Set("Authorization", scheme+" "+origin)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func echo(_ context.Context, r *web.Request) (*web.Response, error) {
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	return web.JSON(fmt.Sprintf("%s to %s: %s %q", r.Origin, r.Destination, body, r.Caller.User)), nil
}

func TestServersAuthenticate(t *testing.T) {
	var log bytes.Buffer
	mux := newMux(t, web.Config{
		AuthenticateServer: signedBy,
		Log:                slog.New(slog.NewTextHandler(&log, nil)),
		Routes:             []web.Route{{Method: "PUT", Path: "/send", Op: "send", Auth: web.Server, Rate: web.RateServer, MaxBody: 16, Handle: echo}},
	})
	body := func(s string) io.Reader { return strings.NewReader(s) }
	wantAnswer(t, serverRequest(mux, "X-Matrix", "there.test", body("{}")), 200, `there.test to here.test: {} \"\"`)
	wantAnswer(t, serverRequest(mux, "x-matrix", "there.test", body("{}")), 200, "there.test")
	wantAnswer(t, serverRequest(mux, "X-Matrix", "forged", body("{}")), 401, "M_UNAUTHORIZED")
	wantAnswer(t, serverRequest(mux, "X-Matrix", "there.test", body("changed")), 401, "M_UNAUTHORIZED")
	wantAnswer(t, serverRequest(mux, "X-Matrix", "there.test", body(strings.Repeat("x", 17))), 413, "M_TOO_LARGE")
	wantAnswer(t, serverRequest(mux, "Bearer", "alice", body("{}")), 401, "M_UNAUTHORIZED")
	wantAnswer(t, do(mux, "POST /send", "", "{}"), 405, "M_UNRECOGNIZED")
	wantAnswer(t, do(mux, "PUT /sent", "", "{}"), 404, "M_UNRECOGNIZED")
	if !strings.Contains(log.String(), "origin=there.test") {
		t.Errorf("the log doesn't name the origin:\n%s", &log)
	}
}

// unread fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body of an unsigned request was read")
	return 0, io.EOF
}

func TestUnsignedBodiesStayUnread(t *testing.T) {
	mux := newMux(t, web.Config{
		AuthenticateServer: signedBy,
		Routes:             []web.Route{{Method: "PUT", Path: "/send", Op: "send", Auth: web.Server, Handle: echo}},
	})
	wantAnswer(t, serverRequest(mux, "", "", unread{t}), 401, "M_UNAUTHORIZED")
	wantAnswer(t, serverRequest(mux, "Bearer", "token", unread{t}), 401, "M_UNAUTHORIZED")
	wantAnswer(t, serverRequest(mux, "X-Matrix", "unknown", unread{t}), 401, "M_UNAUTHORIZED")
}

// TestServersHaveTheirOwnShare: one server that is too fast doesn't slow another one down.
func TestServersHaveTheirOwnShare(t *testing.T) {
	var limits web.Limits
	limits.User[web.RateHeavy] = web.Limit{PerSecond: 0.001, Burst: 2}
	mux := newMux(t, web.Config{
		AuthenticateServer: signedBy, Limits: &limits,
		Routes: []web.Route{{Method: "PUT", Path: "/send", Op: "send", Auth: web.Server, Rate: web.RateHeavy, Handle: echo}},
	})
	for range 2 {
		wantAnswer(t, serverRequest(mux, "X-Matrix", "greedy.test", nil), 200, "greedy")
	}
	wantAnswer(t, serverRequest(mux, "X-Matrix", "greedy.test", nil), 429, "M_LIMIT_EXCEEDED")
	wantAnswer(t, serverRequest(mux, "X-Matrix", "modest.test", nil), 200, "modest")
}

func TestServerRoutesNeedAnAuthenticator(t *testing.T) {
	_, err := web.New(web.Config{Routes: []web.Route{{Method: "PUT", Path: "/send", Op: "send", Auth: web.Server, Handle: ok}}})
	if err == nil {
		t.Error("a route for servers is served without authentication")
	}
}

func TestStream(t *testing.T) {
	large := strings.Repeat("0123456789", 10_000)
	fail := errors.New("the disk is gone")
	route := func(path string, stream func(io.Writer) error) web.Route {
		return web.Route{Method: "GET", Path: path, Op: path, Auth: web.None, Handle: func(context.Context, *web.Request) (*web.Response, error) {
			return &web.Response{Stream: stream}, nil
		}}
	}
	var log bytes.Buffer
	server := httptest.NewServer(newMux(t, web.Config{
		Log: slog.New(slog.NewTextHandler(&log, nil)),
		Routes: []web.Route{
			route("/whole", func(w io.Writer) error { _, err := io.WriteString(w, large); return err }),
			route("/half", func(w io.Writer) error { _, _ = io.WriteString(w, large); return fail }),
		},
	}))
	defer server.Close()
	get := func(path string) (string, error) {
		resp, err := server.Client().Get(server.URL + path)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	if got, err := get("/whole"); err != nil || got != large {
		t.Errorf("%d bytes of %d came: %v", len(got), len(large), err)
	}
	if got, err := get("/half"); err == nil {
		t.Errorf("half an answer of %d bytes passes for a whole one", len(got))
	}
	server.Close()
	if !strings.Contains(log.String(), fail.Error()) {
		t.Errorf("the log doesn't say why:\n%s", &log)
	}
}
