package fedsend

import (
	"context"
	"fmt"
	"time"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
)

// record is what a checkpoint writes.
type record struct {
	cursor  sqldb.Pos
	marks   []markRow
	failing []failingRow
}

type markRow struct {
	route
	room  graph.RoomNID
	after sqldb.Pos
	gone  bool
}

type failingRow struct {
	route
	failures       int
	since, retryAt int64
	reason         string
	gone           bool
}

// checkpoint writes down what other servers lack and moves the cursor past all that they have or that is written down. What is on
// its way only for a short while holds the cursor back instead, unless all is to be written.
func (l *leader) checkpoint(ctx context.Context, all bool) error {
	r := l.collect(all)
	l.savedAt = time.Now()
	if r.cursor == l.saved && len(r.marks)+len(r.failing) == 0 {
		return nil
	}
	err := l.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		if err := l.lease.Check(tx); err != nil {
			return err
		}
		r.write(tx)
		return nil
	})
	if err != nil {
		return fmt.Errorf("write down what was sent: %w", err)
	}
	l.saved = r.cursor
	return nil
}

func (r *record) write(tx *sqldb.Tx) {
	for _, m := range r.marks {
		if m.gone {
			tx.Queue(stmtClearMark, m.origin, m.server, m.room)
		} else {
			tx.Queue(stmtSetMark, m.origin, m.server, m.room, m.after)
		}
	}
	for _, f := range r.failing {
		if f.gone {
			tx.Queue(stmtWell, f.origin, f.server)
		} else {
			tx.Queue(stmtSetFailing, f.origin, f.server, f.failures, f.since, f.retryAt, f.reason)
		}
	}
	tx.Queue(stmtSetCursor, r.cursor)
}

// collect says what is to be written, and takes it for written: a leader whose checkpoint fails ends.
func (l *leader) collect(all bool) *record {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &record{cursor: l.pos}
	settled := l.settled()
	for at, k := range l.links {
		if k.marked < len(k.queue) {
			if all || !k.failingSince.IsZero() || k.queue[k.marked].pos <= settled {
				for _, e := range k.queue[k.marked:] {
					k.mark(e)
				}
				k.marked = len(k.queue)
			} else {
				r.cursor = min(r.cursor, k.queue[k.marked].pos-1)
			}
		}
		r.add(k)
		if k.forgettable() {
			delete(l.links, at)
		}
	}
	r.cursor = max(r.cursor, l.saved)
	return r
}

// settled returns the position where the sender was settleAfter ago, about. Caller holds mu.
func (l *leader) settled() sqldb.Pos {
	l.history = append(l.history, progress{time.Now(), l.pos})
	for len(l.history) > 1 && time.Since(l.history[1].at) >= settleAfter {
		l.history = l.history[1:]
	}
	if first := l.history[0]; time.Since(first.at) >= settleAfter {
		return first.pos
	}
	return 0
}

// add collects what changed about a link.
func (r *record) add(k *link) {
	for room := range k.touched {
		m, ok := k.marks[room]
		r.marks = append(r.marks, markRow{k.route, room, m.after, !ok})
	}
	k.touched = nil
	if !k.changed {
		return
	}
	k.changed = false
	if k.failingSince.IsZero() {
		if k.stored {
			r.failing = append(r.failing, failingRow{route: k.route, gone: true})
		}
		k.stored = false
		return
	}
	k.stored = true
	r.failing = append(r.failing, failingRow{route: k.route, failures: k.failures, since: k.failingSince.UnixMilli(),
		retryAt: k.retryAt.UnixMilli(), reason: k.reason})
}

// forgetAfter is how long it is remembered of a server which lacks nothing that it failed.
const forgetAfter = 7 * 24 * time.Hour

// tryAgain bounds, for servers that failed before a restart, how long they are left alone after it: the reason may well have been here.
const tryAgain = 10 * time.Minute

// restore reads what the last checkpoint wrote.
func (l *leader) restore(ctx context.Context) error {
	err := l.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		tx.Queue(stmtForget, now()-forgetAfter.Milliseconds())
		return nil
	})
	if err != nil {
		return err
	}
	var rows record
	err = l.cfg.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		rows = record{}
		if l.end, err = tx.Last(); err != nil {
			return err
		}
		return rows.read(tx)
	})
	if err != nil {
		return err
	}
	rooms := make(map[graph.RoomNID]struct{})
	first := rows.cursor
	for _, m := range rows.marks {
		rooms[m.room] = struct{}{}
		first = min(first, m.after)
	}
	list := make([]graph.RoomNID, 0, len(rooms))
	for room := range rooms {
		list = append(list, room)
	}
	active, err := l.cfg.Graph.ActiveRooms(ctx, list, first, rows.cursor)
	if err != nil {
		return err
	}
	l.begin(&rows, active)
	return nil
}

// begin makes links of what was read. active has the last position of each room.
func (l *leader) begin(rows *record, active map[graph.RoomNID]sqldb.Pos) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pos, l.saved, l.savedAt = rows.cursor, rows.cursor, time.Now()
	for _, f := range rows.failing {
		k := l.link(f.route)
		k.stored = true
		k.failures, k.reason = f.failures, f.reason
		k.failingSince, k.retryAt = time.UnixMilli(f.since), time.UnixMilli(f.retryAt)
		now := time.Now()
		if soon := now.Add(time.Duration(k.chance(now).Int64N(int64(tryAgain)))); soon.Before(k.retryAt) {
			k.retryAt = soon
		}
		if !l.cfg.Ours.Is(f.origin) {
			k.well() // the name is not ours any more
		}
	}
	for _, m := range rows.marks {
		k := l.link(m.route)
		if last := active[m.room]; last > m.after && l.cfg.Ours.Is(m.origin) {
			k.mark(entry{room: m.room, pos: m.after + 1})
			k.mark(entry{room: m.room, pos: last})
			delete(k.touched, m.room)
		} else {
			k.touch(m.room)
		}
		k.lag()
	}
	for _, k := range l.links {
		l.awake(k)
	}
}

// read fills the record from the database.
func (r *record) read(tx *sqldb.Tx) error {
	if _, err := tx.Get(stmtCursor, nil, &r.cursor); err != nil {
		return err
	}
	err := tx.Query(stmtFailing, func(row *sqldb.Row) error {
		var f failingRow
		err := row.Scan(&f.origin, &f.server, &f.failures, &f.since, &f.retryAt, &f.reason)
		r.failing = append(r.failing, f)
		return err
	})
	if err != nil {
		return err
	}
	return tx.Query(stmtMarks, func(row *sqldb.Row) error {
		var m markRow
		err := row.Scan(&m.origin, &m.server, &m.room, &m.after)
		r.marks = append(r.marks, m)
		return err
	})
}
