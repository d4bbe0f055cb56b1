package ephemeral

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// The types of receipts.
//
// Spec: cs postReceipt
const (
	Read        = "m.read"
	ReadPrivate = "m.read.private"
	// FullyRead is no receipt but a marker in account data.
	FullyRead = account.TypeFullyRead
)

// mainThread is what the receipts of everything outside of threads name as their thread.
const mainThread = "main"

// Receipt says up to where a user has read. Immutable.
type Receipt struct {
	Pos  sqldb.Pos
	Room graph.RoomNID
	User id.UserID
	Type string
	// Thread is empty for an unthreaded receipt, "main", or the ID of a thread's root.
	Thread string
	Event  id.EventID
	// TS is when the receipt was sent, in milliseconds since the epoch.
	TS int64
}

// VisibleTo reports whether a user may know of the receipt.
//
// Spec: cs Private read receipts
func (r *Receipt) VisibleTo(user id.UserID) bool { return r.Type != ReadPrivate || r.User == user }

// Mark is what a client says to have read.
type Mark struct {
	Type   string
	Thread string
	Event  id.EventID
	// TS is when it was read, in milliseconds since the epoch; 0 means now.
	TS int64
}

var (
	stmtReceiptOrd = sqldb.SQL(`SELECT ord FROM receipts WHERE room_nid = $1 AND user_id = $2 AND type = $3 AND thread = $4`)
	stmtSetReceipt = sqldb.SQL(`INSERT INTO receipts (room_nid, user_id, type, thread, event_id, ord, ts, pos)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (room_nid, user_id, type, thread)
		DO UPDATE SET event_id = excluded.event_id, ord = excluded.ord, ts = excluded.ts, pos = excluded.pos`)
	stmtReceipts = sqldb.SQL(`SELECT pos, room_nid, user_id, type, thread, event_id, ts FROM receipts
		WHERE room_nid = ANY($1) AND pos > $2 AND pos <= $3 AND (type = 'm.read' OR user_id = $4)`)
	stmtReceiptsAt = sqldb.SQL(`SELECT pos, room_nid, user_id, type, thread, event_id, ts FROM
		(SELECT * FROM receipts WHERE room_nid = $1 AND pos <= $2 AND pos > 0 ORDER BY pos DESC LIMIT $4) AS latest
		WHERE type = 'm.read' AND user_id <> $5 AND event_id = ANY($3)`)
	stmtOwnReceipts = sqldb.SQL(`SELECT pos, room_nid, user_id, type, thread, event_id, ts FROM receipts
		WHERE room_nid = $1 AND user_id = $2 AND pos <= $3 AND pos > 0`)
	stmtReadsOf = sqldb.SQL(`SELECT thread, MAX(ord) FROM receipts WHERE room_nid = $1 AND user_id = $2 AND type IN ('m.read', 'm.read.private')
		GROUP BY thread`)
	stmtReadsAmong = sqldb.SQL(`SELECT room_nid, thread, MAX(ord) FROM receipts WHERE room_nid = ANY($1) AND user_id = $2
		AND type IN ('m.read', 'm.read.private') GROUP BY room_nid, thread`)
	stmtPublicReaders  = sqldb.SQL(`SELECT user_id, room_nid FROM receipts WHERE type = 'm.read' AND pos > $1 AND pos <= $2`)
	stmtPrivateReaders = sqldb.SQL(`SELECT user_id, room_nid FROM receipts WHERE type = 'm.read.private' AND pos > $1 AND pos <= $2`)
)

// Mark moves a user's receipts and read marker in a room, all at once. Those that would move back stay where they
// are, without an error: another device was further.
//
// Spec: cs postReceipt
// Spec: cs setReadMarker
func (e *Ephemeral) Mark(ctx context.Context, user id.UserID, room id.RoomID, marks ...Mark) error {
	nid, err := e.local(ctx, user, room)
	if err != nil || len(marks) == 0 {
		return err
	}
	return e.mark(ctx, user, room, nid, marks)
}

func (e *Ephemeral) mark(ctx context.Context, user id.UserID, room id.RoomID, nid graph.RoomNID, marks []Mark) (err error) {
	events := make([]*graph.Event, len(marks))
	for i, m := range marks {
		if events[i], err = e.marked(ctx, nid, m); err != nil {
			return err
		}
	}
	return e.db.Write(ctx, func(tx *sqldb.Tx) error {
		for i, m := range marks {
			if err := e.move(tx, user, room, m, events[i]); err != nil {
				return fmt.Errorf("move %s of %s: %w", m.Type, user, err)
			}
		}
		return nil
	})
}

// marked checks a mark and returns its event.
func (e *Ephemeral) marked(ctx context.Context, room graph.RoomNID, m Mark) (*graph.Event, error) {
	switch {
	case m.Type != Read && m.Type != ReadPrivate && m.Type != FullyRead:
		return nil, mxerr.InvalidParam("There is no receipt type %q.", m.Type)
	case m.Type == FullyRead && m.Thread != "":
		return nil, mxerr.InvalidParam("\"thread_id\" can't be used with %s.", FullyRead)
	}
	ev, ok, err := e.graph.Event(ctx, m.Event)
	if err != nil {
		return nil, err
	}
	if !ok || ev.Room != room || ev.Flags&(graph.Outlier|graph.Rejected|graph.SoftFailed) != 0 {
		return nil, mxerr.NotFound("There is no event %s in this room.", m.Event)
	}
	if m.Thread == "" {
		return ev, nil
	}
	related, err := e.inThread(ctx, ev, m.Thread)
	if err == nil && !related {
		err = mxerr.InvalidParam("The event %s is not in the thread that \"thread_id\" names.", m.Event)
	}
	return ev, err
}

// move writes one mark if it moves forward.
func (e *Ephemeral) move(tx *sqldb.Tx, user id.UserID, room id.RoomID, m Mark, ev *graph.Event) error {
	var ord int64
	found, err := tx.Get(stmtReceiptOrd, []any{ev.Room, user, m.Type, m.Thread}, &ord)
	if err != nil || found && ord >= ev.Ord {
		return err
	}
	r := &Receipt{Room: ev.Room, User: user, Type: m.Type, Thread: m.Thread, Event: m.Event, TS: m.TS}
	if r.TS == 0 {
		r.TS = now()
	}
	if m.Type == FullyRead {
		content := append(canon.AppendString([]byte(`{"event_id":`), string(m.Event)), '}')
		if err := e.cfg.Accounts.PutDataTx(tx, user, room, FullyRead, content); err != nil {
			return err
		}
	} else if r.Pos, err = tx.Pos(); err != nil {
		return err
	}
	tx.Queue(stmtSetReceipt, r.Room, r.User, r.Type, r.Thread, r.Event, ev.Ord, r.TS, r.Pos)
	if r.Pos != 0 {
		tx.Emit(bus.Entry{Pos: r.Pos, Kind: bus.Receipt, Room: int64(r.Room), User: user, Data: r})
	}
	return nil
}

// Receipts reads the receipts of rooms that changed at positions in (from, to], as far as a user may know of them.
// They come in no order.
func Receipts(tx *sqldb.Tx, rooms []graph.RoomNID, from, to sqldb.Pos, user id.UserID) ([]*Receipt, error) {
	var found []*Receipt
	err := tx.Query(stmtReceipts, func(row *sqldb.Row) error {
		r := new(Receipt)
		found = append(found, r)
		return row.Scan(&r.Pos, &r.Room, &r.User, &r.Type, &r.Thread, &r.Event, &r.TS)
	}, rooms, from, to, user)
	if err != nil {
		return nil, fmt.Errorf("load receipts: %w", err)
	}
	return found, nil
}

// latestReceipts bounds the receipts of a room that ReceiptsAt looks at.
const latestReceipts = 1000

// ReceiptsAt reads the receipts of a room that stand at some of its latest events, of users who read there lately, and all of one user's.
func ReceiptsAt(tx *sqldb.Tx, room graph.RoomNID, events []string, to sqldb.Pos, user id.UserID) ([]*Receipt, error) {
	var found []*Receipt
	row := func(row *sqldb.Row) error {
		r := new(Receipt)
		found = append(found, r)
		return row.Scan(&r.Pos, &r.Room, &r.User, &r.Type, &r.Thread, &r.Event, &r.TS)
	}
	err := tx.Query(stmtOwnReceipts, row, room, user, to)
	if err == nil && len(events) > 0 {
		err = tx.Query(stmtReceiptsAt, row, room, to, events, latestReceipts, user)
	}
	if err != nil {
		return nil, fmt.Errorf("load receipts at events: %w", err)
	}
	return found, nil
}

// Reads are the places up to which a user has read in a room, of public and private receipts the further one: by thread, with "" for
// unthreaded receipts and "main" for those of the main timeline.
type Reads map[string]int64

// ReadsOf reads how far a user has read in a room.
//
// Spec: cs Threaded read receipts
func ReadsOf(tx *sqldb.Tx, user id.UserID, room graph.RoomNID) (Reads, error) {
	var reads Reads
	err := tx.Query(stmtReadsOf, func(row *sqldb.Row) error {
		var thread string
		var ord int64
		if err := row.Scan(&thread, &ord); err != nil {
			return err
		}
		if reads == nil {
			reads = make(Reads)
		}
		reads[thread] = ord
		return nil
	}, room, user)
	if err != nil {
		return nil, fmt.Errorf("load how far %s has read: %w", user, err)
	}
	return reads, nil
}

// ReadsAmong tells of what ReadsOf returns, for many rooms.
func ReadsAmong(tx *sqldb.Tx, user id.UserID, rooms []graph.RoomNID, each func(room graph.RoomNID, thread string, ord int64)) error {
	err := tx.Query(stmtReadsAmong, func(row *sqldb.Row) error {
		var room graph.RoomNID
		var thread string
		var ord int64
		err := row.Scan(&room, &thread, &ord)
		if err == nil {
			each(room, thread, ord)
		}
		return err
	}, rooms, user)
	if err != nil {
		return fmt.Errorf("load how far %s has read: %w", user, err)
	}
	return nil
}

// Readers lists who moved receipts at positions in (from, to], and in which rooms, private receipts included.
func Readers(tx *sqldb.Tx, from, to sqldb.Pos, each func(user id.UserID, room graph.RoomNID)) error {
	for _, s := range []*sqldb.Stmt{stmtPublicReaders, stmtPrivateReaders} {
		err := tx.Query(s, func(row *sqldb.Row) error {
			var user id.UserID
			var room graph.RoomNID
			err := row.Scan(&user, &room)
			if err == nil {
				each(user, room)
			}
			return err
		}, from, to)
		if err != nil {
			return fmt.Errorf("find who has read: %w", err)
		}
	}
	return nil
}

// AppendReceipts appends the m.receipt events of one room that make the receipts known, one for each thread, with commas
// between them. Receipts that the user may not know of are left out; where nothing is left nothing is appended.
//
// Spec: cs m.receipt
func AppendReceipts(dst []byte, receipts []*Receipt, user id.UserID) []byte {
	sorted := make([]*Receipt, 0, len(receipts))
	for _, r := range receipts {
		if r.VisibleTo(user) {
			sorted = append(sorted, r)
		}
	}
	slices.SortFunc(sorted, func(a, b *Receipt) int {
		return cmp.Or(cmp.Compare(a.Thread, b.Thread), cmp.Compare(a.Event, b.Event), cmp.Compare(a.Type, b.Type), cmp.Compare(a.User, b.User))
	})
	for i, r := range sorted {
		switch prev := sorted[max(0, i-1)]; {
		case i == 0:
			dst = r.open(dst, 3)
		case r.Thread != prev.Thread:
			dst = r.open(append(dst, "}}}},"...), 3)
		case r.Event != prev.Event:
			dst = r.open(append(dst, "}},"...), 2)
		case r.Type != prev.Type:
			dst = r.open(append(dst, "},"...), 1)
		default:
			dst = r.open(append(dst, ','), 0)
		}
	}
	if len(sorted) > 0 {
		dst = append(dst, "}}}}"...)
	}
	return dst
}

// open appends the receipt with that many levels of what surrounds it.
func (r *Receipt) open(dst []byte, levels int) []byte {
	if levels > 2 {
		dst = append(dst, `{"type":"m.receipt","content":{`...)
	}
	if levels > 1 {
		dst = append(canon.AppendString(dst, string(r.Event)), ":{"...)
	}
	if levels > 0 {
		dst = append(canon.AppendString(dst, r.Type), ":{"...)
	}
	dst = append(canon.AppendString(dst, string(r.User)), `:{"ts":`...)
	dst = strconv.AppendInt(dst, r.TS, 10)
	if r.Thread != "" {
		dst = canon.AppendString(append(dst, `,"thread_id":`...), r.Thread)
	}
	return append(dst, '}')
}
