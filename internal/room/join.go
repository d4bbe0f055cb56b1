package room

import (
	"context"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Join is a request of a local user to join a room that this server is in.
type Join struct {
	Membership
	// ThirdPartySigned proves that the user owns a third-party identifier that was invited:
	// a signed object of the specification. Nil where there is none.
	ThirdPartySigned []byte
}

// Join makes the sender a member. Who is a member already stays one.
//
// Spec: cs joinRoom
func (r *Rooms) Join(ctx context.Context, req Join) (id.EventID, error) {
	req.Target = ""
	content, err := r.memberContent(ctx, req.Membership, graph.Join)
	if err != nil {
		return "", err
	}
	guest, err := r.cfg.IsGuest(ctx, req.Sender)
	if err != nil {
		return "", err
	}
	return r.compose(ctx, req.Room, graph.TxnRef{}, func(b *batch) (step, error) {
		was := b.membership(req.Sender)
		if was == graph.Join && req.Content == nil {
			old, err := b.current(ctx, "m.room.member", string(req.Sender))
			if err != nil {
				return step{}, err
			}
			return step{event: old.ID()}, nil
		}
		if guest {
			if err := b.guestsMayJoin(ctx); err != nil {
				return step{}, err
			}
		}
		if was != graph.Join && was != graph.Invite && req.ThirdPartySigned != nil {
			if err := b.exchange(ctx, req); err != nil {
				return step{}, err
			}
			was = graph.Invite
		}
		content, err := b.authorise(ctx, req.Sender, was, content)
		if err != nil {
			return step{}, err
		}
		target := string(req.Sender)
		pdu, err := b.add(ctx, Proposal{
			Sender: req.Sender, Type: "m.room.member", StateKey: &target, Content: content, TS: req.TS,
		})
		if err != nil {
			return step{}, err
		}
		next := b.step(pdu.ID(), graph.TxnRef{})
		if was == graph.Join {
			return next, nil
		}
		return next, b.succeed(ctx, req.Sender, next.commit)
	})
}

// guestsMayJoin refuses guests where the room doesn't invite them.
//
// Spec: cs Guest Access
func (b *batch) guestsMayJoin(ctx context.Context) error {
	e, err := b.current(ctx, "m.room.guest_access", "")
	if err != nil {
		return err
	}
	if e == nil || gjson.GetBytes(e.Content(), "guest_access").Str != "can_join" {
		return mxerr.New(mxerr.CodeGuestAccessForbidden, "guests may not join this room")
	}
	return nil
}

// exchange turns a third-party invite into an invite of the user, sent in the name of the one
// who invited the identifier. The authorisation rules verify the signature.
//
// Spec: cs Third-party invites
func (b *batch) exchange(ctx context.Context, req Join) error {
	signed := gjson.ParseBytes(req.ThirdPartySigned)
	if !signed.IsObject() {
		return mxerr.BadJSON("third_party_signed must be an object")
	}
	if signed.Get("mxid").Str != string(req.Sender) {
		return mxerr.Forbidden("third_party_signed was made for another user")
	}
	pending, err := b.current(ctx, "m.room.third_party_invite", signed.Get("token").Str)
	if err != nil {
		return err
	}
	if pending == nil {
		return mxerr.Forbidden("there is no such third-party invite in this room")
	}
	object := map[string]any{}
	for _, field := range []string{"mxid", "token", "signatures"} {
		object[field] = signed.Get(field).Value()
	}
	content, err := canon.Marshal(map[string]any{
		"membership": "invite",
		"third_party_invite": map[string]any{
			"display_name": gjson.GetBytes(pending.Content(), "display_name").Str,
			"signed":       object,
		},
	})
	if err != nil {
		return mxerr.BadJSON("third_party_signed: %v", err)
	}
	target := string(req.Sender)
	_, err = b.add(ctx, Proposal{Sender: pending.Sender(), Type: "m.room.member", StateKey: &target, Content: content})
	return err
}

// authorise adds to the content of a join the user who vouches for it, where the room's join
// rule asks for one. It refuses a user who meets none of the room's conditions.
//
// Spec: cs Restricted rooms
func (b *batch) authorise(ctx context.Context, user id.UserID, was graph.Membership, content []byte) ([]byte, error) {
	if was == graph.Join || was == graph.Invite || was == graph.Ban || !b.head.Version.Restricted {
		return content, nil
	}
	rules, err := b.current(ctx, "m.room.join_rules", "")
	if err != nil || rules == nil {
		return content, err
	}
	switch gjson.GetBytes(rules.Content(), "join_rule").Str {
	case "restricted":
	case "knock_restricted":
		if !b.head.Version.KnockRestricted {
			return content, nil
		}
	default:
		return content, nil
	}
	ok, told, err := b.meetsCondition(ctx, user, rules)
	if err != nil {
		return nil, err
	}
	if !ok && !told {
		return nil, mxerr.New(mxerr.CodeUnableToAuthoriseJoin, "this server is in none of the rooms whose members may join this room; ask another one")
	}
	if !ok {
		return nil, mxerr.Forbidden("you are in none of the rooms whose members may join this room")
	}
	voucher, err := b.voucher(ctx)
	if err != nil {
		return nil, err
	}
	return canon.With(nil, content, "join_authorised_via_users_server", canon.AppendString(nil, string(voucher))), nil
}

// maxConditions bounds how many allow conditions of a join rule are looked at.
const maxConditions = 100

// meetsCondition reports whether the user meets a condition of the join rule, and whether this server could tell of any.
func (b *batch) meetsCondition(ctx context.Context, user id.UserID, rules *event.PDU) (met, told bool, err error) {
	asked := false
	for i, allow := range gjson.GetBytes(rules.Content(), "allow").Array() {
		if i == maxConditions {
			break
		}
		if allow.Get("type").Str != "m.room_membership" {
			continue
		}
		room, err := id.ParseRoomID(allow.Get("room_id").Str)
		if err != nil {
			continue
		}
		asked = true
		membership, err := b.rooms.cfg.Graph.MembershipIn(ctx, user, room)
		if err != nil {
			return false, false, err
		}
		here, whole, err := b.rooms.hosts(ctx, room)
		if err != nil {
			return false, false, err
		}
		told = told || here && whole
		// What is known of a room that nobody of ours is in any more may be old.
		if here && membership == graph.Join {
			return true, true, nil
		}
	}
	return false, told || !asked, nil
}

// hosts reports whether users of ours are in a room, and whether all of its members are known.
func (r *Rooms) hosts(ctx context.Context, room id.RoomID) (here, whole bool, err error) {
	head, err := r.cfg.Graph.Head(ctx, room)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	here, err = r.present(ctx, head)
	return here, !head.Partial, err
}

// voucher returns a joined user of ours who has the power to invite.
//
// Spec: ss Restricted rooms
func (b *batch) voucher(ctx context.Context) (id.UserID, error) {
	levels, err := b.levels(ctx)
	if err != nil {
		return "", err
	}
	privileged, err := b.privileged(ctx)
	if err != nil {
		return "", err
	}
	for _, user := range privileged {
		if !b.rooms.cfg.Ours.Is(user.Domain()) || levels.User(user) < levels.Invite() {
			continue
		}
		if b.membership(user) == graph.Join {
			return user, nil
		}
	}
	if levels.UsersDefault() >= levels.Invite() {
		user, ok, err := b.anyOfOurs(ctx, levels)
		if err != nil || ok {
			return user, err
		}
	}
	return "", mxerr.New(mxerr.CodeUnableToGrantJoin, "nobody of this server has the power to let you into this room")
}

// anyOfOurs looks for a joined user of this server with the power to invite among the members
// who joined first.
func (b *batch) anyOfOurs(ctx context.Context, levels eventauth.Levels) (id.UserID, bool, error) {
	members, err := b.rooms.cfg.Graph.LocalMembers(ctx, b.head.Room, b.rooms.cfg.Ours.Is, 20)
	if err != nil {
		return "", false, err
	}
	for _, user := range members {
		if levels.User(user) < levels.Invite() {
			continue
		}
		if b.membership(user) == graph.Join {
			return user, true, nil
		}
	}
	return "", false, nil
}
