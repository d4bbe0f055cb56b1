package server

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"

	"myelin/internal/config"
)

// lookPeriod is how often, at most, the certificate's files are looked at: a handshake in between takes what is there.
const lookPeriod = time.Second

// certificate is the one of federation.tls_cert, read again when its files change. Who renews it need not tell the server.
type certificate struct {
	files *config.Federation
	log   *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu
	stamps  [2]stamp         // of the files as they were read last; guarded by mu
	looked  time.Time        // guarded by mu
}

// stamp tells one state of a file from another.
type stamp struct {
	changed time.Time
	size    int64
}

// openCertificate reads the files, which must be right at the start.
func openCertificate(files *config.Federation, log *slog.Logger) (*certificate, error) {
	c := &certificate{files: files, log: log, looked: time.Now()}
	// The files may change while they are read; their older stamps make that be noticed.
	c.stamps = c.look()
	read, err := files.Certificate()
	if err != nil {
		return nil, err
	}
	c.current = &read
	return c, nil
}

func (c *certificate) look() (stamps [2]stamp) {
	for i, path := range []string{c.files.TLSCert, c.files.TLSKey} {
		if info, err := os.Stat(path); err == nil {
			stamps[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return stamps
}

// get is tls.Config.GetCertificate. Files that are not right, as while one of the two is replaced, leave the certificate
// as it was.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < lookPeriod {
		return c.current, nil
	}
	c.looked = time.Now()
	stamps := c.look()
	if stamps == c.stamps {
		return c.current, nil
	}
	c.stamps = stamps
	read, err := c.files.Certificate()
	if err != nil {
		c.log.Warn("the new certificate is not used", slog.String("error", err.Error()))
		return c.current, nil
	}
	c.current = &read
	c.log.Info("certificate renewed", slog.Time("until", read.Leaf.NotAfter))
	return c.current, nil
}

// tlsConfig is how TLS is spoken with other servers. Package net/http adds HTTP/2.
func (c *certificate) tlsConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
}
