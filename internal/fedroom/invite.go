package fedroom

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Invite invites the target. A user of another server is invited only if that server agrees and signs.
//
// Spec: cs inviteUser
// Spec: ss Inviting to a room
func (f *Federated) Invite(ctx context.Context, m room.Membership) (id.EventID, error) {
	server := m.Target.Domain()
	if m.Target == "" || f.cfg.Ours.Is(server) {
		return f.cfg.Rooms.Invite(ctx, m)
	}
	if !f.cfg.Client.Permitted(server) {
		return "", mxerr.Forbidden("this server does not federate with %s", server)
	}
	draft, stripped, err := f.cfg.Rooms.InviteDraft(ctx, m)
	if err != nil {
		return "", err
	}
	back, err := f.cfg.Client.Invite(ctx, ask(m.Sender.Domain(), server), m.Room, draft.ID(), fedclient.Invitation{
		RoomVersion: draft.Version().ID, Event: draft.Raw(), State: stripped,
	})
	if err != nil {
		return "", inviteRefused(server, err)
	}
	signed, err := f.signedInvite(ctx, draft, back, server)
	if err != nil {
		return "", inviteRefused(server, err)
	}
	return f.cfg.Rooms.CommitInvite(ctx, signed)
}

// invitesAtOnce is how many servers are asked at a time to agree to invites to one room.
const invitesAtOnce = 8

// InviteAll invites several users to a room that was just made. The room is there, whether or not all of them can be invited. It returns
// those who can't be, with the reason.
//
// Spec: cs createRoom
func (f *Federated) InviteAll(ctx context.Context, m room.Membership, users []id.UserID) map[id.UserID]error {
	var group errgroup.Group
	group.SetLimit(invitesAtOnce)
	var mu sync.Mutex
	failed := make(map[id.UserID]error)
	for _, u := range users {
		group.Go(func() error {
			m := m
			m.Target = u
			if _, err := f.Invite(ctx, m); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[u] = err
			}
			return nil
		})
	}
	group.Wait() // nobody returns an error
	return failed
}

// inviteRefused is what the client is told.
//
// Spec: ss sendInviteV2
func inviteRefused(server id.ServerName, err error) error {
	refused := refusals{}
	refused.add(server, err)
	switch remoteCode(err) {
	case mxerr.CodeIncompatibleRoomVersion, mxerr.CodeUnsupportedRoomVersion:
		e := mxerr.New(mxerr.CodeUnsupportedRoomVersion, "%s does not support this room's version", server)
		return errors.Join(e, err)
	}
	return refused.err("the invite")
}

// signedInvite returns the invite with the signature of the invited user's server, and with nothing else of what that server sent back.
func (f *Federated) signedInvite(ctx context.Context, draft *event.PDU, answer []byte, server id.ServerName) (*event.PDU, error) {
	back, err := f.cfg.Client.CheckPDU(ctx, draft.Version(), answer, server)
	if err != nil {
		return nil, misfitf("the invite came back malformed or badly signed: %v", err)
	}
	if back.ID() != draft.ID() || !back.HashOK() {
		return nil, misfitf("another event than the invite came back")
	}
	keys := back.SignedWith(server)
	if len(keys) == 0 {
		return nil, misfitf("the invite came back without a signature of the server")
	}
	public, err := f.cfg.Client.Keys(ctx, server, keys, back.OriginServerTS())
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if p, ok := public[key]; ok && back.VerifySignature(server, key, p) == nil {
			return back, nil
		}
	}
	return nil, misfitf("the invite came back with a wrong signature")
}

// Invitation is an invite of a user of ours that another server sent.
type Invitation struct {
	Origin id.ServerName
	Room   id.RoomID
	// Event is the ID that the path of the request names.
	Event id.EventID
	// Version is the room version; empty for the first version of the operation, which names none.
	Version string
	// Raw is the invite, Stripped the invite_room_state.
	Raw      json.RawMessage
	Stripped []json.RawMessage
}

// Invited takes an invite of a user of ours and returns it with our signature.
//
// It returns M_INCOMPATIBLE_ROOM_VERSION, M_INVALID_PARAM or M_MISSING_PARAM for what is no proper invite, M_NOT_FOUND for users that don't exist, and
// M_FORBIDDEN or M_INVITE_BLOCKED where the room or the user wants none.
//
// Spec: ss sendInviteV2
func (f *Federated) Invited(ctx context.Context, in Invitation) (*event.PDU, error) {
	invite, err := f.properInvite(ctx, in)
	if err != nil {
		return nil, err
	}
	target := id.UserID(invite.Key().StateKey)
	exists, err := f.cfg.Accounts.Exists(ctx, target)
	if err != nil {
		return nil, err
	}
	if !exists {
		return nil, mxerr.NotFound("%s does not exist", target)
	}
	if err := f.Allowed(ctx, in.Room, in.Origin); err != nil {
		return nil, err
	}
	if f.cfg.MayInvite != nil {
		if err := f.cfg.MayInvite(ctx, invite.Sender(), target); err != nil {
			return nil, err
		}
	}
	described := f.describe(ctx, invite.Version(), in.Room, in.Origin, in.Stripped)
	if described.faulty > 0 {
		f.cfg.Log.InfoContext(ctx, "an invite describes its room with events that don't hold", "room", in.Room, "origin", in.Origin, "events", described.faulty)
	}
	key, _ := f.cfg.Ours.Key(target.Domain())
	signed, err := invite.Signed(target.Domain(), key)
	if err != nil {
		return nil, mxerr.InvalidParam("the invite can't be signed: %v", err)
	}
	return signed, f.note(ctx, signed, target, described)
}

// note keeps the invite. In a room that this server is in it arrives again with the room's other events, which decide.
func (f *Federated) note(ctx context.Context, invite *event.PDU, target id.UserID, d description) error {
	head, _, err := f.head(ctx, invite.RoomID())
	if err != nil {
		return err
	}
	if head == nil {
		stored, err := f.setOutOfBand(ctx, graph.OutOfBand{
			Room: invite.RoomID(), Version: invite.Version(), User: target, Membership: graph.Invite, Stripped: d.with(invite),
			ID: invite.ID(), TS: invite.OriginServerTS(),
		})
		if err != nil || stored {
			return err
		}
		if head, _, err = f.head(ctx, invite.RoomID()); err != nil || head == nil {
			return err
		}
	}
	switch head.State.Membership(target) {
	case graph.Join:
		return mxerr.Forbidden("%s is already in the room", target)
	case graph.Ban:
		return mxerr.Forbidden("%s is banned from the room", target)
	}
	return nil
}

// properInvite checks an invite as such.
func (f *Federated) properInvite(ctx context.Context, in Invitation) (*event.PDU, error) {
	name := in.Version
	if name == "" {
		name = roomver.All()[0].ID
		for _, raw := range in.Stripped {
			if created, ok := createdVersion(raw); ok {
				name = created
			}
		}
	}
	v, ok := roomver.Get(name)
	if !ok {
		return nil, mxerr.New(mxerr.CodeIncompatibleRoomVersion, "this server does not support room version %.40q", name).With("room_version", name)
	}
	invite, err := f.cfg.Client.CheckPDU(ctx, v, in.Raw, in.Origin)
	if fault, ok := errors.AsType[*fedclient.Fault](err); ok {
		switch fault.Kind {
		case fedclient.FaultMalformed:
			return nil, mxerr.InvalidParam("the invite is not a valid event of room version %s", name)
		case fedclient.FaultKeys:
			return nil, mxerr.New(mxerr.CodeConnectionFailed, "the keys of %s can't be had now", fault.Signer)
		}
		return nil, mxerr.InvalidParam("the invite lacks a valid signature of %s", fault.Signer)
	}
	if err != nil {
		return nil, err
	}
	target, err := id.ParseUserID(invite.Key().StateKey)
	switch {
	case invite.Type() != "m.room.member" || !invite.IsState() || invite.Membership() != string(graph.Invite):
		return nil, mxerr.InvalidParam("the event is not an invite")
	case invite.RoomID() != in.Room:
		return nil, mxerr.InvalidParam("the invite is to another room than the request")
	case in.Event != "" && invite.ID() != in.Event:
		return nil, mxerr.InvalidParam("the invite is another event than the request names")
	case invite.Sender().Domain() != in.Origin:
		return nil, mxerr.InvalidParam("the sender of the invite is not a user of %s", in.Origin)
	case err != nil || !f.cfg.Ours.Is(target.Domain()):
		return nil, mxerr.InvalidParam("the invited user is not a user of this server")
	}
	return invite, nil
}
