package fedroom

import (
	"context"
	"fmt"
	"strings"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxStagedOf bounds how many events of one server wait at once. What is beyond is refused, and comes again when the server sends what
	// follows it.
	maxStagedOf = 2000
	// maxReason bounds the text that says why something was given up, in bytes.
	maxReason = 500
	// remembered is how long what was given up can be listed.
	remembered = 30 * 24 * time.Hour
)

// staged is an event that waits.
type staged struct {
	room   id.RoomID
	event  id.EventID
	origin id.ServerName
	since  int64
	tries  int
	body   []byte
}

// stage keeps events of one server durably until they can be judged. It returns the errors of those that can't be kept.
func (f *Federated) stage(ctx context.Context, origin id.ServerName, waiting []staged) (map[id.EventID]error, error) {
	if len(waiting) == 0 {
		return nil, nil
	}
	now := time.Now().UnixMilli()
	var refused map[id.EventID]error
	err := f.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		refused = make(map[id.EventID]error)
		var n int
		if _, err := tx.Get(countStaged, []any{origin}, &n); err != nil {
			return err
		}
		for _, s := range waiting {
			if n >= maxStagedOf {
				refused[s.event] = mxerr.New(mxerr.CodeLimitExceeded, "too many events of %s wait for those they refer to", origin)
				continue
			}
			n++
			tx.Queue(insertStaged, s.room, s.event, origin, now, now, s.body)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("stage events: %w", err)
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return refused, nil
}

// stagedOf loads events of a room whose turn it is, those that came first before the others.
func (f *Federated) stagedOf(ctx context.Context, room id.RoomID, limit int) (found []staged, err error) {
	err = f.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(stagedIn, func(r *sqldb.Row) error {
			s := staged{room: room}
			err := r.Scan(&s.event, &s.origin, &s.since, &s.tries, &s.body)
			found = append(found, s)
			return err
		}, room, time.Now().UnixMilli(), limit)
	})
	if err != nil {
		return nil, fmt.Errorf("load staged events: %w", err)
	}
	return found, nil
}

// due is when a room's next event has its turn, in milliseconds.
type due struct {
	room id.RoomID
	at   int64
}

// dueRooms lists rooms with staged events, those whose turn comes first before the others.
func (f *Federated) dueRooms(ctx context.Context, limit int) (found []due, err error) {
	err = f.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(stagedRooms, func(r *sqldb.Row) error {
			var d due
			err := r.Scan(&d.room, &d.at)
			found = append(found, d)
			return err
		}, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("load rooms to repair: %w", err)
	}
	return found, nil
}

// fate is what became of an event that waited: done, or else postponed or given up with a reason.
type fate struct {
	staged
	done   bool
	giveUp bool
	next   time.Time
	reason string
}

// settle writes what became of events of one room.
func (f *Federated) settle(ctx context.Context, room id.RoomID, fates []fate) error {
	now := time.Now()
	err := f.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		var gone, done []id.EventID
		for _, x := range fates {
			switch {
			case x.done:
				gone, done = append(gone, x.event), append(done, x.event)
			case x.giveUp:
				gone = append(gone, x.event)
				tx.Queue(insertGivenUp, room, x.event, x.origin, x.since, now.UnixMilli(), clip(x.reason))
			default:
				tx.Queue(postpone, room, []id.EventID{x.event}, x.next.UnixMilli())
			}
		}
		if len(gone) > 0 {
			tx.Queue(dropStaged, room, gone)
		}
		if len(done) > 0 {
			tx.Queue(dropGivenUp, room, done)
		}
		tx.Queue(oldGivenUp, now.Add(-remembered).UnixMilli())
		return nil
	})
	if err != nil {
		return fmt.Errorf("settle staged events: %w", err)
	}
	return nil
}

// clip makes a reason fit for the database and for a terminal.
func clip(reason string) string {
	reason = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(reason, "?"))
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "…"
	}
	return reason
}

// Trouble is an event that was given up: what it refers to could not be had.
type Trouble struct {
	Room   id.RoomID
	Event  id.EventID
	Origin id.ServerName
	// Since and GaveUp are when it came and when it was given up, in milliseconds since the epoch.
	Since, GaveUp int64
	Reason        string
}

// Troubles lists what was given up in the last days, the newest first. It needs the database and nothing else, which must have been opened by a
// server before.
func Troubles(ctx context.Context, db *sqldb.DB, limit int) (found []Trouble, err error) {
	err = db.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(listGivenUp, func(r *sqldb.Row) error {
			var t Trouble
			err := r.Scan(&t.Room, &t.Event, &t.Origin, &t.Since, &t.GaveUp, &t.Reason)
			found = append(found, t)
			return err
		}, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("list what was given up: %w", err)
	}
	return found, nil
}
