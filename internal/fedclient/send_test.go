package fedclient

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

const versionPath = "GET /_matrix/federation/v1/version"

// flood writes zeros, or whatever, until the client goes away.
func flood(w io.Writer, piece []byte) {
	for {
		if _, err := w.Write(piece); err != nil {
			return
		}
	}
}

func TestHostileAnswers(t *testing.T) {
	white := bytes.Repeat([]byte(" "), 4096)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"endless": {func(w http.ResponseWriter, _ *http.Request) { flood(w, white) }, "too large"},
		"announced as big": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99999999")
			flood(w, white)
		}, "too large"},
		"a gzip bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			flood(z, white)
		}, "too large"},
		"gzip members without content": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			var empty bytes.Buffer
			gzip.NewWriter(&empty).Close()
			flood(w, empty.Bytes())
		}, "too large"},
		"an encoding nobody asked for": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			fmt.Fprint(w, "xxx")
		}, "not asked for"},
		"no gzip although it says so": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			fmt.Fprint(w, `{"server":{}}`)
		}, "gzip"},
		"headers without end": {func(w http.ResponseWriter, _ *http.Request) {
			for i := range 1000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1000))
			}
		}, "header"},
		"nested too deep": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("[", 30_000)) }, "too deep"},
		"no JSON":         {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<html>`) }, "makes no sense"},
		"another form":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"server":[]}`) }, "makes no sense"},
		"no UTF-8":        {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{\"server\":{\"name\":\"\xff\"}}") }, "UTF-8"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"server":`)
		}, "EOF"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://www.example/", http.StatusFound)
		}, "302"},
		"a redirect to this machine": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1/", http.StatusPermanentRedirect)
		}, "308"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			r := n.remote("hs.example", "8.8.8.1")
			r.mux.HandleFunc(versionPath, c.answer)
			_, err := n.sqlite().Version(t.Context(), to("hs.example"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, which says nothing of %q", err, c.want)
			}
			for _, d := range n.dials() {
				if !strings.HasPrefix(d, "8.8.8.1:") {
					t.Errorf("dialled %s", d)
				}
			}
		})
	}
}

// An answer that comes in drops, or stops, holds nobody for ever.
func TestSlowAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		every time.Duration
		least time.Duration
		most  time.Duration
	}{
		"stops":      {time.Hour, idleLimit, idleLimit + time.Second},
		"in drops":   {10 * time.Second, time.Minute, 2*time.Minute + time.Second},
		"no headers": {-1, 2 * time.Minute, 2*time.Minute + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				r := n.remote("hs.example", "8.8.8.1")
				r.mux.HandleFunc("PUT /_matrix/federation/v1/send/{txn}", func(w http.ResponseWriter, rq *http.Request) {
					for c.every > 0 {
						if _, err := fmt.Fprint(w, " "); err != nil {
							return
						}
						if http.NewResponseController(w).Flush() != nil {
							return
						}
						select {
						case <-time.After(c.every):
						case <-rq.Context().Done():
							return
						}
					}
					<-rq.Context().Done()
				})
				began := time.Now()
				_, err := n.sqlite().SendTransaction(t.Context(), to("hs.example"), "1", Transaction{})
				if took := time.Since(began); err == nil || took < c.least || took > c.most {
					t.Fatalf("%v after %v", err, took)
				}
			})
		})
	}
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		r.answer("GET /_matrix/federation/v1/query/profile", 200, `{"displayname":"Bob"}`)
		var heard []id.ServerName
		c := n.sqlite(func(cfg *Config) { cfg.Heard = func(s id.ServerName) { heard = append(heard, s) } })
		ask := func() error {
			_, err := c.QueryProfile(t.Context(), to("hs.example"), "@bob:hs.example", "")
			return err
		}
		unreachable := func(asked bool) time.Time {
			t.Helper()
			var u *Unreachable
			if err := ask(); !errors.As(err, &u) || u.Asked != asked || !u.RetryAt.After(time.Now()) {
				t.Fatalf("%v; wanted asked = %v", err, asked)
			}
			return u.RetryAt
		}
		check(t, ask())
		c.http.CloseIdleConnections()
		up := n.down(r.address)
		var last time.Duration
		for i := range 15 {
			at := unreachable(true)
			wait := time.Until(at)
			if want := min(firstBackoff<<i, maxBackoff); wait > want || wait < want*3/4 {
				t.Fatalf("failure %d: %v to wait, not about %v", i, wait, want)
			}
			unreachable(false)
			last = wait
			if i < 14 {
				time.Sleep(wait)
			}
		}
		if retryAt(c).IsZero() {
			t.Error("nothing is known of the failures")
		}
		up()
		unreachable(false)
		// Who is urgent is not held up, and its success is one for all.
		if _, err := c.QueryProfile(t.Context(), Call{Origin: us, Destination: "hs.example", Urgent: true}, "@bob:hs.example", ""); err != nil {
			t.Fatal(err)
		}
		check(t, ask())
		// A request that comes in says that the server is back.
		c.http.CloseIdleConnections()
		up = n.down(r.address)
		unreachable(true)
		up()
		unreachable(false)
		c.Heard("hs.example")
		check(t, ask())
		if len(heard) != 1 || heard[0] != "hs.example" {
			t.Errorf("heard of %v", heard)
		}
		_ = last
	})
}

// What a server says is not a failure of the server, unless a proxy says it or it asks to be left alone.
func TestWhatCountsAsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		status, text := 0, ""
		r.mux.HandleFunc("GET /_matrix/federation/v1/query/profile", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, text)
		})
		c := n.sqlite()
		for _, s := range []struct {
			status int
			text   string
			code   mxerr.Code
			pause  time.Duration
		}{
			{404, `{"errcode":"M_NOT_FOUND","error":"no such user"}`, mxerr.CodeNotFound, 0},
			{500, `{"errcode":"M_UNKNOWN","error":"oops"}`, mxerr.CodeUnknown, 0},
			{500, `oops`, mxerr.CodeUnknown, 0},
			{504, `{"errcode":"M_NOT_YET_UPLOADED"}`, "M_NOT_YET_UPLOADED", 0},
			{502, `<html>`, mxerr.CodeUnknown, firstBackoff},
			{429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":20000}`, mxerr.CodeLimitExceeded, 20 * time.Second},
			{429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1e300}`, mxerr.CodeLimitExceeded, maxBackoff},
			{400, `{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","room_version":"99"}`, mxerr.CodeIncompatibleRoomVersion, 0},
		} {
			c.Heard("hs.example")
			status, text = s.status, s.text
			_, err := c.QueryProfile(t.Context(), to("hs.example"), "@bob:hs.example", "")
			remote, ok := errors.AsType[*RemoteError](err)
			if !ok || remote.Status != s.status || remote.Err.Code != s.code || !mxerr.Is(err, s.code) {
				t.Errorf("%d %s: %v", s.status, s.text, err)
			}
			wait := time.Duration(0)
			if at := retryAt(c); !at.IsZero() {
				wait = time.Until(at)
			}
			if wait > s.pause || wait < s.pause*3/4 {
				t.Errorf("%d %s: %v to wait, not %v", s.status, s.text, wait, s.pause)
			}
			if s.status == 400 && remote.Err.Extra["room_version"] != "99" {
				t.Errorf("extra fields: %v", remote.Err.Extra)
			}
		}
	})
}

func TestRequestsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		var now, most atomic.Int64
		r.mux.HandleFunc(versionPath, func(w http.ResponseWriter, _ *http.Request) {
			if k := now.Add(1); k > most.Load() {
				most.Store(k)
			}
			time.Sleep(time.Second)
			now.Add(-1)
			fmt.Fprint(w, `{}`)
		})
		c := n.sqlite()
		var wg sync.WaitGroup
		for range 4 * maxAtOnce {
			wg.Go(func() {
				if _, err := c.Version(t.Context(), to("hs.example")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most.Load() != maxAtOnce {
			t.Errorf("%d requests at once", most.Load())
		}
	})
}

// A caller who gives up holds nothing against the server.
func TestCancelledRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		r.mux.HandleFunc(versionPath, func(_ http.ResponseWriter, rq *http.Request) {
			<-rq.Context().Done()
			panic(http.ErrAbortHandler)
		})
		c := n.sqlite()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := c.Version(ctx, to("hs.example")); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		if !retryAt(c).IsZero() {
			t.Error("the server is left alone")
		}
	})
}

func TestWhoMayBeCalled(t *testing.T) {
	n := newNetwork(t)
	c := n.sqlite(func(cfg *Config) { cfg.Deny = []string{"bad.example"} })
	for _, call := range []Call{{us, "bad.example", false, 0}, {us, "", false, 0}} {
		if _, err := c.QueryProfile(t.Context(), call, "@a:b", ""); !errors.Is(err, ErrNotPermitted) {
			t.Errorf("%+v: %v", call, err)
		}
	}
	if _, err := c.QueryProfile(t.Context(), Call{Origin: "other.example", Destination: "hs.example"}, "@a:b", ""); !errors.Is(err, ErrNotOurs) {
		t.Errorf("a foreign origin: %v", err)
	}
	if _, err := c.QueryProfile(t.Context(), to("also.example"), "@a:b", ""); err == nil {
		t.Error("the server asked itself")
	}
	if len(n.dials()) != 0 {
		t.Errorf("dialled %v", n.dials())
	}
	c.Close()
	if _, err := c.QueryProfile(t.Context(), to("hs.example"), "@a:b", ""); err == nil {
		t.Error("a closed client asks")
	}
}

// What is remembered of servers is bounded, whoever makes us look at them.
func TestServersAreForgotten(t *testing.T) {
	var s servers
	s.init()
	for i := range maxServers + 100 {
		s.of(id.ServerName(fmt.Sprint("s", i))).failed(time.Now())
	}
	if len(s.list) > maxServers {
		t.Errorf("%d servers are remembered", len(s.list))
	}
}

func TestFailuresAtOnceCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d destination
		began := time.Now()
		time.Sleep(time.Second)
		for range 10 {
			d.failed(began)
		}
		if d.failures != 1 {
			t.Errorf("%d failures", d.failures)
		}
		time.Sleep(time.Second)
		d.failed(time.Now())
		if d.failures != 2 {
			t.Errorf("%d failures", d.failures)
		}
	})
}

// Streams that take all the room there is wait for keys of the same server: these go beside.
func TestKeysGoBesideOtherRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		release := make(chan struct{})
		r.mux.HandleFunc(versionPath, func(w http.ResponseWriter, _ *http.Request) {
			<-release
			fmt.Fprint(w, `{}`)
		})
		c := n.sqlite()
		var wg sync.WaitGroup
		for range maxAtOnce {
			wg.Go(func() { _, _ = c.Version(t.Context(), to("hs.example")) })
		}
		synctest.Wait()
		began := time.Now()
		if _, err := c.Keys(t.Context(), "hs.example", []sign.KeyID{r.key.ID}, now()); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		close(release)
		wg.Wait()
	})
}

// A caller with little time left proves nothing about the server; one that waited for long does.
func TestHurriedCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		r.mux.HandleFunc(versionPath, func(_ http.ResponseWriter, rq *http.Request) {
			<-rq.Context().Done()
			panic(http.ErrAbortHandler) // no answer, not even an empty one
		})
		c := n.sqlite()
		for wait, counts := range map[time.Duration]bool{time.Second: false, 15 * time.Second: true} {
			c.Heard("hs.example")
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			began := time.Now()
			if _, err := c.Version(ctx, to("hs.example")); err == nil || time.Since(began) != wait {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			cancel()
			if left := !retryAt(c).IsZero(); left != counts {
				t.Errorf("after %v the server is left alone: %v", wait, left)
			}
		}
	})
}

// retryAt is until when hs.example is left alone; the zero time if it isn't.
func retryAt(c *Client) time.Time {
	d := c.servers.known("hs.example")
	if d == nil {
		return time.Time{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.retryAt
}
