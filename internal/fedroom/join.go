package fedroom

import (
	"context"
	"fmt"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Join makes a user of ours a member of a room. Where this server is in the room it decides itself, unless nobody of ours has the power to
// vouch for a restricted join; else it joins through another server: those in via, and others that are known to be in the room.
//
// It returns M_NOT_FOUND where no server is known to ask, the most telling answer of those that were asked, or M_CONNECTION_FAILED.
//
// Spec: cs joinRoom
// Spec: ss Joining Rooms
func (f *Federated) Join(ctx context.Context, req room.Join, via []id.ServerName) (id.EventID, error) {
	head, _, err := f.head(ctx, req.Room)
	if err != nil {
		return "", err
	}
	if head != nil {
		event, err := f.cfg.Rooms.Join(ctx, req)
		if !mxerr.Is(err, mxerr.CodeUnableToGrantJoin) && !mxerr.Is(err, mxerr.CodeUnableToAuthoriseJoin) {
			return event, err
		}
		alone := err
		if via, err = f.vouchers(ctx, head, via); err != nil {
			return "", err
		}
		if len(via) == 0 {
			return "", alone
		}
	}
	caller, err := f.cfg.Accounts.Caller(ctx, req.Sender)
	if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) {
		return "", err
	}
	if caller.Guest {
		return "", mxerr.New(mxerr.CodeGuestAccessForbidden, "guests may only join rooms that this server is in")
	}
	key := string(req.Room) + "\x00" + string(req.Sender)
	return flight(ctx, f, &f.entrances, key, func(ctx context.Context) (id.EventID, error) {
		ctx, cancel := context.WithTimeout(ctx, entranceTime)
		defer cancel()
		event, err := f.joinThrough(ctx, req, via)
		outcome := "joined"
		if err != nil {
			outcome = "failed"
		}
		f.metrics.joins.WithLabelValues(outcome).Inc()
		return event, err
	})
}

func (f *Federated) joinThrough(ctx context.Context, req room.Join, via []id.ServerName) (id.EventID, error) {
	doors, err := f.doors(ctx, req.Room, req.Sender, via)
	if err != nil {
		return "", err
	}
	if len(doors) == 0 {
		return "", mxerr.NotFound("this server is not in the room, and knows no server that is; name one in \"via\"")
	}
	if req.ThirdPartySigned != nil {
		f.redeem(ctx, req)
	}
	content, err := f.cfg.Rooms.MemberContent(ctx, req.Membership, graph.Join)
	if err != nil {
		return "", err
	}
	var refused refusals
	for _, server := range doors {
		event, err := f.joinVia(ctx, server, req, content)
		if err == nil {
			return event, nil
		}
		f.cfg.Log.InfoContext(ctx, "could not join through a server", "room", req.Room, "user", req.Sender, "origin", server, "err", err)
		refused.add(server, err)
		if refused.final() || ctx.Err() != nil {
			break
		}
	}
	return "", refused.err("the join")
}

// joinVia joins through one server.
func (f *Federated) joinVia(ctx context.Context, server id.ServerName, req room.Join, content []byte) (id.EventID, error) {
	user := req.Sender
	key, ok := f.cfg.Ours.Key(user.Domain())
	if !ok {
		return "", mxerr.Forbidden("%s is not a user of this server", user)
	}
	template, err := f.cfg.Client.MakeJoin(ctx, ask(user.Domain(), server), req.Room, user, versions())
	if err != nil {
		return "", err
	}
	version, err := versionOf(template.RoomVersion)
	if err != nil {
		return "", misfitf("it offers room version %.40q, which was not asked for", template.RoomVersion)
	}
	join, err := offer{server, version, template.Event}.complete(req.Room, user, graph.Join, content, key)
	if err != nil {
		return "", err
	}
	// Members may be left out where nothing is known of the room. Where it is, nothing would tell what became of them since.
	head, _, err := f.head(ctx, req.Room)
	if err != nil {
		return "", err
	}
	in := f.intake(req.Room, version, server)
	defer in.close()
	in.joining = true
	started := time.Now()
	joined, err := f.cfg.Client.SendJoin(ctx, fedclient.Call{Origin: user.Domain(), Destination: server, Urgent: true}, req.Room, join.ID(), join.Raw(), head == nil, in.events(ctx))
	if err != nil {
		return "", err
	}
	if err := in.flush(ctx); err != nil {
		return "", err
	}
	if join, err = f.countersigned(ctx, join, joined.Event, server); err != nil {
		return "", err
	}
	if err := in.admits(join, joined.MembersOmitted); err != nil {
		return "", err
	}
	state, err := in.store(ctx, in.state, join.AuthEvents())
	if err != nil {
		return "", err
	}
	// Once more, without what was rejected.
	if err := in.admits(join, joined.MembersOmitted); err != nil {
		return "", err
	}
	// Events to which the keys can't be had now are asked for again, as are members that were left out.
	partial := joined.MembersOmitted || in.late > 0
	if partial {
		if state, partial, err = f.overtaken(ctx, server, join, state); err != nil {
			return "", err
		}
	}
	err = f.cfg.Rooms.Adopt(ctx, room.Adoption{
		Room: req.Room, Version: version, Join: join, State: state, Partial: partial,
		Servers: told(f.permitted(append([]id.ServerName{server}, joined.Servers...))),
	})
	if err != nil {
		return "", fmt.Errorf("adopt %s: %w", req.Room, err)
	}
	f.completeSoon(ctx, req.Room)
	f.cfg.Log.InfoContext(ctx, "joined through a server", "room", req.Room, "user", user, "origin", server, "state", len(state),
		"dropped", in.dropped, "partial", partial, "took", time.Since(started))
	return join.ID(), nil
}

// overtaken completes the state before a join of which a part was left out, if another user's join brought this server into the room meanwhile:
// the members of the room as it is now are not those of the time before this join. What can't be had at once comes later.
func (f *Federated) overtaken(ctx context.Context, server id.ServerName, join *event.PDU, state []id.EventID) (_ []id.EventID, partial bool, err error) {
	head, _, err := f.head(ctx, join.RoomID())
	if head == nil || err != nil {
		return state, true, err
	}
	p := placeOf(head, join.Sender())
	p.urgent = true
	whole, err := f.stateAt(ctx, p, server, join.ID())
	if err == nil {
		return whole, false, nil
	}
	if !outside(err) {
		return nil, false, err
	}
	f.cfg.Log.InfoContext(ctx, "a join comes without all members", "room", join.RoomID(), "user", join.Sender(), "origin", server, "err", err)
	return state, true, nil
}

// countersigned returns the join as the room will see it: what the resident server sent back, if it did. A restricted join counts only with
// the signature of the server that vouches for it.
//
// Spec: ss sendJoinV2
func (f *Federated) countersigned(ctx context.Context, join *event.PDU, answer []byte, server id.ServerName) (*event.PDU, error) {
	restricted := gjson.GetBytes(join.Content(), "join_authorised_via_users_server").Exists()
	if len(answer) == 0 {
		if restricted {
			return nil, misfitf("it vouched for the join and did not sign it")
		}
		return join, nil
	}
	back, err := f.cfg.Client.CheckPDU(ctx, join.Version(), answer, server)
	switch {
	case err == nil && back.ID() == join.ID():
		return back, nil
	case restricted && err != nil:
		return nil, misfitf("it vouched for the join and did not sign it well: %v", err)
	case restricted:
		return nil, misfitf("it sent back another event than the join")
	}
	return join, nil
}

// vouchers puts those servers first that have users with the power to let somebody in.
//
// Spec: ss Restricted rooms
func (f *Federated) vouchers(ctx context.Context, head *graph.Head, via []id.ServerName) ([]id.ServerName, error) {
	nid, ok := head.State.Get("m.room.power_levels", "")
	if !ok {
		return via, nil
	}
	events, err := f.cfg.Graph.Events(ctx, head.Room, []graph.EventNID{nid})
	if err != nil {
		return nil, err
	}
	var powerful []id.ServerName
	gjson.GetBytes(events[0].PDU.Content(), "users").ForEach(func(name, _ gjson.Result) bool {
		user, err := id.ParseUserID(name.Str)
		if err == nil && head.State.Membership(user) == graph.Join {
			powerful = append(powerful, user.Domain())
		}
		return len(powerful) < 4*maxDoors
	})
	return append(powerful, via...), nil
}

// roomVersion is what a create event says.
func roomVersion(create *event.PDU) string {
	if v := gjson.GetBytes(create.Content(), "room_version"); v.Exists() {
		return v.Str
	}
	return roomver.All()[0].ID
}
