package room

import (
	"context"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Membership is a request to change the membership of a user in a room.
type Membership struct {
	Room   id.RoomID
	Sender id.UserID
	// Target is the user concerned; empty means the sender.
	Target id.UserID
	// Reason may be empty.
	Reason string
	// IsDirect marks an invite to a direct chat.
	IsDirect bool
	// Content holds further fields for the membership event, nil for none.
	Content map[string]any
	// TS is the origin_server_ts in milliseconds; 0 means the time of the decision.
	TS int64
}

func (m Membership) target() id.UserID {
	if m.Target == "" {
		return m.Sender
	}
	return m.Target
}

// check refuses a transition that the authorisation rules would let pass but that isn't what
// the operation is for, such as kicking somebody who is not there. It is given the target's
// membership.
type check func(was graph.Membership) error

// Invite invites the target.
//
// Spec: cs inviteUser
func (r *Rooms) Invite(ctx context.Context, m Membership) (id.EventID, error) {
	if r.cfg.MayInvite != nil && r.cfg.Ours.Is(m.target().Domain()) {
		if err := r.cfg.MayInvite(ctx, m.Sender, m.target()); err != nil {
			return "", err
		}
	}
	return r.change(ctx, m, graph.Invite, func(was graph.Membership) error {
		if was == graph.Join {
			return mxerr.Forbidden("%s is already in the room", m.target())
		}
		return nil
	})
}

// Leave takes the sender out of the room, rejects an invite or retracts a knock. To leave
// a room that one has left already does nothing.
//
// Spec: cs leaveRoom
func (r *Rooms) Leave(ctx context.Context, m Membership) (id.EventID, error) {
	m.Target = ""
	return r.change(ctx, m, graph.Leave, nil)
}

// Kick takes the target out of the room.
//
// Spec: cs kick
func (r *Rooms) Kick(ctx context.Context, m Membership) (id.EventID, error) {
	return r.change(ctx, m, graph.Leave, func(was graph.Membership) error {
		if was == graph.Leave || was == graph.Ban {
			return mxerr.Forbidden("%s is not in the room", m.target())
		}
		return nil
	})
}

// Ban bans the target.
//
// Spec: cs ban
func (r *Rooms) Ban(ctx context.Context, m Membership) (id.EventID, error) {
	return r.change(ctx, m, graph.Ban, nil)
}

// Unban lifts a ban.
//
// Spec: cs unban
func (r *Rooms) Unban(ctx context.Context, m Membership) (id.EventID, error) {
	return r.change(ctx, m, graph.Leave, func(was graph.Membership) error {
		if was != graph.Ban {
			return mxerr.Forbidden("%s is not banned", m.target())
		}
		return nil
	})
}

// Knock asks to be invited.
//
// Spec: cs knockRoom
func (r *Rooms) Knock(ctx context.Context, m Membership) (id.EventID, error) {
	m.Target = ""
	return r.change(ctx, m, graph.Knock, nil)
}

// Forget hides a room that the user has left from their lists and from their reach.
//
// Spec: cs forgetRoom
func (r *Rooms) Forget(ctx context.Context, user id.UserID, room id.RoomID) error {
	return r.cfg.Graph.Forget(ctx, user, room)
}

// change makes one membership event.
func (r *Rooms) change(ctx context.Context, m Membership, membership graph.Membership, check check) (id.EventID, error) {
	content, err := r.memberContent(ctx, m, membership)
	if err != nil {
		return "", err
	}
	return r.compose(ctx, m.Room, graph.TxnRef{}, func(b *batch) (step, error) {
		target := string(m.target())
		was := b.membership(m.target())
		if check != nil {
			if err := check(was); err != nil {
				return step{}, err
			}
		}
		if membership == graph.Leave && m.target() == m.Sender && was == graph.Leave {
			old, err := b.current(ctx, "m.room.member", target)
			if err != nil {
				return step{}, err
			}
			if old != nil {
				return step{event: old.ID()}, nil
			}
		}
		pdu, err := b.add(ctx, Proposal{
			Sender: m.Sender, Type: "m.room.member", StateKey: &target, Content: content, TS: m.TS,
		})
		if err != nil {
			return step{}, err
		}
		return b.step(pdu.ID(), graph.TxnRef{}), nil
	})
}

// memberContent builds the content of a membership event: what the request carries, the
// target's profile where it is ours to know and of use, the reason.
func (r *Rooms) memberContent(ctx context.Context, m Membership, membership graph.Membership) ([]byte, error) {
	content := make(map[string]any, len(m.Content)+4)
	if membership != graph.Leave && membership != graph.Ban && r.cfg.Ours.Is(m.target().Domain()) {
		p, err := r.cfg.Profile(ctx, m.target())
		if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) {
			return nil, err
		}
		if p.DisplayName != "" {
			content["displayname"] = p.DisplayName
		}
		if p.AvatarURL != "" {
			content["avatar_url"] = p.AvatarURL
		}
	}
	for k, v := range m.Content {
		content[k] = v
	}
	// It is the server's to say who vouches for a join, and it signs for them.
	delete(content, "join_authorised_via_users_server")
	content["membership"] = membership
	if m.Reason != "" {
		content["reason"] = m.Reason
	}
	if m.IsDirect && membership == graph.Invite {
		content["is_direct"] = true
	}
	raw, err := canon.Marshal(content)
	if err != nil {
		return nil, mxerr.BadJSON("content: %v", err)
	}
	return raw, nil
}
