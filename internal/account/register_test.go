package account

import (
	"encoding/hex"
	"strings"
	"sync"
	"testing"
	"time"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// register goes through the dummy flow.
func (n *node) register(body m) (*Login, error) {
	n.t.Helper()
	_, err := n.Register(n.t.Context(), encode(n.t, body))
	c := challengeOr(err)
	if c == nil {
		return nil, err
	}
	body["auth"] = m{"type": StageDummy, "session": c.Session}
	return n.Register(n.t.Context(), encode(n.t, body))
}

func TestRegister(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open, func(c *Config) {
			c.Exclusive = func(u id.UserID) bool { return strings.HasPrefix(u.Localpart(), "irc_") }
		})
		body := m{"username": "Alice", "password": goodPassword, "device_id": "DEV", "initial_device_display_name": "phone", "refresh_token": true}
		l, err := n.register(body)
		ok(t, err)
		if l.UserID != "@alice:here.example" || l.DeviceID != "DEV" || l.RefreshToken == "" || l.HomeServer != "here.example" {
			t.Fatalf("registered %+v", l)
		}
		if d, err := n.Device(ctx, l.UserID, "DEV"); err != nil || d.DisplayName != "phone" {
			t.Fatalf("the device is %+v, %v", d, err)
		}
		// The client missed the answer and repeats its request: in full, and with the session alone.
		again, err := n.Register(ctx, encode(t, body))
		ok(t, err)
		alone, err := n.Register(ctx, encode(t, m{"auth": m{"session": body["auth"].(m)["session"]}}))
		ok(t, err)
		if *again != *l || *alone != *l {
			t.Fatalf("registered %+v, then %+v, then %+v", l, again, alone)
		}
		n.mustAuth(l.AccessToken)
		n.login("alice", "", false)

		if l, err = n.register(m{"username": "bob", "inhibit_login": true}); err != nil || l.AccessToken != "" || l.DeviceID != "" {
			t.Fatalf("without login: %+v, %v", l, err)
		}
		if l, err = n.register(m{}); err != nil || l.UserID.IsHistorical() {
			t.Fatalf("without a name: %+v, %v", l, err)
		}
		for _, c := range []struct {
			body m
			want mxerr.Code
		}{
			{m{"username": "alice"}, mxerr.CodeUserInUse},
			{m{"username": "ALICE"}, mxerr.CodeUserInUse},
			{m{"username": "irc_bob"}, mxerr.CodeExclusive},
			{m{"username": "carol", "password": "short"}, mxerr.CodeWeakPassword},
			{m{"username": 1}, mxerr.CodeBadJSON},
			{m{"username": strings.Repeat("a", 250)}, mxerr.CodeInvalidUsername},
			{m{"username": "carol", "device_id": strings.Repeat("a", 256)}, mxerr.CodeInvalidParam},
			{m{"username": "carol", "guest_access_token": "x"}, mxerr.CodeUnknownToken},
		} {
			// Before any authentication.
			if _, err := n.Register(ctx, encode(t, c.body)); !mxerr.Is(err, c.want) {
				t.Errorf("%v: got %v, want %s", c.body, err, c.want)
			}
		}
		for _, name := range []string{"a b", "a:b", "@a", "é", "\u212a", "a\x00", "a\n", "[a]", "!a", "a?"} {
			_, err := n.Register(ctx, encode(t, m{"username": name}))
			mustFail(t, err, mxerr.CodeInvalidUsername)
		}
		for _, name := range []string{"a.b", "a_b", "a=b", "a-b", "a/b", "a+b", "3"} {
			if _, err := n.register(m{"username": name}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// Two people want the same name at the same time: one gets it.
func TestRegisterAtOnce(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		var won, lost int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				_, err := n.register(m{"username": "alice", "password": goodPassword})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case mxerr.Is(err, mxerr.CodeUserInUse):
					lost++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 || lost != 5 {
			t.Fatalf("%d won, %d lost", won, lost)
		}
	})
}

// One session sends its last request several times at once, to two nodes: all get the same account.
func TestRegisterSameSessionAtOnce(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		nodes := []*node{n, start(t, open)}
		_, err := n.Register(t.Context(), []byte(`{}`))
		body := encode(t, m{"auth": m{"type": StageDummy, "session": challenge(t, err).Session}})
		var users [4]id.UserID
		var wg sync.WaitGroup
		for i := range users {
			wg.Go(func() {
				l, err := nodes[i%2].Register(t.Context(), body)
				if err != nil {
					t.Error(err)
					return
				}
				users[i] = l.UserID
			})
		}
		wg.Wait()
		for _, u := range users {
			if u != users[0] {
				t.Fatalf("one session made %v", users)
			}
		}
		if count, err := n.Count(t.Context()); err != nil || count != 1 {
			t.Fatalf("%d accounts, %v", count, err)
		}
	})
}

func TestRegistrationTokens(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open, func(c *Config) {
			c.Registration = RegistrationToken
			c.Terms = map[string]Policy{"tos": {Version: "1.2", Texts: map[string]PolicyText{"en": {"Terms", "https://here.example/"}}}}
		})
		two := int64(2)
		token, err := n.NewRegistrationToken(ctx, "", &two, time.Hour)
		ok(t, err)
		_, err = n.NewRegistrationToken(ctx, token.Token, nil, 0)
		mustFail(t, err, mxerr.CodeInvalidParam)
		_, err = n.NewRegistrationToken(ctx, "a b", nil, 0)
		mustFail(t, err, mxerr.CodeInvalidParam)

		register := func(name, token string) error {
			body := m{"username": name}
			_, err := n.Register(ctx, encode(t, body))
			c := challenge(t, err)
			if got := string(encode(t, c.Params)); got != `{"m.login.terms":{"policies":{"tos":{"en":{"name":"Terms","url":"https://here.example/"},"version":"1.2"}}}}` {
				t.Fatalf("params are %s", got)
			}
			body["auth"] = m{"type": StageRegistrationToken, "session": c.Session, "token": token}
			_, err = n.Register(ctx, encode(t, body))
			if c = challenge(t, err); c.Err != nil {
				return c.Err
			}
			body["auth"] = m{"type": StageTerms, "session": c.Session}
			_, err = n.Register(ctx, encode(t, body))
			return err
		}
		ok(t, register("a", token.Token))
		ok(t, register("b", token.Token))
		for _, bad := range []string{token.Token, "none", "not a token", "\x00"} {
			mustFail(t, register("c", bad), mxerr.CodeUnauthorized)
			if valid, err := n.RegistrationTokenValid(ctx, bad); valid || err != nil {
				t.Fatalf("%q is valid, %v", bad, err)
			}
		}
		list, err := n.RegistrationTokens(ctx)
		ok(t, err)
		if len(list) != 1 || list[0].Completed != 2 || list[0].Pending != 0 || *list[0].UsesAllowed != 2 {
			t.Fatalf("tokens are %+v", list)
		}
		ok(t, n.DeleteRegistrationToken(ctx, token.Token))
		mustFail(t, n.DeleteRegistrationToken(ctx, token.Token), mxerr.CodeNotFound)
	})
}

func TestRegistrationClosed(t *testing.T) {
	n := openOn(t, sqldbtest.SQLite(t), func(c *Config) { c.Registration, c.Guests = "", false })
	_, err := n.Register(t.Context(), []byte(`{}`))
	mustFail(t, err, mxerr.CodeForbidden)
	_, err = n.RegistrationTokenValid(t.Context(), "x")
	mustFail(t, err, mxerr.CodeForbidden)
	_, err = n.RegisterGuest(t.Context(), "")
	mustFail(t, err, mxerr.CodeGuestAccessForbidden)
	_, err = n.SharedSecretNonce(t.Context())
	mustFail(t, err, mxerr.CodeUnrecognized)
	if _, err := Open(t.Context(), Config{DB: n.db, Ours: n.ours, Registration: "maybe"}); err == nil {
		t.Error("opened with an unknown kind of registration")
	}
}

func TestGuests(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		g, err := n.RegisterGuest(ctx, "browser")
		ok(t, err)
		if c := n.mustAuth(g.AccessToken); !c.Guest || c.User != g.UserID {
			t.Fatalf("the guest is %+v", c)
		}
		name := g.UserID.Localpart()
		_, err = n.register(m{"username": "somebody", "guest_access_token": g.AccessToken})
		mustFail(t, err, mxerr.CodeInvalidUsername)
		l, err := n.register(m{"username": name, "password": goodPassword, "guest_access_token": g.AccessToken})
		ok(t, err)
		if l.UserID != g.UserID || n.mustAuth(l.AccessToken).Guest || n.mustAuth(g.AccessToken).Guest {
			t.Fatal("the guest was not upgraded")
		}
		_, err = n.register(m{"username": name, "password": goodPassword, "guest_access_token": g.AccessToken})
		mustFail(t, err, mxerr.CodeForbidden)
		n.login(name, "", false)
	})
}

// The keyed hash was computed with Python's hmac module.
func TestSharedSecret(t *testing.T) {
	r := SharedRegistration{Nonce: "thisisanonce", Username: "pepper_roni", Password: "pizza", Admin: true}
	if got := hex.EncodeToString(r.sum("shared_secret")); got != "48715842ad67d5dc9a9ee938a3bda4fcfae8d7c7" {
		t.Errorf("sum is %s", got)
	}
	r.Admin, r.UserType = false, "bot"
	if got := hex.EncodeToString(r.sum("shared_secret")); got != "b269635cb53e1adc15073ae7ffbd000b836b3105" {
		t.Errorf("sum with a user type is %s", got)
	}
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open, func(c *Config) { c.SharedSecret, c.Registration = "s3cret", RegistrationClosed })
		sign := func(secret string) SharedRegistration {
			nonce, err := n.SharedSecretNonce(ctx)
			ok(t, err)
			r := SharedRegistration{Nonce: nonce, Username: "root", Password: goodPassword, Admin: true, DisplayName: "Root"}
			r.MAC = hex.EncodeToString(r.sum(secret))
			return r
		}
		_, err := n.RegisterShared(ctx, sign("wrong"))
		mustFail(t, err, mxerr.CodeForbidden)
		r := sign("s3cret")
		l, err := n.RegisterShared(ctx, r)
		ok(t, err)
		if !n.mustAuth(l.AccessToken).Admin {
			t.Fatal("not an administrator")
		}
		_, err = n.RegisterShared(ctx, r) // the nonce is spent
		mustFail(t, err, mxerr.CodeInvalidParam)
		_, err = n.RegisterShared(ctx, sign("s3cret"))
		mustFail(t, err, mxerr.CodeUserInUse)
	})
}
