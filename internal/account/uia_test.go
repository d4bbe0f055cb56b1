package account

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// twoSteps are flows that share their first stage.
var twoSteps = []web.Flow{
	{Stages: []string{StageDummy, StagePassword}},
	{Stages: []string{StageDummy, "test.magic"}},
}

// magicStage wants the word.
type magicStage struct{}

func (magicStage) Type() string { return "test.magic" }
func (magicStage) Params() any  { return m{"hint": "please"} }
func (magicStage) Attempt(_ context.Context, t *Try) error {
	if !strings.Contains(string(t.Auth), "abracadabra") {
		return mxerr.Forbidden("Say the word.")
	}
	t.Facts["magic"] = "yes"
	return nil
}

func withMagic(c *Config) { c.Stages = []Stage{magicStage{}} }

func TestInteract(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open, withMagic)
		user := n.user("alice").UserID
		op := func(body m) Operation {
			return Operation{Name: "deleteDevice X", User: user, Body: encode(t, body), Flows: twoSteps}
		}
		try := func(body m) (*Grant, error) { return n.Interact(t.Context(), op(body)) }

		_, err := try(m{"x": 1})
		c := challenge(t, err)
		if c.Session == "" || c.Err != nil || len(c.Completed) != 0 || len(c.Flows) != 2 || c.Params["test.magic"].(m)["hint"] != "please" {
			t.Fatalf("the first challenge is %+v", c)
		}
		sid := c.Session
		auth := func(typ string, more ...string) m {
			a := m{"type": typ, "session": sid}
			for i := 0; i < len(more); i += 2 {
				a[more[i]] = more[i+1]
			}
			return m{"x": 1, "auth": a}
		}

		// Out of order, unknown, no type.
		for _, typ := range []string{StagePassword, "test.unknown", StageTerms} {
			_, err = try(auth(typ))
			if c = challenge(t, err); c.Session != sid || c.Err == nil || len(c.Completed) != 0 {
				t.Fatalf("stage %s out of order: %+v", typ, c)
			}
		}
		_, err = try(m{"x": 1, "auth": m{"session": sid}})
		if c = challenge(t, err); c.Err != nil || len(c.Completed) != 0 {
			t.Fatalf("without a type: %+v", c)
		}

		_, err = try(auth(StageDummy))
		if c = challenge(t, err); c.Err != nil || !slices.Equal(c.Completed, []string{StageDummy}) || c.Session != sid {
			t.Fatalf("after the first stage: %+v", c)
		}
		// A completed stage is not attempted again.
		_, err = try(auth(StageDummy))
		if c = challenge(t, err); c.Err != nil || len(c.Completed) != 1 {
			t.Fatalf("the first stage again: %+v", c)
		}
		// Another node carries on; a failed attempt keeps what is complete.
		_, err = start(t, open, withMagic).Interact(t.Context(), op(auth("test.magic")))
		if c = challenge(t, err); c.Err == nil || c.Err.Code != mxerr.CodeForbidden || len(c.Completed) != 1 {
			t.Fatalf("a failed attempt: %+v", c)
		}
		_, err = try(m{"x": 2, "auth": auth("test.magic", "word", "abracadabra")["auth"]})
		mustFail(t, err, mxerr.CodeForbidden) // another request

		g, err := try(auth("test.magic", "word", "abracadabra"))
		ok(t, err)
		if g.User != user || string(g.Params) != `{"x":1}` || g.Facts["magic"] != "yes" {
			t.Fatalf("granted %+v", g)
		}
		// The answer was lost: the same again, or with nothing but the session.
		for _, body := range []m{auth("test.magic"), {"auth": m{"session": sid}}} {
			if g, err = try(body); err != nil || string(g.Params) != `{"x":1}` {
				t.Fatalf("asked again: %+v, %v", g, err)
			}
		}

		// The session is for this operation and this user only.
		other := op(auth(""))
		other.Name = "deleteDevice Y"
		_, err = n.Interact(t.Context(), other)
		mustFail(t, err, mxerr.CodeForbidden)
		other = op(auth(""))
		other.User = "@eve:here.example"
		_, err = n.Interact(t.Context(), other)
		mustFail(t, err, mxerr.CodeForbidden)
	})
}

func TestInteractBadInput(t *testing.T) {
	n := openOn(t, sqldbtest.SQLite(t))
	op := Operation{Name: "x", Flows: PasswordFlow}
	for body, want := range map[string]mxerr.Code{
		`[]`:                     mxerr.CodeBadJSON,
		`{"auth":1}`:             mxerr.CodeBadJSON,
		`{"auth":{"type":1}}`:    mxerr.CodeBadJSON,
		`{"auth":{"session":1}}`: mxerr.CodeBadJSON,
		`{"x":"` + strings.Repeat("x", maxAuthParams) + `"}`: mxerr.CodeTooLarge,
	} {
		op.Body = []byte(body)
		_, err := n.Interact(t.Context(), op)
		if !mxerr.Is(err, want) {
			t.Errorf("%.40s: got %v, want %s", body, err, want)
		}
	}
	for _, body := range []string{``, `{}`, `null`, `{"auth":null}`, `{"auth":{}}`, `{"auth":{"session":"a\u0000"}}`, `{"auth":{"type":"m.login.password","session":"none"}}`} {
		op.Body = []byte(body)
		op.Name = "x\x00y"
		_, err := n.Interact(t.Context(), op)
		if c := challenge(t, err); c.Session == "" {
			t.Errorf("%s: got %+v", body, c)
		}
	}
	if _, err := Open(t.Context(), Config{DB: n.db, Ours: n.ours, Stages: []Stage{dummyStage{}}}); err == nil {
		t.Error("opened with two stages of one name")
	}
}

func TestPasswordStage(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		alice := n.user("alice").UserID
		n.user("bob")
		attempt := func(caller id.UserID, auth m) (*Grant, error) {
			auth["type"] = StagePassword
			return n.Interact(t.Context(), Operation{Name: "changePassword", User: caller,
				Body: encode(t, m{"auth": auth}), Flows: PasswordFlow})
		}
		me := m{"type": "m.id.user", "user": "alice"}
		// In one step, without a session: old clients do that.
		g, err := attempt(alice, m{"identifier": me, "password": goodPassword})
		ok(t, err)
		if g.User != alice {
			t.Fatalf("granted to %s", g.User)
		}
		g, err = attempt("", m{"user": string(alice), "password": goodPassword}) // without an access token
		ok(t, err)
		if g.User != alice {
			t.Fatalf("granted to %s", g.User)
		}
		for _, c := range []struct {
			auth m
			want mxerr.Code
		}{
			{m{"identifier": me, "password": "wrong"}, mxerr.CodeForbidden},
			{m{"identifier": me}, mxerr.CodeMissingParam},
			{m{"password": goodPassword}, mxerr.CodeMissingParam},
			{m{"identifier": 1, "password": "x"}, mxerr.CodeBadJSON},
			{m{"identifier": m{"type": "m.id.phone"}, "password": goodPassword}, mxerr.CodeForbidden},
		} {
			_, err := attempt(alice, c.auth)
			if got := challenge(t, err); got.Err == nil || got.Err.Code != c.want {
				t.Errorf("%v: got %v, want %s", c.auth, got.Err, c.want)
			}
		}
		// Somebody else's password is not asked for again.
		_, err = attempt(alice, m{"identifier": m{"type": "m.id.user", "user": "bob"}, "password": goodPassword})
		if e, ok := err.(*mxerr.Error); !ok || e.Code != mxerr.CodeForbidden {
			t.Errorf("as another user: %v", err)
		}
	})
}

// Of concurrent attempts at one stage exactly one is recorded, and nobody gets an error of ours.
func TestInteractAtOnce(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		withTokens := func(c *Config) { c.Registration = RegistrationToken }
		n := start(t, open, withTokens)
		nodes := []*node{n, start(t, open, withTokens)}
		_, err := n.NewRegistrationToken(ctx, "tok", nil, 0)
		ok(t, err)
		op := Operation{Name: "register", Body: []byte(`{}`), Flows: n.RegistrationFlows()}
		_, err = n.Interact(ctx, op)
		op.Body = encode(t, m{"auth": m{"type": StageRegistrationToken, "token": "tok", "session": challenge(t, err).Session}})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if _, err := nodes[i%2].Interact(ctx, op); err != nil {
					t.Errorf("concurrent attempt: %v", err)
				}
			})
		}
		wg.Wait()
		list, err := n.RegistrationTokens(ctx)
		ok(t, err)
		if len(list) != 1 || list[0].Pending != 1 {
			t.Fatalf("tokens are %+v", list)
		}
	})
}

// Nothing that a client sent or got in interactive authentication stands in the database in the clear.
func TestAuthSessionsAreSealed(t *testing.T) {
	sealed := seal("session", []byte("secret"))
	if strings.Contains(sealed, "secret") {
		t.Fatal("not sealed")
	}
	if plain, err := unseal("session", sealed); err != nil || string(plain) != "secret" {
		t.Fatalf("unsealed %q, %v", plain, err)
	}
	if _, err := unseal("other", sealed); err == nil {
		t.Fatal("another session unsealed it")
	}
	for _, bad := range []string{"!", "AAAA", sealed[:len(sealed)-2]} {
		if _, err := unseal("session", bad); err == nil {
			t.Fatalf("unsealed %q", bad)
		}
	}
}

func TestAuthSessionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		db := sqldbtest.SQLite(t)
		n := openOn(t, db, func(c *Config) {
			c.Registration = RegistrationToken
			c.Terms = map[string]Policy{"tos": {Version: "1"}}
		})
		one := int64(1)
		_, err := n.NewRegistrationToken(ctx, "tok", &one, 0)
		ok(t, err)
		hold := func() string {
			_, err := n.Register(ctx, encode(t, m{"username": "alice"}))
			sid := challenge(t, err).Session
			_, err = n.Register(ctx, encode(t, m{"username": "alice", "auth": m{"type": StageRegistrationToken, "token": "tok", "session": sid}}))
			if c := challenge(t, err); c.Err != nil {
				t.Fatal(c.Err)
			}
			return sid
		}
		sid := hold()
		if valid, _ := n.RegistrationTokenValid(ctx, "tok"); valid {
			t.Fatal("the only use is not held")
		}
		time.Sleep(authSessionLifetime)
		_, err = n.Register(ctx, encode(t, m{"username": "alice", "auth": m{"type": StageTerms, "session": sid}}))
		if c := challenge(t, err); c.Err == nil || c.Session == sid {
			t.Fatalf("an expired session: %+v", c)
		}
		ok(t, n.Sweep(ctx))
		if valid, _ := n.RegistrationTokenValid(ctx, "tok"); !valid {
			t.Fatal("the use was not released")
		}
		sid = hold()
		_, err = n.Register(ctx, encode(t, m{"username": "alice", "auth": m{"type": StageTerms, "session": sid}}))
		ok(t, err)
		time.Sleep(authSessionLifetime)
		ok(t, n.Sweep(ctx))
		list, err := n.RegistrationTokens(ctx)
		ok(t, err)
		if list[0].Pending != 0 || list[0].Completed != 1 {
			t.Fatalf("the token is %+v", list[0])
		}
		ok(t, n.Close(ctx))
		ok(t, db.Close())
	})
}

func FuzzSplitAuth(f *testing.F) {
	for _, s := range []string{``, `{}`, `{"auth":{"type":"x"},"b":1,"a":[ 2 ]}`, `{"auth":null}`, `null`, `[`, `{"a":1,"a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		params, auth, err := splitAuth(body)
		if err != nil {
			return
		}
		again, none, err := splitAuth(params)
		if err != nil || none != nil || string(again) != string(params) || !json.Valid(params) {
			t.Fatalf("%q gave %q, which gives %q, %v", body, params, again, err)
		}
		if auth != nil && !json.Valid(auth) {
			t.Fatalf("%q gave auth %q", body, auth)
		}
	})
}
