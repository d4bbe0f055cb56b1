package notice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"myelin/internal/account"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Config is what Notices need.
type Config struct {
	DB       *sqldb.DB
	Ours     *ours.Set
	Accounts *account.Accounts
	Graph    *graph.Graph
	Rooms    *room.Rooms
}

// Notices tells users something. It is safe for concurrent use.
type Notices struct {
	cfg Config
	mu  sync.Mutex // held while a notice is sent
}

// Tag marks the room for clients.
//
// Spec: cs Server Notices
const Tag = "m.server_notice"

// speaker is the local part of the account that speaks, called is what the room and the account are called.
const (
	speaker = "server-notices"
	called  = "Server Notices"
)

// kind is the server_notice_type of what an operator writes: the specification has none for it.
const kind = "dev.myelin.announcement"

var migrations = []sqldb.Migration{{Slice: "notice", Version: 1, SQL: `
	CREATE TABLE notice_rooms (
		user_id TEXT NOT NULL PRIMARY KEY,
		room_id TEXT NOT NULL
	);
`}}

var (
	roomOf  = sqldb.SQL(`SELECT room_id FROM notice_rooms WHERE user_id = $1`)
	addRoom = sqldb.SQL(`INSERT INTO notice_rooms (user_id, room_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`)
)

// Open prepares the table.
func Open(ctx context.Context, c Config) (*Notices, error) {
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("open notices: %w", err)
	}
	return &Notices{cfg: c}, nil
}

// Room returns the room of a user, false if there is none.
func (n *Notices) Room(ctx context.Context, user id.UserID) (room id.RoomID, found bool, err error) {
	err = n.cfg.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err = tx.Get(roomOf, []any{user}, &room)
		return err
	})
	if err != nil {
		return "", false, fmt.Errorf("find the room for notices to %s: %w", user, err)
	}
	return room, found, nil
}

// MayLeave returns M_CANNOT_LEAVE_SERVER_NOTICE_ROOM where a user rejects the invite to their room.
//
// Spec: cs Server Notices
func (n *Notices) MayLeave(ctx context.Context, user id.UserID, room id.RoomID) error {
	own, found, err := n.Room(ctx, user)
	if err != nil || !found || own != room {
		return err
	}
	m, err := n.cfg.Graph.MembershipIn(ctx, user, room)
	if err == nil && m == graph.Invite {
		err = mxerr.New(mxerr.CodeCannotLeaveServerNotice, "The invite to the server's notices can't be rejected.")
	}
	return err
}

// errTaken says that another node has just made the user's room.
var errTaken = errors.New("the user has a room for notices")

// Send tells a user something.
func (n *Notices) Send(ctx context.Context, user id.UserID, text string) (id.EventID, error) {
	if text == "" {
		return "", mxerr.MissingParam("A notice needs a text.")
	}
	u, err := n.cfg.Accounts.User(ctx, user)
	if err != nil {
		return "", err
	}
	from := id.UserID("@" + speaker + ":" + string(user.Domain()))
	if u.DeactivatedTS != 0 || u.Kind != account.KindUser || user == from {
		return "", mxerr.NotFound("%s can't be told anything.", user)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	err = n.cfg.Accounts.Create(ctx, account.NewUser{ID: from, DisplayName: called})
	if err != nil && !mxerr.Is(err, mxerr.CodeUserInUse) {
		return "", err
	}
	roomID, err := n.room(ctx, from, user)
	if err != nil {
		return "", err
	}
	content, err := json.Marshal(map[string]string{"msgtype": Tag, "body": text, "server_notice_type": kind})
	if err != nil {
		return "", fmt.Errorf("encode a notice: %w", err)
	}
	return n.cfg.Rooms.Send(ctx, room.Message{Room: roomID, Proposal: room.Proposal{Sender: from, Type: "m.room.message", Content: content}})
}

// room returns the user's room with the user in it, or invited.
func (n *Notices) room(ctx context.Context, from, user id.UserID) (id.RoomID, error) {
	own, found, err := n.Room(ctx, user)
	if err != nil {
		return "", err
	}
	if !found {
		own, err = n.create(ctx, from, user)
		if !errors.Is(err, errTaken) {
			return own, err
		}
		if own, _, err = n.Room(ctx, user); err != nil {
			return "", err
		}
	}
	m, err := n.cfg.Graph.MembershipIn(ctx, user, own)
	if err == nil && m != graph.Join && m != graph.Invite {
		_, err = n.cfg.Rooms.Invite(ctx, room.Membership{Room: own, Sender: from, Target: user})
	}
	return own, err
}

func (n *Notices) create(ctx context.Context, from, user id.UserID) (id.RoomID, error) {
	name := called
	return n.cfg.Rooms.Create(ctx, room.Creation{
		Creator: from, Preset: room.PrivateChat, Name: &name, Invite: []id.UserID{user},
		// Only the server speaks here.
		PowerLevels: map[string]json.RawMessage{"users_default": json.RawMessage(`-10`)},
		Also: func(tx *sqldb.Tx, room id.RoomID) error {
			fresh, err := tx.Exec(addRoom, user, room)
			if err != nil {
				return err
			}
			if fresh == 0 {
				return errTaken
			}
			return n.cfg.Accounts.PutDataTx(tx, user, room, account.TypeTag, []byte(`{"tags":{"`+Tag+`":{}}}`))
		},
	})
}
