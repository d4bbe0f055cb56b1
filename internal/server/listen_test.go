package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/config"
	"myelin/internal/nettest"
)

// certify writes a self-signed certificate for localhost with a serial number, and its key.
func certify(t *testing.T, f *config.Federation, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{f.TLSCert: {Type: "CERTIFICATE", Bytes: der}, f.TLSKey: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		// As if a second had passed for clocks of file systems.
		if err := os.Chtimes(path, time.Time{}, time.Unix(serial, 0)); err != nil {
			t.Fatal(err)
		}
	}
}

// startFederation runs a server with a port for other servers and returns its address.
func startFederation(t *testing.T, c *config.Config) (address string, stop func()) {
	t.Helper()
	var mu sync.Mutex
	bound := make(map[string]string) // configured address to the one that it became
	ready := make(chan struct{})
	s, err := New(t.Context(), Config{
		Config: c,
		Listen: func(network, address string) (net.Listener, error) {
			l, err := net.Listen(network, address)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				bound[address] = l.Addr().String()
			}
			return l, err
		},
		Ready: func(net.Addr) { close(ready) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return bound[c.Federation.Listen], stop
}

func TestServersArePlainlyServedBehindAProxy(t *testing.T) {
	c := testConfig(t)
	c.Federation.Listen = "localhost:0"
	address, _ := startFederation(t, c)
	if status, body := get(t, "http://"+address+"/"); status != 200 || !strings.Contains(body, "Matrix") {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := get(t, "http://"+address+"/_matrix/client/versions"); status != 404 {
		t.Errorf("the port for other servers serves clients: %d", status)
	}
}

// TestTLSOfItsOwn: HTTP/2 is spoken, and a certificate that is replaced is used without a restart.
func TestTLSOfItsOwn(t *testing.T) {
	c := testConfig(t)
	folder := t.TempDir()
	c.Federation.Listen = "localhost:0"
	c.Federation.TLSCert, c.Federation.TLSKey = filepath.Join(folder, "crt"), filepath.Join(folder, "key")
	certify(t, &c.Federation, 1)
	address, _ := startFederation(t, c)
	ask := func() *http.Response {
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
		}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("https://" + address + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	first := ask()
	if serial := first.TLS.PeerCertificates[0].SerialNumber.Int64(); first.ProtoMajor != 2 || serial != 1 {
		t.Errorf("HTTP/%d, certificate %d", first.ProtoMajor, serial)
	}
}

func TestCertificateIsReadAgain(t *testing.T) {
	folder := t.TempDir()
	f := &config.Federation{TLSCert: filepath.Join(folder, "crt"), TLSKey: filepath.Join(folder, "key")}
	certify(t, f, 1)
	var log bytes.Buffer
	c, err := openCertificate(f, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		t.Helper()
		c.mu.Lock()
		c.looked = time.Time{} // as if time had passed
		c.mu.Unlock()
		got, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("at first: %d", got)
	}
	old, err := os.ReadFile(f.TLSKey)
	if err != nil {
		t.Fatal(err)
	}
	certify(t, f, 2)
	fresh, err := os.ReadFile(f.TLSKey)
	if err != nil {
		t.Fatal(err)
	}
	// Half replaced: the key is still the old one.
	if err := errors.Join(os.WriteFile(f.TLSKey, old, 0o600), os.Chtimes(f.TLSKey, time.Time{}, time.Unix(1, 0))); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 1 || !strings.Contains(log.String(), "do not fit") {
		t.Errorf("half replaced: %d, %s", got, &log)
	}
	if err := errors.Join(os.WriteFile(f.TLSKey, fresh, 0o600), os.Chtimes(f.TLSKey, time.Time{}, time.Unix(2, 0))); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("replaced: %d", got)
	}
	if err := os.Remove(f.TLSCert); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("removed: %d", got)
	}
}

// slowListener hands out connections with made-up addresses.
type slowListener struct{ conns chan net.Conn }

func (l slowListener) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (slowListener) Close() error   { return nil }
func (slowListener) Addr() net.Addr { return &net.TCPAddr{} }

type from struct {
	net.Conn
	address string
	closed  *bool
}

func (f from) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.address))
}

func (f from) Close() error { *f.closed = true; return nil }

func TestConnectionsAreBounded(t *testing.T) {
	inner := slowListener{make(chan net.Conn, 10)}
	l := bound(inner, 5, 2, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")})
	arrive := func(address string) *bool {
		closed := new(bool)
		inner.conns <- from{address: address, closed: closed}
		return closed
	}
	accept := func(want string) net.Conn {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := c.RemoteAddr().String(); got != want {
			t.Errorf("accepted %s, want %s", got, want)
		}
		return c
	}
	arrive("192.0.2.1:1")
	arrive("192.0.2.1:2")
	refused := arrive("192.0.2.1:3")
	arrive("[2001:db8::1]:1")
	first := accept("192.0.2.1:1")
	accept("192.0.2.1:2")
	accept("[2001:db8::1]:1")
	if !*refused {
		t.Error("a third connection of one address is kept")
	}
	first.Close()
	first.Close() // as package net/http does
	arrive("192.0.2.1:4")
	accept("192.0.2.1:4")
	arrive("192.0.2.1:5")
	arrive("198.51.100.1:1")
	arrive("198.51.100.1:2")
	full := arrive("[2001:db8::2]:1")
	proxy := accept("198.51.100.1:1")
	accept("198.51.100.1:2")
	close(inner.conns)
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) || !*full {
		t.Errorf("a sixth connection: closed %v, %v", *full, err)
	}
	proxy.Close()
	if l.open != 4 || len(l.from) != 2 {
		t.Errorf("open: %d, %v", l.open, l.from)
	}
}

// TestSlowHeadersAreCutOff: who sends its headers byte by byte doesn't keep a connection for long.
func TestSlowHeadersAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := nettest.New(1)
		l, err := network.Host("here.test").Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		p := newPort(l, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
		done := make(chan error, 1)
		go func() { done <- p.serve() }()
		ours, err := network.Host("there.test").Dial(t.Context(), "tcp", "here.test:80")
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		start := time.Now()
		for _, b := range []byte("GET / HTTP/1.1\r\nHost: " + strings.Repeat("a", 1000)) {
			if _, err := ours.Write([]byte{b}); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("cut off after %s", took)
		}
		l.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		p.cancel()
	})
}
