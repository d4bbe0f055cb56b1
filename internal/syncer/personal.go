package syncer

import (
	"context"
	"slices"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// loadData finds the account data that changed.
func (a *answer) loadData(ctx context.Context) (err error) {
	list := a.snap.data
	if !a.snap.hasData {
		if list, err = a.s.cfg.Accounts.DataSince(ctx, a.q.User, a.since, a.to); err != nil {
			return err
		}
	}
	a.data = make(map[id.RoomID][]account.Datum)
	for _, d := range list {
		// A new device needs no word of what is gone.
		if !a.first || !d.Deleted {
			a.data[d.Room] = append(a.data[d.Room], d)
		}
	}
	for room, list := range a.data {
		a.data[room] = newest(list)
	}
	return nil
}

// newest keeps the last of several changes of one type.
func newest(list []account.Datum) []account.Datum {
	if len(list) < 2 {
		return list
	}
	last := make(map[string]int, len(list))
	for i, d := range list {
		last[d.Type] = i
	}
	kept := make([]account.Datum, 0, len(last))
	for i, d := range list {
		if last[d.Type] == i {
			kept = append(kept, d)
		}
	}
	return kept
}

func appendDatum(dst []byte, d account.Datum) []byte {
	dst = canon.AppendString(append(dst, `{"type":`...), d.Type)
	return append(append(append(dst, `,"content":`...), d.Content...), '}')
}

// globalData returns the account data that is not about a room, as events.
func (a *answer) globalData() [][]byte {
	var events [][]byte
	for _, d := range a.data[""] {
		if a.q.Filter.AccountData.Match(d.Type, a.q.User) {
			events = append(events, appendDatum(nil, d))
		}
	}
	return limited(events, a.q.Filter.AccountData.Limit)
}

// limited keeps the newest events that a filter's limit allows.
func limited(events [][]byte, limit *int) [][]byte {
	if limit == nil || len(events) <= *limit {
		return events
	}
	return events[len(events)-*limit:]
}

// roomData returns the account data of a room. Where the user entered the room it is all there is.
func (a *answer) roomData(ctx context.Context, v *visit) ([][]byte, error) {
	f := &a.q.Filter.Room.AccountData
	if !f.MatchRoom(v.row.RoomID) {
		return nil, nil
	}
	list := a.data[v.row.RoomID]
	if v.entered {
		var err error
		if list, err = a.s.cfg.Accounts.RoomData(ctx, a.q.User, v.row.RoomID); err != nil {
			return nil, err
		}
		list = slices.DeleteFunc(list, func(d account.Datum) bool { return d.Deleted })
	}
	var events [][]byte
	for _, d := range list {
		if f.Match(d.Type, a.q.User) {
			events = append(events, appendDatum(nil, d))
		}
	}
	return limited(events, f.Limit), nil
}

// presence returns what changed about whether others are there.
func (a *answer) presence(ctx context.Context) ([][]byte, error) {
	if a.s.cfg.Ephemeral == nil {
		return nil, nil
	}
	f := &a.q.Filter.Presence
	if !f.MatchType("m.presence") {
		return nil, nil
	}
	list, err := a.s.cfg.Ephemeral.PresenceNews(ctx, a.q.User, a.since, a.to)
	if err != nil {
		return nil, err
	}
	var events [][]byte
	for _, raw := range list {
		sender := id.UserID(gjson.GetBytes(raw, "sender").Str)
		if _, ignored := a.ignored[sender]; !ignored && f.Match("m.presence", sender) {
			events = append(events, raw)
		}
	}
	return limited(events, f.Limit), nil
}

// loadEphemeral reads receipts and typing of rooms where the hub doesn't know them.
func (a *answer) loadEphemeral(ctx context.Context, rooms []graph.RoomNID, from sqldb.Pos) error {
	if a.s.cfg.Ephemeral == nil || len(rooms) == 0 {
		return nil
	}
	if a.receipts == nil {
		a.receipts = make(map[graph.RoomNID][]*ephemeral.Receipt)
		a.typing = make(map[graph.RoomNID]*ephemeral.Typing)
	}
	return a.s.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		receipts, err := ephemeral.Receipts(tx, rooms, from, a.to, a.q.User)
		if err != nil {
			return err
		}
		typing, err := ephemeral.TypingIn(tx, rooms, from, a.to)
		if err != nil {
			return err
		}
		for _, r := range receipts {
			a.receipts[r.Room] = append(a.receipts[r.Room], r)
		}
		for _, t := range typing {
			a.typing[t.Room] = t
		}
		return nil
	})
}

// ephemeral returns the receipts and the typing of a room as events.
func (a *answer) ephemeral(v *visit) [][]byte {
	f := &a.q.Filter.Room.Ephemeral
	if !f.MatchRoom(v.row.RoomID) {
		return nil
	}
	receipts, typing := a.receipts[v.row.Room], a.typing[v.row.Room]
	if v.complete && !v.entered {
		receipts, typing = recent(v.items)
	}
	var events [][]byte
	if typing != nil && f.MatchType("m.typing") {
		events = append(events, ephemeral.AppendTyping(nil, typing, func(u id.UserID) bool {
			_, ignored := a.ignored[u]
			return !ignored
		}))
	}
	if len(receipts) > 0 && f.MatchType("m.receipt") {
		receipts = slices.DeleteFunc(slices.Clone(receipts), func(r *ephemeral.Receipt) bool {
			_, ignored := a.ignored[r.User]
			return ignored
		})
		if raw := ephemeral.AppendReceipts(nil, receipts, a.q.User); len(raw) > 0 {
			events = append(events, raw)
		}
	}
	return events
}

// recent takes receipts and typing from what the hub knows: of each user's receipts the last.
func recent(items []item) (receipts []*ephemeral.Receipt, typing *ephemeral.Typing) {
	for _, it := range items {
		switch {
		case it.typing != nil:
			typing = it.typing
		case it.receipt != nil:
			r := it.receipt
			receipts = slices.DeleteFunc(receipts, func(o *ephemeral.Receipt) bool {
				return o.User == r.User && o.Type == r.Type && o.Thread == r.Thread
			})
			receipts = append(receipts, r)
		}
	}
	return receipts, typing
}
