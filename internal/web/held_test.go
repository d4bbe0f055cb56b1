package web_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/web"
)

const mebibyte = 1 << 20

// slow is a body that gives some bytes and then waits until it is let go.
type slow struct {
	left  int
	letGo <-chan struct{}
}

func (s *slow) Read(p []byte) (int, error) {
	if s.left == 0 {
		<-s.letGo
		return 0, io.EOF
	}
	n := min(len(p), s.left)
	s.left -= n
	return n, nil
}

// servers is a mux with a route for large bodies of other servers.
func servers(t *testing.T, c web.Config, handle web.Handler) *web.Mux {
	c.AuthenticateServer = signedBy
	c.Routes = []web.Route{{Method: "PUT", Path: "/send", Op: "send", Auth: web.Server, MaxBody: 10 * mebibyte, Handle: handle}}
	return newMux(t, c)
}

func from(h http.Handler, address, origin string, body io.Reader) int {
	r := httptest.NewRequest("PUT", "/send", body)
	r.RemoteAddr = address + ":1"
	r.Header.Set("Authorization", "X-Matrix "+origin)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func done(context.Context, *web.Request) (*web.Response, error) { return web.Empty, nil }

// Bodies that nobody has proved to have signed count for the address they come from: it and all strangers together are held to a share, whomever they
// say they are, and servers that proved who they are get on.
func TestUnprovenBodiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mux := servers(t, web.Config{}, done)
		small := func() io.Reader { return strings.NewReader("{}") }
		if code := from(mux, "9.0.0.1", "honest.test", small()); code != 200 {
			t.Fatalf("an honest request: %d", code)
		}
		letGo := make(chan struct{})
		var wg sync.WaitGroup
		var mu sync.Mutex
		codes := map[int]int{}
		hold := func(address string, size int) {
			wg.Go(func() {
				code := from(mux, address, "honest.test", &slow{size, letGo})
				mu.Lock()
				codes[code]++
				mu.Unlock()
			})
			synctest.Wait()
		}
		refused := func() int {
			mu.Lock()
			defer mu.Unlock()
			return codes[429]
		}
		for range 4 {
			hold("6.6.6.6", 5*mebibyte)
		}
		if refused() != 2 {
			t.Errorf("%d of 4 bodies of 5 MiB from one address were refused", refused())
		}
		if code := from(mux, "6.6.6.7", "honest.test", small()); code != 200 {
			t.Errorf("from the address next to it: %d", code)
		}
		for _, address := range []string{"7.0.0.1", "7.0.0.2", "7.0.0.3", "7.0.0.4", "7.0.0.5"} {
			hold(address, 10*mebibyte)
		}
		if got := refused(); got != 2+4 {
			t.Errorf("%d bodies of strangers were refused", got)
		}
		for i := range 20 {
			if code := from(mux, fmt.Sprintf("8.0.0.%d", i), "new.test", bytes.NewReader(make([]byte, 100<<10))); code != 200 {
				t.Errorf("a stranger with a small body, while others hold large ones: %d", code)
			}
		}
		if code := from(mux, "9.0.0.1", "honest.test", bytes.NewReader(make([]byte, 10*mebibyte))); code != 200 {
			t.Errorf("a large body of an honest server while strangers hold all of their share: %d", code)
		}
		close(letGo)
		wg.Wait()
		if code := from(mux, "7.0.0.9", "new.test", bytes.NewReader(make([]byte, 10*mebibyte))); code != 200 {
			t.Errorf("a stranger once the others are gone: %d", code)
		}
	})
}

// What a server has signed counts for it until it is answered.
func TestServersHoldTheirOwnBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		letGo := make(chan struct{})
		mux := servers(t, web.Config{}, func(_ context.Context, r *web.Request) (*web.Response, error) {
			if r.Origin == "greedy.test" {
				<-letGo
			}
			return web.Empty, nil
		})
		var wg sync.WaitGroup
		var mu sync.Mutex
		codes := map[int]int{}
		for range 5 {
			wg.Go(func() {
				code := from(mux, "6.6.6.6", "greedy.test", bytes.NewReader(make([]byte, 9*mebibyte)))
				mu.Lock()
				codes[code]++
				mu.Unlock()
			})
			synctest.Wait()
		}
		if codes[429] != 2 {
			t.Errorf("of 5 bodies of 9 MiB of one server %d were refused", codes[429])
		}
		if code := from(mux, "6.6.6.6", "modest.test", bytes.NewReader(make([]byte, 9*mebibyte))); code != 200 {
			t.Errorf("another server: %d", code)
		}
		close(letGo)
		wg.Wait()
		if code := from(mux, "6.6.6.6", "greedy.test", bytes.NewReader(make([]byte, 9*mebibyte))); code != 200 {
			t.Errorf("the same server later: %d", code)
		}
	})
}

// one is a listener that accepts one connection.
type one chan net.Conn

func (o one) Accept() (net.Conn, error) {
	if c, ok := <-o; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (o one) Close() error   { return nil }
func (o one) Addr() net.Addr { return &net.TCPAddr{} }

// Who sends a body byte by byte is cut off: soon where its request can't be believed anyway, and after a while otherwise.
func TestSlowBodies(t *testing.T) {
	for origin, most := range map[string]time.Duration{"unknown": 6 * time.Second, "honest.test": 21 * time.Second} {
		t.Run(origin, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := make(one, 1)
				server := &http.Server{Handler: servers(t, web.Config{}, done)}
				go func() { _ = server.Serve(listener) }()
				defer server.Close()
				defer close(listener)
				ours, theirs := net.Pipe()
				listener <- theirs
				began := time.Now()
				go func() {
					fmt.Fprintf(ours, "PUT /send HTTP/1.1\r\nHost: here.test\r\nAuthorization: X-Matrix %s\r\nContent-Length: 200000\r\n\r\n", origin)
					for {
						if _, err := ours.Write([]byte{' '}); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				}()
				_, _ = io.ReadAll(ours)
				if took := time.Since(began); took > most {
					t.Errorf("took %v", took)
				}
				ours.Close()
				time.Sleep(2 * time.Second) // until the other goroutine has seen it
			})
		})
	}
}
