package servertest

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"strconv"
	"strings"
	"testing"
	"time"

	"myelin/internal/config"
)

const turnURI = "turn:turn.example.org:3478?transport=udp"

// Spec: cs getTurnServer
func TestTURN(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, guest := s.Register(t, "alice"), s.Guest(t)
		a := alice.OK("GET", "voip/turnServer", nil)
		expiry, user, _ := strings.Cut(a.Text("username"), ":")
		mac := hmac.New(sha1.New, []byte("pepper"))
		mac.Write([]byte(a.Text("username")))
		at, err := strconv.ParseInt(expiry, 10, 64)
		left := time.Until(time.Unix(at, 0))
		if user != alice.User || err != nil || left < 50*time.Minute || left > time.Hour || a.At("ttl").Int() != 3600 || a.At("uris").Array()[0].Str != turnURI {
			t.Errorf("credentials: %s", a.Body)
		}
		if a.Text("password") != base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
			t.Errorf("a password that the TURN server would not take: %s", a.Body)
		}
		guest.Fails(403, "M_GUEST_ACCESS_FORBIDDEN", "GET", "voip/turnServer", nil)
		s.Anonymous(t).Fails(401, "M_MISSING_TOKEN", "GET", "voip/turnServer", nil)
	}, func(c *config.Config) {
		c.Turn.URIs, c.Turn.SharedSecret, c.Turn.Lifetime = []string{turnURI}, "pepper", config.Duration(time.Hour)
	})
}

// Spec: cs getTurnServer
func TestTURNWithOneAccount(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		for _, c := range []*Client{s.Register(t, "alice"), s.Guest(t)} {
			if a := c.OK("GET", "voip/turnServer", nil); a.Text("username") != "calls" || a.Text("password") != "salt" {
				t.Errorf("credentials: %s", a.Body)
			}
		}
	}, func(c *config.Config) {
		c.Turn.URIs, c.Turn.Username, c.Turn.Password, c.Turn.Guests = []string{turnURI}, "calls", "salt", true
	})
}

// MSC4143: transports of calls are found by an operation, and by older clients in the well-known file.
func TestTransportsOfCalls(t *testing.T) {
	const service = "https://rtc.example.org/jwt"
	for _, path := range []string{"/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", "/_matrix/client/v1/rtc/transports"} {
		Each(t, func(t *testing.T, s *Server) {
			a := s.Register(t, "alice").OK("GET", path, nil)
			if first := a.At("rtc_transports").Get("0"); first.Get("type").Str != "livekit" || first.Get("livekit_service_url").Str != service {
				t.Errorf("transports: %s", a.Body)
			}
			s.Anonymous(t).Fails(401, "M_MISSING_TOKEN", "GET", path, nil)
			a = s.Anonymous(t).OK("GET", "/.well-known/matrix/client", nil)
			if got := a.At("org.matrix.msc4143.rtc_foci").Get("0.livekit_service_url").Str; got != service {
				t.Errorf("well-known: %s", a.Body)
			}
		}, func(c *config.Config) { c.Rtc.LiveKit = []string{service} })
	}
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		if a := alice.OK("GET", "/_matrix/client/v1/rtc/transports", nil); a.At("rtc_transports").Raw != "[]" {
			t.Errorf("no transports: %s", a.Body)
		}
		alice.Fails(404, "M_NOT_FOUND", "GET", "voip/turnServer", nil)
	})
}
