package ephemeral

import (
	"context"
	"fmt"
	"maps"
	"math"
	"time"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// Typing is who types in a room. Immutable.
type Typing struct {
	Pos   sqldb.Pos
	Room  graph.RoomNID
	Users []id.UserID
}

// typist is somebody who types somewhere.
type typist struct {
	room graph.RoomNID
	user id.UserID
}

const (
	// DefaultTyping and MaxTyping bound how long a user types without saying so again.
	DefaultTyping = 30 * time.Second
	MaxTyping     = 2 * time.Minute
	// pollTyping is how often the table is looked at for rows of a node that is gone.
	pollTyping = time.Minute
	// expireAtOnce bounds the rows that one transaction expires.
	expireAtOnce = 500
)

var (
	stmtTypes      = sqldb.SQL(`SELECT expires FROM typing WHERE room_nid = $1 AND user_id = $2`)
	stmtType       = sqldb.SQL(`INSERT INTO typing (room_nid, user_id, expires) VALUES ($1, $2, $3) ON CONFLICT (room_nid, user_id) DO UPDATE SET expires = excluded.expires`)
	stmtStopTyping = sqldb.SQL(`DELETE FROM typing WHERE room_nid = $1 AND user_id = $2 AND expires <= $3`)
	stmtTypists    = sqldb.SQL(`SELECT user_id FROM typing WHERE room_nid = $1 AND expires > $2 ORDER BY user_id`)
	stmtAllTypists = sqldb.SQL(`SELECT room_nid, user_id FROM typing WHERE room_nid = ANY($1) AND expires > $2 ORDER BY room_nid, user_id`)
	stmtExpired    = sqldb.SQL(`SELECT room_nid, user_id FROM typing WHERE expires <= $1 ORDER BY expires LIMIT $2`)
	stmtNextExpiry = sqldb.SQL(`SELECT COALESCE(MIN(expires), 0) FROM typing`)
	stmtTypingPos  = sqldb.SQL(`INSERT INTO typing_changes (room_nid, pos) VALUES ($1, $2) ON CONFLICT (room_nid) DO UPDATE SET pos = excluded.pos`)
	stmtTypingNews = sqldb.SQL(`SELECT room_nid, pos FROM typing_changes WHERE room_nid = ANY($1) AND pos > $2 AND pos <= $3`)
)

// SetTyping says that a user types for some time, or, with a duration of 0, that they stopped.
//
// Spec: cs setTyping
func (e *Ephemeral) SetTyping(ctx context.Context, user id.UserID, room id.RoomID, duration time.Duration) error {
	nid, err := e.local(ctx, user, room)
	if err != nil {
		return err
	}
	return e.setTyping(ctx, typist{nid, user}, duration)
}

func (e *Ephemeral) setTyping(ctx context.Context, who typist, duration time.Duration) error {
	at := now()
	if duration <= 0 {
		return e.stop(ctx, at, math.MaxInt64, who)
	}
	expires := at + min(duration, MaxTyping).Milliseconds()
	err := e.db.Write(ctx, func(tx *sqldb.Tx) error {
		var until int64
		found, err := tx.Get(stmtTypes, []any{who.room, who.user}, &until)
		if err != nil {
			return err
		}
		tx.Queue(stmtType, who.room, who.user, expires)
		if found && until > at {
			return nil // others know
		}
		return announce(tx, at, who.room)
	})
	if err != nil {
		return fmt.Errorf("set typing of %s: %w", who.user, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.typing[who] = expires
	if expires < e.alarm {
		signal(e.wakeTyping)
	}
	return nil
}

// stop ends the typing of some users, unless it lasts until after a time.
func (e *Ephemeral) stop(ctx context.Context, at, until int64, who ...typist) error {
	if len(who) == 0 {
		return nil
	}
	err := e.db.Write(ctx, func(tx *sqldb.Tx) error { return stopTyping(tx, at, until, who) })
	if err != nil {
		return fmt.Errorf("stop typing: %w", err)
	}
	return nil
}

func stopTyping(tx *sqldb.Tx, at, until int64, who []typist) error {
	rooms := make(map[graph.RoomNID]bool)
	var order []graph.RoomNID
	for _, t := range who {
		n, err := tx.Exec(stmtStopTyping, t.room, t.user, until)
		if err != nil {
			return err
		}
		if n > 0 && !rooms[t.room] {
			rooms[t.room] = true
			order = append(order, t.room)
		}
	}
	for _, room := range order {
		if err := announce(tx, at, room); err != nil {
			return err
		}
	}
	return nil
}

// announce gives the change of a room a position and tells who types there now.
func announce(tx *sqldb.Tx, at int64, room graph.RoomNID) error {
	users := []id.UserID{}
	err := tx.Query(stmtTypists, func(r *sqldb.Row) error {
		var user id.UserID
		err := r.Scan(&user)
		users = append(users, user)
		return err
	}, room, at)
	if err != nil {
		return err
	}
	pos, err := tx.Pos()
	if err != nil {
		return err
	}
	tx.Queue(stmtTypingPos, room, pos)
	tx.Emit(bus.Entry{Pos: pos, Kind: bus.Typing, Room: int64(room), Data: &Typing{pos, room, users}})
	return nil
}

// gone stops the typing of somebody who left. Caller holds mu.
func (e *Ephemeral) gone(t typist) {
	if _, ok := e.typing[t]; ok {
		e.left = append(e.left, t)
		signal(e.wakeTyping)
	}
}

// runTyping ends what has expired, for as long as ctx lasts.
func (e *Ephemeral) runTyping(ctx context.Context) error {
	for {
		next, err := e.expireTyping(ctx, now())
		if err != nil {
			return err
		}
		if err := wait(ctx, e.wakeTyping, max(0, time.Until(time.UnixMilli(next)))); err != nil {
			return err
		}
	}
}

// expireTyping ends the typing of who left and of who has been silent for too long at a time. It returns when to look again.
func (e *Ephemeral) expireTyping(ctx context.Context, at int64) (next int64, err error) {
	if err := e.stop(ctx, at, math.MaxInt64, e.whoLeft(at)...); err != nil {
		return 0, err
	}
	var silent []typist
	err = e.db.Read(ctx, func(tx *sqldb.Tx) error {
		silent = nil
		return tx.Query(stmtExpired, func(r *sqldb.Row) error {
			var t typist
			err := r.Scan(&t.room, &t.user)
			silent = append(silent, t)
			return err
		}, at, expireAtOnce)
	})
	if err != nil {
		return 0, fmt.Errorf("find who stopped typing: %w", err)
	}
	if err := e.stop(ctx, at, at, silent...); err != nil {
		return 0, err
	}
	err = e.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(stmtNextExpiry, nil, &next)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("find who types: %w", err)
	}
	if last := at + pollTyping.Milliseconds(); next == 0 || next > last {
		next = last
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.alarm = next
	return next, nil
}

// whoLeft takes the list of who left while typing.
func (e *Ephemeral) whoLeft(at int64) []typist {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.alarm = math.MaxInt64 // whoever begins to type from now on rings the bell
	maps.DeleteFunc(e.typing, func(_ typist, expires int64) bool { return expires <= at })
	left := e.left
	e.left = nil
	return left
}

// TypingIn reads who types in those of the rooms where that changed at positions in (from, to]. With from 0 rooms in which
// nobody types are left out.
func TypingIn(tx *sqldb.Tx, rooms []graph.RoomNID, from, to sqldb.Pos) ([]*Typing, error) {
	byRoom := make(map[graph.RoomNID]*Typing)
	var changed []graph.RoomNID
	err := tx.Query(stmtTypingNews, func(r *sqldb.Row) error {
		t := &Typing{Users: []id.UserID{}}
		err := r.Scan(&t.Room, &t.Pos)
		byRoom[t.Room] = t
		changed = append(changed, t.Room)
		return err
	}, rooms, from, to)
	if err != nil {
		return nil, fmt.Errorf("load changes of typing: %w", err)
	}
	if len(changed) == 0 {
		return nil, nil
	}
	err = tx.Query(stmtAllTypists, func(r *sqldb.Row) error {
		var t typist
		err := r.Scan(&t.room, &t.user)
		byRoom[t.room].Users = append(byRoom[t.room].Users, t.user)
		return err
	}, changed, now())
	if err != nil {
		return nil, fmt.Errorf("load who types: %w", err)
	}
	var found []*Typing
	for _, room := range changed {
		if t := byRoom[room]; from > 0 || len(t.Users) > 0 {
			found = append(found, t)
		}
	}
	return found, nil
}

// AppendTyping appends an m.typing event that names those users for whom show is true; a nil show stands for all.
//
// Spec: cs m.typing
func AppendTyping(dst []byte, t *Typing, show func(id.UserID) bool) []byte {
	dst = append(dst, `{"type":"m.typing","content":{"user_ids":[`...)
	start := len(dst)
	for _, user := range t.Users {
		if show != nil && !show(user) {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = canon.AppendString(dst, string(user))
	}
	return append(dst, "]}}"...)
}
