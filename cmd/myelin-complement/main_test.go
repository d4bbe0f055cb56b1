package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority writes a certificate authority into a folder and returns its certificate.
func authority(t *testing.T, folder string) *x509.CertPool {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.crt", "CERTIFICATE", der)
	write("ca.key", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// freeAddresses are two addresses that nobody listened on a moment ago.
func freeAddresses(t *testing.T) (first, second string) {
	t.Helper()
	var found [2]string
	for i := range found {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // both stay taken until they are told apart
		found[i] = l.Addr().String()
	}
	return found[0], found[1]
}

func TestServesBothPortsAndStartsAgain(t *testing.T) {
	p := place{name: "hs1", data: t.TempDir(), ca: t.TempDir()}
	p.http, p.https = freeAddresses(t)
	roots := authority(t, p.ca)
	secure := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "hs1"}, DisableKeepAlives: true,
	}}
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.serve(ctx) }()
		healthy := make(chan struct{})
		go func() {
			defer close(healthy)
			for ctx.Err() == nil && p.health(ctx) != nil {
			}
		}()
		select {
		case <-healthy:
		case err := <-done:
			t.Fatalf("the server ended: %v", err)
		}
		resp, err := secure.Get("https://" + p.https + "/_matrix/key/v2/server")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"server_name":"hs1"`) {
			t.Errorf("over TLS: %s %s %v", resp.Status, body, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusesWithoutNameOrAuthority(t *testing.T) {
	p := place{data: t.TempDir(), ca: t.TempDir(), http: "127.0.0.1:0", https: "127.0.0.1:0"}
	if err := p.serve(t.Context()); err == nil || !strings.Contains(err.Error(), "SERVER_NAME") {
		t.Errorf("without a name: %v", err)
	}
	p.name = "hs1"
	if err := p.serve(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate authority") {
		t.Errorf("without an authority: %v", err)
	}
}
