package fedclient

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"myelin/matrix/id"
)

func TestGuard(t *testing.T) {
	for _, c := range []struct {
		want bool
		list string
	}{
		{true, "8.8.8.8 1.1.1.1 172.32.0.1 172.15.255.255 100.128.0.1 2606:4700::1111 2a00:1450::1 64:ff9b::808:808 2002:808:808::1 ::ffff:8.8.8.8"},
		{false, "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.8.8.8 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.9 224.0.0.1 255.255.255.255"},
		{false, ":: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 fc00::1 fd12::1 fe80::1 fec0::1 ff02::1 2001:db8::1 2001::1 64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::1 2002:7f00:1::1 2002:c0a8:101::1 100::1 3fff::1 fe80::1%eth0"},
	} {
		for a := range strings.FieldsSeq(c.list) {
			if got := (guard{}).ok(netip.MustParseAddr(a)); got != c.want {
				t.Errorf("%s may be contacted: %v", a, got)
			}
		}
	}
	g := guard{allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")}}
	for a, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "fd00:1::5": true, "fd00:2::5": false} {
		if got := g.ok(netip.MustParseAddr(a)); got != want {
			t.Errorf("with networks allowed, %s may be contacted: %v", a, got)
		}
	}
}

// Names that lead to private addresses are not connected to, whichever way they are found.
func TestNamesOfPrivateAddresses(t *testing.T) {
	n := newNetwork(t)
	n.host("private.example", "127.0.0.1", "10.0.0.1", "::1", "169.254.169.254")
	n.host("srv.example", "8.8.8.1")
	n.service("_matrix-fed._tcp.srv.example", "private.example", 80)
	n.host("mixed.example", "192.168.0.1", "8.8.8.2")
	n.serve("8.8.8.2:8448", []string{"mixed.example"}, (&remote{tb: t, mux: nil, name: "mixed.example"}).versionOnly())
	c := n.sqlite()
	for _, name := range []string{"private.example", "private.example:80", "127.0.0.1:8448", "10.0.0.1", "[::1]:8448", "[::ffff:7f00:1]", "169.254.169.254:80", "srv.example"} {
		_, err := c.Version(t.Context(), to(parse(t, name)))
		if !errors.Is(err, ErrPrivate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := n.dials(); len(got) != 0 {
		for _, d := range got {
			if !strings.HasPrefix(d, "8.8.8.") {
				t.Errorf("dialled %s", d)
			}
		}
	}
	if _, err := c.Version(t.Context(), to("mixed.example")); err != nil {
		t.Errorf("a public address beside a private one: %v", err)
	}
	for _, d := range n.dials() {
		if strings.HasPrefix(d, "192.168.") {
			t.Errorf("dialled %s", d)
		}
	}
}

func TestPermit(t *testing.T) {
	for _, c := range []struct {
		allow, deny, yes, no string
	}{
		{"", "", "a.example b:80 [::1]:80", ""},
		{"", "*.evil.example bad.example", "evil.example a.example", "x.evil.example X.EVIL.example:80 bad.example Bad.Example:8448"},
		{"*.good.example friend.example:8448", "", "a.good.example a.good.example:80 friend.example:8448", "good.example friend.example friend.example:80 other"},
		{"*", "?.example 10.*", "ab.example", "a.example 10.0.0.1:80"},
		{"**a*b**", "", "ab xxaybzz AxB", "ba b"},
	} {
		p := newPermit(strings.Fields(c.allow), strings.Fields(c.deny))
		for name := range strings.FieldsSeq(c.yes) {
			if !p.ok(name) {
				t.Errorf("allow %q, deny %q: %s is refused", c.allow, c.deny, name)
			}
		}
		for name := range strings.FieldsSeq(c.no) {
			if p.ok(name) {
				t.Errorf("allow %q, deny %q: %s is permitted", c.allow, c.deny, name)
			}
		}
	}
	// A glob that tries to be slow is not.
	began := time.Now()
	if id.MatchGlob(strings.Repeat("a*", 100)+"b", strings.Repeat("a", 250)) || time.Since(began) > time.Second {
		t.Errorf("a hard glob took %v", time.Since(began))
	}
}
