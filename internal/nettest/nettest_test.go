package nettest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// serve answers each request on a host with its path until the test ends.
func serve(t *testing.T, h *Host, port string) {
	t.Helper()
	l, err := h.Listen("tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			fmt.Fprint(w, r.URL.Path, len(body))
		}
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

func client(t *testing.T, h *Host) *http.Client {
	transport := &http.Transport{DialContext: h.Dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func get(c *http.Client, url string) (string, error) {
	resp, err := c.Post(url, "text/plain", strings.NewReader(strings.Repeat("x", 3<<20)))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func TestDelaysTakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		a, b := n.Host("a.test"), n.Host("b.test")
		serve(t, b, "80")
		c := client(t, a)
		start := time.Now()
		if got, err := get(c, "http://b.test/x"); err != nil || got != "/x3145728" {
			t.Fatalf("%q %v", got, err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("a perfect network took %s", took)
		}
		n.SetFaults(Faults{Min: time.Second, Max: time.Second})
		if _, err := get(c, "http://b.test/x"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 2*time.Second || took > 10*time.Second {
			t.Errorf("there and back took %s", took)
		}
		if _, err := get(c, "http://c.test/"); err == nil {
			t.Error("nobody answers")
		}
		if got, err := a.LookupNetIP(t.Context(), "ip", "b.test"); err != nil || len(got) != 1 || got[0] != b.Addr || !Prefix.Contains(b.Addr) {
			t.Errorf("%v %v", got, err)
		}
	})
}

// TestSeedDecides: the same seed gives the same faults, another seed others.
func TestSeedDecides(t *testing.T) {
	run := func(t *testing.T, seed uint64) (outcome []string) {
		synctest.Test(t, func(t *testing.T) {
			n := New(seed)
			serve(t, n.Host("b.test"), "80")
			c := client(t, n.Host("a.test"))
			n.SetFaults(Faults{Min: time.Millisecond, Max: time.Second, Loss: 0.05, Refuse: 0.1})
			start := time.Now()
			for i := range 30 {
				_, err := get(c, fmt.Sprintf("http://b.test/%d", i))
				outcome = append(outcome, fmt.Sprint(err, time.Since(start)))
			}
		})
		return outcome
	}
	first, again, other := run(t, 1), run(t, 1), run(t, 2)
	if !slices.Equal(first, again) {
		t.Errorf("the same seed:\n%s\n\n%s", strings.Join(first, "\n"), strings.Join(again, "\n"))
	}
	if slices.Equal(first, other) {
		t.Error("another seed changes nothing")
	}
	failed := 0
	for _, line := range first {
		if !strings.HasPrefix(line, "<nil>") {
			failed++
		}
	}
	if failed == 0 || failed == len(first) {
		t.Errorf("%d of %d failed", failed, len(first))
	}
}

func TestPartition(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			n := New(seed)
			a, b, watcher := n.Host("a.test"), n.Host("b.test"), n.Steady("watcher")
			serve(t, b, "80")
			c, w := client(t, a), client(t, watcher)
			if _, err := get(c, "http://b.test/"); err != nil {
				t.Fatal(err)
			}
			n.Partition([]string{"a.test"})
			start := time.Now()
			if _, err := get(c, "http://b.test/"); err == nil {
				t.Error("across the partition")
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("it took %s", took)
			}
			if _, err := get(w, "http://b.test/"); err != nil {
				t.Errorf("the steady one: %v", err)
			}
			c.CloseIdleConnections()
			n.Heal()
			if _, err := get(c, "http://b.test/"); err != nil {
				t.Errorf("healed: %v", err)
			}
		})
	}
}

func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		a, b := n.Host("a.test"), n.Host("b.test")
		l, err := b.Listen("tcp", ":1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Listen("tcp", ":1"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a port twice: %v", err)
		}
		ours, err := a.Dial(t.Context(), "tcp", "b.test:1")
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go b.Crash()
		if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("here: %v", err)
		}
		if _, err := theirs.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("there: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the port: %v", err)
		}
		if _, err := b.Dial(t.Context(), "tcp", "a.test:1"); !errors.Is(err, errCrashed) {
			t.Errorf("a dead machine dials: %v", err)
		}
		again := n.Host("b.test")
		if again.Addr != b.Addr {
			t.Errorf("the address was %s and is %s", b.Addr, again.Addr)
		}
		serve(t, again, "80")
		if _, err := get(client(t, a), "http://b.test/"); err != nil {
			t.Error(err)
		}
	})
}

func TestDeadlinesAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		a, b := n.Host("a.test"), n.Host("b.test")
		l, err := b.Listen("tcp", ":1")
		if err != nil {
			t.Fatal(err)
		}
		ours, err := a.Dial(t.Context(), "tcp", b.Addr.String()+":1")
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ours.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reading: %v", err)
		}
		ours.SetDeadline(time.Now().Add(time.Second))
		if n, err := ours.Write(make([]byte, 2*window)); !errors.Is(err, os.ErrDeadlineExceeded) || n != window {
			t.Errorf("writing: %d %v", n, err)
		}
		ours.Close()
		if got, err := io.ReadAll(theirs); err != nil || len(got) != window {
			t.Errorf("the rest: %d %v", len(got), err)
		}
		if _, err := theirs.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("to nobody: %v", err)
		}
		theirs.Close()
		if len(n.conns) != 0 {
			t.Errorf("remembered: %d", len(n.conns))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n.SetFaults(Faults{Min: time.Minute, Max: time.Minute})
		if _, err := a.Dial(ctx, "tcp", "b.test:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dialling: %v", err)
		}
	})
}

// TestCertificates: HTTP/2 over TLS by certificates of the authority, in a bubble.
func TestCertificates(t *testing.T) {
	authority, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	ca, cert, key := filepath.Join(folder, "ca"), filepath.Join(folder, "cert"), filepath.Join(folder, "key")
	if err := errors.Join(authority.Write(ca), authority.Certify("b.test", cert, key)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		l, err := n.Host("b.test").Listen("tcp", ":443")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })}
		go server.ServeTLS(l, cert, key)
		defer server.Close()
		transport := &http.Transport{DialContext: n.Host("a.test").Dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		if got, err := get(&http.Client{Transport: transport}, "https://b.test/"); err != nil || got != "HTTP/2.0" {
			t.Errorf("%q %v", got, err)
		}
	})
}
