package nettest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"time"
)

// Authority certifies names. Its certificates hold in the year 2000 too, where the clocks of bubbles begin. They are of
// Ed25519, whose signatures have one length, so that handshakes are alike from run to run.
type Authority struct {
	key  ed25519.PrivateKey
	cert *x509.Certificate

	mu     sync.Mutex
	serial int64 // guarded by mu
}

var (
	certifiedFrom  = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	certifiedUntil = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// NewAuthority makes an authority.
func NewAuthority() (*Authority, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Authority of a test"}, NotBefore: certifiedFrom, NotAfter: certifiedUntil,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, public, key)
	if err != nil {
		return nil, fmt.Errorf("make the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	return &Authority{key: key, cert: cert, serial: 1}, nil
}

// Write writes the authority's certificate into a PEM file.
func (a *Authority) Write(path string) error {
	return writePEM(path, "CERTIFICATE", a.cert.Raw)
}

// Certify writes a certificate for a name or an address, and its key, into two PEM files.
func (a *Authority) Certify(name, certPath, keyPath string) error {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key for %s: %w", name, err)
	}
	a.mu.Lock()
	a.serial++
	serial := a.serial
	a.mu.Unlock()
	about := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: certifiedFrom, NotAfter: certifiedUntil,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		about.IPAddresses = []net.IP{ip}
	} else {
		about.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, about, a.cert, public, a.key)
	if err != nil {
		return fmt.Errorf("certify %s: %w", name, err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write the key of %s: %w", name, err)
	}
	if err := writePEM(certPath, "CERTIFICATE", der); err != nil {
		return err
	}
	return writePEM(keyPath, "PRIVATE KEY", secret)
}

func writePEM(path, kind string, der []byte) error {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
