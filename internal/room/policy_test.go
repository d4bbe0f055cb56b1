package room_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

const (
	policyServer = id.ServerName("policy.example")
	policyKey    = sign.KeyID("ed25519:policy_server")
	watcher      = id.UserID("@watcher:policy.example")
)

// judge is a policy server. It signs all but what refuses returns an error for.
type judge struct {
	key     sign.Key
	refuses func(*event.PDU) error

	mu    sync.Mutex
	asked []id.EventID
}

func newJudge(t *testing.T) *judge {
	t.Helper()
	k := mustKey(t)
	k.ID = policyKey
	return &judge{key: k, refuses: func(*event.PDU) error { return nil }}
}

func (j *judge) sign(_, server id.ServerName, p *event.PDU) (map[sign.KeyID]string, error) {
	if server != policyServer {
		return nil, fmt.Errorf("%s was asked", server)
	}
	j.mu.Lock()
	j.asked = append(j.asked, p.ID())
	j.mu.Unlock()
	if err := j.refuses(p); err != nil {
		return nil, err
	}
	signed, err := p.Signed(server, j.key)
	if err != nil {
		return nil, err
	}
	text, _ := sign.Find(signed.Raw(), string(server), policyKey)
	return map[sign.KeyID]string{policyKey: text}, nil
}

func (j *judge) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.asked)
}

// policed makes a room with a policy server.
func (n *node) policed() (id.RoomID, *judge) {
	n.t.Helper()
	j := newJudge(n.t)
	n.policy = j.sign
	r := n.create(room.Creation{Preset: room.PublicChat})
	must(n.t, n.choose(r, j))
	if got := n.receive(n.remote(r, watcher, "m.room.member", key(string(watcher)), joinContent, n.newest(r))); got != room.Accepted {
		n.t.Fatalf("the policy server joins: %v", got)
	}
	return r, j
}

// choose makes the judge the policy server of a room.
func (n *node) choose(r id.RoomID, j *judge) error {
	_, err := n.setState(r, alice, "m.room.policy", "", fmt.Sprintf(`{"via":%q,"public_keys":{"ed25519":%q}}`, policyServer, sign.EncodeBase64(j.key.Public())))
	return err
}

func (n *node) signedByPolicy(name id.EventID) bool {
	n.t.Helper()
	e, ok, err := n.graph.Event(n.ctx, name)
	must(n.t, err)
	return ok && slices.Contains(e.PDU.SignedWith(policyServer), policyKey)
}

func TestPolicyServerIsAsked(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r, j := n.policed()
		name, err := n.say(r, alice, "hello")
		must(t, err)
		if !n.signedByPolicy(name) || j.count() != 1 || j.asked[0] != name {
			t.Errorf("%s was sent, asked about %v, signed: %v", name, j.asked, n.signedByPolicy(name))
		}
		must(t, n.join(r, bob))
		_, err = n.Kick(n.ctx, room.Membership{Room: r, Sender: alice, Target: bob})
		must(t, err)
		if !n.signedByPolicy(n.stateID(r, "m.room.member", string(bob))) || j.count() != 3 {
			t.Errorf("asked about %d events, want 3", j.count())
		}
		// A policy of another key is no policy.
		_, err = n.setState(r, alice, "m.room.policy", "elsewhere", `{}`)
		must(t, err)
		if j.count() != 4 {
			t.Errorf("asked about %d events, want 4", j.count())
		}
		// The server's word is passed on, and what it refuses is gone.
		before := len(n.timeline(r))
		j.refuses = func(*event.PDU) error { return mxerr.New("ORG.EXAMPLE.SPAM", "looks like spam") }
		_, err = n.say(r, alice, "buy now")
		want(t, "ORG.EXAMPLE.SPAM", err)
		j.refuses = func(*event.PDU) error { return errors.New("no route") }
		_, err = n.say(r, alice, "hello?")
		want(t, mxerr.CodeConnectionFailed, err)
		if got := len(n.timeline(r)); got != before {
			t.Errorf("%d events after refusals, %d before", got, before)
		}
		// It can be dismissed without its consent.
		_, err = n.setState(r, alice, "m.room.policy", "", `{}`)
		must(t, err)
		_, err = n.say(r, alice, "free")
		must(t, err)
	})
}

func TestPolicyServerMustTakePart(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r, j := n.policed()
		_, err := n.say(r, alice, "one")
		must(t, err)
		leaves := n.remote(r, watcher, "m.room.member", key(string(watcher)), `{"membership":"leave"}`, n.newest(r))
		n.receive(leaves)
		asked := j.count()
		for _, u := range []id.UserID{bob, carol} {
			must(t, n.join(r, u))
			_, err = n.say(r, u, "two")
			must(t, err)
		}
		if j.count() != asked {
			t.Error("a policy server that has left was asked")
		}
		n.receive(n.remote(r, watcher, "m.room.member", key(string(watcher)), joinContent, n.newest(r)))
		_, err = n.say(r, alice, "three")
		must(t, err)
		if j.count() != asked+1 {
			t.Errorf("asked %d times, want %d: it is back", j.count(), asked+1)
		}
	})
}

// What comes while the policy server ponders doesn't make it ponder again.
func TestPolicyServerIsSlow(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r, j := n.policed()
		var other id.EventID
		j.refuses = func(p *event.PDU) error {
			if string(p.Content()) == `{"body":"first","msgtype":"m.text"}` {
				theirs := n.remote(r, watcher, "org.example.note", key("x"), `{}`, n.newest(r))
				signed, err := theirs.Signed(policyServer, j.key)
				must(t, err)
				n.receive(signed)
				other = signed.ID()
			}
			return nil
		}
		must(t, n.allow(r, watcher))
		asked := j.count()
		first, err := n.say(r, alice, "first")
		must(t, err)
		if j.count() != asked+1 {
			t.Errorf("asked %d times about one event", j.count()-asked)
		}
		head, err := n.Head(n.ctx, r)
		must(t, err)
		if len(head.Extremities) != 2 {
			t.Errorf("the room ends with %v, want %s and %s", head.Extremities, first, other)
		}
		if n.state(r, "org.example.note", "x") != `{}` {
			t.Error("the other branch is lost")
		}
		second, err := n.say(r, alice, "second")
		must(t, err)
		e, _, err := n.graph.Event(n.ctx, second)
		must(t, err)
		if len(e.PDU.PrevEvents()) != 2 {
			t.Errorf("the next event follows %v", e.PDU.PrevEvents())
		}
	})
}

// allow gives a user the power to set state.
func (n *node) allow(r id.RoomID, u id.UserID) error {
	_, err := n.setState(r, alice, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:50},"state_default":50}`, u))
	return err
}

func TestPolicyOnReceipt(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r, j := n.policed()
		joins := n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r))
		if got := n.receive(joins); got != room.Accepted || !n.signedByPolicy(joins.ID()) {
			t.Errorf("an event that lacked the signature: %v", got)
		}
		asked := j.count()
		message := n.remote(r, erin, "m.room.message", nil, `{"body":"hi"}`, joins)
		signed, err := message.Signed(policyServer, j.key)
		must(t, err)
		if got := n.receive(signed); got != room.Accepted || j.count() != asked {
			t.Errorf("an event with the signature: %v, asked %d times", got, j.count()-asked)
		}
		// A signature of an old key is renewed, and one of a key that the room doesn't know counts for nothing.
		forged, err := sign.FromSeed(policyKey, []byte("01234567890123456789012345678901"))
		must(t, err)
		old, err := n.remote(r, erin, "m.room.message", nil, `{"body":"again"}`, message).Signed(policyServer, forged)
		must(t, err)
		if got := n.receive(old); got != room.Accepted || j.count() != asked+1 {
			t.Errorf("an event with another key's signature: %v", got)
		}
		for _, refusal := range []error{mxerr.Forbidden("no"), errors.New("no route")} {
			j.refuses = func(*event.PDU) error { return refusal }
			bad := n.remote(r, erin, "m.room.message", nil, fmt.Sprintf(`{"body":"spam: %v"}`, refusal), old)
			verdict, why, err := n.Receive(n.ctx, bad)
			must(t, err)
			if verdict != room.SoftFailed || why == nil {
				t.Errorf("what isn't recommended: %v, %v", verdict, why)
			}
			if n.newest(r).ID() != old.ID() {
				t.Error("what isn't recommended is in the timeline")
			}
		}
	})
}

func TestPolicyOnManyReceipts(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r, j := n.policed()
		var chain []*event.PDU
		chain = append(chain, n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r)))
		n.receive(chain[0])
		for i := range 5 {
			last := chain[len(chain)-1]
			d := event.Draft{RoomID: r, Type: "m.room.message", Sender: erin, Content: fmt.Appendf(nil, `{"body":"%d"}`, i), OriginServerTS: 1, Depth: last.Depth() + 1}
			d.PrevEvents = []id.EventID{last.ID()}
			d.AuthEvents = []id.EventID{n.stateID(r, "m.room.power_levels", ""), chain[0].ID()}
			p, err := d.Build(last.Version(), erin.Domain(), mustKey(t), nil)
			must(t, err)
			chain = append(chain, p)
		}
		j.refuses = func(p *event.PDU) error {
			if p.ID() == chain[3].ID() {
				return mxerr.Forbidden("no")
			}
			return nil
		}
		for i, result := range n.ReceiveAll(n.ctx, r, chain) {
			must(t, result.Err)
			if wanted := map[bool]room.Verdict{true: room.SoftFailed}[i == 3]; result.Verdict != wanted {
				t.Errorf("event %d: %v", i, result.Verdict)
			}
			e, _, err := n.graph.Event(n.ctx, chain[i].ID())
			must(t, err)
			if (e.Flags&graph.SoftFailed != 0) != (i == 3) {
				t.Errorf("event %d has flags %b", i, e.Flags)
			}
		}
		if n.newest(r).ID() != chain[5].ID() {
			t.Error("the chain's end is not the room's")
		}
	})
}

// What goes wrong while the policy server is asked about one event is no other event's fault: those before it are in the room, and it is not refused.
func TestAskingThatEndsEarly(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r, j := n.policed()
		n.receive(n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r)))
		var chain []*event.PDU
		last := n.newest(r)
		first := n.remote(r, erin, "m.room.message", nil, `{"body":"0"}`, last)
		chain = append(chain, first)
		for i := range 3 {
			last := chain[i]
			d := event.Draft{RoomID: r, Type: "m.room.message", Sender: erin, Content: fmt.Appendf(nil, `{"body":"%d"}`, i+1), OriginServerTS: 1, Depth: last.Depth() + 1}
			d.PrevEvents, d.AuthEvents = []id.EventID{last.ID()}, first.AuthEvents()
			p, err := d.Build(last.Version(), erin.Domain(), mustKey(t), nil)
			must(t, err)
			chain = append(chain, p)
		}
		ctx, cancel := context.WithCancel(n.ctx)
		defer cancel()
		j.refuses = func(p *event.PDU) error {
			if p.ID() != chain[2].ID() {
				return nil
			}
			cancel()
			return mxerr.New(mxerr.CodeConnectionFailed, "it can't be reached")
		}
		for i, result := range n.ReceiveAll(ctx, r, chain) {
			_, refused := mxerr.Of(result.Err)
			switch {
			case i < 2 && (result.Err != nil || result.Verdict != room.Accepted):
				t.Errorf("event %d, before the failure: %+v", i, result)
			case i >= 2 && (result.Err == nil || refused):
				t.Errorf("event %d: %+v", i, result)
			}
		}
		j.refuses = func(*event.PDU) error { return nil }
		for i, result := range n.ReceiveAll(n.ctx, r, chain) {
			if result.Err != nil || result.Verdict != room.Accepted {
				t.Errorf("event %d, the second time: %+v", i, result)
			}
		}
	})
}

// A policy server that takes its time holds up nobody who brings events of other rooms as well: its room's events come back, at once from the second
// time on, and wait where only they do.
func TestSlowPolicyServer(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		r, _ := n.policed()
		n.receive(n.remote(r, erin, "m.room.member", key(string(erin)), joinContent, n.newest(r)))
		n.policyIsSlow = true
		var unjudged *room.Unjudged
		for i, most := range []time.Duration{5 * time.Second, 500 * time.Millisecond} {
			late := n.remote(r, erin, "m.room.message", nil, fmt.Sprintf(`{"body":"%d"}`, i), n.newest(r))
			began := time.Now()
			if _, _, err := n.Receive(n.ctx, late); !errors.As(err, &unjudged) || unjudged.Server != policyServer {
				t.Errorf("an event %d that was not judged: %v", i, err)
			}
			if took := time.Since(began); took > most {
				t.Errorf("event %d was waited for %v", i, took)
			}
			if _, ok, err := n.graph.Event(n.ctx, late.ID()); ok || err != nil {
				t.Errorf("an event that was not judged is stored: %v", err)
			}
		}
		n.policyIsSlow = false
		last := n.remote(r, erin, "m.room.message", nil, `{"body":"last"}`, n.newest(r))
		got := n.ReceivePatiently(n.ctx, r, []*event.PDU{last})[0]
		must(t, got.Err)
		if got.Verdict != room.Accepted {
			t.Errorf("judged patiently: %+v", got)
		}
	})
}
