package account

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/mxerr"
)

func TestHasher(t *testing.T) {
	h := newHasher(cheap, 1)
	stored, err := h.hash(t.Context(), goodPassword)
	ok(t, err)
	if !strings.HasPrefix(stored, "$argon2id$v=19$m=8,t=1,p=1$") {
		t.Fatalf("stored as %s", stored)
	}
	for password, want := range map[string]bool{goodPassword: true, goodPassword + " ": false, "": false, strings.Repeat("x", 1<<20): false} {
		if got, _, err := h.verify(t.Context(), password, stored); err != nil || got != want {
			t.Errorf("%.20q: %v, %v", password, got, err)
		}
	}
	for _, none := range []string{"", h.decoy} {
		if got, _, err := h.verify(t.Context(), "", none); err != nil || got {
			t.Errorf("no password: %v, %v", got, err)
		}
	}
	if _, stale, _ := newHasher(PasswordPolicy{Memory: 16, Passes: 1}, 1).verify(t.Context(), goodPassword, stored); !stale {
		t.Error("a hash of other costs is not stale")
	}
}

// A hash made with other costs is replaced when its password is next seen.
func TestRehash(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		user := start(t, open).user("alice").UserID
		n := start(t, open, func(c *Config) { c.Password.Memory = 16 })
		n.login("alice", "", false)
		u, err := n.User(t.Context(), user)
		ok(t, err)
		if !strings.Contains(u.password, "m=16,") {
			t.Fatalf("stored as %s", u.password)
		}
		n.login("alice", "", false)
	})
}

// Beyond the bound callers wait, and are turned away in the end rather than piling up.
func TestHasherIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHasher(PasswordPolicy{Memory: 8, Passes: 1, Concurrent: 2}, 1)
		for range 2 {
			_, err := h.turn(t.Context())
			ok(t, err)
		}
		_, err := h.hash(t.Context(), "x") // hashWait passes
		mustFail(t, err, mxerr.CodeLimitExceeded)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.turn(ctx); err != context.Canceled {
			t.Fatal(err)
		}
	})
}

func FuzzParsePHC(f *testing.F) {
	f.Add(newHasher(PasswordPolicy{}, 1).decoy)
	f.Add("$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=99999999,t=1,p=1$AAAA$AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePHC(s)
		if err != nil {
			return
		}
		if again, err := parsePHC(p.String()); err != nil || again.String() != p.String() || p.memory > 1<<20 {
			t.Fatalf("%q became %q", s, p)
		}
	})
}

func FuzzCheckProfileField(f *testing.F) {
	for _, s := range []string{"displayname", "m.tz", "org.example.x", "", "A", strings.Repeat("a", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkProfileField(s) == nil && (len(s) == 0 || len(s) > 255 || strings.ToLower(s) != s || strings.ContainsAny(s, "\x00 \"\\")) {
			t.Fatalf("accepted %q", s)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add("a\x00b", 3)
	f.Add("\xff\xfe", 1)
	f.Fuzz(func(t *testing.T, s string, max int) {
		if max < 0 || max > 1000 {
			return
		}
		got := text(s, max)
		if strings.ContainsRune(got, 0) || len([]rune(got)) > max || strings.ToValidUTF8(got, "") != got {
			t.Fatalf("text(%q, %d) = %q", s, max, got)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	h := newHasher(PasswordPolicy{}, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.hash(b.Context(), goodPassword); err != nil {
			b.Fatal(err)
		}
	}
}
