package syncer

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"myelin/internal/ephemeral"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// readReceipts tells up to where others have read. Of a room that is new to the client those receipts are told that stand at events of the
// timeline, and the user's own.
//
// MSC3960: Sliding Sync Extension: Receipts
func (a *slide) readReceipts(ctx context.Context, _ *mark) (string, []byte, bool, error) {
	out := []byte(`{"rooms":{`)
	empty := len(out)
	for _, r := range a.rooms {
		list := a.receipts[r.spot.row.Room]
		if !a.q.ext.Receipts.selects(r) || !r.inRoom() || a.s.cfg.Ephemeral == nil {
			r.leave(theReceipts, len(list) > 0 || !r.spot.complete)
			continue
		}
		if r.gained(theReceipts) {
			var err error
			if list, err = r.firstReceipts(ctx); err != nil {
				return "", nil, false, err
			}
		}
		r.mark.told[theReceipts] = current
		list = slices.DeleteFunc(slices.Clone(list), func(rec *ephemeral.Receipt) bool {
			return a.ignores(rec.User) || !rec.VisibleTo(a.q.User) || rec.Type == ephemeral.FullyRead
		})
		if len(list) == 0 {
			continue
		}
		if len(out) > empty {
			out = append(out, ',')
		}
		out = append(canon.AppendString(out, string(r.spot.row.RoomID)), ':')
		out = appendReceipts(out, list)
	}
	if len(out) == empty {
		return "", nil, false, nil
	}
	return "receipts", append(out, "}}"...), true, nil
}

func (r *room) firstReceipts(ctx context.Context) (list []*ephemeral.Receipt, err error) {
	var events []string
	if r.t != nil {
		for _, e := range r.t.events {
			events = append(events, string(e.PDU.ID()))
		}
	}
	err = r.a.s.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		list, err = ephemeral.ReceiptsAt(tx, r.spot.row.Room, events, r.a.seen.to, r.a.q.User)
		return err
	})
	return list, err
}

// appendReceipts appends one event with all the receipts. Of two receipts of one user and type at one event, of which one is
// for a thread, it tells the other.
//
// Spec: cs m.receipt
func appendReceipts(out []byte, list []*ephemeral.Receipt) []byte {
	slices.SortFunc(list, func(a, b *ephemeral.Receipt) int {
		return cmp.Or(cmp.Compare(a.Event, b.Event), cmp.Compare(a.Type, b.Type), cmp.Compare(a.User, b.User), cmp.Compare(a.Thread, b.Thread))
	})
	list = slices.CompactFunc(list, func(a, b *ephemeral.Receipt) bool {
		return a.Event == b.Event && a.Type == b.Type && a.User == b.User
	})
	out = append(out, `{"type":"m.receipt","content":{`...)
	var at id.EventID
	typ := ""
	for i, r := range list {
		switch {
		case i == 0:
		case r.Event != at:
			out = append(out, "}},"...)
		case r.Type != typ:
			out = append(out, "},"...)
		default:
			out = append(out, ',')
		}
		if i == 0 || r.Event != at {
			out, typ = append(canon.AppendString(out, string(r.Event)), `:{`...), ""
		}
		if r.Type != typ {
			out = append(canon.AppendString(out, r.Type), `:{`...)
		}
		at, typ = r.Event, r.Type
		out = strconv.AppendInt(append(canon.AppendString(out, string(r.User)), `:{"ts":`...), r.TS, 10)
		if r.Thread != "" {
			out = canon.AppendString(append(out, `,"thread_id":`...), r.Thread)
		}
		out = append(out, '}')
	}
	return append(out, "}}}}"...)
}
