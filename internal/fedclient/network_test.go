package fedclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/sign"
)

// network is a small internet in memory: names, SRV records, and TLS servers behind addresses that look public. Connections are pipes, so
// that it works inside synctest bubbles; with loopback set they are TCP.
type network struct {
	tb       testing.TB
	loopback bool
	issuer   *x509.Certificate
	key      *ecdsa.PrivateKey
	roots    *x509.CertPool

	mu        sync.Mutex
	listeners map[string]net.Listener
	hosts     map[string][]netip.Addr
	services  map[string][]*net.SRV
	broken    map[string]error // look-ups that fail
	dialled   []string
	looked    map[string]int
}

func newNetwork(tb testing.TB) *network {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(tb, err)
	issuer, err := x509.ParseCertificate(der)
	check(tb, err)
	roots := x509.NewCertPool()
	roots.AddCert(issuer)
	return &network{
		tb: tb, issuer: issuer, key: key, roots: roots, listeners: map[string]net.Listener{}, hosts: map[string][]netip.Addr{},
		services: map[string][]*net.SRV{}, broken: map[string]error{}, looked: map[string]int{},
	}
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// certificate is for DNS names and addresses.
func (n *network) certificate(names ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(n.tb, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, NotBefore: n.issuer.NotBefore, NotAfter: n.issuer.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if a := net.ParseIP(name); a != nil {
			template.IPAddresses = append(template.IPAddresses, a)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, n.issuer, key.Public(), n.key)
	check(n.tb, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// listen makes a listener for an address of the network.
func (n *network) listen(address string) net.Listener {
	var l net.Listener = newPipes()
	if n.loopback {
		var err error
		l, err = net.Listen("tcp", "127.0.0.1:0")
		check(n.tb, err)
	}
	n.mu.Lock()
	n.listeners[address] = l
	n.mu.Unlock()
	n.tb.Cleanup(func() { l.Close() })
	return l
}

// serve runs a TLS server at an address, with a certificate for some names.
func (n *network) serve(address string, names []string, h http.Handler) {
	server := &http.Server{
		Handler: h, TLSConfig: &tls.Config{Certificates: []tls.Certificate{n.certificate(names...)}}, ErrorLog: log.New(io.Discard, "", 0),
	}
	l := n.listen(address)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(l, "", "")
	}()
	n.tb.Cleanup(func() { server.Close(); <-done })
}

// host gives a name its addresses.
func (n *network) host(name string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[name] = nil
	for _, a := range addresses {
		n.hosts[name] = append(n.hosts[name], netip.MustParseAddr(a))
	}
}

func (n *network) service(record string, target string, port uint16) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services[record] = append(n.services[record], &net.SRV{Target: target, Port: port})
}

func (n *network) lookup(what string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.looked[what]++
	return n.broken[what]
}

func (n *network) lookups(what string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.looked[what]
}

func (n *network) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	record := "_" + service + "._" + proto + "." + name
	if err := n.lookup(record); err != nil {
		return "", nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.services[record]; len(s) > 0 {
		return record, s, nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: record, IsNotFound: true}
}

func (n *network) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if err := n.lookup(host); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a := n.hosts[host]; len(a) > 0 {
		return slices.Clone(a), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialled = append(n.dialled, address)
	l := n.listeners[address]
	n.mu.Unlock()
	switch l := l.(type) {
	case nil:
		return nil, errors.New("connection refused")
	case *pipes:
		return l.connect(ctx)
	default:
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func (n *network) dials() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dialled)
}

// down takes an address off the network; up brings it back.
func (n *network) down(address string) (up func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[address]
	delete(n.listeners, address)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.listeners[address] = l
	}
}

// pipes is a listener of net.Pipe connections.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) connect(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// client opens a client of us.example on the network.
func (n *network) client(db *sqldb.DB, change ...func(*Config)) *Client {
	n.tb.Helper()
	names, err := ours.Open(n.tb.Context(), ours.Config{DB: db, Names: []id.ServerName{us, "also.example"}})
	check(n.tb, err)
	cfg := Config{DB: db, Ours: names, Dial: n.dial, Lookup: n, Roots: n.roots, UserAgent: "test"}
	for _, f := range change {
		f(&cfg)
	}
	c, err := Open(n.tb.Context(), cfg)
	check(n.tb, err)
	n.tb.Cleanup(c.Close)
	return c
}

// sqlite is client on a fresh embedded database.
func (n *network) sqlite(change ...func(*Config)) *Client {
	n.tb.Helper()
	return n.client(sqldbtest.SQLite(n.tb), change...)
}

const us id.ServerName = "us.example"

// remote is another server with its keys. Handlers may be added to mux.
type remote struct {
	tb      testing.TB
	name    id.ServerName
	address string
	mux     *http.ServeMux

	mu         sync.Mutex
	key        sign.Key
	old        map[sign.KeyID]oldKey
	validUntil int64 // 0: a day from now
	fetches    int   // of keys
	seen       []seen
}

type oldKey struct {
	key     sign.Key
	expired int64
}

// seen is a request as the server saw it.
type seen struct {
	method, uri, host, sni string
	authorization          string
	body                   string
}

func newKey(tb testing.TB, version string) sign.Key {
	key, err := sign.Generate(rand.Reader, version)
	check(tb, err)
	return key
}

// remote puts a server on the network, at an address of its own and port 8448.
func (n *network) remote(name id.ServerName, ip string) *remote {
	r := &remote{tb: n.tb, name: name, address: net.JoinHostPort(ip, "8448"), mux: http.NewServeMux(), key: newKey(n.tb, "one"), old: map[sign.KeyID]oldKey{}}
	r.mux.HandleFunc("GET /_matrix/key/v2/server", func(w http.ResponseWriter, _ *http.Request) {
		r.mu.Lock()
		r.fetches++
		r.mu.Unlock()
		_, _ = w.Write(r.keys())
	})
	n.host(string(name), ip)
	n.serve(r.address, []string{string(name)}, r)
	return r
}

func (r *remote) ServeHTTP(w http.ResponseWriter, rq *http.Request) {
	body, err := io.ReadAll(rq.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	rq.Body = io.NopCloser(strings.NewReader(string(body)))
	sni := ""
	if rq.TLS != nil {
		sni = rq.TLS.ServerName
	}
	r.mu.Lock()
	r.seen = append(r.seen, seen{rq.Method, rq.RequestURI, rq.Host, sni, rq.Header.Get("Authorization"), string(body)})
	r.mu.Unlock()
	r.mux.ServeHTTP(w, rq)
}

func (r *remote) last() seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 {
		r.tb.Fatal("the server saw no request")
	}
	return r.seen[len(r.seen)-1]
}

func (r *remote) keyFetches() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fetches
}

// keys is the signed object of the server's keys.
func (r *remote) keys() json.RawMessage {
	r.mu.Lock()
	defer r.mu.Unlock()
	until := r.validUntil
	if until == 0 {
		until = time.Now().Add(24 * time.Hour).UnixMilli()
	}
	old := map[sign.KeyID]any{}
	for keyID, o := range r.old {
		old[keyID] = map[string]any{"key": sign.EncodeBase64(o.key.Public()), "expired_ts": o.expired}
	}
	return signed(r.tb, map[string]any{
		"server_name": r.name, "valid_until_ts": until, "old_verify_keys": old,
		"verify_keys": map[sign.KeyID]any{r.key.ID: map[string]any{"key": sign.EncodeBase64(r.key.Public())}},
	}, r.name, r.key)
}

// rotate gives the server a new key and publishes the old one as expired at a time; 0 forgets it.
func (r *remote) rotate(version string, expired int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if expired != 0 {
		r.old[r.key.ID] = oldKey{r.key, expired}
	}
	r.key = newKey(r.tb, version)
}

func signed(tb testing.TB, v any, entity id.ServerName, key sign.Key) json.RawMessage {
	tb.Helper()
	raw, err := canon.Marshal(v)
	check(tb, err)
	out, err := key.Sign(raw, string(entity))
	check(tb, err)
	return out
}

// answer makes the server answer a pattern with a status and a body.
func (r *remote) answer(pattern string, status int, body string) {
	r.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})
}

func to(server id.ServerName) Call { return Call{Origin: us, Destination: server} }
