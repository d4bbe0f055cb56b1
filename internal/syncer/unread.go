package syncer

import (
	"context"
	"slices"
	"strconv"

	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/push"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// read reports whether the user moved a receipt in the room within the window, so that the counts changed.
func (a *answer) read(v *visit) bool {
	own := func(r *ephemeral.Receipt) bool { return r.User == a.q.User }
	if v.complete && !v.entered {
		return slices.ContainsFunc(v.items, func(it item) bool { return it.receipt != nil && own(it.receipt) })
	}
	return slices.ContainsFunc(a.receipts[v.row.Room], own)
}

// loadUnread counts what is unread in the rooms of which a first answer speaks, all at once.
func (a *answer) loadUnread(ctx context.Context) (err error) {
	if a.s.cfg.Push == nil || !a.first && !a.q.FullState {
		return nil
	}
	var rooms []graph.RoomNID
	for i := range a.visits {
		if v := &a.visits[i]; v.section == inJoin {
			rooms = append(rooms, v.row.Room)
		}
	}
	a.unread, err = a.s.cfg.Push.Counts(ctx, a.q.User, a.to, rooms...)
	return err
}

// appendUnread appends how much the user has not read in a room, with a comma behind.
//
// Spec: cs Receiving notifications
func (a *answer) appendUnread(ctx context.Context, out []byte, v *visit) ([]byte, error) {
	if a.s.cfg.Push == nil {
		return out, nil
	}
	found := a.unread
	if found == nil {
		var err error
		if found, err = a.s.cfg.Push.Counts(ctx, a.q.User, a.to, v.row.Room); err != nil {
			return nil, err
		}
	}
	c := found[v.row.Room]
	if !a.q.Filter.Room.Timeline.UnreadThreadNotifications {
		return append(appendCount(append(out, `"unread_notifications":`...), c.Total()), ','), nil
	}
	out = append(appendCount(append(out, `"unread_notifications":`...), c.Main), ',')
	if len(c.Threads) == 0 {
		return out, nil
	}
	out = append(out, `"unread_thread_notifications":{`...)
	roots := make([]id.EventID, 0, len(c.Threads))
	for root := range c.Threads {
		roots = append(roots, root)
	}
	slices.Sort(roots)
	for i, root := range roots {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendCount(append(canon.AppendString(out, string(root)), ':'), c.Threads[root])
	}
	return append(out, "},"...), nil
}

func appendCount(out []byte, c push.Count) []byte {
	out = strconv.AppendInt(append(out, `{"highlight_count":`...), int64(c.Highlights), 10)
	return append(strconv.AppendInt(append(out, `,"notification_count":`...), int64(c.Notifications), 10), '}')
}
