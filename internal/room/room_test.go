package room_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

const (
	alice = id.UserID("@alice:here.example")
	bob   = id.UserID("@bob:here.example")
	carol = id.UserID("@carol:here.example")
	dave  = id.UserID("@dave:here.example")
)

// node is one server's room engine over a database.
type node struct {
	// policyIsSlow: policy servers don't answer.
	policyIsSlow bool

	*room.Rooms
	t     *testing.T
	ctx   context.Context
	graph *graph.Graph
	ours  *ours.Set
	// guests and aliases stand in for the slices above.
	guests  map[id.UserID]bool
	aliases map[id.RoomAlias]id.RoomID
	// policy is asked by rooms that have a policy server.
	policy func(origin, server id.ServerName, pdu *event.PDU) (map[sign.KeyID]string, error)
}

func start(t *testing.T, db *sqldb.DB) *node {
	t.Helper()
	return startAs(t, db, "here.example")
}

// startAs starts a server of that name.
func startAs(t *testing.T, db *sqldb.DB, name id.ServerName) *node {
	t.Helper()
	ctx := t.Context()
	g, err := graph.Open(ctx, graph.Config{DB: db})
	must(t, err)
	set, err := ours.Open(ctx, ours.Config{DB: db, Names: []id.ServerName{name}})
	must(t, err)
	version, _ := roomver.Get(roomver.Default)
	n := &node{
		t: t, ctx: ctx, graph: g, ours: set,
		guests: map[id.UserID]bool{}, aliases: map[id.RoomAlias]id.RoomID{},
	}
	n.Rooms = room.New(room.Config{
		Graph: g, Ours: set, DefaultVersion: version,
		Profile: func(_ context.Context, u id.UserID) (room.Profile, error) {
			return room.Profile{DisplayName: "Name of " + u.Localpart()}, nil
		},
		Alias: func(_ context.Context, a id.RoomAlias) (id.RoomID, bool, error) {
			r, ok := n.aliases[a]
			return r, ok, nil
		},
		IsGuest: func(_ context.Context, u id.UserID) (bool, error) { return n.guests[u], nil },
		AskPolicy: func(ctx context.Context, origin, server id.ServerName, pdu *event.PDU) (map[sign.KeyID]string, error) {
			if n.policyIsSlow {
				<-ctx.Done()
				return nil, mxerr.New(mxerr.CodeConnectionTimeout, "no answer came")
			}
			return n.policy(origin, server, pdu)
		},
	})
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (n *node) create(c room.Creation) id.RoomID {
	n.t.Helper()
	if c.Creator == "" {
		c.Creator = alice
	}
	r, err := n.Create(n.ctx, c)
	must(n.t, err)
	return r
}

// state returns the content of a current state event, "" where there is none.
func (n *node) state(r id.RoomID, typ, key string) string {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, r)
	must(n.t, err)
	nid, ok := head.State.Get(typ, key)
	if !ok {
		return ""
	}
	events, err := n.graph.Events(n.ctx, head.Room, []graph.EventNID{nid})
	must(n.t, err)
	return string(events[0].PDU.Content())
}

// stateID returns the ID of a current state event.
func (n *node) stateID(r id.RoomID, typ, key string) id.EventID {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, r)
	must(n.t, err)
	nid, _ := head.State.Get(typ, key)
	events, err := n.graph.Events(n.ctx, head.Room, []graph.EventNID{nid})
	must(n.t, err)
	return events[0].PDU.ID()
}

func (n *node) say(r id.RoomID, u id.UserID, body string) (id.EventID, error) {
	return n.Send(n.ctx, room.Message{Room: r, Proposal: room.Proposal{
		Sender: u, Type: "m.room.message", Content: fmt.Appendf(nil, `{"body":%q,"msgtype":"m.text"}`, body),
	}})
}

func (n *node) setState(r id.RoomID, u id.UserID, typ, key, content string) (id.EventID, error) {
	return n.Send(n.ctx, room.Message{Room: r, Proposal: room.Proposal{
		Sender: u, Type: typ, StateKey: &key, Content: []byte(content),
	}})
}

func (n *node) join(r id.RoomID, u id.UserID) error {
	_, err := n.Join(n.ctx, room.Join{Membership: room.Membership{Room: r, Sender: u}})
	return err
}

func (n *node) timeline(r id.RoomID) []*graph.Event {
	n.t.Helper()
	head, err := n.graph.Head(n.ctx, r)
	must(n.t, err)
	events, err := n.graph.Timeline(n.ctx, head.Room, graph.Range{Before: 1 << 60, Limit: 10_000})
	must(n.t, err)
	return events
}

// want checks that err has this code; "" means none.
func want(t *testing.T, code mxerr.Code, err error) {
	t.Helper()
	if code == "" {
		must(t, err)
		return
	}
	if !mxerr.Is(err, code) {
		t.Fatalf("got %v, want %s", err, code)
	}
}

func each(t *testing.T, run func(t *testing.T, n *node)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) { run(t, start(t, open())) })
}

func TestCreateInEveryVersion(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, v := range roomver.All() {
			name, topic := "A name", "A topic"
			r := n.create(room.Creation{
				Version: v, Preset: room.PublicChat, Name: &name, Topic: &topic, Invite: []id.UserID{bob},
				InitialState: []room.StateEntry{
					{Type: "m.room.history_visibility", Content: json.RawMessage(`{"history_visibility":"joined"}`)},
					{Type: "m.room.name", Content: json.RawMessage(`{"name":"Not this one"}`)},
				},
			})
			if _, has := r.Domain(); has == v.CreateAsRoomID {
				t.Errorf("version %s: room ID %s", v.ID, r)
			}
			for typ, content := range map[string]string{
				"m.room.name":               `{"name":"A name"}`,
				"m.room.join_rules":         `{"join_rule":"public"}`,
				"m.room.guest_access":       ``, // forbids guests by not being there
				"m.room.history_visibility": `{"history_visibility":"joined"}`,
			} {
				if got := n.state(r, typ, ""); got != content {
					t.Errorf("version %s: %s is %s, want %s", v.ID, typ, got, content)
				}
			}
			if got := gjson.Get(n.state(r, "m.room.member", string(bob)), "membership").Str; got != "invite" {
				t.Errorf("version %s: bob is %q", v.ID, got)
			}
			must(t, n.join(r, bob))
			if _, err := n.say(r, bob, "hello"); err != nil {
				t.Errorf("version %s: %v", v.ID, err)
			}
			head, err := n.Head(n.ctx, r)
			must(t, err)
			if head.Joined != 2 || head.Invited != 0 {
				t.Errorf("version %s: counts %d, %d", v.ID, head.Joined, head.Invited)
			}
		}
	})
}

func TestTrustedPresetMakesCreators(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, version := range []string{"11", "12"} {
			v, _ := roomver.Get(version)
			r := n.create(room.Creation{Version: v, Preset: room.TrustedPrivateChat, Invite: []id.UserID{bob}, IsDirect: true})
			creators := gjson.Get(n.state(r, "m.room.create", ""), "additional_creators").Raw
			level := gjson.Get(n.state(r, "m.room.power_levels", ""), "users."+gjson.Escape(string(bob))).Int()
			if v.PrivilegedCreators && creators != `["@bob:here.example"]` || !v.PrivilegedCreators && level != 100 {
				t.Errorf("version %s: creators %s, level %d", version, creators, level)
			}
			if !gjson.Get(n.state(r, "m.room.member", string(bob)), "is_direct").Bool() {
				t.Errorf("version %s: the invite is not marked as direct", version)
			}
		}
	})
}

func TestCreateRefusesWhatTheCreatorMayNotDo(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		v, _ := roomver.Get("11")
		name := "x"
		_, err := n.Create(n.ctx, room.Creation{
			Creator: alice, Version: v, Preset: room.PrivateChat, Name: &name,
			PowerLevels: map[string]json.RawMessage{"users": json.RawMessage(`{"@alice:here.example":10}`)},
		})
		want(t, mxerr.CodeInvalidRoomState, err)
		_, err = n.Create(n.ctx, room.Creation{Creator: "@mallory:else.example", Version: v, Preset: room.PrivateChat})
		want(t, mxerr.CodeForbidden, err)
	})
}

func TestMembershipTransitions(t *testing.T) {
	type op func(context.Context, room.Membership) (id.EventID, error)
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PrivateChat})
		steps := []struct {
			name     string
			op       op
			from, to id.UserID
			code     mxerr.Code
			after    graph.Membership
		}{
			{"kick who is not there", n.Kick, alice, bob, mxerr.CodeForbidden, ""},
			{"unban who is not banned", n.Unban, alice, bob, mxerr.CodeForbidden, ""},
			{"invite by a stranger", n.Invite, carol, bob, mxerr.CodeForbidden, ""},
			{"leave without having been in", n.Leave, bob, bob, mxerr.CodeForbidden, ""},
			{"invite", n.Invite, alice, bob, "", graph.Invite},
			{"reject", n.Leave, bob, bob, "", graph.Leave},
			{"leave again", n.Leave, bob, bob, "", graph.Leave},
			{"invite again", n.Invite, alice, bob, "", graph.Invite},
			{"join", func(ctx context.Context, m room.Membership) (id.EventID, error) {
				return n.Join(ctx, room.Join{Membership: m})
			}, bob, bob, "", graph.Join},
			{"invite a member", n.Invite, alice, bob, mxerr.CodeForbidden, graph.Join},
			{"kick upwards", n.Kick, bob, alice, mxerr.CodeForbidden, graph.Join},
			{"kick", n.Kick, alice, bob, "", graph.Leave},
			{"ban", n.Ban, alice, bob, "", graph.Ban},
			{"kick the banned", n.Kick, alice, bob, mxerr.CodeForbidden, graph.Ban},
			{"invite the banned", n.Invite, alice, bob, mxerr.CodeForbidden, graph.Ban},
			{"leave while banned", n.Leave, bob, bob, mxerr.CodeForbidden, graph.Ban},
			{"unban by a stranger", n.Unban, carol, bob, mxerr.CodeForbidden, graph.Ban},
			{"unban", n.Unban, alice, bob, "", graph.Leave},
		}
		for _, s := range steps {
			_, err := s.op(n.ctx, room.Membership{Room: r, Sender: s.from, Target: s.to, Reason: "why not"})
			if s.code == "" && err != nil || s.code != "" && !mxerr.Is(err, s.code) {
				t.Fatalf("%s: got %v, want %q", s.name, err, s.code)
			}
			if s.code == "" {
				got, err := n.graph.MembershipIn(n.ctx, s.to, r)
				must(t, err)
				if got != s.after {
					t.Fatalf("%s: membership is %q, want %q", s.name, got, s.after)
				}
			}
		}
	})
}

func TestKnockAndRestrictedJoin(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, version := range []string{"10", "11", "12"} {
			v, _ := roomver.Get(version)
			club := n.create(room.Creation{Preset: room.PublicChat})
			r := n.create(room.Creation{Version: v, Preset: room.PrivateChat, InitialState: []room.StateEntry{{
				Type:    "m.room.join_rules",
				Content: fmt.Appendf(nil, `{"join_rule":"knock_restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club),
			}}})
			want(t, mxerr.CodeForbidden, n.join(r, bob))
			_, err := n.Knock(n.ctx, room.Membership{Room: r, Sender: bob, Reason: "let me in"})
			must(t, err)
			must(t, n.join(club, bob))
			must(t, n.join(r, bob))
			voucher := gjson.Get(n.state(r, "m.room.member", string(bob)), "join_authorised_via_users_server").Str
			if voucher != string(alice) {
				t.Errorf("version %s: vouched for by %q", version, voucher)
			}
			_, err = n.Knock(n.ctx, room.Membership{Room: r, Sender: bob})
			want(t, mxerr.CodeForbidden, err)
		}
	})
}

func TestGuests(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		n.guests[carol] = true
		public := n.create(room.Creation{Preset: room.PublicChat})
		want(t, mxerr.CodeGuestAccessForbidden, n.join(public, carol))
		_, err := n.setState(public, alice, "m.room.guest_access", "", `{"guest_access":"can_join"}`)
		must(t, err)
		must(t, n.join(public, carol))
	})
}

func TestTransactionsAreIdempotent(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		first, second := start(t, open()), start(t, open())
		r := first.create(room.Creation{Preset: room.PrivateChat})
		m := room.Message{
			Room:     r,
			Proposal: room.Proposal{Sender: alice, Type: "m.room.message", Content: []byte(`{"body":"once"}`)},
			Txn:      graph.TxnRef{User: alice, Device: "D", Scope: "send", ID: "1"},
		}
		ids := make([]id.EventID, 16)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				n := first
				if i%2 == 1 {
					n = second
				}
				var err error
				if ids[i], err = n.Send(n.ctx, m); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, got := range ids {
			if got != ids[0] {
				t.Fatalf("one transaction made %s and %s", ids[0], got)
			}
		}
		var messages int
		for _, e := range second.timeline(r) {
			if e.PDU.Type() == "m.room.message" {
				messages++
			}
		}
		if messages != 1 {
			t.Fatalf("one transaction made %d events", messages)
		}
	})
}

// Two nodes write to one room at once: each acknowledged event must be there once, in one line.
func TestTwoNodesOneRoom(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		nodes := []*node{start(t, open()), start(t, open())}
		r := nodes[0].create(room.Creation{Preset: room.PublicChat})
		const writers, each = 8, 20
		var mu sync.Mutex
		sent := map[id.EventID]bool{}
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				n := nodes[w%2]
				for i := range each {
					e, err := n.say(r, alice, fmt.Sprint(w, "/", i))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					sent[e] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		got := map[id.EventID]int{}
		followed := map[id.EventID]int{}
		for _, e := range nodes[0].timeline(r) {
			got[e.PDU.ID()]++
			for _, p := range e.PDU.PrevEvents() {
				followed[p]++
			}
		}
		for e := range sent {
			if got[e] != 1 {
				t.Errorf("%s is in the timeline %d times", e, got[e])
			}
		}
		if len(sent) != writers*each {
			t.Errorf("%d events were acknowledged, want %d", len(sent), writers*each)
		}
		for e, n := range followed {
			if n != 1 {
				t.Errorf("%d events follow %s: the room has forked", n, e)
			}
		}
	})
}

func TestCanonicalAlias(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r, other := n.create(room.Creation{Preset: room.PublicChat}), n.create(room.Creation{Preset: room.PublicChat})
		n.aliases["#good:here.example"], n.aliases["#other:here.example"] = r, other
		for content, code := range map[string]mxerr.Code{
			`{"alias":"#good:here.example"}`:                                            "",
			`{"alias":"#other:here.example"}`:                                           mxerr.CodeBadAlias,
			`{"alias":"#unknown:here.example"}`:                                         mxerr.CodeBadAlias,
			`{"alias":"good"}`:                                                          mxerr.CodeInvalidParam,
			`{"alias":"#good:here.example","alt_aliases":["#other:here.example"]}`:      mxerr.CodeBadAlias,
			`{"alias":"#good:here.example","alt_aliases":[1]}`:                          mxerr.CodeInvalidParam,
			`{"alias":null,"alt_aliases":["#good:here.example"]}`:                       "",
			`{"alias":"#good:here.example","alt_aliases":["#good:here.example"],"x":1}`: "",
		} {
			_, err := n.setState(r, alice, "m.room.canonical_alias", "", content)
			if code == "" && err != nil || code != "" && !mxerr.Is(err, code) {
				t.Errorf("%s: got %v, want %q", content, err, code)
			}
		}
	})
}

func TestBadContent(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PublicChat})
		before := len(n.timeline(r))
		for content, code := range map[string]mxerr.Code{
			`[]`:                     mxerr.CodeBadJSON,
			`{"a":1.5}`:              mxerr.CodeBadJSON,
			`{"a":9007199254740992}`: mxerr.CodeBadJSON,
			`{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`: mxerr.CodeBadJSON,
			`{"a":"` + strings.Repeat("x", 70_000) + `"}`:                         mxerr.CodeTooLarge,
		} {
			_, err := n.setState(r, alice, "org.example.thing", "", content)
			if !mxerr.Is(err, code) {
				t.Errorf("%.40s: got %v, want %s", content, err, code)
			}
		}
		_, err := n.setState(r, alice, strings.Repeat("t", 256), "", `{}`)
		want(t, mxerr.CodeTooLarge, err)
		if after := len(n.timeline(r)); after != before {
			t.Errorf("%d events were written", after-before)
		}
	})
}

func TestSameStateTwiceIsOneEvent(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r := n.create(room.Creation{Preset: room.PublicChat})
		first, err := n.setState(r, alice, "m.room.topic", "", `{"topic":"x", "a":1}`)
		must(t, err)
		second, err := n.setState(r, alice, "m.room.topic", "", `{"a":1,"topic":"x"}`)
		must(t, err)
		if first != second {
			t.Errorf("got %s and %s", first, second)
		}
	})
}

// remote builds an event of a remote user on top of given events of the room.
func (n *node) remote(r id.RoomID, sender id.UserID, typ string, key *string, content string, prev ...*event.PDU) *event.PDU {
	n.t.Helper()
	p, err := n.foreign(r, sender, typ, key, content, prev, 1, mustKey(n.t))
	must(n.t, err)
	return p
}
