package thread

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Migrations make the table of this package. ended is the position of the stream at which the user last ended the subscription, 0 for never; pos is that
// of the last change.
var Migrations = []sqldb.Migration{{Slice: "thread", Version: 1, SQL: `
	CREATE TABLE thread_subscriptions (
		user_id TEXT NOT NULL,
		room_nid BIGINT NOT NULL,
		root_id TEXT NOT NULL,
		pos BIGINT NOT NULL,
		subscribed BIGINT NOT NULL,
		automatic BIGINT NOT NULL,
		ended BIGINT NOT NULL,
		PRIMARY KEY (user_id, room_nid, root_id)
	) WITHOUT ROWID;
	CREATE UNIQUE INDEX thread_subscriptions_by_pos ON thread_subscriptions (user_id, pos);
	CREATE INDEX thread_subscriptions_by_thread ON thread_subscriptions (room_nid, root_id) WHERE subscribed = 1;
`}}

var (
	stmtOf  = sqldb.SQL(`SELECT subscribed, automatic, ended FROM thread_subscriptions WHERE user_id = $1 AND room_nid = $2 AND root_id = $3`)
	stmtSet = sqldb.SQL(`INSERT INTO thread_subscriptions (user_id, room_nid, root_id, pos, subscribed, automatic, ended) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (user_id, room_nid, root_id) DO UPDATE SET pos = excluded.pos, subscribed = excluded.subscribed,
		automatic = excluded.automatic, ended = excluded.ended`)
	stmtFollowers = sqldb.SQL(`SELECT user_id FROM thread_subscriptions WHERE room_nid = $1 AND root_id = $2 AND subscribed = 1`)
	stmtChanges   = sqldb.SQL(`SELECT room_nid, root_id, pos, subscribed, automatic FROM thread_subscriptions
		WHERE user_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos DESC LIMIT $4`)
)

// Threads keeps the subscriptions. It is safe for concurrent use.
type Threads struct{ db *sqldb.DB }

// Open prepares the table.
func Open(ctx context.Context, db *sqldb.DB) (*Threads, error) {
	if err := db.Migrate(ctx, Migrations...); err != nil {
		return nil, fmt.Errorf("open threads: %w", err)
	}
	return &Threads{db}, nil
}

// Thread names a thread.
type Thread struct {
	Room graph.RoomNID
	Root id.EventID
}

// row is what is known of a user and a thread.
type row struct {
	subscribed, automatic bool
	ended                 sqldb.Pos
}

func load(tx *sqldb.Tx, user id.UserID, t Thread) (row, error) {
	var r row
	var subscribed, automatic int
	_, err := tx.Get(stmtOf, []any{user, t.Room, t.Root}, &subscribed, &automatic, &r.ended)
	r.subscribed, r.automatic = subscribed != 0, automatic != 0
	return r, err
}

func (r row) store(tx *sqldb.Tx, user id.UserID, t Thread, pos sqldb.Pos) {
	tx.Queue(stmtSet, user, t.Room, t.Root, pos, number(r.subscribed), number(r.automatic), r.ended)
	tx.Emit(bus.Entry{Pos: pos, Kind: bus.ThreadSubscription, Room: int64(t.Room), User: user})
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// CodeConflict is the errcode for an automatic subscription on account of an event that was there when the user ended the subscription.
const CodeConflict mxerr.Code = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"

// errUnchanged ends a transaction that has nothing to write.
var errUnchanged = errors.New("thread: nothing changes")

// Subscribe has a user follow a thread: by hand without a cause, else automatically on account of that event. It returns CodeConflict where
// the user ended the subscription after the cause came.
//
// MSC4306: thread subscriptions
func (s *Threads) Subscribe(ctx context.Context, user id.UserID, t Thread, cause *graph.Event) error {
	return s.change(ctx, user, t, func(r *row, _ sqldb.Pos) error {
		switch {
		case r.subscribed && (cause != nil || !r.automatic):
			return errUnchanged
		case cause != nil && r.ended != 0 && cause.Ord <= int64(r.ended):
			return mxerr.New(CodeConflict, "you ended the subscription to this thread after that event")
		}
		r.subscribed, r.automatic = true, cause != nil
		return nil
	})
}

// Unsubscribe ends a subscription. Where there is none nothing happens.
//
// MSC4306: thread subscriptions
func (s *Threads) Unsubscribe(ctx context.Context, user id.UserID, t Thread) error {
	return s.change(ctx, user, t, func(r *row, pos sqldb.Pos) error {
		if !r.subscribed {
			return errUnchanged
		}
		r.subscribed, r.automatic, r.ended = false, false, pos
		return nil
	})
}

// change applies fn to a row. The position is taken only for what changes: locking the stream comes last.
func (s *Threads) change(ctx context.Context, user id.UserID, t Thread, fn func(r *row, pos sqldb.Pos) error) error {
	err := s.db.Write(ctx, func(tx *sqldb.Tx) error {
		r, err := load(tx, user, t)
		if err != nil {
			return err
		}
		trial := r
		if err := fn(&trial, 0); err != nil {
			return err
		}
		pos, err := tx.Pos()
		if err != nil {
			return err
		}
		if err := fn(&r, pos); err != nil {
			return err
		}
		r.store(tx, user, t, pos)
		return nil
	})
	if _, told := mxerr.Of(err); told {
		return err
	}
	if err != nil && !errors.Is(err, errUnchanged) {
		return fmt.Errorf("change a thread subscription: %w", err)
	}
	return nil
}

// Of reports whether a user follows a thread, and whether that was automatic.
//
// MSC4306: thread subscriptions
func (s *Threads) Of(ctx context.Context, user id.UserID, t Thread) (subscribed, automatic bool, err error) {
	var r row
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		r, err = load(tx, user, t)
		return err
	})
	if err != nil {
		return false, false, fmt.Errorf("look up a thread subscription: %w", err)
	}
	return r.subscribed, r.automatic, nil
}

// Followers returns all users who follow a thread.
//
// MSC4306: thread subscriptions
func (s *Threads) Followers(ctx context.Context, t Thread) (users map[id.UserID]struct{}, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		users = make(map[id.UserID]struct{})
		return tx.Query(stmtFollowers, func(r *sqldb.Row) error {
			var u id.UserID
			err := r.Scan(&u)
			users[u] = struct{}{}
			return err
		}, t.Room, t.Root)
	})
	if err != nil {
		return nil, fmt.Errorf("list who follows a thread: %w", err)
	}
	return users, nil
}

// Change is the last word on one thread.
type Change struct {
	Thread
	Pos                   sqldb.Pos
	Subscribed, Automatic bool
}

// Changes returns what changed for a user at positions in (from, to], the newest first, at most limit of them. A thread that changed again later is not
// among them.
//
// MSC4308: changes for sliding sync
func (s *Threads) Changes(ctx context.Context, user id.UserID, from, to sqldb.Pos, limit int) (found []Change, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(stmtChanges, func(r *sqldb.Row) error {
			var c Change
			var subscribed, automatic int
			err := r.Scan(&c.Room, &c.Root, &c.Pos, &subscribed, &automatic)
			c.Subscribed, c.Automatic = subscribed != 0, automatic != 0
			found = append(found, c)
			return err
		}, user, from, to, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("list changes of thread subscriptions: %w", err)
	}
	return found, nil
}

// Token is a place among the changes: what has its position, and what came before.
type Token sqldb.Pos

// String returns the token as clients see it.
func (t Token) String() string { return "th" + strconv.FormatInt(int64(t), 10) }

// ParseToken reads a token. A position of sliding sync counts as one, as far as it begins with a position of the stream.
func ParseToken(s string) (Token, error) {
	if rest, sliding := strings.CutPrefix(s, "c"); sliding {
		s = rest
	}
	digits := strings.TrimPrefix(s, "th")
	if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 && digits == s {
		digits = digits[:end]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, mxerr.InvalidParam("%.40q is no place among the changes of thread subscriptions", s)
	}
	return Token(n), nil
}

// List is the form in which clients get changes, by room and thread.
//
// MSC4308: changes for sliding sync
type List struct {
	Subscribed   map[id.RoomID]map[id.EventID]Subscription   `json:"subscribed,omitempty"`
	Unsubscribed map[id.RoomID]map[id.EventID]Unsubscription `json:"unsubscribed,omitempty"`
}

type (
	// Subscription is one that stands. BumpStamp orders what different answers say of a thread.
	Subscription struct {
		Automatic bool      `json:"automatic"`
		BumpStamp sqldb.Pos `json:"bump_stamp"`
	}
	// Unsubscription is one that was ended.
	Unsubscription struct {
		BumpStamp sqldb.Pos `json:"bump_stamp"`
	}
)

// NewList sorts changes into a List. roomID names rooms, and leaves out those for which it returns "".
func NewList(changes []Change, roomID func(graph.RoomNID) (id.RoomID, error)) (List, error) {
	var l List
	for _, c := range slices.Backward(changes) {
		room, err := roomID(c.Room)
		if err != nil {
			return List{}, err
		}
		switch {
		case room == "":
		case c.Subscribed:
			put(&l.Subscribed, room, c.Root, Subscription{c.Automatic, c.Pos})
		default:
			put(&l.Unsubscribed, room, c.Root, Unsubscription{c.Pos})
		}
	}
	return l, nil
}

func put[T any](in *map[id.RoomID]map[id.EventID]T, room id.RoomID, root id.EventID, v T) {
	if *in == nil {
		*in = make(map[id.RoomID]map[id.EventID]T)
	}
	if (*in)[room] == nil {
		(*in)[room] = make(map[id.EventID]T)
	}
	(*in)[room][root] = v
}
