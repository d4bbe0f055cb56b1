package room

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

// policyKey is the name that the key of every policy server has.
//
// Spec: ss Validating Policy Server signatures
const policyKey = sign.KeyID("ed25519:policy_server")

// policy is a room's choice of a policy server.
type policy struct {
	server id.ServerName
	// key is nil where the room gives none that can be: nothing is recommended then.
	key ed25519.PublicKey
}

// readPolicy reads an m.room.policy event, nil for one that chooses no server.
//
// Spec: ss Determining if a Policy Server is enabled in a room
func readPolicy(e *event.PDU) *policy {
	content := gjson.ParseBytes(e.Content())
	via, key := content.Get("via"), content.Get("public_keys.ed25519")
	if via.Type != gjson.String || key.Type != gjson.String || !content.Get("public_keys").IsObject() {
		return nil
	}
	server, err := id.ParseServerName(via.Str)
	if err != nil {
		return nil
	}
	p := &policy{server: server}
	if raw, err := sign.DecodeBase64(key.Str); err == nil && len(raw) == ed25519.PublicKeySize {
		p.key = raw
	}
	return p
}

// exempt events take effect whatever the policy server says: else nobody could do away with one that fails.
func exempt(p *event.PDU) bool {
	key, isState := p.StateKey()
	return isState && key == "" && p.Type() == "m.room.policy"
}

// recommends reports whether the event carries the policy server's signature.
//
// Spec: ss Validating Policy Server signatures
func (p *policy) recommends(e *event.PDU) bool {
	return p.key != nil && e.VerifySignature(p.server, policyKey, p.key) == nil
}

// policyIn returns the policy that counts in a state of a room, nil where there is none. current loads the event under a key of
// the state.
func (r *Rooms) policyIn(room graph.RoomNID, s *graph.State, current func(typ, stateKey string) (*event.PDU, error)) (*policy, error) {
	if r.cfg.AskPolicy == nil {
		return nil, nil
	}
	if _, ok := s.Get("m.room.policy", ""); !ok {
		return nil, nil
	}
	e, err := current("m.room.policy", "")
	if err != nil || e == nil {
		return nil, err
	}
	p := readPolicy(e)
	if p == nil || !r.takesPart(room, s, p.server) {
		return nil, nil
	}
	return p, nil
}

// participation is what is remembered of whether a server has a joined member in a room. It is true of the state for ever, and of
// other states a hint where to look.
type participation struct {
	server id.ServerName
	state  *graph.State
	// witness is a joined member of the server, empty where there was none.
	witness id.UserID
}

// takesPart reports whether a server has a joined member. It looks at all members the first time and when the one it knows of leaves, else
// at what has changed.
func (r *Rooms) takesPart(room graph.RoomNID, s *graph.State, server id.ServerName) bool {
	known, ok := r.policies.GetIfPresent(room)
	ok = ok && known.server == server
	if ok && known.witness != "" && s.Membership(known.witness) == graph.Join {
		return true
	}
	now := participation{server: server, state: s}
	if ok && known.witness == "" {
		for d := range graph.Diff(known.state, s) {
			if d.NewMembership == graph.Join && id.UserID(d.Key.StateKey).Domain() == server {
				now.witness = id.UserID(d.Key.StateKey)
				break
			}
		}
	} else {
		for m := range s.Members(graph.Join) {
			if m.User.Domain() == server {
				now.witness = m.User
				break
			}
		}
	}
	r.policies.Set(room, now)
	return now.witness != ""
}

// unrecommended is the error for an event that lacks the signature of the room's policy server, which must be asked outside of the lane.
type unrecommended struct {
	policy *policy
	pdu    *event.PDU
	room   graph.RoomNID
}

func (u *unrecommended) Error() string {
	return fmt.Sprintf("room: %s has not signed %s", u.policy.server, u.pdu.ID())
}

// ask gets the signature that the event lacks. It must not be called with a lane held.
//
// Spec: ss askPolicyServerToSign
func (r *Rooms) ask(ctx context.Context, u *unrecommended) (*event.PDU, error) {
	origin := u.pdu.Sender().Domain()
	if !r.cfg.Ours.Is(origin) {
		members, err := r.cfg.Graph.LocalMembers(ctx, u.room, r.cfg.Ours.Is, 1)
		if err != nil {
			return nil, err
		}
		if origin = r.cfg.Ours.Primary(); len(members) > 0 {
			origin = members[0].Domain()
		}
	}
	signatures, err := r.cfg.AskPolicy(ctx, origin, u.policy.server, u.pdu)
	if _, refused := mxerr.Of(err); refused {
		return nil, err
	}
	if err != nil {
		r.cfg.Log.Info("a policy server can't be asked", slog.String("server", string(u.policy.server)),
			slog.String("room", string(u.pdu.RoomID())), slog.Any("error", err))
		return nil, mxerr.New(mxerr.CodeConnectionFailed, "the policy server of this room, %s, can't be reached", u.policy.server)
	}
	signed, err := u.pdu.WithSignature(u.policy.server, policyKey, signatures[policyKey])
	if err != nil || !u.policy.recommends(signed) {
		return nil, mxerr.Forbidden("the policy server of this room, %s, does not recommend the event", u.policy.server)
	}
	return signed, nil
}

// asking collects, over the attempts to compose something, the events that a policy server has signed. Each attempt uses them again, in
// the same order, as far as it makes the same proposals.
type asking struct {
	signed []*event.PDU
	used   int
}

// next returns the signed form of a newly made event, nil where it has none.
func (a *asking) next(p *event.PDU) *event.PDU {
	if a.used < len(a.signed) && sameProposal(a.signed[a.used], p) {
		return a.signed[a.used]
	}
	return nil
}

func sameProposal(a, b *event.PDU) bool {
	redactsA, _ := a.Redacts()
	redactsB, _ := b.Redacts()
	return a.Sender() == b.Sender() && a.IsState() == b.IsState() && a.Key() == b.Key() && redactsA == redactsB &&
		string(a.Content()) == string(b.Content())
}

// maxAsked bounds how often a policy server is asked for the sake of one request.
const maxAsked = 20

// compose makes events of local users in a lane, and asks the room's policy server for its signature outside of it. What was signed keeps
// its place in the room: where other events came meanwhile it stands beside them, like one of another server.
//
// Spec: ss Asking for a Policy Server signature on an event
func (r *Rooms) compose(ctx context.Context, room id.RoomID, txn graph.TxnRef, write func(b *batch) (step, error)) (id.EventID, error) {
	a := &asking{}
	for range maxAsked {
		done, err := r.advance(ctx, room, txn, func(head *graph.Head, settled bool) (step, error) {
			b := r.batch(head, settled)
			a.used = 0
			b.asking = a
			return write(b)
		})
		u, ok := errors.AsType[*unrecommended](err)
		if !ok {
			return done, err
		}
		signed, err := r.ask(ctx, u)
		if err != nil {
			return "", err
		}
		a.signed = append(a.signed, signed)
	}
	return "", mxerr.Forbidden("the policy server of this room was asked %d times in vain", maxAsked)
}

// recommended exchanges a newly made event for the one that the policy server has signed, where the room has such a server.
func (b *batch) recommended(ctx context.Context, pdu *event.PDU, at place) (*event.PDU, place, error) {
	if b.asking == nil || exempt(pdu) {
		return pdu, at, nil
	}
	p, err := b.rooms.policyIn(b.head.Room, b.head.State, func(typ, stateKey string) (*event.PDU, error) {
		return b.current(ctx, typ, stateKey)
	})
	if err != nil || p == nil {
		return pdu, at, err
	}
	if signed := b.asking.next(pdu); signed != nil && p.recommends(signed) {
		where, ok, err := b.placeOf(ctx, signed)
		if err != nil {
			return nil, at, err
		}
		if ok {
			b.asking.used++
			return signed, where, b.authorised(ctx, signed, where)
		}
	}
	// Whatever was signed from here on doesn't fit any more.
	b.asking.signed = b.asking.signed[:b.asking.used]
	return nil, at, &unrecommended{policy: p, pdu: pdu, room: b.head.Room}
}

// draftRecommended asks at once for the signature of the room's policy server, where it has one. It must not be called in a lane.
func (b *batch) draftRecommended(ctx context.Context, pdu *event.PDU) (*event.PDU, error) {
	b.asking = &asking{}
	pdu, _, err := b.recommended(ctx, pdu, place{})
	if u, ok := errors.AsType[*unrecommended](err); ok {
		return b.rooms.ask(ctx, u)
	}
	return pdu, err
}

// placeOf finds the place of an event that was made on an earlier head, and false where what it follows is not there any more.
func (b *batch) placeOf(ctx context.Context, pdu *event.PDU) (place, bool, error) {
	byID := make(map[id.EventID]graph.Extremity, len(b.head.Extremities))
	for _, x := range b.head.Extremities {
		byID[x.ID] = x
	}
	var at place
	straight := len(pdu.PrevEvents()) == len(b.head.Extremities)
	for _, prev := range pdu.PrevEvents() {
		x, ok := byID[prev]
		straight = straight && ok
		if ok {
			at.follow = append(at.follow, x)
		}
	}
	if straight {
		at.before = b.head.State
		return at, true, nil
	}
	if !b.settled {
		return at, false, errUnsettled
	}
	at.follow = nil
	for _, prev := range pdu.PrevEvents() {
		x, ok, err := b.find(ctx, prev)
		if err != nil || !ok {
			return at, false, err
		}
		at.follow = append(at.follow, x)
		delete(byID, prev)
	}
	others := make([]graph.Extremity, 0, len(byID))
	for _, x := range byID {
		others = append(others, x)
	}
	states, err := b.rooms.branches(ctx, b.head, at.follow, b.after)
	if err != nil {
		return at, false, err
	}
	if at.before, err = b.resolve(ctx, states); err != nil {
		return at, false, err
	}
	at.others, err = b.rooms.branches(ctx, b.head, others, b.after)
	if at.others == nil {
		at.others = []*graph.State{}
	}
	return at, true, err
}

// find returns an event of the room's graph by its ID.
func (b *batch) find(ctx context.Context, name id.EventID) (graph.Extremity, bool, error) {
	for _, e := range b.events {
		if e.PDU.ID() == name {
			return graph.Extremity{NID: e.NID, ID: name, Depth: e.PDU.Depth()}, true, nil
		}
	}
	e, ok, err := b.rooms.cfg.Graph.Event(ctx, name)
	if err != nil || !ok || e.Room != b.head.Room || e.Flags&graph.Outlier != 0 {
		return graph.Extremity{}, false, err
	}
	return graph.Extremity{NID: e.NID, ID: name, Depth: e.PDU.Depth()}, true, nil
}

// authorised refuses an event by the state at its place and by that of the room.
func (b *batch) authorised(ctx context.Context, pdu *event.PDU, at place) error {
	needed := append(eventauth.Needed(b.head.Version, pdu), event.Key{Type: "m.room.create"})
	for _, s := range []*graph.State{at.before, b.head.State} {
		state, err := b.entries(ctx, s, needed)
		if err != nil {
			return err
		}
		if err := eventauth.Check(pdu, state); err != nil {
			return forbidden(err)
		}
	}
	return nil
}

// policyFails flags an accepted event that the room's policy server does not recommend. If the server was not asked yet the error says so.
//
// Spec: ss Validating Policy Server signatures
func (j *judgement) policyFails(ctx context.Context, e *graph.Event) error {
	if e.Flags&(graph.Rejected|graph.SoftFailed) != 0 || exempt(j.pdu) {
		return nil
	}
	p, err := j.rooms.policyIn(j.head.Room, j.head.State, func(typ, stateKey string) (*event.PDU, error) {
		return j.rooms.current(ctx, j.head.Room, j.head.State, typ, stateKey)
	})
	if err != nil || p == nil || p.recommends(j.pdu) || p.recommends(j.countersigned(p)) {
		return err
	}
	if !j.in.asked {
		return &unrecommended{policy: p, pdu: j.pdu, room: j.head.Room}
	}
	e.Flags |= graph.SoftFailed
	j.refused = true
	j.rejection = &eventauth.Rejection{Rule: "Policy Servers", Text: "the policy server of the room does not recommend the event"}
	return nil
}

// countersigned returns the event as it is stored with the policy server's signature from what came.
func (j *judgement) countersigned(p *policy) *event.PDU {
	if signature, ok := sign.Find(j.in.pdu.Raw(), string(p.server), policyKey); ok && j.known != nil {
		if signed, err := j.pdu.WithSignature(p.server, policyKey, signature); err == nil {
			return signed
		}
	}
	return j.pdu
}
