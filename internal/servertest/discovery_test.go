package servertest

import (
	"net/http"
	"testing"

	"myelin/internal/config"
)

// Spec: cs Server discovery; cs Web Browser Clients
func TestDiscovery(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		c := s.Anonymous(t)
		versions := c.OK("GET", "/_matrix/client/versions", nil)
		list := map[string]bool{}
		for _, v := range versions.At("versions").Array() {
			list[v.Str] = true
		}
		for _, v := range []string{"r0.6.1", "v1.1", "v1.12", "v1.19"} {
			if !list[v] {
				t.Errorf("versions lack %s: %s", v, versions.Body)
			}
		}
		if url := c.OK("GET", "/.well-known/matrix/client", nil).At("m.homeserver", "base_url").Str; url != "https://matrix.example.org" {
			t.Errorf("base_url %q", url)
		}
		support := c.OK("GET", "/.well-known/matrix/support", nil)
		if list := support.At("contacts").Array(); len(list) != 1 || list[0].Get("email_address").Str != "admin@example.org" {
			t.Errorf("support: %s", support.Body)
		}
		if a := c.Do("GET", "/.well-known/matrix/policy_server", nil); a.Status != 404 {
			t.Errorf("a policy server: %d %s", a.Status, a.Body)
		}
	}, func(c *config.Config) {
		c.Client.BaseURL = "https://matrix.example.org"
		c.Support.Email = "admin@example.org"
	})
}

// Spec: cs Common error codes; cs Web Browser Clients
func TestUnknownPaths(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		for _, path := range []string{"nothing", "/_matrix/client/v9/sync", "/_matrix/client/unstable/org.example/thing", "/_matrix/nothing", "rooms/!a:b/nothing/here"} {
			alice.Fails(404, "M_UNRECOGNIZED", "GET", path, nil)
		}
		alice.Fails(405, "M_UNRECOGNIZED", "DELETE", "sync", nil)
		alice.Fails(405, "M_UNRECOGNIZED", "GET", "createRoom", nil)
		alice.Fails(405, "M_UNRECOGNIZED", "PATCH", "account/whoami", nil)

		r, err := http.NewRequest(http.MethodOptions, s.URL+"/_matrix/client/v3/sync", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		h := resp.Header
		if resp.StatusCode >= 300 || h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Access-Control-Allow-Headers") == "" || h.Get("Access-Control-Allow-Methods") == "" {
			t.Errorf("OPTIONS: %d %v", resp.StatusCode, h)
		}
	})
}

// Spec: cs Using access tokens
func TestAccessTokens(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, nobody := s.Register(t, "alice"), s.Anonymous(t)
		nobody.Fails(401, "M_MISSING_TOKEN", "GET", "account/whoami", nil)
		if a := alice.As("mistaken").Fails(401, "M_UNKNOWN_TOKEN", "GET", "account/whoami", nil); a.At("soft_logout").Bool() {
			t.Errorf("a token that never was is a soft logout: %s", a.Body)
		}
		// The query parameter is deprecated and still a must.
		if who := nobody.OK("GET", "account/whoami"+Query("access_token", alice.Token), nil).Text("user_id"); who != alice.User {
			t.Errorf("whoami by query: %s", who)
		}
		if who := alice.OK("GET", "/_matrix/client/r0/account/whoami", nil).Text("user_id"); who != alice.User {
			t.Errorf("whoami by the old path: %s", who)
		}
	})
}
