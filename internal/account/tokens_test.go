package account

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/mxerr"
)

func TestLogin(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		n.user("alice")
		id := func(user string) *Identifier { return &Identifier{Type: "m.id.user", User: user} }
		for name, r := range map[string]LoginRequest{
			"localpart":  {Type: TypePassword, Identifier: id("alice"), Password: goodPassword},
			"user id":    {Type: TypePassword, Identifier: id("@alice:here.example"), Password: goodPassword},
			"capitals":   {Type: TypePassword, Identifier: id("Alice"), Password: goodPassword},
			"deprecated": {Type: TypePassword, User: "alice", Password: goodPassword},
			"device":     {Type: TypePassword, User: "alice", Password: goodPassword, DeviceID: "DEVICE"},
		} {
			l, err := n.Login(ctx, r)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			c := n.mustAuth(l.AccessToken)
			if c.User != "@alice:here.example" || c.Device != l.DeviceID || c.TokenID == 0 || l.ExpiresInMS != 0 || l.RefreshToken != "" {
				t.Errorf("%s: got %+v", name, l)
			}
			if r.DeviceID != "" && string(l.DeviceID) != r.DeviceID {
				t.Errorf("%s: device is %s", name, l.DeviceID)
			}
		}
		for _, c := range []struct {
			r    LoginRequest
			want mxerr.Code
		}{
			{LoginRequest{}, mxerr.CodeMissingParam},
			{LoginRequest{Type: "m.login.magic"}, mxerr.CodeInvalidParam},
			{LoginRequest{Type: TypePassword, User: "alice"}, mxerr.CodeMissingParam},
			{LoginRequest{Type: TypePassword, Password: "x"}, mxerr.CodeMissingParam},
			{LoginRequest{Type: TypePassword, User: "alice", Password: "wrong"}, mxerr.CodeForbidden},
			{LoginRequest{Type: TypePassword, User: "nobody", Password: goodPassword}, mxerr.CodeForbidden},
			{LoginRequest{Type: TypePassword, User: "@alice:elsewhere.example", Password: goodPassword}, mxerr.CodeForbidden},
			{LoginRequest{Type: TypePassword, User: "a\x00b", Password: goodPassword}, mxerr.CodeForbidden},
			{LoginRequest{Type: TypePassword, Identifier: &Identifier{Type: "m.id.thirdparty"}, Password: "x"}, mxerr.CodeForbidden},
			{LoginRequest{Type: TypePassword, Medium: "email", Address: "a@b", Password: "x"}, mxerr.CodeForbidden},
			{LoginRequest{Type: TypePassword, Identifier: &Identifier{Type: "x"}, Password: "x"}, mxerr.CodeInvalidParam},
			{LoginRequest{Type: TypeToken}, mxerr.CodeMissingParam},
			{LoginRequest{Type: TypeToken, Token: "mlt_x"}, mxerr.CodeForbidden},
		} {
			if _, err := n.Login(ctx, c.r); !mxerr.Is(err, c.want) {
				t.Errorf("%+v: got %v, want %s", c.r, err, c.want)
			}
		}
		n.dead("mat_nonsense", false)
		n.dead("", false)
	})
}

func TestLoginToken(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		l := n.user("alice")
		token, err := n.NewLoginToken(ctx, l.UserID)
		ok(t, err)
		if token.ExpiresInMS != 120_000 {
			t.Fatalf("the token lives %d ms", token.ExpiresInMS)
		}
		got, err := n.Login(ctx, LoginRequest{Type: TypeToken, Token: token.Token})
		ok(t, err)
		if n.mustAuth(got.AccessToken).User != l.UserID {
			t.Fatal("logged in as somebody else")
		}
		_, err = n.Login(ctx, LoginRequest{Type: TypeToken, Token: token.Token})
		mustFail(t, err, mxerr.CodeForbidden)

		// One kind of token is of no use as another.
		openID, err := n.NewOpenIDToken(ctx, l.UserID)
		ok(t, err)
		if user, err := n.OpenIDUser(ctx, openID.AccessToken); err != nil || user != l.UserID {
			t.Fatalf("got %s, %v", user, err)
		}
		if user, err := n.OpenIDUser(ctx, openID.AccessToken); err != nil || user != l.UserID {
			t.Fatalf("the second time: %s, %v", user, err)
		}
		_, err = n.Login(ctx, LoginRequest{Type: TypeToken, Token: openID.AccessToken})
		mustFail(t, err, mxerr.CodeForbidden)
		n.dead(openID.AccessToken, false)
		_, err = n.OpenIDUser(ctx, l.AccessToken)
		mustFail(t, err, mxerr.CodeUnknownToken)
	})
}

func TestRefresh(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		n.user("alice")
		one := n.login("alice", "D", true)
		if one.RefreshToken == "" || one.ExpiresInMS != DefaultRefreshableLifetime.Milliseconds() {
			t.Fatalf("got %+v", one)
		}
		n.mustAuth(one.AccessToken)

		// The answer was lost: the client asks again, and the old tokens go on working.
		lost, err := n.Refresh(ctx, one.RefreshToken)
		ok(t, err)
		two, err := n.Refresh(ctx, one.RefreshToken)
		ok(t, err)
		n.mustAuth(one.AccessToken)
		// The first use of a new token ends the old ones, and those of the lost answer.
		if c := n.mustAuth(two.AccessToken); c.Device != "D" {
			t.Fatalf("the caller is %+v", c)
		}
		n.dead(one.AccessToken, false)
		n.dead(lost.AccessToken, false)
		for _, old := range []string{one.RefreshToken, lost.RefreshToken, "mrt_none", two.AccessToken} {
			_, err = n.Refresh(ctx, old)
			mustFail(t, err, mxerr.CodeUnknownToken)
		}
		n.mustAuth(two.AccessToken)

		// Using the new refresh token counts as using the pair.
		three, err := n.Refresh(ctx, two.RefreshToken)
		ok(t, err)
		four, err := n.Refresh(ctx, three.RefreshToken)
		ok(t, err)
		n.dead(two.AccessToken, false)
		_, err = n.Refresh(ctx, two.RefreshToken)
		mustFail(t, err, mxerr.CodeUnknownToken)
		n.mustAuth(three.AccessToken)
		n.mustAuth(four.AccessToken)

		// Answers that are never used don't pile up.
		var kept []*Refreshed
		for range maxRefreshes + 3 {
			r, err := n.Refresh(ctx, four.RefreshToken)
			ok(t, err)
			kept = append(kept, r)
		}
		n.dead(kept[0].AccessToken, false)
		n.mustAuth(kept[len(kept)-maxRefreshes].AccessToken)

		ok(t, n.Logout(ctx, n.mustAuth(kept[len(kept)-maxRefreshes].AccessToken)))
		_, err = n.Refresh(ctx, kept[len(kept)-maxRefreshes].RefreshToken)
		mustFail(t, err, mxerr.CodeUnknownToken)
	})
}

// One device logs in several times at once, on two nodes: it has one session in the end.
func TestLoginAtOnce(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		nodes := []*node{n, start(t, open)}
		n.user("alice")
		var logins [8]*Login
		var wg sync.WaitGroup
		for i := range logins {
			wg.Go(func() {
				var err error
				if logins[i], err = nodes[i%2].OpenSession(t.Context(), "@alice:here.example", "D", "", true); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		alive := 0
		for _, l := range logins {
			if _, err := n.Authenticate(t.Context(), l.AccessToken); err == nil {
				alive++
			}
		}
		if alive != 1 {
			t.Fatalf("one device has %d sessions", alive)
		}
	})
}

func TestSoftLogout(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		l := n.user("alice")
		n.mustAuth(l.AccessToken)
		ok(t, n.SoftLogout(t.Context(), l.UserID, l.DeviceID))
		n.dead(l.AccessToken, true)
		again := n.login("alice", string(l.DeviceID), false)
		n.mustAuth(again.AccessToken)
	})
}

// Tokens expire on time, in a bubble whose clock jumps. SQLite only: a bubble can't hold sockets.
func TestTokensExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		db := sqldbtest.SQLite(t)
		n := openOn(t, db, func(c *Config) {
			c.TokenLifetime, c.RefreshableLifetime, c.RefreshLifetime = time.Hour, time.Minute, time.Hour
		})
		n.user("alice")
		plain, fresh := n.login("alice", "A", false), n.login("alice", "B", true)
		n.mustAuth(plain.AccessToken)
		n.mustAuth(fresh.AccessToken)
		time.Sleep(time.Minute)
		n.dead(fresh.AccessToken, true)
		n.mustAuth(plain.AccessToken)
		next, err := n.Refresh(ctx, fresh.RefreshToken)
		ok(t, err)
		n.mustAuth(next.AccessToken)
		token, err := n.NewLoginToken(ctx, plain.UserID)
		ok(t, err)
		time.Sleep(time.Hour)
		n.dead(plain.AccessToken, true)
		_, err = n.Refresh(ctx, next.RefreshToken)
		mustFail(t, err, mxerr.CodeUnknownToken)
		if e, _ := mxerr.Of(err); e.Extra["soft_logout"] != true {
			t.Fatal("an expired refresh token is no soft logout")
		}
		ok(t, n.Sweep(ctx))
		n.dead(plain.AccessToken, true)
		_, err = n.Login(ctx, LoginRequest{Type: TypeToken, Token: token.Token})
		mustFail(t, err, mxerr.CodeForbidden)
		ok(t, n.Close(ctx))
		ok(t, db.Close())
	})
}

// A token in use costs no read of the database.
func TestAuthenticateReadsNothing(t *testing.T) {
	n := openOn(t, sqldbtest.SQLite(t))
	l := n.user("alice")
	n.mustAuth(l.AccessToken)
	before := n.db.Stats()
	for range 100 {
		n.mustAuth(l.AccessToken)
	}
	if after := n.db.Stats(); after.Reads != before.Reads || after.Commits != before.Commits {
		t.Fatalf("100 authentications read %d times and committed %d times", after.Reads-before.Reads, after.Commits-before.Commits)
	}
}

// A node that gets no hint at all stops believing its cache after ten seconds.
func TestOtherNodesRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		db := sqldbtest.SQLite(t)
		here, there := openOn(t, db), openOn(t, db) // no bus connects them
		l := here.user("alice")
		there.mustAuth(l.AccessToken)
		ok(t, here.PutData(ctx, l.UserID, "", TypeIgnored, []byte(`{"ignored_users":{}}`)))
		if set, err := there.IgnoredUsers(ctx, l.UserID); err != nil || len(set) != 0 {
			t.Fatal(set, err)
		}
		ok(t, here.Logout(ctx, here.mustAuth(l.AccessToken)))
		ok(t, here.PutData(ctx, l.UserID, "", TypeIgnored, []byte(`{"ignored_users":{"@eve:x":{}}}`)))
		here.dead(l.AccessToken, false)
		time.Sleep(recheckEvery + time.Millisecond)
		there.dead(l.AccessToken, false)
		if set, err := there.IgnoredUsers(ctx, l.UserID); err != nil || len(set) != 1 {
			t.Fatal(set, err)
		}
		time.Sleep(2 * keepChanges) // a node that slept for long
		ok(t, here.Sweep(ctx))
		there.dead(l.AccessToken, false)
		ok(t, here.Close(ctx))
		ok(t, there.Close(ctx))
		ok(t, db.Close())
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	n := openOn(b, sqldbtest.SQLite(b))
	l := n.user("alice")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := n.Authenticate(b.Context(), l.AccessToken); err != nil {
				b.Error(err)
			}
		}
	})
}
