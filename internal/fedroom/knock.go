package fedroom

import (
	"context"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Knock asks for an invite, through the servers in via where this server isn't in the room. The errors are those of Join.
//
// Spec: cs knockRoom
// Spec: ss Knocking upon a room
func (f *Federated) Knock(ctx context.Context, m room.Membership, via []id.ServerName) (id.EventID, error) {
	m.Target = ""
	head, _, err := f.head(ctx, m.Room)
	if err != nil {
		return "", err
	}
	if head != nil {
		return f.cfg.Rooms.Knock(ctx, m)
	}
	key := string(m.Room) + "\x00" + string(m.Sender)
	return flight(ctx, f, &f.entrances, key, func(ctx context.Context) (id.EventID, error) {
		ctx, cancel := context.WithTimeout(ctx, entranceTime)
		defer cancel()
		return f.knockThrough(ctx, m, via)
	})
}

func (f *Federated) knockThrough(ctx context.Context, m room.Membership, via []id.ServerName) (id.EventID, error) {
	doors, err := f.doors(ctx, m.Room, m.Sender, via)
	if err != nil {
		return "", err
	}
	if len(doors) == 0 {
		return "", mxerr.NotFound("this server is not in the room, and knows no server that is; name one in \"via\"")
	}
	content, err := f.cfg.Rooms.MemberContent(ctx, m, graph.Knock)
	if err != nil {
		return "", err
	}
	var refused refusals
	for _, server := range doors {
		event, err := f.knockVia(ctx, server, m, content)
		if err == nil {
			return event, nil
		}
		f.cfg.Log.InfoContext(ctx, "could not knock through a server", "room", m.Room, "user", m.Sender, "origin", server, "err", err)
		refused.add(server, err)
		if refused.final() || ctx.Err() != nil {
			break
		}
	}
	return "", refused.err("the knock")
}

// knockVia knocks through one server.
func (f *Federated) knockVia(ctx context.Context, server id.ServerName, m room.Membership, content []byte) (id.EventID, error) {
	user := m.Sender
	key, ok := f.cfg.Ours.Key(user.Domain())
	if !ok {
		return "", mxerr.Forbidden("%s is not a user of this server", user)
	}
	template, err := f.cfg.Client.MakeKnock(ctx, ask(user.Domain(), server), m.Room, user, versions())
	if err != nil {
		return "", err
	}
	version, err := versionOf(template.RoomVersion)
	if err != nil || !version.Knock {
		return "", misfitf("it offers room version %.40q, in which one can't knock", template.RoomVersion)
	}
	knock, err := offer{server, version, template.Event}.complete(m.Room, user, graph.Knock, content, key)
	if err != nil {
		return "", err
	}
	state, err := f.cfg.Client.SendKnock(ctx, ask(user.Domain(), server), m.Room, knock.ID(), knock.Raw())
	if err != nil {
		return "", err
	}
	described := f.describe(ctx, version, m.Room, server, state)
	err = f.cfg.Graph.SetOutOfBand(ctx, graph.OutOfBand{
		Room: m.Room, Version: version, User: user, Membership: graph.Knock, Stripped: described.with(knock),
	})
	return knock.ID(), err
}
