package account

import (
	"encoding/json"
	"errors"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const goodPassword = "correct horse"

// cheap makes hashing take microseconds.
var cheap = PasswordPolicy{Memory: 8, Passes: 1}

// node is one server on a test database.
type node struct {
	*Accounts
	t   testing.TB
	db  *sqldb.DB
	got []bus.Entry // what the bus told
}

// start opens accounts on a database with a bus of its own: once more is another node.
func start(t *testing.T, open sqldbtest.Open, configure ...func(*Config)) *node {
	t.Helper()
	b := bus.New(bus.Config{})
	db := open(func(c *sqldb.Config) { c.Committed = b.Committed })
	n := openOn(t, db, append(configure, func(c *Config) { c.Bus = b })...)
	b.Subscribe(func(r bus.Range) { n.got = append(n.got, r.Entries...) })
	return n
}

// openOn opens accounts without a bus.
func openOn(t testing.TB, db *sqldb.DB, configure ...func(*Config)) *node {
	t.Helper()
	names, err := ours.Open(t.Context(), ours.Config{DB: db, Names: []id.ServerName{"here.example"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{DB: db, Ours: names, Registration: RegistrationOpen, Guests: true, Password: cheap}
	for _, f := range configure {
		f(&cfg)
	}
	n := &node{t: t, db: db}
	if n.Accounts, err = Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return n
}

// user makes an account and logs it in.
func (n *node) user(name string) *Login {
	n.t.Helper()
	user := id.UserID("@" + name + ":here.example")
	if err := n.Create(n.t.Context(), NewUser{ID: user, Password: goodPassword}); err != nil {
		n.t.Fatal(err)
	}
	return n.login(name, "", false)
}

func (n *node) login(name, device string, refresh bool) *Login {
	n.t.Helper()
	l, err := n.Login(n.t.Context(), LoginRequest{Type: TypePassword, Identifier: &Identifier{Type: "m.id.user", User: name},
		Password: goodPassword, DeviceID: device, RefreshToken: refresh})
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

func (n *node) mustAuth(token string) web.Caller {
	n.t.Helper()
	c, err := n.Authenticate(n.t.Context(), token)
	if err != nil {
		n.t.Fatalf("authenticate: %v", err)
	}
	return c
}

// mustFail checks the errcode of an error.
func mustFail(t testing.TB, err error, want mxerr.Code) {
	t.Helper()
	if !mxerr.Is(err, want) {
		t.Fatalf("got error %v, want %s", err, want)
	}
}

// dead checks that a token is refused, and whether softly.
func (n *node) dead(token string, soft bool) {
	n.t.Helper()
	_, err := n.Authenticate(n.t.Context(), token)
	mustFail(n.t, err, mxerr.CodeUnknownToken)
	if e, _ := mxerr.Of(err); e.Extra["soft_logout"] != soft {
		n.t.Fatalf("soft_logout is %v, want %v", e.Extra["soft_logout"], soft)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// challengeOr returns the challenge in err, nil where it is something else.
func challengeOr(err error) *web.InteractiveError {
	var e *web.InteractiveError
	errors.As(err, &e)
	return e
}

// challenge checks that err asks for more authentication.
func challenge(t testing.TB, err error) *web.InteractiveError {
	t.Helper()
	var e *web.InteractiveError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a challenge", err)
	}
	return e
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	ok(t, err)
	return raw
}

type m = map[string]any

func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		sqldbtest.PrepareAll(t, start(t, open).db)
	})
}

func TestUsers(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		alice := id.UserID("@alice:here.example")
		ok(t, n.Create(ctx, NewUser{ID: alice, Password: goodPassword, DisplayName: "Alice"}))
		mustFail(t, n.Create(ctx, NewUser{ID: alice}), mxerr.CodeUserInUse)
		mustFail(t, n.Create(ctx, NewUser{ID: "@Alice:here.example"}), mxerr.CodeInvalidUsername)
		mustFail(t, n.Create(ctx, NewUser{ID: "@a:elsewhere.example"}), mxerr.CodeInvalidUsername)
		mustFail(t, n.Create(ctx, NewUser{ID: "@b:here.example", Password: "short"}), mxerr.CodeWeakPassword)
		ok(t, n.Create(ctx, NewUser{ID: "@bob:here.example"}))

		list, err := n.Users(ctx, "", 10)
		ok(t, err)
		if len(list) != 2 || list[0].ID != alice || !list[0].HasPassword || list[1].HasPassword {
			t.Fatalf("users are %+v", list)
		}
		if list, _ = n.Users(ctx, alice, 10); len(list) != 1 {
			t.Fatalf("after alice come %+v", list)
		}
		if changed, _ := n.UsersChanged(ctx, list[0].Pos-1, list[0].Pos, 10); len(changed) != 1 {
			t.Fatalf("changed users are %+v", changed)
		}
		if name, _, _ := n.NameAndAvatar(ctx, alice); name != "Alice" {
			t.Fatalf("name is %q", name)
		}

		// A flag counts at once for a token that is cached.
		l := n.login("alice", "", false)
		if n.mustAuth(l.AccessToken).Locked {
			t.Fatal("locked too early")
		}
		yes := true
		ok(t, n.SetFlags(ctx, alice, Flags{Locked: &yes, Admin: &yes}))
		if c := n.mustAuth(l.AccessToken); !c.Locked || !c.Admin || c.Suspended {
			t.Fatalf("after locking the caller is %+v", c)
		}
		_, err = n.OpenSession(ctx, alice, "", "", false)
		mustFail(t, err, mxerr.CodeUserLocked)
		mustFail(t, n.SetFlags(ctx, "@none:here.example", Flags{Locked: &yes}), mxerr.CodeNotFound)
	})
}

func TestDeactivate(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		var told []id.DeviceID
		n := start(t, open, func(c *Config) {
			c.DevicesChanged = func(_ *sqldb.Tx, _ sqldb.Pos, list []DeviceChange) error {
				for _, d := range list {
					if d.Event == DeviceDeleted {
						told = append(told, d.Device)
					}
				}
				return nil
			}
		})
		l := n.user("alice")
		ok(t, n.PutData(ctx, l.UserID, "", "x.y", []byte(`{}`)))
		ok(t, n.SetProfileField(ctx, l.UserID, "displayname", []byte(`{"displayname":"A"}`)))
		token, err := n.NewLoginToken(ctx, l.UserID)
		ok(t, err)
		n.mustAuth(l.AccessToken)
		ok(t, n.Deactivate(ctx, l.UserID, true))

		n.dead(l.AccessToken, false)
		if len(told) != 1 || told[0] != l.DeviceID {
			t.Fatalf("the hook was told of %v", told)
		}
		_, err = n.Login(ctx, LoginRequest{Type: TypePassword, User: "alice", Password: goodPassword})
		mustFail(t, err, mxerr.CodeUserDeactivated)
		_, err = n.Login(ctx, LoginRequest{Type: TypeToken, Token: token.Token})
		mustFail(t, err, mxerr.CodeForbidden)
		_, err = n.CheckAvailable(ctx, "alice")
		mustFail(t, err, mxerr.CodeUserInUse)
		_, err = n.Data(ctx, l.UserID, "", "x.y")
		mustFail(t, err, mxerr.CodeNotFound)
		if raw, err := n.Profile(ctx, l.UserID); err != nil || string(raw) != "{}" {
			t.Fatalf("the profile is %s, %v", raw, err)
		}
		u, err := n.User(ctx, l.UserID)
		ok(t, err)
		if u.DeactivatedTS == 0 || u.Erased == 0 || u.HasPassword {
			t.Fatalf("the account is %+v", u)
		}
		mustFail(t, n.SetPassword(ctx, l.UserID, goodPassword, true, ""), mxerr.CodeNotFound)
		if exists, err := n.Exists(ctx, l.UserID); exists || err != nil {
			t.Fatal("a deactivated account is in use")
		}
	})
}

func TestDevices(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open, func(c *Config) {
			c.DeviceConflict = func(_ *sqldb.Tx, _ id.UserID, d id.DeviceID) (bool, error) { return d == "KEY", nil }
		})
		l := n.user("alice")
		ok(t, n.RenameDevice(ctx, l.UserID, l.DeviceID, "my\x00 phone"))
		n.Saw(n.mustAuth(l.AccessToken), "192.0.2.1")
		d, err := n.Device(ctx, l.UserID, l.DeviceID)
		ok(t, err)
		if d.DisplayName != "my phone" || d.LastSeenIP != "192.0.2.1" || d.LastSeenTS == 0 {
			t.Fatalf("the device is %+v", d)
		}
		ok(t, n.FlushSeen(ctx))
		list, err := start(t, open).Devices(ctx, l.UserID) // another node reads what was flushed
		ok(t, err)
		if len(list) != 1 || list[0].LastSeenIP != "192.0.2.1" || list[0].LastSeenTS != d.LastSeenTS {
			t.Fatalf("devices are %+v", list)
		}
		mustFail(t, n.RenameDevice(ctx, l.UserID, "NONE", "x"), mxerr.CodeNotFound)
		mustFail(t, n.RenameDevice(ctx, l.UserID, "a\x00b", "x"), mxerr.CodeNotFound)
		_, err = n.Device(ctx, l.UserID, "")
		mustFail(t, err, mxerr.CodeNotFound)

		_, err = n.OpenSession(ctx, l.UserID, "KEY", "", false)
		mustFail(t, err, mxerr.CodeForbidden)
		_, err = n.OpenSession(ctx, l.UserID, "a\x00", "", false)
		mustFail(t, err, mxerr.CodeInvalidParam)

		// The same device again: one session per device, the name stays.
		again := n.login("alice", string(l.DeviceID), false)
		n.dead(l.AccessToken, false)
		if d, _ = n.Device(ctx, l.UserID, again.DeviceID); d.DisplayName != "my phone" {
			t.Fatalf("the device is %+v", d)
		}
		other := n.login("alice", "SECOND", false)
		n.got = nil
		ok(t, n.DeleteDevices(ctx, l.UserID, "SECOND", "NONE", "bad\x00"))
		n.dead(other.AccessToken, false)
		n.mustAuth(again.AccessToken)
		var kinds []bus.Kind
		for _, e := range n.got {
			if e.User != l.UserID || e.Device != "SECOND" || e.Pos == 0 {
				t.Fatalf("the bus told of %+v", e)
			}
			kinds = append(kinds, e.Kind)
		}
		if len(kinds) != 2 || kinds[0] != bus.TokenRevoked || kinds[1] != bus.DeviceListLocal {
			t.Fatalf("the bus told of %v", kinds)
		}

		n.login("alice", "THIRD", false)
		ok(t, n.LogoutAll(ctx, l.UserID))
		n.dead(again.AccessToken, false)
		if list, _ = n.Devices(ctx, l.UserID); len(list) != 0 {
			t.Fatalf("devices are %+v", list)
		}
	})
}

func TestChangePassword(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		one := n.user("alice")
		two := n.login("alice", "", false)
		ok(t, n.SetPassword(ctx, one.UserID, goodPassword+"!", false, one.DeviceID))
		n.mustAuth(two.AccessToken)
		ok(t, n.SetPassword(ctx, one.UserID, goodPassword, true, one.DeviceID))
		n.mustAuth(one.AccessToken)
		n.dead(two.AccessToken, false)
		mustFail(t, n.SetPassword(ctx, one.UserID, "short", true, ""), mxerr.CodeWeakPassword)
		n.login("alice", "", false)
	})
}
