package fedroom

import (
	"context"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// leaveTime bounds how long a user waits for other servers to hear that they reject an invite.
const leaveTime = 30 * time.Second

// Leave takes the sender out of a room, or rejects an invite or retracts a knock. Where this server isn't in the room another server is asked to tell the
// room; if none does, the user is rid of the invite all the same.
//
// Spec: cs leaveRoom
// Spec: ss Leaving Rooms (Rejecting Invites)
func (f *Federated) Leave(ctx context.Context, m room.Membership) (id.EventID, error) {
	m.Target = ""
	head, _, err := f.head(ctx, m.Room)
	if err != nil {
		return "", err
	}
	if head != nil {
		return f.cfg.Rooms.Leave(ctx, m)
	}
	nid, known, err := f.cfg.Graph.RoomNID(ctx, m.Room)
	if err != nil {
		return "", err
	}
	var row graph.MemberRow
	if known {
		if row, known, err = f.cfg.Graph.MembershipOf(ctx, m.Sender, nid); err != nil {
			return "", err
		}
	}
	switch {
	case !known:
		return "", mxerr.Forbidden("you are not in this room")
	case row.Membership == graph.Ban:
		return "", mxerr.Forbidden("you are banned from this room")
	case row.Membership != graph.Invite && row.Membership != graph.Knock:
		return "", nil // left already
	}
	key := string(m.Room) + "\x00" + string(m.Sender)
	return flight(ctx, f, &f.entrances, key, func(ctx context.Context) (id.EventID, error) {
		ctx, cancel := context.WithTimeout(ctx, entranceTime)
		defer cancel()
		return f.leaveThrough(ctx, m, row)
	})
}

func (f *Federated) leaveThrough(ctx context.Context, m room.Membership, row graph.MemberRow) (id.EventID, error) {
	content, err := f.cfg.Rooms.MemberContent(ctx, m, graph.Leave)
	if err != nil {
		return "", err
	}
	doors, err := f.doors(ctx, m.Room, m.Sender, nil)
	if err != nil {
		return "", err
	}
	asking, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	var left id.EventID
	for _, server := range doors {
		if left, err = f.leaveVia(asking, server, m, content); err == nil || asking.Err() != nil {
			break
		}
		f.cfg.Log.InfoContext(ctx, "could not reject an invite through a server", "room", m.Room, "user", m.Sender, "origin", server, "err", err)
	}
	_, version, err := f.cfg.Graph.RoomID(ctx, row.Room)
	if err != nil {
		return "", err
	}
	return left, f.cfg.Graph.SetOutOfBand(ctx, graph.OutOfBand{Room: m.Room, Version: version, User: m.Sender, Membership: graph.Leave})
}

// leaveVia has one server tell the room.
func (f *Federated) leaveVia(ctx context.Context, server id.ServerName, m room.Membership, content []byte) (id.EventID, error) {
	user := m.Sender
	key, ok := f.cfg.Ours.Key(user.Domain())
	if !ok {
		return "", mxerr.Forbidden("%s is not a user of this server", user)
	}
	template, err := f.cfg.Client.MakeLeave(ctx, ask(user.Domain(), server), m.Room, user)
	if err != nil {
		return "", err
	}
	version, err := versionOf(template.RoomVersion)
	if err != nil {
		return "", err
	}
	leave, err := offer{server, version, template.Event}.complete(m.Room, user, graph.Leave, content, key)
	if err != nil {
		return "", err
	}
	return leave.ID(), f.cfg.Client.SendLeave(ctx, ask(user.Domain(), server), m.Room, leave.ID(), leave.Raw())
}

// inviter is who sent the invite that a row from outside tells of.
func inviter(row graph.MemberRow) (id.UserID, bool) {
	var found id.UserID
	gjson.ParseBytes(row.Stripped).ForEach(func(_, e gjson.Result) bool {
		if e.Get("type").Str == "m.room.member" && e.Get("state_key").Str == string(row.User) {
			found, _ = id.ParseUserID(e.Get("sender").Str)
		}
		return found == ""
	})
	return found, found != ""
}
