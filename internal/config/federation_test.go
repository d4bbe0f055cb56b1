package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate writes a self-signed certificate and its key into a folder.
func certificate(t *testing.T, folder, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(folder, name+".crt"), filepath.Join(folder, name+".key")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestFederationKeys(t *testing.T) {
	options := func(list ...string) Sources { return Sources{Options: list} }
	for name, c := range map[string]struct {
		from Sources
		want []string // nothing: it is right
	}{
		"nothing":                {options(), nil},
		"off":                    {options("federation.enabled=false"), nil},
		"plain behind a proxy":   {options("federation.listen=127.0.0.1:8449"), nil},
		"TLS of its own":         {options("federation.listen=:8448", "federation.tls_cert=/a", "federation.tls_key=/b"), nil},
		"lists":                  {options("federation.allow=*.example.org,192.0.2.?:8448,[2001:db8::1]", "federation.deny=evil.*", "federation.allow_networks=10.0.0.0/8,::1"), nil},
		"not an address":         {options("federation.listen=8448"), []string{"federation.listen", ":8448"}},
		"the port for clients":   {options("federation.listen=127.0.0.1:8008"), []string{"federation.listen", "client.listen", "empty"}},
		"a certificate alone":    {options("federation.listen=:8448", "federation.tls_cert=/a"), []string{"federation.tls_key", "private key"}},
		"a key alone":            {options("federation.listen=:8448", "federation.tls_key=/a"), []string{"federation.tls_cert", "certificate"}},
		"TLS without a port":     {options("federation.tls_cert=/a", "federation.tls_key=/b"), []string{"federation.tls_cert", "federation.listen", ":8448"}},
		"not a network":          {options("federation.allow_networks=10.0.0"), []string{"federation.allow_networks", "10.0.0.0/8"}},
		"a network with a zone":  {options("federation.allow_networks=fe80::1%eth0"), []string{"federation.allow_networks", "10.0.0.0/8"}},
		"a word for yes":         {options("federation.enabled=perhaps"), []string{"federation.enabled", "true"}},
		"a port of letters":      {options("federation.listen=:https"), []string{"federation.listen", ":8448"}},
		"a URL for a server":     {options("federation.deny=https://evil.example"), []string{"federation.deny", "*.example.org"}},
		"notaries":               {options("federation.notaries=notary.example.org,192.0.2.1:8448"), nil},
		"a network of notary":    {options("federation.notaries=*.example.org"), []string{"federation.notaries", "example.org"}},
		"a user for a server":    {options("federation.allow=@a:b"), []string{"federation.allow", "example.org"}},
		"an empty server":        {Sources{File: write(t, "[federation]\nallow = ['']")}, []string{"federation.allow", "example.org"}},
		"an endless server name": {options("federation.allow=" + strings.Repeat("a", maxServerGlob+1)), []string{"federation.allow"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Load(c.from)
			if c.want == nil && err != nil {
				t.Fatal(err)
			} else if c.want != nil && err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestFiles(t *testing.T) {
	folder := t.TempDir()
	cert, key := certificate(t, folder, "a.example")
	_, other := certificate(t, folder, "b.example")
	prose := write(t, "not PEM")
	for name, c := range map[string]struct {
		files Federation
		want  []string
	}{
		"none":                 {Federation{}, nil},
		"good":                 {Federation{TLSCert: cert, TLSKey: key, CAFile: cert}, nil},
		"no certificate":       {Federation{TLSCert: folder + "/none", TLSKey: key}, []string{"federation.tls_cert", "there is no file", folder + "/none"}},
		"no key":               {Federation{TLSCert: cert, TLSKey: folder + "/none"}, []string{"federation.tls_key", "there is no file", folder + "/none"}},
		"another's key":        {Federation{TLSCert: cert, TLSKey: other}, []string{"federation.tls_cert", "federation.tls_key", "do not fit"}},
		"prose":                {Federation{TLSCert: prose, TLSKey: key}, []string{"federation.tls_cert", "PEM"}},
		"no authority":         {Federation{CAFile: folder + "/none"}, []string{"federation.ca_file", "there is no file"}},
		"authority of prose":   {Federation{CAFile: prose}, []string{"federation.ca_file", "BEGIN CERTIFICATE"}},
		"a folder":             {Federation{CAFile: folder}, []string{"federation.ca_file", "write the path"}},
		"all problems at once": {Federation{TLSCert: prose, TLSKey: key, CAFile: prose}, []string{"federation.tls_cert", "federation.ca_file"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := Default()
			config.Federation = c.files
			err := config.CheckFiles()
			if c.want == nil && err != nil {
				t.Fatal(err)
			} else if c.want != nil && err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestNetworks(t *testing.T) {
	f := Federation{AllowNetworks: []string{"10.1.2.3/8", "::1", "::ffff:10.2.0.0/112"}}
	got := f.Networks()
	if len(got) != 3 || got[2].String() != "10.2.0.0/16" || got[0].String() != "10.0.0.0/8" || got[1].String() != "::1/128" {
		t.Errorf("%v", got)
	}
}
