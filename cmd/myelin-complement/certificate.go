package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// certify makes a key and a certificate for a server, signed by the authority in two PEM files, and writes them into two more.
func certify(name, caCert, caKey, certPath, keyPath string, now time.Time) error {
	authority, err := tls.LoadX509KeyPair(caCert, caKey)
	if err != nil {
		return fmt.Errorf("read the certificate authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return fmt.Errorf("make a serial number: %w", err)
	}
	wanted := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(30 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	host := name
	if h, _, err := net.SplitHostPort(name); err == nil {
		host = h
	}
	if ip := net.ParseIP(host); ip != nil {
		wanted.IPAddresses = []net.IP{ip}
	} else {
		wanted.DNSNames = []string{host}
	}
	signed, err := x509.CreateCertificate(rand.Reader, wanted, authority.Leaf, key.Public(), authority.PrivateKey)
	if err != nil {
		return fmt.Errorf("sign the certificate: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the key: %w", err)
	}
	chain := append(encode("CERTIFICATE", signed), encode("CERTIFICATE", authority.Leaf.Raw)...)
	if err := errors.Join(os.WriteFile(certPath, chain, 0o600), os.WriteFile(keyPath, encode("PRIVATE KEY", secret), 0o600)); err != nil {
		return fmt.Errorf("keep the certificate: %w", err)
	}
	return nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
