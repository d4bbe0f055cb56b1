package fedroom

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxStagedOf and maxStagedBytesOf bound the events of one host that wait at once, whatever ports it uses. What is beyond is refused, and
	// comes again when the server sends what follows it.
	maxStagedOf      = 2000
	maxStagedBytesOf = 32 << 20
	// maxOutsiders is how many events of a host wait in rooms in which it has nobody, as far as is known here: it may have joined a moment
	// ago, and then these tell of it.
	maxOutsiders = 20
	// maxStaged and maxStagedBytes bound what waits in all. Outsiders get half of it, however many names they have.
	maxStaged      = 50_000
	maxStagedBytes = 512 << 20
	// recount is how often it is counted what waits in all.
	recount = 10 * time.Second
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
	proof  proof
	// outsider says that the origin had nobody in the room when it sent the event.
	outsider bool
	body     []byte
}

// proof is how much of a copy of an event is known to be genuine. A copy can be had from anybody under the ID of an event of somebody else, since
// IDs cover neither signatures nor all of the content.
type proof int

const (
	unproven proof = iota
	hashed         // the content is what the ID stands for
	signed         // the signatures are right, and the content was pruned because it is not what they stand for
	proven         // signatures and content are right
)

// proofOf says what is known of an event with or without right signatures.
func proofOf(p *event.PDU, rightlySigned bool) proof {
	switch whole := p.HashOK(); {
	case rightlySigned && whole:
		return proven
	case rightlySigned:
		return signed
	case whole:
		return hashed
	}
	return unproven
}

// stock is how much waits in all, about. Other nodes add to it too.
type stock struct {
	mu          sync.Mutex // guards what follows
	rows, bytes int64
	counted     time.Time
}

// inAll returns how much waits in all.
func (f *Federated) inAll(ctx context.Context) (rows, bytes int64, err error) {
	f.stock.mu.Lock()
	rows, bytes = f.stock.rows, f.stock.bytes
	fresh := time.Since(f.stock.counted) < recount
	f.stock.mu.Unlock()
	if fresh {
		return rows, bytes, nil
	}
	err = f.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Get(sumStaged, nil, &rows, &bytes)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count staged events: %w", err)
	}
	f.stock.mu.Lock()
	defer f.stock.mu.Unlock()
	f.stock.rows, f.stock.bytes, f.stock.counted = rows, bytes, time.Now()
	return rows, bytes, nil
}

// stage keeps events of one server durably until they can be judged. It returns the errors of those that can't be kept.
func (f *Federated) stage(ctx context.Context, origin id.ServerName, waiting []staged) (map[id.EventID]error, error) {
	if len(waiting) == 0 {
		return nil, nil
	}
	allRows, allBytes, err := f.inAll(ctx)
	if err != nil {
		return nil, err
	}
	now, host := time.Now().UnixMilli(), strings.ToLower(origin.Host())
	var refused map[id.EventID]error
	var added, addedBytes int64
	err = f.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		refused = make(map[id.EventID]error)
		added, addedBytes = 0, 0
		var rows, outside, bytes int64
		if _, err := tx.Get(countStaged, []any{host}, &rows, &outside, &bytes); err != nil {
			return err
		}
		for _, s := range waiting {
			size, most, outsider := int64(len(s.body)), int64(1), 0
			if s.outsider {
				most, outsider = 2, 1
			}
			if rows >= maxStagedOf || bytes+size > maxStagedBytesOf || s.outsider && outside >= maxOutsiders ||
				most*(allRows+added) >= maxStaged || most*(allBytes+addedBytes+size) > maxStagedBytes {
				refused[s.event] = mxerr.New(mxerr.CodeLimitExceeded, "too many events of %s wait for those they refer to", origin)
				continue
			}
			rows, bytes, outside = rows+1, bytes+size, outside+int64(outsider)
			added, addedBytes = added+1, addedBytes+size
			tx.Queue(insertStaged, s.room, s.event, origin, now, now, s.body, host, outsider, int(s.proof), size)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("stage events: %w", err)
	}
	f.stock.mu.Lock()
	f.stock.rows, f.stock.bytes = f.stock.rows+added, f.stock.bytes+addedBytes
	f.stock.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return refused, nil
}

// stagedOf loads events of a room whose turn it is: of each host those that came first, and of all hosts as many.
func (f *Federated) stagedOf(ctx context.Context, room id.RoomID, limit int) (found []staged, err error) {
	err = f.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(stagedIn, func(r *sqldb.Row) error {
			s := staged{room: room}
			var outsider int
			err := r.Scan(&s.event, &s.origin, &s.since, &s.tries, &outsider, &s.proof, &s.body)
			s.outsider = outsider != 0
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
	// outsiders says that all that waits is from servers that are not in the room.
	outsiders bool
}

// dueRooms lists rooms with staged events, those whose turn comes first before the others: the rooms with events of servers that are in them, or
// those where all that waits is from outsiders.
func (f *Federated) dueRooms(ctx context.Context, outsiders bool, limit int) (found []due, err error) {
	outsider := 0
	if outsiders {
		outsider = 1
	}
	err = f.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(stagedRooms, func(r *sqldb.Row) error {
			d := due{outsiders: outsiders}
			err := r.Scan(&d.room, &d.at)
			found = append(found, d)
			return err
		}, outsider, limit)
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
	// forged says that this copy is worth nothing. Another one may come, or have come meanwhile, and that the event is missing is no
	// trouble of the room.
	forged bool
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
			case x.forged:
				tx.Queue(forget, room, x.event, x.origin, int(x.proof))
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
