package room

import (
	"context"
	"slices"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Template returns the membership event by which a user of another server may join, leave or knock, for that server to complete and sign. versions are
// the room versions that the asking server knows, for joins and knocks.
//
// It returns M_NOT_FOUND for a room that no user of ours is in, M_INCOMPATIBLE_ROOM_VERSION, M_FORBIDDEN for what the room does not allow,
// M_UNABLE_TO_AUTHORISE_JOIN where this server can't tell whether the user meets the room's conditions, and M_UNABLE_TO_GRANT_JOIN where
// nobody of ours may vouch for the user.
//
// Spec: ss makeJoin
// Spec: ss makeLeave
// Spec: ss makeKnock
func (r *Rooms) Template(ctx context.Context, room id.RoomID, user id.UserID, m graph.Membership, versions []string) (raw []byte, v *roomver.Version, err error) {
	head, err := r.hosted(ctx, room)
	if err != nil {
		return nil, nil, err
	}
	v = head.Version
	if m != graph.Leave && !slices.Contains(versions, v.ID) {
		e := mxerr.New(mxerr.CodeIncompatibleRoomVersion, "the room has version %s, which your server doesn't know", v.ID)
		return nil, nil, e.With("room_version", v.ID)
	}
	origin := r.cfg.Ours.Primary()
	key, _ := r.cfg.Ours.Key(origin)
	b := r.batch(head, true)
	content := canon.With(nil, []byte("{}"), "membership", canon.AppendString(nil, string(m)))
	if m == graph.Join {
		if err := b.admits(ctx, user); err != nil {
			return nil, nil, err
		}
		if content, err = b.authorise(ctx, user, b.membership(user), content); err != nil {
			return nil, nil, err
		}
	}
	target := string(user)
	at, err := b.place(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := Proposal{Sender: user, Type: "m.room.member", StateKey: &target, Content: content}
	state, err := b.entries(ctx, at.before, needs(v, p))
	if err != nil {
		return nil, nil, err
	}
	pdu, err := decide(facts{head: head, follow: at.follow, state: state, origin: origin, key: key, now: now()}, p)
	if err != nil {
		return nil, nil, err
	}
	raw = pdu.Raw()
	for _, field := range []string{"signatures", "hashes", "event_id"} {
		raw = canon.Without(nil, raw, field)
	}
	return raw, v, nil
}

// hosted returns the durable head of a room that users of ours are in, all of whose members are known.
func (r *Rooms) hosted(ctx context.Context, room id.RoomID) (*graph.Head, error) {
	head, err := r.cfg.Graph.Head(ctx, room)
	if err != nil {
		return nil, err
	}
	switch present, err := r.present(ctx, head); {
	case err != nil:
		return nil, err
	case !present:
		return nil, mxerr.NotFound("nobody of this server is in room %s", room)
	case head.Partial:
		return nil, mxerr.NotFound("this server is still learning who is in room %s; ask another one", room)
	}
	return head, nil
}

// admits refuses users of other servers where the room is closed to them, or where their server is.
func (b *batch) admits(ctx context.Context, user id.UserID) error {
	create, err := b.current(ctx, "m.room.create", "")
	if err != nil || create == nil {
		return err
	}
	if !federates(create) && user.Domain() != create.Sender().Domain() {
		return mxerr.Forbidden("this room is closed to users of other servers")
	}
	return nil
}

// Accept takes in a membership event that another server made from a template. What the room does not allow is refused and not stored. A join
// that a user of ours vouches for is signed in their name. The event comes back with the state before it, also where it was accepted before.
//
// Errors are those of Template.
//
// Spec: ss sendJoinV2
// Spec: ss sendLeaveV2
// Spec: ss sendKnock
func (r *Rooms) Accept(ctx context.Context, pdu *event.PDU) (*graph.Event, error) {
	head, err := r.hosted(ctx, pdu.RoomID())
	if err != nil {
		return nil, err
	}
	if pdu.Membership() == string(graph.Join) {
		if pdu, err = r.vouch(ctx, head, pdu); err != nil {
			return nil, err
		}
	}
	result := r.take(ctx, incoming{pdu: pdu, flags: graph.Relayed, strict: true}, patiently())
	if result.Err != nil {
		return nil, result.Err
	}
	if result.Verdict != Accepted {
		return nil, mxerr.Forbidden("the event was refused before")
	}
	e, ok, err := r.cfg.Graph.Event(ctx, pdu.ID())
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, mxerr.NotFound("the event %s is gone", pdu.ID())
	case e.PDU.Key() != pdu.Key() || e.PDU.Sender() != pdu.Sender() || e.PDU.Membership() != pdu.Membership():
		// In versions 1 and 2 an event's ID is what its server makes it.
		return nil, mxerr.InvalidParam("there is another event with the ID %s", pdu.ID())
	}
	return e, nil
}

// vouch checks once more that the user meets the conditions of a restricted room, and signs.
//
// Spec: ss Restricted rooms
func (r *Rooms) vouch(ctx context.Context, head *graph.Head, pdu *event.PDU) (*event.PDU, error) {
	voucher, err := id.ParseUserID(gjson.GetBytes(pdu.Content(), "join_authorised_via_users_server").Str)
	if err != nil || !head.Version.Restricted {
		return pdu, nil
	}
	key, ok := r.cfg.Ours.Key(voucher.Domain())
	if !ok {
		return pdu, nil
	}
	b := r.batch(head, true)
	// Who is a member already, or invited, needs nobody to vouch for them, and gets no error here either.
	if _, err := b.authorise(ctx, pdu.Sender(), b.membership(pdu.Sender()), []byte("{}")); err != nil {
		return nil, err
	}
	return pdu.Signed(voucher.Domain(), key)
}
