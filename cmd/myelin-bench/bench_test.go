package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake speaks as much of the client-server API as the bench needs. It stands for a remote end, so that
// the bench's reading of responses and its bookkeeping are tested without a server.
type fake struct {
	mu     sync.Mutex // guards what follows
	log    []string   // every event as a client sees it
	change chan struct{}
	users  int
	rooms  int
	drop   int // of deliveries: every drop-th event is never shown
	limit  int // requests still to be refused with 429
}

func newFake() *fake { return &fake{change: make(chan struct{})} }

func (f *fake) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /_matrix/client/versions", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"versions":["v1.19"]}`) })
	m.HandleFunc("POST /_matrix/client/v3/register", f.register)
	m.HandleFunc("POST /_matrix/client/v3/createRoom", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.rooms++
		fmt.Fprintf(w, `{"room_id":"!room%d:fake"}`, f.rooms)
	})
	m.HandleFunc("POST /_matrix/client/v3/join/{room}", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.limit > 0 {
			f.limit--
			w.WriteHeader(429)
			fmt.Fprint(w, `{"errcode":"M_LIMIT_EXCEEDED","error":"slowly","retry_after_ms":1}`)
			return
		}
		fmt.Fprintf(w, `{"room_id":%q}`, r.PathValue("room"))
	})
	m.HandleFunc("PUT /_matrix/client/v3/rooms/{room}/send/{type}/{txn}", f.event)
	m.HandleFunc("PUT /_matrix/client/v3/rooms/{room}/state/{type}/{key}", f.event)
	m.HandleFunc("PUT /_matrix/client/v3/rooms/{room}/typing/{user}", empty)
	m.HandleFunc("POST /_matrix/client/v3/rooms/{room}/receipt/{type}/{event}", empty)
	m.HandleFunc("POST /_matrix/client/v3/rooms/{room}/invite", empty)
	m.HandleFunc("GET /_matrix/client/v3/sync", f.sync)
	return m
}

func empty(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) }

func (f *fake) register(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Username string
		Auth     struct{ Session string }
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Auth.Session == "" {
		w.WriteHeader(401)
		fmt.Fprint(w, `{"session":"s1","flows":[{"stages":["m.login.dummy"]}],"params":{}}`)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users++
	fmt.Fprintf(w, `{"user_id":"@%s:fake","access_token":"t%d","device_id":"D"}`, body.Username, f.users)
}

func (f *fake) event(w http.ResponseWriter, r *http.Request) {
	content, _ := io.ReadAll(r.Body)
	if !json.Valid(content) || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer t") {
		w.WriteHeader(400)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	event := fmt.Sprintf(`{"content":%s,"event_id":"$%d"}`, content, len(f.log))
	if f.drop > 0 && len(f.log)%f.drop == 0 {
		event = "null"
	}
	f.log = append(f.log, event)
	close(f.change)
	f.change = make(chan struct{})
	fmt.Fprintf(w, `{"event_id": "$%d"}`, len(f.log)-1)
}

func (f *fake) sync(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.Atoi(r.URL.Query().Get("since"))
	first := err != nil
	wait, _ := strconv.Atoi(r.URL.Query().Get("timeout"))
	timer := time.NewTimer(time.Duration(wait) * time.Millisecond)
	defer timer.Stop()
	for {
		f.mu.Lock()
		log, change := f.log, f.change
		f.mu.Unlock()
		if first || len(log) > since {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"rooms":{"events":[`, strings.Join(log[min(since, len(log)):], ","))
			w.(http.Flusher).Flush() // so the response comes in chunks
			fmt.Fprintf(w, `]},"next_batch" : "%d"}`, len(log))
			return
		}
		select {
		case <-change:
		case <-timer.C:
			fmt.Fprintf(w, `{"next_batch":"%d"}`, since)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// runBench runs the command as a user would and returns the results.
func runBench(t *testing.T, args ...string) []result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "out.json")
	c := command()
	var out, logs bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&logs)
	c.SetArgs(append(args, "--json", file, "--duration", "150ms", "--warm-up", "20ms"))
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, logs.String())
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var results []result
	if err := json.Unmarshal(raw, &results); err != nil || len(results) == 0 {
		t.Fatalf("%v: %s", err, raw)
	}
	for _, r := range results {
		if !strings.Contains(out.String(), r.Scenario) {
			t.Errorf("the table lacks %s:\n%s", r.Scenario, out.String())
		}
		for _, m := range r.Metrics {
			if math.IsNaN(m.Value) || m.Value < 0 && m.Name != "memory per connection" { // which shrinks if garbage goes
				t.Errorf("%s: %s is %v", r.Scenario, m.Name, m.Value)
			}
		}
	}
	return results
}

// ownPID names this process where the bench can look into it.
func ownPID() string {
	if runtime.GOOS == "linux" {
		return strconv.Itoa(os.Getpid())
	}
	return "0"
}

func must(t *testing.T, r result, name string) float64 {
	t.Helper()
	v, ok := r.Metrics.get(name)
	if !ok {
		t.Fatalf("%s has no %q: %+v", r.Scenario, name, r.Metrics)
	}
	return v
}

func TestScenarios(t *testing.T) {
	f := newFake()
	f.limit = 3
	s := httptest.NewServer(f.handler())
	defer s.Close()
	pid := ownPID()

	r := runBench(t, "send-one-room", "--url", s.URL, "--connections", "1,4", "--users", "2", "--repeat", "2", "--baseline", "--folder", t.TempDir(), "--pid", pid)
	if len(r) != 2 || r[0].Runs != 2 || len(r[0].Each) != 2 || must(t, r[1], sends) <= 0 || must(t, r[1], "sends per baseline row, 64") <= 0 || must(t, r[0], "failed requests") != 0 {
		t.Errorf("%+v", r)
	}
	r = runBench(t, "send-64-rooms", "--url", s.URL, "--rooms", "3")
	if must(t, r[0], sends) <= 0 {
		t.Errorf("%+v", r)
	}
	r = runBench(t, "fan-out", "--url", s.URL+"/", "--waiters", "5", "--rate", "200")
	if rate := must(t, r[0], sends); rate < 20 || rate > 260 || must(t, r[0], "deliveries") < rate || must(t, r[0], "lost deliveries") != 0 {
		t.Errorf("%+v", r)
	}
	r = runBench(t, "load", "--url", s.URL, "--users", "3", "--rooms", "2", "--concurrency", "2", "--listeners", "0",
		"--mix", "message=1,reaction=1,state=1,receipt=1,typing=1")
	for _, name := range []string{sends, "reactions", "states", "receipts", "typings"} {
		if must(t, r[0], name) <= 0 {
			t.Errorf("no %s: %+v", name, r)
		}
	}
	r = runBench(t, "big-room", "--url", s.URL, "--entries", "20")
	if len(r) != 2 || must(t, r[1], "cost against the room of two") <= 0 {
		t.Errorf("%+v", r)
	}
	runBench(t, "big-room", "--url", s.URL, "--entries", "20", "--fill", "invites")
	runBench(t, "big-room", "--url", s.URL, "--entries", "4", "--fill", "members")
}

// The fake sends every room's events to every user, so these need a fresh one.
func TestScenariosThatListen(t *testing.T) {
	serve := func() string {
		s := httptest.NewServer(newFake().handler())
		t.Cleanup(s.Close)
		return s.URL
	}
	r := runBench(t, "fan-out-heavy", "--url", serve(), "--waiters", "4", "--deliveries", "4", "--concurrency", "2")
	if must(t, r[0], "deliveries") <= must(t, r[0], sends) || must(t, r[0], "lost deliveries") != 0 {
		t.Errorf("%+v", r)
	}
	r = runBench(t, "initial-sync", "--url", serve(), "--rooms", "5", "--members", "2")
	if must(t, r[0], "initial sync") <= 0 {
		t.Errorf("%+v", r)
	}
	r = runBench(t, "idle-sync", "--url", serve(), "--connections", "20", "--users", "2", "--pid", ownPID())
	if must(t, r[0], "waiting connections") != 20 || must(t, r[0], "responses while idle") != 0 {
		t.Errorf("%+v", r)
	}
}

func TestLostDeliveriesAreReported(t *testing.T) {
	f := newFake()
	f.drop = 3
	s := httptest.NewServer(f.handler())
	defer s.Close()
	r := runBench(t, "fan-out", "--url", s.URL, "--waiters", "2", "--rate", "100")
	if must(t, r[0], "lost deliveries") == 0 {
		t.Errorf("%+v", r[0].Metrics)
	}
}

func TestMistakesAreExplained(t *testing.T) {
	s := httptest.NewServer(newFake().handler())
	defer s.Close()
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte("@a:fake ta\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"load", "--url", "example.org"}, "--url must be like"},
		{[]string{"load", "--url", s.URL, "--mix", "cake=1"}, "--mix must be like"},
		{[]string{"load", "--url", s.URL, "--mix", "message=0"}, "no weight"},
		{[]string{"load", "--url", s.URL, "--repeat", "0"}, "must be positive"},
		{[]string{"load", "--url", s.URL, "--tokens", tokens}, "has 1 users, this scenario needs 16"},
		{[]string{"load", "--url", s.URL, "--tokens", "/nonexistent"}, "read --tokens"},
		{[]string{"load", "--url", s.URL + "/nowhere"}, "answered 404"},
		{[]string{"send-one-room", "--url", s.URL, "--connections", "x"}, "--connections must be like"},
		{[]string{"fan-out-heavy", "--url", s.URL, "--waiters", "1"}, "--waiters must be"},
		{[]string{"big-room", "--url", s.URL, "--fill", "cake"}, "--fill must be"},
		{[]string{"idle-sync", "--url", s.URL, "--pid", "999999999"}, "memory of process"},
	} {
		cmd := command()
		cmd.SetArgs(append(c.args, "--quiet"))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 0: time.Millisecond} {
		if got := h.quantile(q); math.Abs(float64(got-want)) > 0.04*float64(want) {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	for _, d := range []time.Duration{-1, 0, 1, 31, 32, 33, 63, 64, 1000, time.Second, time.Hour, math.MaxInt64} {
		b := bucketOf(d)
		if b < 0 || b >= buckets {
			t.Errorf("%d falls into bucket %d", d, b)
		}
		if got := valueOf(b); d > 0 && d < 10*time.Minute && math.Abs(float64(got-d)) > 0.04*float64(d) {
			t.Errorf("%d is counted as %d", d, got)
		}
	}
	if (&histogram{}).quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
}

func TestMedian(t *testing.T) {
	m := median([]metrics{{{"a", 1, ""}, {"f", 1, failures}}, {{"a", 5, ""}, {"f", 2, failures}}, {{"a", 2, ""}, {"f", 0, failures}}})
	if m[0].Value != 2 || m[1].Value != 3 {
		t.Errorf("%+v", m)
	}
	if m := median([]metrics{{{"a", 1, ""}}, {{"a", 4, ""}}}); m[0].Value != 2.5 {
		t.Errorf("%+v", m)
	}
}

func TestTextField(t *testing.T) {
	for body, want := range map[string]string{
		`{"next_batch":"s1"}`: "s1", `{"x":"next_batch","next_batch" : "a\"\u0041"}`: `a"A`, `{"next_batch":5}`: "", `{"next_batch":"s`: "", `"next_batch"`: "", ``: "",
	} {
		if got, ok := textField([]byte(body), "next_batch"); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", body, got, ok)
		}
	}
}

func TestStamps(t *testing.T) {
	var got []int64
	stamps([]byte(mark+"17 "+mark+"x "+mark+"18"), func(n int64) { got = append(got, n) })
	if len(got) != 2 || got[0] != 17 || got[1] != 18 {
		t.Error(got)
	}
}

// FuzzResponse feeds the reader of responses with anything.
func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\nTrailer: x\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\nConnection: close\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 500 No\r\n\r\nbody to the end"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := conn{r: bufio.NewReader(bytes.NewReader(raw))}
		status, _, err := c.read()
		if err == nil && (status < 200 || len(c.in) > len(raw)) {
			t.Errorf("status %d with %d bytes", status, len(c.in))
		}
	})
}

func FuzzTextField(f *testing.F) {
	f.Add([]byte(`{"next_batch":"s1"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, ok := textField(raw, "next_batch")
		var whole struct {
			Next *string `json:"next_batch"`
		}
		// Where the document is a plain object with one such key, the answers agree.
		if bytes.Count(raw, []byte("next_batch")) == 1 && bytes.HasPrefix(raw, []byte(`{"next_batch":`)) && json.Unmarshal(raw, &whole) == nil && whole.Next != nil && (!ok || got != *whole.Next) {
			t.Errorf("%s: %q, %v", raw, got, ok)
		}
	})
}

// BenchmarkRequest is what the bench itself costs per request: a round trip on a kept-alive connection to a server
// that does nothing.
func BenchmarkRequest(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(empty))
	defer s.Close()
	at, err := parseEndpoint(s.URL)
	if err != nil {
		b.Fatal(err)
	}
	c := conn{at: at, timeout: time.Minute}
	defer c.close()
	b.ReportAllocs()
	for b.Loop() {
		if status, _, err := c.do(b.Context(), "PUT", "/x", "token", []byte(`{}`)); err != nil || status != 200 {
			b.Fatal(status, err)
		}
	}
}

func TestChunked(t *testing.T) {
	var raw bytes.Buffer
	raw.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	w := httputil.NewChunkedWriter(&raw)
	want := strings.Repeat("0123456789", 20000)
	for i := 0; i < len(want); i += 7777 {
		if _, err := io.WriteString(w, want[i:min(i+7777, len(want))]); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	raw.WriteString("\r\n")
	c := conn{r: bufio.NewReader(&raw)}
	if status, last, err := c.read(); err != nil || status != 200 || last || string(c.in) != want {
		t.Errorf("%d %v %v, %d bytes", status, last, err, len(c.in))
	}
}
