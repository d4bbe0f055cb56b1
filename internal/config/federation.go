package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"myelin/matrix/id"
)

// checkFederation looks at the keys about other servers. It opens no file.
func (c *Config) checkFederation(wrong func(key, format string, args ...any)) {
	f := &c.Federation
	if f.Listen != "" {
		if err := checkListen(f.Listen); err != nil {
			wrong("federation.listen", "%v; write an address and a port such as :8448", err)
		} else if f.Listen == c.Client.Listen && !strings.HasSuffix(f.Listen, ":0") {
			wrong("federation.listen", "%q is client.listen too; leave federation.listen empty to serve clients and servers on one port", f.Listen)
		}
	}
	switch {
	case f.TLSCert != "" && f.TLSKey == "":
		wrong("federation.tls_key", "is empty while federation.tls_cert is set; write the path of the certificate's private key")
	case f.TLSKey != "" && f.TLSCert == "":
		wrong("federation.tls_cert", "is empty while federation.tls_key is set; write the path of the certificate")
	case f.TLSCert != "" && f.Listen == "":
		wrong("federation.tls_cert", "is set while federation.listen is empty, so that nothing would use it; write federation.listen = \":8448\", or remove both TLS files")
	}
	for _, s := range f.AllowNetworks {
		if _, err := parseNetwork(s); err != nil {
			wrong("federation.allow_networks", "%q is not an address or a network; write 10.0.0.5 or 10.0.0.0/8", s)
		}
	}
	for _, s := range c.Identity.AllowNetworks {
		if _, err := parseNetwork(s); err != nil {
			wrong("identity.allow_networks", "%q is not an address or a network; write 10.0.0.5 or 10.0.0.0/8", s)
		}
	}
	for _, name := range c.Identity.Servers {
		if _, err := id.ParseServerName(name); err != nil {
			wrong("identity.servers", "%q is not the name of a server; write a name such as example.org", name)
		}
	}
	for _, s := range c.Push.AllowNetworks {
		if _, err := parseNetwork(s); err != nil {
			wrong("push.allow_networks", "%q is not an address or a network; write 10.0.0.5 or 10.0.0.0/8", s)
		}
	}
	for _, name := range f.Notaries {
		if _, err := id.ParseServerName(name); err != nil {
			wrong("federation.notaries", "%q is not the name of a server; write a name such as example.org", name)
		}
	}
	for _, list := range []struct {
		key   string
		globs []string
	}{{"federation.allow", f.Allow}, {"federation.deny", f.Deny}} {
		for _, glob := range list.globs {
			if !serverGlob(glob) {
				wrong(list.key, "%q cannot match the name of a server; write a name such as example.org, with * for any letters, as in *.example.org", glob)
			}
		}
	}
}

// maxServerGlob is the length of the longest server name, with some room for wildcards.
const maxServerGlob = 300

// serverGlob reports whether a glob consists of what the names of servers consist of.
func serverGlob(s string) bool {
	return s != "" && len(s) <= maxServerGlob && strings.IndexFunc(s, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("-.:[]*?", r)
	}) < 0
}

// CheckFiles opens the files that the configuration names, which Load does not. The error lists what is wrong
// with them, a line each, with the key and what to do.
func (c *Config) CheckFiles() error {
	f := &c.Federation
	var problems []error
	if f.TLSCert != "" {
		if _, err := f.Certificate(); err != nil {
			problems = append(problems, err)
		}
	}
	if _, err := f.Roots(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// Certificate reads federation.tls_cert and federation.tls_key.
func (f *Federation) Certificate() (tls.Certificate, error) {
	cert, err := readFile("federation.tls_cert", f.TLSCert)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readFile("federation.tls_key", f.TLSKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		// The error says which of the two is at fault; it repeats nothing of the key.
		return tls.Certificate{}, fmt.Errorf("federation.tls_cert: %s and federation.tls_key: %s do not fit together: %w; write the paths of a PEM certificate and of the PEM key it was made for", f.TLSCert, f.TLSKey, err)
	}
	return pair, nil
}

// Roots are the issuers of certificates that are believed: those of this machine and those in federation.ca_file. It is nil
// where there is no such file, which means those of this machine.
func (f *Federation) Roots() (*x509.CertPool, error) {
	if f.CAFile == "" {
		return nil, nil
	}
	text, err := readFile("federation.ca_file", f.CAFile)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		// A machine without certificates of its own, as in a container made from nothing.
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("federation.ca_file: %s holds no PEM certificate; write the path of a file with BEGIN CERTIFICATE in it", f.CAFile)
	}
	return pool, nil
}

// Networks is federation.allow_networks, parsed.
func (f *Federation) Networks() []netip.Prefix { return networks(f.AllowNetworks) }

// Networks is push.allow_networks.
func (p *Push) Networks() []netip.Prefix { return networks(p.AllowNetworks) }

// Networks is identity.allow_networks.
func (i *Identity) Networks() []netip.Prefix { return networks(i.AllowNetworks) }

func readFile(key, path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: there is no file %s; write the path of one that exists", key, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: %s may not be read by the user that runs this; give it the right to", key, path)
	case err != nil:
		return nil, fmt.Errorf("%s: %w; write the path of a file that can be read", key, err)
	}
	return text, nil
}
