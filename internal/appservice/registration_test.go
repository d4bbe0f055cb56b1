package appservice

import (
	"strings"
	"testing"
)

const whole = `
id: "IRC Bridge"
url: "http://127.0.0.1:1234"
as_token: "a"
hs_token: "h"
sender_localpart: "_irc_bot"
rate_limited: false
receive_ephemeral: true
org.matrix.msc3202: true
io.example.more: {x: 1}
protocols: [irc]
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
`

func TestParse(t *testing.T) {
	r, err := Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	s, err := compile(*r, hashToken(r.ASToken), "", "example.org")
	if err != nil {
		t.Fatal(err)
	}
	if s.User != "@_irc_bot:example.org" || s.ASToken != "" || !s.Encryption || !s.ephemeral() || s.limited("@_irc_bridge_x:example.org") {
		t.Errorf("read as %+v", s)
	}
	for user, has := range map[string]bool{"@_irc_bridge_x:example.org": true, "@_irc_bot:example.org": true, "@x_irc_bridge_:example.org": false, "@_irc_bridge_x:other.org": false} {
		if got := s.Has(userID(user)); got != has {
			t.Errorf("%s is its own: %v", user, got)
		}
	}
	for what, text := range map[string]string{
		"is missing":                  strings.Replace(whole, `as_token: "a"`, "", 1),
		"is empty":                    "# nothing\n",
		"must be http":                strings.Replace(whole, "http://127.0.0.1:1234", "ftp://x", 1),
		"one registration":            whole + "\n---\nid: x\n",
		"not a registration in YAML":  "- a\n- b\n",
		"one line of text":            strings.Replace(whole, `hs_token: "h"`, `hs_token: "h\n"`, 1),
		"at most":                     whole + "# " + strings.Repeat("x", maxFile),
		"not a registration in YAML:": "a: &a [*a, *a]\nid: [",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("want %q, got %v", what, err)
		}
	}
	for what, regex := range map[string]string{"none that RE2 knows": `(?!x)`, "1 to 1000 bytes": strings.Repeat("x", 1001)} {
		bad := *r
		bad.Namespaces.Users = []Namespace{{true, regex}}
		if _, err := compile(bad, "", "", "example.org"); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("want %q, got %v", what, err)
		}
	}
	bad := *r
	bad.Sender = "ä"
	if _, err := compile(bad, "", "", "example.org"); err == nil {
		t.Error("a sender_localpart that is none")
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`@_irc_.*`, `@_xmpp_.*`, false},
		{`@_irc_.*`, `@_irc_.*`, true},
		{`@_irc_.*`, `@_i.*`, true},
		{`@irc`, `@irc_bridge`, true}, // the end is open
		{`@irc:example\.org$`, `@irc_.*`, false},
		{`@.*_irc:example\.org`, `@irc_.*:example\.org`, true},
		{`@telegram_[0-9]+:example\.org`, `@telegrambot:example\.org`, false},
		{`@a(b|c)*d$`, `@ac+d$`, true},
		{`@a(b|c)*d$`, `@ae*$`, false},
		{`(?i)@IRC_.*`, `@irc_x`, true},
		{`^@irc_.*$`, `@irc_y.*`, true},
		{`@[a-m].*`, `@[n-z].*`, false},
	} {
		for _, order := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			got, err := overlap(order[0], order[1])
			if err != nil || got != c.want {
				t.Errorf("%q and %q overlap: %v, %v", order[0], order[1], got, err)
			}
		}
	}
	if _, err := overlap(`@(`, `@x`); err == nil {
		t.Error("an expression that is none")
	}
}

func TestSets(t *testing.T) {
	service := func(name, token, sender, users, aliases string) *Service {
		t.Helper()
		r := Registration{ID: name, HSToken: "h", Sender: sender, Namespaces: Namespaces{
			Users: []Namespace{{true, users}}, Aliases: []Namespace{{true, aliases}},
		}}
		s, err := compile(r, hashToken(token), "", "example.org")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one := service("one", "a", "bot1", "@one_.*", "#one_.*")
	if _, err := newSet([]*Service{one, service("two", "b", "bot2", "@two_.*", "#two_.*")}); err != nil {
		t.Error(err)
	}
	for what, other := range map[string]*Service{
		"have the id":                  service("one", "b", "bot2", "@two_.*", "#two_.*"),
		"same as_token":                service("two", "a", "bot2", "@two_.*", "#two_.*"),
		"same sender":                  nil,
		"both have the sender":         service("two", "b", "bot1", "@two_.*", "#two_.*"),
		"namespaces of users overlap":  service("two", "b", "bot2", "@one.*", "#two_.*"),
		"of aliases overlap":           service("two", "b", "bot2", "@two_.*", "#o.*"),
		"is in an exclusive namespace": service("two", "b", "one_bot", "@two_.*", "#two_.*"),
	} {
		if other == nil {
			continue
		}
		if _, err := newSet([]*Service{one, other}); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("want %q, got %v", what, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("a: &a [1, *a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Parse(text)
		if err != nil {
			return
		}
		if s, err := compile(*r, "", "", "example.org"); err == nil {
			s.Has("@x:example.org")
			if _, err := newSet([]*Service{s}); err != nil {
				t.Errorf("alone it collides: %v", err)
			}
		}
	})
}

func FuzzOverlap(f *testing.F) {
	f.Add(`@_irc_.*`, `@_x.*`, "@_irc_a")
	f.Fuzz(func(t *testing.T, a, b, text string) {
		if len(a) > 60 || len(b) > 60 {
			return
		}
		both, err := overlap(a, b)
		left, errA := compile(Registration{Sender: "x", Namespaces: Namespaces{Users: []Namespace{{true, a}}}}, "", "", "e")
		right, errB := compile(Registration{Sender: "x", Namespaces: Namespaces{Users: []Namespace{{true, b}}}}, "", "", "e")
		if err != nil || errA != nil || errB != nil {
			return
		}
		if !both && left.users.match(text) && right.users.match(text) {
			t.Errorf("%q is in %q and in %q, which do not overlap", text, a, b)
		}
	})
}
