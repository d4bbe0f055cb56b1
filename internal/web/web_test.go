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

	"github.com/prometheus/client_golang/prometheus"

	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// people are the access tokens that the tests' server knows.
var people = map[string]web.Caller{
	"alice":   {User: "@alice:test"},
	"guest":   {User: "@1:test", Guest: true},
	"root":    {User: "@root:test", Admin: true},
	"locked":  {User: "@locked:test", Locked: true},
	"suspend": {User: "@suspended:test", Suspended: true},
}

func authenticate(_ context.Context, token string, _ *web.Request) (web.Caller, error) {
	c, ok := people[token]
	if !ok {
		return c, mxerr.New(mxerr.CodeUnknownToken, "The access token is not valid.").With("soft_logout", false)
	}
	return c, nil
}

func newMux(t testing.TB, c web.Config) *web.Mux {
	t.Helper()
	if c.Authenticate == nil {
		c.Authenticate = authenticate
	}
	mux, err := web.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return mux
}

func ok(context.Context, *web.Request) (*web.Response, error) { return web.Empty, nil }

func failing(err error) web.Handler {
	return func(context.Context, *web.Request) (*web.Response, error) { return nil, err }
}

// do sends "METHOD /path" with an optional token and body.
func do(h http.Handler, methodAndPath, token, body string) *httptest.ResponseRecorder {
	method, path, _ := strings.Cut(methodAndPath, " ")
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func wantAnswer(t *testing.T, w *httptest.ResponseRecorder, status int, contains string) {
	t.Helper()
	if w.Code != status || !strings.Contains(w.Body.String(), contains) {
		t.Errorf("got %d %s, want %d with %s", w.Code, w.Body, status, contains)
	}
	if w.Header().Get("Access-Control-Allow-Origin") != "*" {
		t.Error("an answer without CORS headers")
	}
}

func TestAuthentication(t *testing.T) {
	route := func(path string, auth web.Auth) web.Route {
		return web.Route{Method: "GET", Path: path, Op: path, Auth: auth, Handle: func(_ context.Context, r *web.Request) (*web.Response, error) {
			return web.JSON(map[string]any{"user": r.Caller.User}), nil
		}}
	}
	routes := []web.Route{
		route("/user", web.User), route("/guest", web.Guest), route("/optional", web.Optional),
		route("/none", web.None), route("/admin", web.Admin), route("/logout", web.User), route("/join", web.User),
	}
	routes[5].WhileLocked = true
	routes[6].NotSuspended = true
	mux := newMux(t, web.Config{Routes: routes})
	for _, c := range []struct {
		path, token string
		status      int
		body        string
	}{
		{"/user", "", 401, "M_MISSING_TOKEN"},
		{"/user", "wrong", 401, `"soft_logout":false`},
		{"/user", "alice", 200, "@alice:test"},
		{"/user?access_token=alice", "", 200, "@alice:test"},
		{"/user?access_token=root", "alice", 200, "@alice:test"},
		{"/user", "guest", 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"/guest", "guest", 200, "@1:test"},
		{"/optional", "", 200, `"user":""`},
		{"/optional", "alice", 200, "@alice:test"},
		{"/optional", "wrong", 401, "M_UNKNOWN_TOKEN"},
		{"/none", "wrong", 200, `"user":""`},
		{"/admin", "alice", 403, "M_FORBIDDEN"},
		{"/admin", "root", 200, "@root:test"},
		{"/user", "locked", 401, `"soft_logout":true`},
		{"/logout", "locked", 200, "@locked:test"},
		{"/user", "suspend", 200, "@suspended:test"},
		{"/join", "suspend", 403, "M_USER_SUSPENDED"},
	} {
		t.Run(c.path+" "+c.token, func(t *testing.T) {
			wantAnswer(t, do(mux, "GET "+c.path, c.token, ""), c.status, c.body)
		})
	}
}

func TestUnrecognized(t *testing.T) {
	mux := newMux(t, web.Config{Routes: []web.Route{
		{Method: "GET", Path: "/a/{x}", Op: "a", Auth: web.None, Handle: ok},
		{Method: "PUT", Path: "/a/{x}", Op: "b", Auth: web.None, Handle: ok},
	}})
	wantAnswer(t, do(mux, "GET /nowhere", "", ""), 404, "M_UNRECOGNIZED")
	wantAnswer(t, do(mux, "GET /a/", "", ""), 404, "M_UNRECOGNIZED")
	w := do(mux, "DELETE /a/b", "", "")
	wantAnswer(t, w, 405, "M_UNRECOGNIZED")
	if got := w.Header().Get("Allow"); got != "GET, PUT, OPTIONS" {
		t.Errorf("Allow: %s", got)
	}
	wantAnswer(t, do(mux, "GET /a/%ff", "", ""), 400, "M_INVALID_PARAM")
	wantAnswer(t, do(mux, "GET /a/%00", "", ""), 400, "M_INVALID_PARAM")
	wantAnswer(t, do(mux, "GET /a/b?x=%ff", "", ""), 400, "M_INVALID_PARAM")
	wantAnswer(t, do(mux, "GET /a/b?x=%zz", "", ""), 400, "M_INVALID_PARAM")
	wantAnswer(t, do(mux, "OPTIONS /nowhere", "", ""), 204, "")
	wantAnswer(t, do(mux, "HEAD /a/b", "", ""), 200, "")
}

// A path that another port serves is no unknown one.
func TestRoutesElsewhere(t *testing.T) {
	mux := newMux(t, web.Config{
		Routes:    []web.Route{{Method: "GET", Path: "/a/{id}", Op: "a", Auth: web.None, Handle: ok}},
		Elsewhere: []web.Route{{Method: "GET", Path: "/b/{id}", Op: "b", Auth: web.Server}, {Method: "GET", Path: "/a/{id}", Op: "a"}},
	})
	wantAnswer(t, do(mux, "GET /a/1", "", ""), 200, "")
	wantAnswer(t, do(mux, "PUT /a/1", "", ""), 405, "M_UNRECOGNIZED")
	wantAnswer(t, do(mux, "PUT /c/1", "", ""), 404, "M_UNRECOGNIZED")
	w := do(mux, "GET /b/1", "", "")
	wantAnswer(t, w, 404, "M_UNRECOGNIZED")
	if !strings.Contains(w.Body.String(), "another port") {
		t.Errorf("it says %s", w.Body)
	}
	w = do(mux, "PUT /b/1", "", "")
	wantAnswer(t, w, 405, "M_UNRECOGNIZED")
	if got := w.Header().Get("Allow"); got != "GET, OPTIONS" {
		t.Errorf("Allow: %s", got)
	}
}

func TestErrors(t *testing.T) {
	secret := errors.New("disk at /secret is full")
	for name, c := range map[string]struct {
		err    error
		status int
		body   string
	}{
		"code":     {mxerr.Forbidden("no"), 403, `{"errcode":"M_FORBIDDEN","error":"no"}`},
		"wrapped":  {errors.Join(secret, mxerr.NotFound("gone")), 404, `{"errcode":"M_NOT_FOUND","error":"gone"}`},
		"status":   {web.Status(mxerr.New(mxerr.CodeUnknown, "That alias is taken."), 409), 409, "That alias is taken."},
		"extra":    {mxerr.BadJSON("v").With("room_version", "99"), 400, `"room_version":"99"`},
		"own code": {mxerr.New("ORG.EXAMPLE_ODD", "odd"), 400, "ORG.EXAMPLE_ODD"},
		"internal": {secret, 500, `{"errcode":"M_UNKNOWN","error":"The server failed to handle the request."}`},
		"more authentication": {&web.InteractiveError{Session: "s"}, 401,
			`{"flows":[],"params":{},"session":"s"}`},
		"failed stage": {&web.InteractiveError{Session: "s", Flows: []web.Flow{{Stages: []string{"a", "b"}}},
			Completed: []string{"a"}, Err: mxerr.Forbidden("Wrong password.")}, 401,
			`{"completed":["a"],"errcode":"M_FORBIDDEN","error":"Wrong password.","flows":[{"stages":["a","b"]}],"params":{},"session":"s"}`},
	} {
		t.Run(name, func(t *testing.T) {
			mux := newMux(t, web.Config{Routes: []web.Route{
				{Method: "GET", Path: "/", Op: "o", Auth: web.None, Handle: failing(c.err)}}})
			w := do(mux, "GET /", "", "")
			wantAnswer(t, w, c.status, c.body)
			if strings.Contains(w.Body.String(), "secret") {
				t.Error("the client learns what is none of its business")
			}
		})
	}
}

// TestLogSaysWhyAndKeepsSecrets: causes of a 500 are in the log, tokens and queries are not.
func TestLogSaysWhyAndKeepsSecrets(t *testing.T) {
	var out bytes.Buffer
	mux := newMux(t, web.Config{
		Log: slog.New(slog.NewTextHandler(&out, nil)),
		Routes: []web.Route{
			{Method: "GET", Path: "/panic", Op: "panics", Auth: web.User, Handle: func(context.Context, *web.Request) (*web.Response, error) {
				panic("at the disco")
			}},
			{Method: "GET", Path: "/fail", Op: "fails", Handle: failing(errors.New("disk is full"))},
			{Method: "GET", Path: "/nil", Op: "nothing", Handle: func(context.Context, *web.Request) (*web.Response, error) { return nil, nil }},
			{Method: "GET", Path: "/bad", Op: "unencodable", Handle: func(context.Context, *web.Request) (*web.Response, error) {
				return web.JSON(make(chan int)), nil
			}},
		},
	})
	for _, path := range []string{"/panic", "/fail", "/nil", "/bad"} {
		wantAnswer(t, do(mux, "GET "+path+"?access_token=alice&filter=private", "", ""), 500, "M_UNKNOWN")
	}
	wantAnswer(t, do(mux, "GET /panic", "hunter2", ""), 401, "M_UNKNOWN_TOKEN")
	log := out.String()
	for _, want := range []string{"at the disco", "web_test.go", "disk is full", "op=nothing", "unsupported type", "user=@alice:test", "errcode=M_UNKNOWN_TOKEN"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	for _, secret := range []string{"access_token", "private", "hunter2"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log says %q", secret)
		}
	}
	if lines := strings.Count(log, "msg=request"); lines != 5 {
		t.Errorf("%d lines for 5 requests", lines)
	}
}

// TestOthersFailuresAreNoErrors: what another server failed at is in the log with its reason, and not as an error of this one.
func TestOthersFailuresAreNoErrors(t *testing.T) {
	var out bytes.Buffer
	mux := newMux(t, web.Config{
		Log:    slog.New(slog.NewTextHandler(&out, nil)),
		Routes: []web.Route{{Method: "GET", Path: "/", Op: "ask", Auth: web.None, Handle: failing(mxerr.New(mxerr.CodeConnectionFailed, "b.test can't be reached"))}},
	})
	wantAnswer(t, do(mux, "GET /", "", ""), 502, "M_CONNECTION_FAILED")
	if log := out.String(); !strings.Contains(log, "level=INFO") || !strings.Contains(log, "b.test can't be reached") {
		t.Errorf("logged %q", log)
	}
}

// TestTranslate: errors of lower packages get an errcode where the server knows one for them.
func TestTranslate(t *testing.T) {
	refused := errors.New("text has a NUL")
	mux := newMux(t, web.Config{
		Translate: func(err error) error {
			if errors.Is(err, refused) {
				return mxerr.BadJSON("A text must not contain NUL.")
			}
			return err
		},
		Routes: []web.Route{
			{Method: "GET", Path: "/known", Op: "a", Auth: web.None, Handle: failing(fmt.Errorf("store: %w", refused))},
			{Method: "GET", Path: "/unknown", Op: "b", Auth: web.None, Handle: failing(errors.New("else"))},
			{Method: "GET", Path: "/coded", Op: "c", Auth: web.None, Handle: failing(errors.Join(refused, mxerr.Forbidden("no")))},
		},
	})
	wantAnswer(t, do(mux, "GET /known", "", ""), 400, "M_BAD_JSON")
	wantAnswer(t, do(mux, "GET /unknown", "", ""), 500, "M_UNKNOWN")
	wantAnswer(t, do(mux, "GET /coded", "", ""), 403, "M_FORBIDDEN")
}

func TestClientGone(t *testing.T) {
	var out bytes.Buffer
	mux := newMux(t, web.Config{
		Log: slog.New(slog.NewTextHandler(&out, nil)),
		Routes: []web.Route{{Method: "GET", Path: "/", Op: "wait", Auth: web.None, Handle: func(ctx context.Context, _ *web.Request) (*web.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	if w.Body.Len() != 0 || out.Len() != 0 {
		t.Errorf("answered %q and logged %q to nobody", w.Body, out.String())
	}
}

func TestBody(t *testing.T) {
	type content struct {
		Invite []string         `json:"invite"`
		Depth  int64            `json:"depth"`
		Nested struct{ A bool } `json:"nested"`
	}
	mux := newMux(t, web.Config{Routes: []web.Route{
		{Method: "POST", Path: "/strict", Op: "strict", Auth: web.None, MaxBody: 2000, Handle: func(_ context.Context, r *web.Request) (*web.Response, error) {
			var c content
			if err := r.Decode(&c); err != nil {
				return nil, err
			}
			return web.JSON(c), nil
		}},
		{Method: "POST", Path: "/lenient", Op: "lenient", Auth: web.None, EmptyBody: true, Handle: func(_ context.Context, r *web.Request) (*web.Response, error) {
			o, err := r.Object()
			return web.Raw(o), err
		}},
	}})
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"invite":["@a:b"],"depth":3}`, 200, `{"invite":["@a:b"],"depth":3`},
		{` {"unknown":"<&>"} `, 200, `"depth":0`},
		{``, 400, `{"errcode":"M_NOT_JSON","error":"The request must have a JSON body."}`},
		{`{"invite":`, 400, `M_NOT_JSON`},
		{`{} {}`, 400, `M_NOT_JSON`},
		{`[]`, 400, `{"errcode":"M_BAD_JSON","error":"The body must be a JSON object."}`},
		{`null`, 400, `M_BAD_JSON`},
		{`{"invite":"@a:b"}`, 400, `\"invite\" must be an array of strings.`},
		{`{"invite":[1]}`, 400, `\"invite\" must be an array of strings.`},
		{`{"depth":"3"}`, 400, `\"depth\" must be an integer.`},
		{`{"depth":1.5}`, 400, `\"depth\" must be an integer.`},
		{`{"depth":1e400}`, 400, `\"depth\" must be an integer.`},
		{`{"nested":{"A":1}}`, 400, `\"nested.A\" must be true or false.`},
		{`{"nested":[]}`, 400, `\"nested\" must be an object.`},
		{"{\"a\":\"\xff\"}", 400, `not valid UTF-8`},
		{strings.Repeat(`{"a":`, 101) + `1` + strings.Repeat(`}`, 101), 400, `M_BAD_JSON`},
		{`{"a":"` + strings.Repeat("x", 2000) + `"}`, 413, `M_TOO_LARGE`},
	} {
		wantAnswer(t, do(mux, "POST /strict", "", c.body), c.status, c.want)
	}
	wantAnswer(t, do(mux, "POST /lenient", "", ""), 200, "{}")
	wantAnswer(t, do(mux, "POST /lenient", "", `{"a":"[[[\"{"}`), 200, `{"a":"[[[\"{"}`)

	// A body of unknown length is measured while it is read.
	r := httptest.NewRequest("POST", "/strict", io.MultiReader(strings.NewReader(`{"a":"`), strings.NewReader(strings.Repeat("x", 3000))))
	r.ContentLength = -1
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	wantAnswer(t, w, 413, "M_TOO_LARGE")
}

func TestQuery(t *testing.T) {
	mux := newMux(t, web.Config{Routes: []web.Route{
		{Method: "GET", Path: "/q/{user}", Op: "q", Auth: web.None, Handle: func(_ context.Context, r *web.Request) (*web.Response, error) {
			n, err := r.QueryInt("limit", 10)
			if err != nil {
				return nil, err
			}
			b, err := r.QueryBool("full", false)
			if err != nil {
				return nil, err
			}
			u, err := r.UserID("user")
			if err != nil {
				return nil, err
			}
			return web.JSON([]any{n, b, u, r.Query("filter"), r.QueryAll("via"), r.HasQuery("empty")}), nil
		}},
	}})
	wantAnswer(t, do(mux, "GET /q/@a:b", "", ""), 200, `[10,false,"@a:b","",null,false]`)
	wantAnswer(t, do(mux, "GET /q/@a%2fb:c?limit=5&full=true&filter={;}&via=x&via=y&empty=", "", ""), 200,
		`[5,true,"@a/b:c","{;}",["x","y"],true]`)
	wantAnswer(t, do(mux, "GET /q/@a:b?limit=1.5", "", ""), 400, "M_INVALID_PARAM")
	wantAnswer(t, do(mux, "GET /q/@a:b?full=yes", "", ""), 400, "M_INVALID_PARAM")
	wantAnswer(t, do(mux, "GET /q/nobody", "", ""), 400, "M_INVALID_PARAM")
}

func TestRateLimits(t *testing.T) {
	limits := &web.Limits{}
	limits.User[web.RateSend] = web.Limit{PerSecond: 0.5, Burst: 2}
	limits.Address[web.RateLogin] = web.Limit{PerSecond: 0.01, Burst: 1}
	registry := prometheus.NewRegistry()
	mux := newMux(t, web.Config{Limits: limits, Metrics: registry, Routes: []web.Route{
		{Method: "PUT", Path: "/send", Op: "send", Rate: web.RateSend, Handle: ok},
		{Method: "POST", Path: "/login", Op: "login", Rate: web.RateLogin, Auth: web.None, Handle: ok},
		{Method: "GET", Path: "/read", Op: "read", Handle: ok},
	}})
	for range 2 {
		wantAnswer(t, do(mux, "PUT /send", "alice", ""), 200, "{}")
	}
	w := do(mux, "PUT /send", "alice", "")
	wantAnswer(t, w, 429, `"retry_after_ms":`)
	if got := w.Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After: %q, want 2 seconds", got)
	}
	wantAnswer(t, do(mux, "PUT /send", "root", ""), 200, "{}")
	wantAnswer(t, do(mux, "GET /read", "alice", ""), 200, "{}")
	wantAnswer(t, do(mux, "POST /login", "", ""), 200, "{}")
	wantAnswer(t, do(mux, "POST /login", "", ""), 429, "M_LIMIT_EXCEEDED")

	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var refused float64
	for _, f := range families {
		if f.GetName() == "myelin_http_limited_total" {
			for _, m := range f.GetMetric() {
				refused += m.GetCounter().GetValue()
			}
		}
	}
	if refused != 2 {
		t.Errorf("metrics count %v refusals, want 2", refused)
	}
}

// TestOverNetwork: deadlines and body handling on a real connection.
func TestOverNetwork(t *testing.T) {
	mux := newMux(t, web.Config{Routes: []web.Route{
		{Method: "PUT", Path: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey?}", Op: "setRoomStateWithKey", Auth: web.User,
			Handle: func(_ context.Context, r *web.Request) (*web.Response, error) {
				body, err := r.Object()
				if err != nil {
					return nil, err
				}
				return web.JSON([]any{r.Path("roomId"), r.Path("eventType"), r.Path("stateKey"), len(body)}), nil
			}},
	}})
	server := httptest.NewServer(mux)
	defer server.Close()
	for path, want := range map[string]string{
		"/!r:b/state/t/a%2Fb": `["!r:b","t","a/b",2]`,
		"/!r:b/state/t/":      `["!r:b","t","",2]`,
		"/!r:b/state/t":       `["!r:b","t","",2]`,
		"/!r:b/state/t%2fu":   `["!r:b","t/u","",2]`,
	} {
		r, err := http.NewRequestWithContext(t.Context(), "PUT", server.URL+"/_matrix/client/v3/rooms"+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "bearer alice")
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(body) != want {
			t.Errorf("%s: %d %s, want %s", path, resp.StatusCode, body, want)
		}
	}
}

// TestBodyStream: a body is read as it comes, and no further than allowed.
func TestBodyStream(t *testing.T) {
	var read string
	upload := func(_ context.Context, r *web.Request) (*web.Response, error) {
		read = ""
		from, err := r.BodyStream(10)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(from)
		if err != nil {
			return nil, err
		}
		read = string(text)
		if _, err := r.BodyStream(10); err == nil {
			t.Error("a body was read twice")
		}
		return web.Empty, nil
	}
	mux := newMux(t, web.Config{Routes: []web.Route{{Method: "POST", Path: "/up", Op: "up", Auth: web.None, MaxBody: 1, Handle: upload}}})
	wantAnswer(t, do(mux, "POST /up", "", "0123456789"), http.StatusOK, "{}")
	if read != "0123456789" {
		t.Errorf("read %q", read)
	}
	wantAnswer(t, do(mux, "POST /up", "", "0123456789a"), http.StatusRequestEntityTooLarge, "M_TOO_LARGE")
	unannounced := httptest.NewRequest("POST", "/up", io.MultiReader(strings.NewReader("0123456789"), strings.NewReader("a")))
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, unannounced)
	wantAnswer(t, w, http.StatusRequestEntityTooLarge, "M_TOO_LARGE")

	server := httptest.NewServer(mux)
	defer server.Close()
	resp, err := http.Post(server.URL+"/up", "text/plain", io.MultiReader(strings.NewReader("01234"), strings.NewReader("56789")))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || read != "0123456789" {
		t.Errorf("over a network: %s, read %q", resp.Status, read)
	}
}
