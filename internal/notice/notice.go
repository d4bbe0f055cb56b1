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
	// Speaker is the local part of the account that speaks, Name is what the account and the rooms are called.
	Speaker, Name string
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
	delRoom = sqldb.SQL(`DELETE FROM notice_rooms WHERE user_id = $1 AND room_id = $2`)
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

// Notice is one event for one user.
type Notice struct {
	User id.UserID
	// Type is m.room.message where it is empty. StateKey makes the event one of the room's state.
	Type     string
	StateKey *string
	Content  json.RawMessage
	// Txn identifies the request of the administrator; what was sent for it once is not sent again. Empty without one.
	Txn graph.TxnRef
}

// Tell sends a user a text.
func (n *Notices) Tell(ctx context.Context, user id.UserID, text string) (id.EventID, error) {
	if text == "" {
		return "", mxerr.MissingParam("A notice needs a text.")
	}
	content, err := json.Marshal(map[string]string{"msgtype": Tag, "body": text, "server_notice_type": kind})
	if err != nil {
		return "", fmt.Errorf("encode a notice: %w", err)
	}
	return n.Send(ctx, Notice{User: user, Content: content})
}

// Send sends a notice.
func (n *Notices) Send(ctx context.Context, notice Notice) (id.EventID, error) {
	from, err := n.check(ctx, &notice)
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// Before anything else: the user may have left the room since, and is not invited again by a request that is repeated.
	if notice.Txn != (graph.TxnRef{}) {
		if known, ok, err := n.cfg.Graph.TxnEvent(ctx, notice.Txn); err != nil || ok {
			return known, err
		}
	}
	if err := n.speaker(ctx, from); err != nil {
		return "", err
	}
	roomID, err := n.room(ctx, from, notice.User)
	if err != nil {
		return "", err
	}
	return n.cfg.Rooms.Send(ctx, room.Message{
		Room: roomID, Txn: notice.Txn,
		Proposal: room.Proposal{Sender: from, Type: notice.Type, StateKey: notice.StateKey, Content: notice.Content},
	})
}

// check refuses what can't be a notice, and returns who will say it.
func (n *Notices) check(ctx context.Context, notice *Notice) (from id.UserID, err error) {
	if notice.Type == "" {
		notice.Type = "m.room.message"
	}
	switch notice.Type {
	case "m.room.create", "m.room.member", "m.room.power_levels", "m.room.redaction", "m.room.tombstone":
		return "", mxerr.InvalidParam("%s is no type of a notice.", notice.Type)
	}
	if !n.cfg.Ours.Is(notice.User.Domain()) {
		return "", mxerr.InvalidParam("%s is a user of another server.", notice.User)
	}
	u, err := n.cfg.Accounts.User(ctx, notice.User)
	if err != nil {
		return "", err
	}
	from = id.UserID("@" + n.cfg.Speaker + ":" + string(notice.User.Domain()))
	if u.DeactivatedTS != 0 || u.Kind != account.KindUser || notice.User == from {
		return "", mxerr.NotFound("%s can't be told anything.", notice.User)
	}
	return from, nil
}

// speaker makes the account that speaks, where it isn't there yet. A person who had registered it before must not speak in the server's name.
func (n *Notices) speaker(ctx context.Context, from id.UserID) error {
	err := n.cfg.Accounts.Create(ctx, account.NewUser{ID: from, DisplayName: n.cfg.Name})
	if !mxerr.Is(err, mxerr.CodeUserInUse) {
		return err
	}
	u, err := n.cfg.Accounts.User(ctx, from)
	if err == nil && (u.HasPassword || u.DeactivatedTS != 0) {
		err = mxerr.New(mxerr.CodeUserInUse, "%s is somebody's account. Set notices.localpart to another name.", from)
	}
	return err
}

// room returns the user's room with the user in it, or invited. A room whose speaker was another, or has left, is followed by a new one.
func (n *Notices) room(ctx context.Context, from, user id.UserID) (id.RoomID, error) {
	own, found, err := n.Room(ctx, user)
	if err != nil {
		return "", err
	}
	if found {
		m, err := n.cfg.Graph.MembershipIn(ctx, from, own)
		if err != nil {
			return "", err
		}
		found = m == graph.Join
	}
	if !found {
		own, err = n.create(ctx, from, user, own)
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

// create makes the user's room, instead of the one that was, if there was one.
func (n *Notices) create(ctx context.Context, from, user id.UserID, was id.RoomID) (id.RoomID, error) {
	name := n.cfg.Name
	return n.cfg.Rooms.Create(ctx, room.Creation{
		Creator: from, Preset: room.PrivateChat, Name: &name, Invite: []id.UserID{user},
		// Only the server speaks here.
		PowerLevels: map[string]json.RawMessage{"users_default": json.RawMessage(`-10`)},
		Also: func(tx *sqldb.Tx, room id.RoomID) error {
			if _, err := tx.Exec(delRoom, user, was); err != nil {
				return err
			}
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
