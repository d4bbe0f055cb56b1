package id

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// parsers maps each kind to its Parse function, which returns what it was given.
var parsers = map[string]func(string) (string, error){
	"user":   func(s string) (string, error) { v, err := ParseUserID(s); return string(v), err },
	"room":   func(s string) (string, error) { v, err := ParseRoomID(s); return string(v), err },
	"alias":  func(s string) (string, error) { v, err := ParseRoomAlias(s); return string(v), err },
	"event":  func(s string) (string, error) { v, err := ParseEventID(s); return string(v), err },
	"server": func(s string) (string, error) { v, err := ParseServerName(s); return string(v), err },
	"device": func(s string) (string, error) { v, err := ParseDeviceID(s); return string(v), err },
}

var valid = map[string][]string{
	"user": {
		"@alice:example.org", "@a.b_c=d-e/f+g:example.org:8448", "@Alice:example.org", "@Ünïcode 😀:example.org", "@:example.org",
		"@a\n:example.org", "@a:b", "@a:[::1]:8448", "@" + strings.Repeat("a", 242) + ":example.org",
	},
	"room": {
		"!abc:example.org", "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ", "! \t:example.org", "!" + strings.Repeat("a", 254),
	},
	"alias": {"#room:example.org", "#Ünï #code:example.org:1", "#a@b:example.org"},
	"event": {
		"$opaque:example.org", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk", "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg",
	},
	// Spec: appendices Server Name
	"server": {
		"matrix.org", "matrix.org:8888", "1.2.3.4", "1.2.3.4:1234", "[1234:5678::abcd]", "[1234:5678::abcd]:5678", "localhost",
		"Example.ORG", "xn--bcher-kva.example", "[::FFFF:1.2.3.4]:1", "a-b", "host:65535", "host:00080",
	},
	"device": {"GHTYAJCE", "ünï", "a:b", strings.Repeat("a", 255)},
}

var invalid = map[string][]string{
	"user": {
		"", "@", "alice:example.org", "#alice:example.org", "@alice", "@alice:", "@alice:exa mple.org", "@alice:example.org:port", "@a\x00:example.org",
		"@a\xff:example.org", "@" + strings.Repeat("a", 243) + ":example.org", "@a:b:c:d", "@a:example_org",
	},
	"room":  {"", "!", "!:example.org", "!a:", "!a:b c", "abc:example.org", "!a\x00", "!\xff", "!" + strings.Repeat("a", 255)},
	"alias": {"", "#", "#:example.org", "#a", "#a:", "@a:example.org", "#a\x00:example.org"},
	"event": {"", "$", "a", "!a", "$a\x00", "$\xff", "$" + strings.Repeat("a", 255)},
	"server": {
		"", ":80", "host:", "host:123456", "host:65536", "host:-1", "host:+1", "host:8a", "a b", "a_b", "ünï.example", "[::1", "::1", "[::1]x", "[1.2.3.4]", "[::1%eth0]",
		"[]", "host/path", "@host", strings.Repeat("a", 254),
	},
	"device": {"", "a\x00", "\xff", strings.Repeat("a", 256)},
}

func TestParse(t *testing.T) {
	for kind, parse := range parsers {
		for _, s := range valid[kind] {
			if got, err := parse(s); err != nil || got != s {
				t.Errorf("%s %q: %q, %v", kind, s, got, err)
			}
		}
		for _, s := range invalid[kind] {
			if got, err := parse(s); err == nil || got != "" {
				t.Errorf("%s %q was accepted as %q", kind, s, got)
			} else if !strings.Contains(err.Error(), kind) && !strings.Contains(err.Error(), "IPv6") {
				t.Errorf("%s %q: the error does not name the kind: %v", kind, s, err)
			}
		}
	}
}

func TestParts(t *testing.T) {
	u := UserID("@alice:example.org:8448")
	if u.Domain() != "example.org:8448" || u.Localpart() != "alice" || u.IsHistorical() {
		t.Errorf("%s: %s, %s", u, u.Localpart(), u.Domain())
	}
	for _, old := range []UserID{"@Alice:b", "@:b", "@a b:b", "@é:b"} {
		if !old.IsHistorical() {
			t.Errorf("%s is not historical", old)
		}
	}
	if a := RoomAlias("#x:b"); a.Localpart() != "x" || a.Domain() != "b" {
		t.Error(a)
	}
	if d, ok := RoomID("!a:b").Domain(); !ok || d != "b" {
		t.Error(d, ok)
	}
	if d, ok := RoomID("!hash").Domain(); ok || d != "" {
		t.Error(d, ok)
	}
	if d, ok := EventID("$a:b").Domain(); !ok || d != "b" {
		t.Error(d, ok)
	}
	if d, ok := EventID("$hash").Domain(); ok || d != "" {
		t.Error(d, ok)
	}
	if s := fmt.Sprint(UserID("").Localpart(), UserID("").Domain(), RoomAlias("x").Domain()); s != "" {
		t.Errorf("parts of nothing: %q", s)
	}
	for _, c := range []struct {
		name ServerName
		want string
	}{
		{"example.org", "example.org 0 false false"},
		{"example.org:80", "example.org 80 true false"},
		{"1.2.3.4:80", "1.2.3.4 80 true true"},
		{"[::1]", "[::1] 0 false true"},
		{"[::1]:80", "[::1] 80 true true"},
	} {
		port, ok := c.name.Port()
		if got := fmt.Sprint(c.name.Host(), " ", port, " ", ok, " ", c.name.IsIPLiteral()); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestNewUserID(t *testing.T) {
	if u, err := NewUserID("alice", "example.org"); err != nil || u != "@alice:example.org" {
		t.Error(u, err)
	}
	for _, localpart := range []string{"", "Alice", "a b", "a:b", "é", "a@b", strings.Repeat("a", 250)} {
		if u, err := NewUserID(localpart, "example.org"); err == nil {
			t.Errorf("%q became %s", localpart, u)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, table := range []map[string][]string{valid, invalid} {
		for _, list := range table {
			for _, s := range list {
				f.Add(s)
			}
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		for kind, parse := range parsers {
			got, err := parse(s)
			if err != nil {
				continue
			}
			if got != s || len(s) > MaxLength || !utf8.ValidString(s) || strings.Contains(s, "\x00") {
				t.Fatalf("%s %q was accepted as %q", kind, s, got)
			}
		}
		if u, err := ParseUserID(s); err == nil && "@"+u.Localpart()+":"+string(u.Domain()) != s {
			t.Fatalf("%q falls into %q and %q", s, u.Localpart(), u.Domain())
		}
		if n, err := ParseServerName(s); err == nil {
			if port, ok := n.Port(); ok && !strings.HasSuffix(s, fmt.Sprint(port)) || n.Host() == "" {
				t.Fatalf("%q falls into %q and %d", s, n.Host(), port)
			}
		}
	})
}
