package fedclient

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"myelin/matrix/id"
)

func parse(tb testing.TB, s string) id.ServerName {
	tb.Helper()
	name, err := id.ParseServerName(s)
	check(tb, err)
	return name
}

// versionOnly answers version and records requests.
func (r *remote) versionOnly() *remote {
	r.mux = http.NewServeMux()
	r.mux.HandleFunc("GET /_matrix/federation/v1/version", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"server":{"name":"Other","version":"1"}}`)
	})
	return r
}

// web serves well-known files at port 443 of an address.
func (n *network) web(host, ip string, h http.HandlerFunc) {
	n.host(host, ip)
	n.serve(ip+":443", []string{host}, h)
}

func delegate(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/matrix/server" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprintf(w, `{"m.server":%q}`, to)
	}
}

// Each step of the specification: where the connection goes, which Host header and SNI it has, whose certificate is needed.
//
// Spec: ss Resolving server names
func TestDiscovery(t *testing.T) {
	for _, c := range []struct {
		name, server string
		prepare      func(*network)
		address      string // where the server is
		certificate  string
		host, sni    string
	}{
		{"1 an address with a port", "8.8.8.1:1234", nil, "8.8.8.1:1234", "8.8.8.1", "8.8.8.1:1234", ""},
		{"1 an address without a port", "8.8.8.1", nil, "8.8.8.1:8448", "8.8.8.1", "8.8.8.1", ""},
		{"1 an address of IPv6", "[2606::1]:80", nil, "[2606::1]:80", "2606::1", "[2606::1]:80", ""},
		{"1 an address of IPv6 without a port", "[2606::1]", nil, "[2606::1]:8448", "2606::1", "[2606::1]", ""},
		{"2 a port", "hs.example:1234", func(n *network) {
			n.host("hs.example", "8.8.8.1")
			n.service("_matrix-fed._tcp.hs.example", "no.example", 1)
		}, "8.8.8.1:1234", "hs.example", "hs.example:1234", "hs.example"},
		{"3.1 delegated to an address", "hs.example", func(n *network) { n.web("hs.example", "8.8.8.9", delegate("8.8.8.1")) },
			"8.8.8.1:8448", "8.8.8.1", "8.8.8.1", ""},
		{"3.1 delegated to an address with a port", "hs.example", func(n *network) { n.web("hs.example", "8.8.8.9", delegate("8.8.8.1:99")) },
			"8.8.8.1:99", "8.8.8.1", "8.8.8.1:99", ""},
		{"3.2 delegated to a port", "hs.example", func(n *network) {
			n.web("hs.example", "8.8.8.9", delegate("matrix.example:443"))
			n.host("matrix.example", "8.8.8.1")
		}, "8.8.8.1:443", "matrix.example", "matrix.example:443", "matrix.example"},
		{"3.3 delegated to SRV", "hs.example", func(n *network) {
			n.web("hs.example", "8.8.8.9", delegate("matrix.example"))
			n.service("_matrix-fed._tcp.matrix.example", "target.example.", 77)
			n.service("_matrix._tcp.matrix.example", "no.example.", 78)
			n.host("target.example", "8.8.8.1")
		}, "8.8.8.1:77", "matrix.example", "matrix.example", "matrix.example"},
		{"3.4 delegated to the old SRV", "hs.example", func(n *network) {
			n.web("hs.example", "8.8.8.9", delegate("matrix.example"))
			n.service("_matrix._tcp.matrix.example", "target.example.", 78)
			n.host("target.example", "8.8.8.1")
		}, "8.8.8.1:78", "matrix.example", "matrix.example", "matrix.example"},
		{"3.5 delegated to a name", "hs.example", func(n *network) {
			n.web("hs.example", "8.8.8.9", delegate("matrix.example"))
			n.host("matrix.example", "8.8.8.1")
		}, "8.8.8.1:8448", "matrix.example", "matrix.example", "matrix.example"},
		{"4 SRV", "hs.example", func(n *network) {
			n.service("_matrix-fed._tcp.hs.example", "target.example.", 77)
			n.host("target.example", "8.8.8.1")
		}, "8.8.8.1:77", "hs.example", "hs.example", "hs.example"},
		{"5 the old SRV", "hs.example", func(n *network) {
			n.service("_matrix._tcp.hs.example", "target.example.", 78)
			n.host("target.example", "8.8.8.1")
		}, "8.8.8.1:78", "hs.example", "hs.example", "hs.example"},
		{"4 with the first target down", "hs.example", func(n *network) {
			n.service("_matrix-fed._tcp.hs.example", "down.example.", 77)
			n.service("_matrix-fed._tcp.hs.example", "gone.example.", 77)
			n.service("_matrix-fed._tcp.hs.example", "target.example.", 77)
			n.host("target.example", "8.8.8.1")
			n.host("down.example", "8.8.8.8")
		}, "8.8.8.1:77", "hs.example", "hs.example", "hs.example"},
		{"6 the default", "hs.example", func(n *network) { n.host("hs.example", "8.8.8.1") }, "8.8.8.1:8448", "hs.example", "hs.example", "hs.example"},
		{"6 after an SRV that says there is none", "hs.example", func(n *network) {
			n.host("hs.example", "8.8.8.1")
			n.service("_matrix-fed._tcp.hs.example", ".", 0)
		}, "8.8.8.1:8448", "hs.example", "hs.example", "hs.example"},
		{"6 after a well-known that is no JSON", "hs.example", func(n *network) {
			n.web("hs.example", "8.8.8.1", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<html>`) })
		}, "8.8.8.1:8448", "hs.example", "hs.example", "hs.example"},
		{"6 after a well-known of an invalid name", "hs.example", func(n *network) { n.web("hs.example", "8.8.8.1", delegate("a b")) },
			"8.8.8.1:8448", "hs.example", "hs.example", "hs.example"},
		{"6 after a well-known that is not 200", "hs.example", func(n *network) {
			n.web("hs.example", "8.8.8.1", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusCreated)
				fmt.Fprint(w, `{"m.server":"matrix.example"}`)
			})
		}, "8.8.8.1:8448", "hs.example", "hs.example", "hs.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			if c.prepare != nil {
				c.prepare(n)
			}
			r := (&remote{tb: t}).versionOnly()
			n.serve(c.address, []string{c.certificate}, r)
			client := n.sqlite()
			got, err := client.Version(t.Context(), to(parse(t, c.server)))
			if err != nil || got.Name != "Other" {
				t.Fatalf("%+v, %v", got, err)
			}
			if s := r.last(); s.host != c.host || s.sni != c.sni {
				t.Errorf("the Host is %q, SNI %q; want %q, %q", s.host, s.sni, c.host, c.sni)
			}
			found, err := client.Resolve(t.Context(), parse(t, c.server))
			if err != nil || found.Host != c.host || found.TLSName != c.certificate || len(found.Steps) == 0 {
				t.Errorf("resolved to %+v, %v", found, err)
			}
		})
	}
}

// A certificate for anything but the name that the step demands is no good, above all not one for what DNS or an SRV record names.
func TestCertificates(t *testing.T) {
	for _, c := range []struct{ name, certificate string }{
		{"of the SRV target", "target.example"}, {"of the delegating name", "hs.example"}, {"of the address", "8.8.8.1"},
	} {
		n := newNetwork(t)
		n.loopback = true // a pipe without a buffer would hold up the alert
		n.web("hs.example", "8.8.8.9", delegate("matrix.example"))
		n.service("_matrix-fed._tcp.matrix.example", "target.example.", 77)
		n.host("target.example", "8.8.8.1")
		r := (&remote{tb: t}).versionOnly()
		n.serve("8.8.8.1:77", []string{c.certificate}, r)
		if _, err := n.sqlite().Version(t.Context(), to("hs.example")); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("a certificate %s: %v", c.name, err)
		}
		if len(r.seen) != 0 {
			t.Errorf("a request went out although the certificate was one %s", c.name)
		}
	}
}

func TestOverLoopback(t *testing.T) {
	n := newNetwork(t)
	n.loopback = true
	r := n.remote("hs.example", "8.8.8.1")
	r.versionOnly()
	if got, err := n.sqlite().Version(t.Context(), to("hs.example")); err != nil || got.Version != "1" {
		t.Fatalf("%+v, %v", got, err)
	}
}

// Spec: ss getWellKnown
func TestWellKnownRedirects(t *testing.T) {
	n := newNetwork(t)
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	n.web("good.example", "8.8.8.1", redirect("https://www.example/there"))
	n.web("www.example", "8.8.8.2", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/there" {
			t.Errorf("asked for %s", r.URL)
		}
		fmt.Fprint(w, `{"m.server":"matrix.example:1"}`)
	})
	n.web("plain.example", "8.8.8.3", redirect("http://www.example/there"))
	n.web("loop.example", "8.8.8.4", redirect("https://loop.example/.well-known/matrix/server"))
	n.web("far.example", "8.8.8.5", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://far.example"+r.URL.Path+"x", http.StatusMovedPermanently)
	})
	n.web("nowhere.example", "8.8.8.6", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusFound) })
	n.web("user.example", "8.8.8.7", redirect("https://u:p@www.example/there"))
	n.web("big.example", "8.8.8.10", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"x":%q,"m.server":"matrix.example:1"}`, strings.Repeat("x", maxWellKnown))
	})
	n.host("inside.example", "10.0.0.1")
	for i, to := range []string{"https://127.0.0.1/", "https://10.0.0.1/", "https://169.254.169.254/latest/meta-data", "https://[::1]/", "https://inside.example/", "https://localhost/"} {
		n.web(fmt.Sprintf("private%d.example", i), fmt.Sprintf("8.8.4.%d", i+1), redirect(to))
	}
	c := n.sqlite()
	known, err := c.wellKnown(t.Context(), "good.example")
	if err != nil || known.delegate != "matrix.example:1" {
		t.Errorf("redirected: %+v, %v", known, err)
	}
	for _, host := range []string{"plain", "loop", "far", "nowhere", "user", "big", "private0", "private1", "private2", "private3", "private4", "private5"} {
		known, err := c.wellKnown(t.Context(), host+".example")
		if err != nil || known.err == nil || known.delegate != "" {
			t.Errorf("%s: %+v, %v", host, known, err)
		}
		if strings.HasPrefix(host, "private") && host != "private5" && !errors.Is(known.err, ErrPrivate) {
			t.Errorf("%s: %v", host, known.err)
		}
	}
	for _, d := range n.dials() {
		if !strings.HasPrefix(d, "8.8.") {
			t.Errorf("dialled %s", d)
		}
	}
}

// Spec: ss Resolving server names
func TestWellKnownIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		asked, control, body, status := 0, "", `{"m.server":"one.example:1"}`, 200
		n.web("hs.example", "8.8.8.1", func(w http.ResponseWriter, _ *http.Request) {
			asked++
			if control != "" {
				w.Header().Set("Cache-Control", control)
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		})
		c := n.sqlite()
		expect := func(after time.Duration, delegate string, asks int) {
			t.Helper()
			time.Sleep(after)
			known, err := c.wellKnown(t.Context(), "HS.example")
			check(t, err)
			if string(known.delegate) != delegate || asked != asks {
				t.Fatalf("delegated to %q (%v) after asking %d times; want %q, %d", known.delegate, known.err, asked, delegate, asks)
			}
		}
		expect(0, "one.example:1", 1)
		expect(23*time.Hour, "one.example:1", 1)
		body, control = `{"m.server":"two.example:1"}`, "public, max-age=864000"
		expect(2*time.Hour, "two.example:1", 2)
		expect(47*time.Hour, "two.example:1", 2)
		control = "max-age=1"
		expect(2*time.Hour, "two.example:1", 3)
		expect(4*time.Minute, "two.example:1", 3)
		control, body = "no-store", `{"m.server":"three.example:1"}`
		expect(2*time.Minute, "three.example:1", 4)
		// The web server fails: the answer counts on, while it is asked less and less often.
		status = 500
		expect(6*time.Minute, "three.example:1", 5)
		expect(30*time.Second, "three.example:1", 5)
		expect(31*time.Second, "three.example:1", 6)
		expect(61*time.Second, "three.example:1", 6)
		expect(60*time.Second, "three.example:1", 7)
		expect(48*time.Hour, "", 8)
		// A definite no counts for an hour.
		status = 404
		expect(time.Hour, "", 9)
		expect(59*time.Minute, "", 9)
		status, control = 200, ""
		expect(2*time.Minute, "three.example:1", 10)
		c.Rediscover("hs.example")
		expect(0, "three.example:1", 11)
	})
}

func TestSRVIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		c := n.sqlite()
		const record = "_matrix-fed._tcp.hs.example"
		expect := func(after time.Duration, targets, asks int) {
			t.Helper()
			time.Sleep(after)
			a, err := c.lookupSRV(t.Context(), "hs.example")
			check(t, err)
			if len(a.targets) != targets || n.lookups(record) != asks {
				t.Fatalf("%v after %d look-ups; want %d targets, %d look-ups", a.targets, n.lookups(record), targets, asks)
			}
		}
		n.broken[record] = errors.New("the resolver is away")
		expect(0, 0, 1)
		delete(n.broken, record)
		expect(29*time.Second, 0, 1)
		n.service(record, "a.example", 1)
		expect(2*time.Second, 1, 2)
		for i := range 20 {
			n.service(record, fmt.Sprintf("b%d.example", i), 1)
		}
		expect(4*time.Minute, 1, 2)
		expect(2*time.Minute, maxTargets, 3)
	})
}

func FuzzWellKnown(f *testing.F) {
	f.Add([]byte(`{"m.server":"matrix.example:8448"}`))
	f.Add([]byte(`{"m.server":"[::1]:80","x":[[[]]]}`))
	f.Add([]byte(`{"m.server":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		name, err := parseWellKnown(raw)
		if err != nil {
			return
		}
		if _, err := id.ParseServerName(string(name)); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
	})
}
