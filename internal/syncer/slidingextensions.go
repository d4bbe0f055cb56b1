package syncer

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"myelin/internal/account"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// extensions are the parts of a request that are not about events.
//
// MSC4186: Extensions
type extensions struct {
	ToDevice *toDeviceRequest `json:"to_device"`
	E2EE     *plain           `json:"e2ee"`
	Data     *byRoom          `json:"account_data"`
	Receipts *byRoom          `json:"receipts"`
	Typing   *byRoom          `json:"typing"`
	Threads  *threadsRequest  `json:"thread_subscriptions"`
	Sticky   *stickyRequest   `json:"org.matrix.msc4354.sticky_events"`
	// MSC4308: the unstable name goes once no client of note uses it.
	UnstableThreads *threadsRequest `json:"io.element.msc4308.thread_subscriptions"`
}

// plain is an extension without parameters.
type plain struct {
	Enabled bool `json:"enabled"`
}

func (p *plain) on() bool { return p != nil && p.Enabled }

// toDeviceRequest asks for messages to the device.
//
// MSC3885: Sliding Sync Extension: To-Device
type toDeviceRequest struct {
	Enabled bool   `json:"enabled"`
	Since   string `json:"since"`
	Limit   *int   `json:"limit"`
}

// maxNamed bounds the lists and the rooms that an extension names.
const maxNamed = MaxLists + MaxSubscriptions

func (x *extensions) check() error {
	for _, b := range []*byRoom{x.Data, x.Receipts, x.Typing} {
		if b != nil && (len(b.Lists) > maxNamed || len(b.Rooms) > maxNamed) {
			return mxerr.InvalidParam("An extension names more than %d lists or rooms.", maxNamed)
		}
	}
	if err := x.Sticky.check(); err != nil {
		return err
	}
	if d := x.ToDevice; d != nil {
		if _, ok := d.from(); !ok {
			return mxerr.InvalidParam("%.60q is no token of the extension to_device.", d.Since)
		}
		if d.Limit != nil && *d.Limit < 0 {
			return mxerr.InvalidParam("The limit of to_device must not be negative.")
		}
	}
	return nil
}

// from returns the position in the device's queue that the client has come to.
func (d *toDeviceRequest) from() (sqldb.Pos, bool) {
	if d.Since == "" {
		return 0, true
	}
	return parsePos(d.Since)
}

// loadChanges reads what extensions tell of rooms.
func (a *slide) loadChanges(ctx context.Context) error {
	a.data = make(map[id.RoomID][]account.Datum)
	list := a.seen.data
	switch {
	case a.first:
		list = nil // nothing is compared with before
	case !a.seen.complete:
		var err error
		if list, err = a.s.cfg.Accounts.DataSince(ctx, a.q.User, a.from, a.seen.to); err != nil {
			return err
		}
	}
	for _, d := range list {
		if d.Pos <= a.seen.to {
			a.data[d.Room] = append(a.data[d.Room], d)
		}
	}
	for room, list := range a.data {
		a.data[room] = newest(list)
	}
	return a.loadEphemeral(ctx)
}

// loadEphemeral reads receipts and typing of rooms where the hub doesn't know them.
func (a *slide) loadEphemeral(ctx context.Context) error {
	a.receipts = make(map[graph.RoomNID][]*ephemeral.Receipt)
	a.typing = make(map[graph.RoomNID]*ephemeral.Typing)
	if a.s.cfg.Ephemeral == nil {
		return nil
	}
	receipts, typing := make(map[sqldb.Pos][]graph.RoomNID), make(map[sqldb.Pos][]graph.RoomNID)
	for _, r := range a.rooms {
		if !r.inRoom() {
			continue
		}
		nid := r.spot.row.Room
		fresh := r.old.told[theEvents].upTo(a.from) < r.spot.row.Since
		known := r.spot.complete && !fresh
		if from, ok := r.since(theReceipts, a.q.ext.Receipts, known, fresh); ok && from > 0 {
			receipts[from] = append(receipts[from], nid)
		}
		if from, ok := r.since(theTyping, a.q.ext.Typing, known, fresh); ok {
			typing[from] = append(typing[from], nid)
		}
		if known {
			a.receipts[nid], a.typing[nid] = recent(r.spot.items)
		}
	}
	if len(receipts)+len(typing) == 0 {
		return nil
	}
	return a.s.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error { return a.readEphemeral(tx, receipts, typing) })
}

// since returns from where on something of a room has to be read from the database, and whether it has to.
func (r *room) since(what int, ext *byRoom, known, fresh bool) (sqldb.Pos, bool) {
	was := r.old.told[what]
	switch {
	case !ext.selects(r):
		return 0, false
	case was == never || fresh:
		return 0, true
	case was == current && known:
		return 0, false
	}
	return was.upTo(r.a.from), true
}

func (a *slide) readEphemeral(tx *sqldb.Tx, receipts, typing map[sqldb.Pos][]graph.RoomNID) error {
	for from, rooms := range receipts {
		for _, room := range rooms {
			delete(a.receipts, room) // of the hub
		}
		found, err := ephemeral.Receipts(tx, rooms, from, a.seen.to, a.q.User)
		if err != nil {
			return err
		}
		for _, r := range found {
			a.receipts[r.Room] = append(a.receipts[r.Room], r)
		}
	}
	for from, rooms := range typing {
		found, err := ephemeral.TypingIn(tx, rooms, from, a.seen.to)
		if err != nil {
			return err
		}
		for _, t := range found {
			a.typing[t.Room] = t
		}
	}
	return nil
}

// extend makes the extensions' part of the answer, and reports whether it has news.
func (a *slide) extend(ctx context.Context) (news bool, err error) {
	a.ext = nil
	account := a.ledger.get(0)
	after := account
	parts := []func(context.Context, *mark) (string, []byte, bool, error){
		a.toDevice, a.keys, a.accountData, a.readReceipts, a.whoTypes, a.threads, a.sticky,
	}
	for _, part := range parts {
		name, body, told, err := part(ctx, &after)
		if err != nil {
			return false, err
		}
		if body == nil {
			continue
		}
		news = news || told
		if a.ext != nil {
			a.ext = append(a.ext, ',')
		}
		a.ext = append(append(canon.AppendString(a.ext, name), ':'), body...)
	}
	if after != account {
		if a.marks == nil {
			a.marks = make(map[graph.RoomNID]mark)
		}
		a.marks[0] = after
	}
	return news, nil
}

// pass notes what becomes of something that is not about a room: told now, or left for later.
func (a *slide) pass(m *mark, what int, enabled, changed bool) (from sqldb.Pos, fresh bool) {
	was := m.told[what]
	switch {
	case enabled:
		m.told[what] = current
	case was == current && changed:
		m.told[what] = progress(a.from)
	}
	return was.upTo(a.from), was == never
}

// toDevice has its own tokens: messages go once the client names the token that came with them.
//
// MSC3885: Sliding Sync Extension: To-Device
func (a *slide) toDevice(ctx context.Context, _ *mark) (string, []byte, bool, error) {
	d := a.q.ext.ToDevice
	if d == nil || !d.Enabled || a.s.cfg.Encryption == nil {
		return "", nil, false, nil
	}
	from, _ := d.from()
	if from > a.seen.to {
		from = 0 // a token of a database that was newer: rather too many messages than too few
	}
	limit := -1
	if d.Limit != nil {
		limit = *d.Limit
	}
	events, upTo, err := a.s.cfg.Encryption.InboxPage(ctx, a.q.User, a.q.Device, from, a.seen.to, limit)
	if err != nil {
		return "", nil, false, err
	}
	out := canon.AppendString([]byte(`{"next_batch":`), strconv.FormatInt(int64(upTo), 10))
	if events != nil {
		out = append(append(out, `,"events":`...), events...)
	}
	return "to_device", append(out, '}'), events != nil, nil
}

// keys tells how many keys the device has left, and whose keys changed.
//
// MSC3884: Sliding Sync Extension: E2EE
func (a *slide) keys(ctx context.Context, m *mark) (string, []byte, bool, error) {
	e := a.s.cfg.Encryption
	enabled := a.q.ext.E2EE.on() && e != nil
	was := m.told[theKeys]
	// Whether keys changed while nobody asked is found out when somebody does.
	from, fresh := a.pass(m, theKeys, enabled, true)
	if !enabled {
		return "", nil, false, nil
	}
	counts, unused, changed, err := e.Stock(ctx, a.q.User, a.q.Device, from)
	if err != nil {
		return "", nil, false, err
	}
	out, news := []byte{'{'}, false
	if fresh || changed {
		news = true
		out = append(append(out, `"device_one_time_keys_count":`...), counts...)
		out = append(append(out, `,"device_unused_fallback_key_types":`...), unused...)
	}
	if !a.first {
		w := e2ee.Window{User: a.q.User, From: from, To: a.seen.to}
		if was == current {
			w.Rooms, w.Joined, w.Left = a.seen.rooms, a.seen.joined, a.seen.left
		} else if was == never {
			w.From = a.from
		}
		changes, err := e.Changes(ctx, w)
		if err != nil {
			return "", nil, false, err
		}
		if len(changes.Changed)+len(changes.Left) > 0 {
			raw, err := json.Marshal(changes)
			if err != nil {
				return "", nil, false, err
			}
			if news = true; len(out) > 1 {
				out = append(out, ',')
			}
			out = append(append(out, `"device_lists":`...), raw...)
		}
	}
	if len(out) == 1 {
		return "", nil, false, nil
	}
	return "e2ee", append(out, '}'), news, nil
}

// accountData tells of account data, that of rooms and that which is not about a room.
//
// MSC3959: Sliding Sync Extension: Account Data
func (a *slide) accountData(ctx context.Context, m *mark) (string, []byte, bool, error) {
	ext := a.q.ext.Data
	from, fresh := a.pass(m, theGlobalData, ext.on(), len(a.data[""]) > 0)
	out, news := []byte{'{'}, false
	if ext.on() {
		list := a.data[""]
		if fresh || from < a.from {
			var err error
			if list, err = a.s.cfg.Accounts.RoomData(ctx, a.q.User, ""); err != nil {
				return "", nil, false, err
			}
		}
		if list = later(list, from, fresh); len(list) > 0 || fresh {
			news = true
			out = append(appendData(append(out, `"global":`...), list), ',')
		}
	}
	rooms := []byte(`"rooms":{`)
	empty := len(rooms)
	for _, r := range a.rooms {
		list, err := r.accountData(ctx, ext)
		if err != nil {
			return "", nil, false, err
		}
		if len(list) == 0 {
			continue
		}
		if news = true; len(rooms) > empty {
			rooms = append(rooms, ',')
		}
		rooms = append(canon.AppendString(rooms, string(r.spot.row.RoomID)), ':')
		rooms = appendData(rooms, list)
	}
	if len(out) == 1 && len(rooms) == empty {
		return "", nil, false, nil
	}
	return "account_data", append(append(out, rooms...), "}}"...), news, nil
}

// later selects what changed after a position, or, for who knows nothing, what there is.
func later(list []account.Datum, from sqldb.Pos, fresh bool) []account.Datum {
	return slices.DeleteFunc(slices.Clone(list), func(d account.Datum) bool {
		if fresh {
			return d.Deleted
		}
		return d.Pos <= from
	})
}

func appendData(out []byte, list []account.Datum) []byte {
	out = append(out, '[')
	for i, d := range list {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendDatum(out, d)
	}
	return append(out, ']')
}

// gained returns whether the client knows nothing of something, because it is new to it or to the room.
func (r *room) gained(what int) bool {
	return r.initial || r.old.told[what] == never || r.mark.told[what] == never
}

// leave notes that something was not told.
func (r *room) leave(what int, changed bool) {
	if r.mark.told[what] == current && changed {
		r.mark.told[what] = progress(r.a.from)
	}
}

func (r *room) accountData(ctx context.Context, ext *byRoom) ([]account.Datum, error) {
	list := r.a.data[r.spot.row.RoomID]
	if !ext.selects(r) || !r.inRoom() {
		r.leave(theData, len(list) > 0)
		return nil, nil
	}
	fresh := r.gained(theData)
	from := r.old.told[theData].upTo(r.a.from)
	r.mark.told[theData] = current
	if fresh || from < r.a.from {
		var err error
		if list, err = r.a.s.cfg.Accounts.RoomData(ctx, r.a.q.User, r.spot.row.RoomID); err != nil {
			return nil, err
		}
	}
	return later(list, from, fresh), nil
}

// whoTypes tells who types.
//
// MSC4508: Sliding Sync Extension: Typing
func (a *slide) whoTypes(_ context.Context, _ *mark) (string, []byte, bool, error) {
	out := []byte(`{"rooms":{`)
	empty := len(out)
	for _, r := range a.rooms {
		t := a.typing[r.spot.row.Room]
		if !a.q.ext.Typing.selects(r) || !r.inRoom() {
			r.leave(theTyping, t != nil || !r.spot.complete)
			continue
		}
		fresh := r.gained(theTyping)
		if r.mark.told[theTyping] = current; t == nil || fresh && len(t.Users) == 0 {
			continue
		}
		if len(out) > empty {
			out = append(out, ',')
		}
		out = append(canon.AppendString(out, string(r.spot.row.RoomID)), ':')
		out = ephemeral.AppendTyping(out, t, func(u id.UserID) bool { return !a.ignores(u) })
	}
	if len(out) == empty {
		return "", nil, false, nil
	}
	return "typing", append(out, "}}"...), true, nil
}
