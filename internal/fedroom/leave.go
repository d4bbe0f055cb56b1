package fedroom

import (
	"context"
	"crypto/rand"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/room"
	"myelin/matrix/canon"
	"myelin/matrix/event"
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
	told := unheard(m.Sender, content)
	for _, server := range doors {
		leave, err := f.leaveVia(asking, server, m, content)
		if err == nil {
			left, told = leave.ID(), alone(leave)
		}
		if err == nil || asking.Err() != nil {
			break
		}
		f.cfg.Log.InfoContext(ctx, "could not reject an invite through a server", "room", m.Room, "user", m.Sender, "origin", server, "err", err)
	}
	_, version, err := f.cfg.Graph.RoomID(ctx, row.Room)
	if err != nil {
		return "", err
	}
	_, err = f.setOutOfBand(ctx, graph.OutOfBand{
		Room: m.Room, Version: version, User: m.Sender, Membership: graph.Leave, Stripped: told,
	})
	return left, err
}

// unheard is what clients of a user see who left where nobody could be told: an event that exists for them alone.
func unheard(user id.UserID, content []byte) []byte {
	b := append([]byte(`[{"content":`), content...)
	b = canon.AppendString(append(b, `,"event_id":`...), "$"+rand.Text())
	b = strconv.AppendInt(append(b, `,"origin_server_ts":`...), time.Now().UnixMilli(), 10)
	b = canon.AppendString(append(b, `,"sender":`...), string(user))
	b = canon.AppendString(append(b, `,"state_key":`...), string(user))
	return append(b, `,"type":"m.room.member"}]`...)
}

// leaveVia has one server tell the room.
func (f *Federated) leaveVia(ctx context.Context, server id.ServerName, m room.Membership, content []byte) (*event.PDU, error) {
	user := m.Sender
	key, ok := f.cfg.Ours.Key(user.Domain())
	if !ok {
		return nil, mxerr.Forbidden("%s is not a user of this server", user)
	}
	template, err := f.cfg.Client.MakeLeave(ctx, ask(user.Domain(), server), m.Room, user)
	if err != nil {
		return nil, err
	}
	version, err := versionOf(template.RoomVersion)
	if err != nil {
		return nil, err
	}
	leave, err := offer{server, version, template.Event}.complete(m.Room, user, graph.Leave, content, key)
	if err != nil {
		return nil, err
	}
	return leave, f.cfg.Client.SendLeave(ctx, ask(user.Domain(), server), m.Room, leave.ID(), leave.Raw())
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
