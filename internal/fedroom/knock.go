package fedroom

import (
	"context"
	"errors"
	"fmt"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/internal/sqldb"
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
	err = f.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(insertKnock, m.Room, user, server)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("remember a knock: %w", err)
	}
	_, err = f.setOutOfBand(ctx, graph.OutOfBand{
		Room: m.Room, Version: version, User: user, Membership: graph.Knock, Stripped: described.with(knock),
		ID: knock.ID(), TS: knock.OriginServerTS(),
	})
	return knock.ID(), err
}

// mayRefuse lists the servers from which the end of a knock is taken: the one that it went through, those that the room's description
// names, and the one that made the room. Others can't be in the room as far as is known here, so their users have no power in it.
func (f *Federated) mayRefuse(ctx context.Context, room id.RoomID, row graph.MemberRow) ([]id.ServerName, error) {
	servers := strippedServers(row, row.User)
	if domain, ok := room.Domain(); ok {
		servers = append(servers, domain)
	}
	err := f.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		var through id.ServerName
		found, err := tx.Get(knockedAt, []any{room, row.User}, &through)
		if found {
			servers = append(servers, through)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load through whom a user knocked: %w", err)
	}
	return servers, nil
}

// bandTries is how often a membership from outside is written, if the room changes meanwhile.
const bandTries = 5

// setOutOfBand stores what another server told of a membership, unless users of ours are in the room by then, whose events overrule it. It reports
// whether it did.
func (f *Federated) setOutOfBand(ctx context.Context, o graph.OutOfBand) (bool, error) {
	for try := 1; ; try++ {
		o.Rev = 0
		head, err := f.cfg.Graph.Head(ctx, o.Room)
		switch {
		case err == nil:
			o.Rev = head.Rev
		case !mxerr.Is(err, mxerr.CodeNotFound):
			return false, err
		}
		if here, _, err := f.head(ctx, o.Room); err != nil || here != nil {
			return false, err
		}
		err = f.cfg.Graph.SetOutOfBand(ctx, o)
		switch {
		case err == nil && o.Membership != graph.Knock:
			err = f.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
				_, err := tx.Exec(dropKnock, o.Room, o.User)
				return err
			})
			return err == nil, err
		case !errors.Is(err, graph.ErrConflict) || try == bandTries:
			return err == nil, err
		}
	}
}
