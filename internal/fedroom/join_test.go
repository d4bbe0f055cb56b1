package fedroom_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

func TestJoinThroughAnotherServer(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		w := newTown(t)
		a, b := w.server("a.example"), w.serverOn("b.example", open)
		alice, bob := a.user("alice"), b.user("bob")
		for _, v := range roomver.All() {
			r := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PublicChat})
			a.say(r, alice, "hello")
			if err := b.join(r, bob, a.name); err != nil {
				t.Fatalf("version %s: %v", v.ID, err)
			}
			same(t, r, a, b)
			// And both can go on.
			e := b.say(r, bob, "thanks")
			if refused := b.deliver(a, e); len(refused) > 0 {
				t.Errorf("version %s: %v", v.ID, refused)
			}
			e = a.say(r, alice, "welcome")
			if refused := a.deliver(b, e); len(refused) > 0 {
				t.Errorf("version %s: %v", v.ID, refused)
			}
			same(t, r, a, b)
			// Whoever comes next needs nobody else.
			before := a.count("make_join")
			must(t, b.join(r, bob, a.name))
			if a.count("make_join") != before {
				t.Errorf("version %s: another server was asked to let a member in", v.ID)
			}
		}
	})
}

// A server that lies is left for the next one, and what it said has no consequence.
func TestJoinSurvivesLies(t *testing.T) {
	first := func(o map[string]any, list, typ string) map[string]any {
		for _, e := range o[list].([]any) {
			if e := e.(map[string]any); e["type"] == typ {
				return e
			}
		}
		return nil
	}
	without := func(o map[string]any, list string, drop func(e map[string]any) bool) {
		var kept []any
		for _, e := range o[list].([]any) {
			if !drop(e.(map[string]any)) {
				kept = append(kept, e)
			}
		}
		o[list] = kept
	}
	template := func(change func(e map[string]any)) func(map[string]any) {
		return func(o map[string]any) { change(o["event"].(map[string]any)) }
	}
	for _, c := range []struct {
		name, op string
		lie      func(o map[string]any)
	}{
		{"template for another room", "make_join", template(func(e map[string]any) { e["room_id"] = "!other:a.example" })},
		{"template for another user", "make_join", template(func(e map[string]any) { e["sender"] = "@eve:b.example" })},
		{"template of a ban", "make_join", template(func(e map[string]any) { e["content"] = map[string]any{"membership": "ban"} })},
		{"template of another type", "make_join", template(func(e map[string]any) { e["type"] = "m.room.power_levels" })},
		{"template without edges", "make_join", template(func(e map[string]any) { delete(e, "prev_events") })},
		{"template with a crowd of edges", "make_join", template(func(e map[string]any) {
			var many []string
			for i := range 50 {
				many = append(many, fmt.Sprintf("$%043d", i))
			}
			e["prev_events"] = many
		})},
		{"template with a foreign voucher", "make_join", template(func(e map[string]any) {
			e["content"].(map[string]any)["join_authorised_via_users_server"] = "@bob:b.example"
		})},
		{"version that nobody knows", "make_join", func(o map[string]any) { o["room_version"] = "org.example.odd" }},
		{"version of another format", "make_join", func(o map[string]any) { o["room_version"] = "11" }},
		{"no create event", "send_join", func(o map[string]any) {
			drop := func(e map[string]any) bool { return e["type"] == "m.room.create" }
			without(o, "state", drop)
		}},
		{"nothing at all", "send_join", func(o map[string]any) { o["state"], o["auth_chain"] = []any{}, []any{} }},
		{"forged rules", "send_join", func(o map[string]any) {
			first(o, "state", "m.room.power_levels")["content"] = map[string]any{"users": map[string]any{"@eve:a.example": 100}}
		}},
		{"unsigned rules", "send_join", func(o map[string]any) {
			for _, list := range []string{"state", "auth_chain"} {
				if e := first(o, list, "m.room.join_rules"); e != nil {
					e["signatures"] = map[string]any{}
				}
			}
		}},
		{"no auth chain and no join rules", "send_join", func(o map[string]any) {
			o["auth_chain"] = []any{}
			without(o, "state", func(e map[string]any) bool { return e["type"] == "m.room.join_rules" })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTown(t)
			a, b, liar := w.server("a.example"), w.server("b.example"), w.server("liar.example")
			alice, bob, eve := a.user("alice"), b.user("bob"), liar.user("eve")
			v, _ := roomver.Get("10")
			r := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PublicChat})
			must(t, liar.join(r, eve, a.name))
			liar.lies(c.op, object(c.lie))
			// The server that the room's ID names would be asked next.
			a.refuses(http.StatusInternalServerError, "M_UNKNOWN", "make_join")
			err := b.join(r, bob, liar.name)
			a.honest()
			if c.name == "forged rules" {
				// The forged event counts as redacted: the signature holds for that.
				return
			}
			if err == nil {
				t.Fatal("joined by a lie")
			}
			if _, err := b.graph.Head(t.Context(), r); code(err) != mxerr.CodeNotFound {
				t.Errorf("after a lie the room has a head: %v", err)
			}
			if liar.count(c.op) == 0 {
				t.Error("the liar was not asked")
			}
			must(t, b.join(r, bob, liar.name, a.name))
			same(t, r, a, b)
		})
	}
}

// What other servers answer reaches the client as something that it understands.
func TestJoinErrors(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob := a.user("alice"), b.user("bob")
	private := a.create(room.Creation{Creator: alice, Preset: room.PrivateChat})
	public := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	check := func(what string, err error, want mxerr.Code) {
		t.Helper()
		if code(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	check("a private room", b.join(private, bob, a.name), mxerr.CodeForbidden)
	check("no server", b.join("!unknown-room-of-no-domain-at-all", bob), mxerr.CodeNotFound)
	check("a room that nobody knows", b.join("!unknown:a.example", bob), mxerr.CodeNotFound)
	check("a server that isn't there", b.join(public, bob, "nowhere.example"), mxerr.CodeConnectionFailed)
	for _, c := range []struct {
		status int
		code   string
		want   mxerr.Code
	}{
		{401, "M_UNKNOWN_TOKEN", mxerr.CodeConnectionFailed}, // nothing that would end a client's session
		{403, "M_USER_DEACTIVATED", mxerr.CodeConnectionFailed},
		{400, "M_UNABLE_TO_AUTHORISE_JOIN", mxerr.CodeUnableToAuthoriseJoin},
		{400, "M_INCOMPATIBLE_ROOM_VERSION", mxerr.CodeIncompatibleRoomVersion},
		{400, "M_MISSING_PARAM", mxerr.CodeConnectionFailed},
		{403, "M_FORBIDDEN", mxerr.CodeForbidden},
		{500, "M_UNKNOWN", mxerr.CodeConnectionFailed},
	} {
		a.refuses(c.status, c.code, "make_join")
		check(c.code, b.join(public, bob, a.name), c.want)
	}
	a.honest()
	must(t, b.join(public, bob, a.name))
}

// Several requests at once make one join.
func TestJoinsFlyTogether(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	arrived, go_ := make(chan struct{}), make(chan struct{})
	var once sync.Once
	a.lies("make_join", func(status int, body []byte) (int, []byte) {
		once.Do(func() { close(arrived) })
		<-go_
		return status, body
	})
	errs := make(chan error, 5)
	for range 5 {
		go func() { errs <- b.join(r, bob, a.name) }()
	}
	<-arrived
	close(go_)
	for range 5 {
		must(t, <-errs)
	}
	if n := a.count("send_join"); n != 1 {
		t.Errorf("joined %d times", n)
	}
	if got := b.membership(r, bob); got != graph.Join {
		t.Errorf("membership %q", got)
	}
}

// A member of a server that can't vouch for a restricted join gets in through one that can.
func TestRestrictedJoin(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob, bert := a.user("alice"), b.user("bob"), b.user("bert")
	for _, version := range []string{"8", "10", "12"} {
		v, _ := roomver.Get(version)
		club := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PublicChat})
		r := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PublicChat,
			PowerLevels: map[string]json.RawMessage{"invite": json.RawMessage("50")}})
		a.setState(r, alice, "m.room.join_rules", "", fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club))
		if err := b.join(r, bob, a.name); code(err) != mxerr.CodeForbidden {
			t.Errorf("version %s: not in the club: %v", version, err)
		}
		must(t, b.join(club, bob, a.name))
		must(t, b.join(r, bob, a.name))
		// b is in the room now, but nobody there has the power to invite.
		must(t, b.join(club, bert))
		e := b.stateEvent(club, "m.room.member", string(bert))
		if refused := b.deliver(a, e); len(refused) > 0 {
			t.Fatal(refused)
		}
		must(t, b.join(r, bert, a.name))
		joined := b.stateEvent(r, "m.room.member", string(bert))
		if got := gjson.GetBytes(b.raw(joined), "content.join_authorised_via_users_server").Str; got != string(alice) {
			t.Errorf("version %s: %q vouched for the join", version, got)
		}
		if got := a.membership(r, bert); got != graph.Join {
			t.Errorf("version %s: at a the membership is %q", version, got)
		}
	}
}

func (s *server) stateEvent(r id.RoomID, typ, key string) id.EventID {
	s.t.Helper()
	h := s.head(r)
	nid, ok := h.State.Get(typ, key)
	if !ok {
		s.t.Fatalf("no %s %s", typ, key)
	}
	events, err := s.graph.Events(s.ctx, h.Room, []graph.EventNID{nid})
	must(s.t, err)
	return events[0].PDU.ID()
}

// A join counts only if the server that vouches for it signs it.
func TestRestrictedJoinNeedsTheSignature(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, bob, bert := a.user("alice"), b.user("bob"), b.user("bert")
	v, _ := roomver.Get("10")
	club := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PublicChat})
	r := a.create(room.Creation{Creator: alice, Version: v, Preset: room.PublicChat})
	a.setState(r, alice, "m.room.join_rules", "", fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club))
	must(t, b.join(club, bob, a.name))
	must(t, b.join(club, bert))
	if refused := b.deliver(a, b.stateEvent(club, "m.room.member", string(bert))); len(refused) > 0 {
		t.Fatal(refused)
	}
	a.lies("send_join", object(func(o map[string]any) { delete(o, "event") }))
	if err := b.join(r, bob, a.name); err == nil {
		t.Error("joined without the voucher's signature")
	}
	a.lies("send_join", object(func(o map[string]any) {
		delete(o["event"].(map[string]any)["signatures"].(map[string]any), "a.example")
	}))
	if err := b.join(r, bert, a.name); err == nil {
		t.Error("joined without the voucher's signature")
	}
	a.honest()
	must(t, b.join(r, bob, a.name))
}

// A server that doesn't know all members of a room yet doesn't say of anybody that they aren't in it.
func TestRestrictedJoinByAPartialRoom(t *testing.T) {
	w := newTown(t)
	a, b, c := w.server("a.example"), w.server("b.example"), w.server("c.example")
	alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
	club := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	a.crowd(club, 3)
	must(t, c.join(club, carol, a.name))
	a.refuses(500, "M_UNKNOWN", "state_ids")
	_, err := b.fed.Join(t.Context(), room.Join{Membership: room.Membership{Room: club, Sender: bob}}, []id.ServerName{a.name})
	must(t, err)
	if !b.head(club).Partial {
		t.Fatal("all members are known")
	}
	r := b.create(room.Creation{Creator: bob, Preset: room.PublicChat})
	b.setState(r, bob, "m.room.join_rules", "", `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"`+string(club)+`"}]}`)
	_, err = b.rooms.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: b.user("bert")}})
	if code(err) != mxerr.CodeUnableToAuthoriseJoin {
		t.Errorf("somebody of whom nothing is known: %v", err)
	}
	if _, err := b.rooms.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: bob}}); err != nil {
		t.Errorf("somebody who is known: %v", err)
	}
	a.honest()
	must(t, b.fed.Complete(t.Context(), club))
	_, err = b.rooms.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: b.user("bea")}})
	if code(err) != mxerr.CodeForbidden {
		t.Errorf("somebody who is not in the club: %v", err)
	}
	must(t, c.join(r, carol, b.name))
}

// Where another user's join is through before the answer to one comes, the state before that one is asked for: the members that the answer leaves
// out aren't those of the room now.
func TestJoinIsOvertaken(t *testing.T) {
	w := newTown(t)
	a, b := w.server("a.example"), w.server("b.example")
	alice, anna, bob, ben := a.user("alice"), a.user("anna"), b.user("bob"), b.user("ben")
	r := a.create(room.Creation{Creator: alice, Preset: room.PublicChat})
	a.lies("send_join", func(status int, body []byte) (int, []byte) {
		a.honest()
		_, err := a.rooms.Join(t.Context(), room.Join{Membership: room.Membership{Room: r, Sender: anna}})
		must(t, err)
		must(t, b.join(r, ben, a.name))
		return status, body
	})
	must(t, b.join(r, bob, a.name))
	join := a.stateEvent(r, "m.room.member", string(bob))
	if x, y := a.before(join), b.before(join); !slices.Equal(x, y) {
		t.Errorf("before the join the state is\n%v at a.example\n%v at b.example", x, y)
	}
}
