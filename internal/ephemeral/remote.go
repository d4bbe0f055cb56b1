package ephemeral

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// remoteTyping is how long a user of another server types after their server said so: the EDU names no time, and
	// servers repeat it well within a minute.
	remoteTyping = time.Minute
	// remoteSilence is after what silence of their server users of other servers count as offline.
	remoteSilence = 30 * time.Minute
)

var (
	stmtHeardPresence = sqldb.SQL(`SELECT state, status_msg, currently_active, heard, node FROM presence WHERE user_id = $1`)
	stmtSetRemote     = sqldb.SQL(`INSERT INTO presence (user_id, state, status_msg, last_active, currently_active, node, pos, heard)
		VALUES ($1, $2, $3, $4, $5, '', $6, $7)
		ON CONFLICT (user_id) DO UPDATE SET state = excluded.state, status_msg = excluded.status_msg, last_active = excluded.last_active,
		currently_active = excluded.currently_active, node = excluded.node, pos = excluded.pos, heard = excluded.heard`)
	stmtHeardAgain = sqldb.SQL(`UPDATE presence SET heard = $2, last_active = $3 WHERE user_id = $1`)
	stmtSilent     = sqldb.SQL(`SELECT ` + presenceColumns + ` WHERE node = '' AND state <> 'offline' AND heard < $1 ORDER BY heard LIMIT $2`)
)

// RemoteTyping takes the word of a user's server that the user types in a room, or stopped. It returns M_FORBIDDEN
// for users who are not in the room.
//
// Spec: ss Typing Notifications
func (e *Ephemeral) RemoteTyping(ctx context.Context, user id.UserID, room id.RoomID, typing bool) error {
	nid, err := e.remote(ctx, user, room)
	if err != nil {
		return err
	}
	if typing {
		return e.setTyping(ctx, typist{nid, user}, remoteTyping)
	}
	return e.setTyping(ctx, typist{nid, user}, 0)
}

// RemoteReceipt takes the word of a user's server how far the user has read. A time in the future counts as now. It returns
// M_FORBIDDEN for users who are not in the room and M_NOT_FOUND for events that are not here.
//
// Spec: ss Receipts
func (e *Ephemeral) RemoteReceipt(ctx context.Context, user id.UserID, room id.RoomID, m Mark) error {
	if m.Type != Read {
		return mxerr.InvalidParam("Servers exchange receipts of type %s only.", Read)
	}
	nid, err := e.remote(ctx, user, room)
	if err != nil {
		return err
	}
	m.TS = max(1, min(m.TS, now()))
	return e.mark(ctx, user, room, nid, []Mark{m})
}

// remote returns the number of a room that a user of another server is joined to, M_FORBIDDEN for any other. While not all members of a room are known, who has no
// member event is believed to be there if the join told of their server.
func (e *Ephemeral) remote(ctx context.Context, user id.UserID, room id.RoomID) (graph.RoomNID, error) {
	if e.cfg.Ours.Is(user.Domain()) {
		return 0, mxerr.Forbidden("%s is a user of this server.", user)
	}
	nid, err := e.member(ctx, user, room)
	if !mxerr.Is(err, mxerr.CodeForbidden) || nid == 0 {
		return nid, err
	}
	if m, again := e.graph.MembershipIn(ctx, user, room); again != nil || m != "" {
		return 0, cmp.Or(again, err)
	}
	told, _, again := e.graph.ServersTold(ctx, nid)
	if again != nil || !slices.Contains(told, user.Domain()) {
		return 0, cmp.Or(again, err)
	}
	return nid, nil
}

// RemotePresence takes the word of their server about the presence of users: State, StatusMsg, LastActive and CurrentlyActive.
// Users who are in no room here are passed over, and so are all of them where presence is turned off.
//
// Spec: ss Presence
func (e *Ephemeral) RemotePresence(ctx context.Context, told []Presence) error {
	if e.cfg.NoPresence {
		return nil
	}
	at := now()
	var known []Presence
	for _, p := range told {
		if e.cfg.Ours.Is(p.User.Domain()) {
			continue
		}
		rooms, err := e.graph.MembershipsOf(ctx, p.User, graph.Join)
		if err != nil {
			return fmt.Errorf("take presence of %s: %w", p.User, err)
		}
		if len(rooms) == 0 {
			continue
		}
		p.Rooms = make([]graph.RoomNID, len(rooms))
		for i, m := range rooms {
			p.Rooms[i] = m.Room
		}
		p.LastActive = max(0, min(p.LastActive, at))
		p.CurrentlyActive = p.CurrentlyActive && p.State == Online
		p.StatusMsg = strings.ReplaceAll(p.StatusMsg, "\x00", "")
		if len(p.StatusMsg) > maxStatus {
			p.StatusMsg = strings.ToValidUTF8(p.StatusMsg[:maxStatus], "")
		}
		known = append(known, p)
	}
	if len(known) == 0 {
		return nil
	}
	err := e.db.Write(ctx, func(tx *sqldb.Tx) error {
		for _, p := range known {
			if err := hear(tx, p, at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("take presence: %w", err)
	}
	return nil
}

// hear writes the presence of a user of another server. That nothing changed is worth a note once in a while, not a position.
func hear(tx *sqldb.Tx, p Presence, at int64) (err error) {
	was := Presence{State: Offline}
	var heard int64
	var node string
	found, err := tx.Get(stmtHeardPresence, []any{p.User}, &was.State, &was.StatusMsg, &was.CurrentlyActive, &heard, &node)
	if err != nil {
		return err
	}
	if was.State == p.State && was.StatusMsg == p.StatusMsg && was.CurrentlyActive == p.CurrentlyActive {
		if found && at-heard > remoteSilence.Milliseconds()/4 {
			tx.Queue(stmtHeardAgain, p.User, at, p.LastActive)
		}
		return nil
	}
	if p.Pos, err = tx.Pos(); err != nil {
		return err
	}
	tx.Queue(stmtSetRemote, p.User, p.State, p.StatusMsg, p.LastActive, p.CurrentlyActive, p.Pos, at)
	tx.Emit(bus.Entry{Pos: p.Pos, Kind: bus.Presence, User: p.User, Data: &p})
	return nil
}

// expireRemote shows those users of other servers as offline about whom nothing has been heard for long.
func (e *Ephemeral) expireRemote(ctx context.Context, at int64) error {
	for {
		n := 0
		err := e.db.Write(ctx, func(tx *sqldb.Tx) error {
			var silent []*Presence
			if err := tx.Query(stmtSilent, scanPresence(&silent), at-remoteSilence.Milliseconds(), writeAtOnce); err != nil {
				return err
			}
			n = len(silent)
			for _, p := range silent {
				gone := Presence{User: p.User, State: Offline, StatusMsg: p.StatusMsg, LastActive: p.LastActive}
				var err error
				if gone.Rooms, err = graph.JoinedRooms(tx, p.User); err != nil {
					return err
				}
				if err := hear(tx, gone, at); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("expire presence of other servers' users: %w", err)
		}
		if n < writeAtOnce {
			return nil
		}
	}
}
