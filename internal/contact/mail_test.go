package contact

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A mail server that takes a connection and says nothing keeps nobody for longer than mailTime.
func TestMailServerThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := NewMail(Mail{Server: l.Addr().String(), TLS: "none", From: "a@b.example", Name: "b.example"})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if err := m.confirmation(ctx, ForAccount, "c@d.example", "http://x"); err == nil {
		t.Error("a mail was sent to nobody")
	}
	if took := time.Since(begun); took > mailTime/2 {
		t.Errorf("it took %s to give up", took)
	}
}

// Who can't get a turn gives up, too.
func TestTurnsOfMails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMail(Mail{Server: "127.0.0.1:1", TLS: "none", From: "a@b.example"})
		for range mailsAtOnce {
			m.turns <- struct{}{}
		}
		begun := time.Now()
		if err := m.confirmation(t.Context(), ForAccount, "c@d.example", "http://x"); err == nil || time.Since(begun) != mailTime {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
	})
}

func FuzzParseEmail(f *testing.F) {
	for _, s := range []string{"a@b.example", "A@B.example", "a b@c", "\"x\"@y", "a@b\r\nBcc: x@y", "<a@b>", "a@[127.0.0.1]", "ä@ö.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseEmail(s)
		if err != nil {
			return
		}
		for _, c := range []byte(a) {
			if c == '\r' || c == '\n' || c == 0 || c == '<' {
				t.Fatalf("%q became %q", s, a)
			}
		}
	})
}
