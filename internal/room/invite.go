package room

import (
	"context"
	"encoding/json"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// previewed are the state events that tell somebody who is invited, or who knocks, what the room is.
//
// Spec: cs Stripped state
var previewed = []event.Key{
	{Type: "m.room.create"}, {Type: "m.room.name"}, {Type: "m.room.avatar"}, {Type: "m.room.topic"},
	{Type: "m.room.join_rules"}, {Type: "m.room.canonical_alias"}, {Type: "m.room.encryption"},
}

// needs lists the state that authorises a proposal.
func needs(v *roomver.Version, p Proposal) []event.Key {
	return append(eventauth.NeededFor(v, p.Type, p.StateKey, p.Sender, p.Content), event.Key{Type: "m.room.create"})
}

// InviteDraft makes and signs the invite of a user of another server, and stores nothing: the other server has to sign it first. state are
// PDUs of the room that tell the user where they are invited to.
//
// Spec: ss Inviting to a room
func (r *Rooms) InviteDraft(ctx context.Context, m Membership) (pdu *event.PDU, state []json.RawMessage, err error) {
	content, err := r.memberContent(ctx, m, graph.Invite)
	if err != nil {
		return nil, nil, err
	}
	origin, key, err := r.signer(m.Sender)
	if err != nil {
		return nil, nil, err
	}
	head, err := r.cfg.Graph.Head(ctx, m.Room)
	if err != nil {
		return nil, nil, err
	}
	b := r.batch(head, true)
	target := string(m.target())
	if b.membership(m.target()) == graph.Join {
		return nil, nil, mxerr.Forbidden("%s is already in the room", m.target())
	}
	at, err := b.place(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := Proposal{Sender: m.Sender, Type: "m.room.member", StateKey: &target, Content: content, TS: m.TS}
	entries, err := b.entries(ctx, at.before, needs(head.Version, p))
	if err != nil {
		return nil, nil, err
	}
	pdu, err = decide(facts{head: head, follow: at.follow, state: entries, origin: origin, key: key, now: now()}, p)
	if err != nil {
		return nil, nil, err
	}
	if pdu, err = b.draftRecommended(ctx, pdu); err != nil {
		return nil, nil, err
	}
	state, err = r.preview(ctx, head, m.Sender)
	return pdu, state, err
}

// preview returns previewed state, and the member event of a user.
func (r *Rooms) preview(ctx context.Context, head *graph.Head, member id.UserID) ([]json.RawMessage, error) {
	keys := append([]event.Key{}, previewed...)
	if member != "" {
		keys = append(keys, event.Key{Type: "m.room.member", StateKey: string(member)})
	}
	entries, err := r.entries(ctx, head.Room, head.State, keys)
	if err != nil {
		return nil, err
	}
	var state []json.RawMessage
	for _, k := range keys {
		if e := entries(k.Type, k.StateKey); e != nil {
			state = append(state, e.Raw())
		}
	}
	return state, nil
}

// CommitInvite stores the invite of a user of another server once that server has signed it. The room may have moved on since the draft.
//
// Spec: ss Inviting to a room
func (r *Rooms) CommitInvite(ctx context.Context, pdu *event.PDU) (id.EventID, error) {
	result := r.take(ctx, incoming{pdu: pdu, flags: graph.Relayed, strict: true}, patiently())
	if result.Err != nil {
		return "", result.Err
	}
	return pdu.ID(), nil
}
