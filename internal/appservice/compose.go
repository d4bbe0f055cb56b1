package appservice

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/bus"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

const (
	// maxEvents and maxBytes bound a transaction, but for its first event.
	maxEvents = 100
	maxBytes  = 1 << 20
	// maxOther bounds what else goes into one.
	maxOther = 500

	mailField = "de.sorunome.msc2409.to_device"
)

// transaction is one in the making.
type transaction struct {
	events    [][]byte
	ephemeral [][]byte
	mail      []json.RawMessage
	changed   map[id.UserID]bool
	left      map[id.UserID]bool
	stocks    map[id.UserID]map[id.DeviceID]bool
	size      int
	others    int
}

func (t *transaction) empty() bool {
	return len(t.events)+len(t.ephemeral)+len(t.mail)+len(t.changed)+len(t.left)+len(t.stocks) == 0
}

func (t *transaction) full() bool {
	return len(t.events) >= maxEvents || t.size >= maxBytes || t.others >= maxOther
}

// compose makes the next transaction of what lies after from. It returns nil where nothing up to a position concerns the application service.
func (k *worker) compose(ctx context.Context, from, last sqldb.Pos) (body []byte, to sqldb.Pos, err error) {
	entries, to, ok := k.stream.after(from, last)
	if !ok {
		if entries, to, err = k.read(ctx, from, last); err != nil {
			return nil, 0, err
		}
	}
	t := &transaction{changed: make(map[id.UserID]bool), left: make(map[id.UserID]bool), stocks: make(map[id.UserID]map[id.DeviceID]bool)}
	at := sqldb.Pos(0)
	for _, e := range entries {
		if t.full() && e.Pos > at {
			to = at
			break
		}
		if at = e.Pos; at <= from {
			continue
		}
		if err := k.add(ctx, t, e); err != nil {
			return nil, 0, err
		}
	}
	if t.empty() {
		return nil, to, nil
	}
	if err := k.mailUpTo(ctx, t, from, to); err != nil {
		return nil, 0, err
	}
	body, err = k.encode(ctx, t)
	return body, to, err
}

// add puts an entry of the stream into a transaction, if it concerns the application service.
func (k *worker) add(ctx context.Context, t *transaction, e bus.Entry) error {
	switch e.Kind {
	case bus.RoomEvent:
		if ev, ok := e.Data.(*graph.Event); ok {
			return k.addEvent(ctx, t, ev)
		}
	case bus.Membership:
		return k.addOutside(ctx, t, e)
	case bus.Receipt, bus.Typing, bus.Presence:
		if k.s.ephemeral() {
			return k.addEphemeral(ctx, t, e)
		}
	case bus.ToDevice, bus.OneTimeKeys, bus.DeviceListLocal, bus.DeviceListRemote:
		return k.addEncryption(ctx, t, e)
	}
	return nil
}

// addEvent adds an event of a room.
//
// Spec: as sendTransaction
func (k *worker) addEvent(ctx context.Context, t *transaction, e *graph.Event) error {
	if e.Flags&(graph.Outlier|graph.Rejected|graph.SoftFailed) != 0 {
		return nil
	}
	concerned, err := k.interest.event(ctx, e)
	if err != nil || !concerned {
		return err
	}
	raw, err := k.cfg.View.AppendEvent(ctx, nil, view.Audience{Everything: true}, e)
	if err != nil {
		return err
	}
	t.events, t.size = append(t.events, raw), t.size+len(raw)
	if k.s.Encryption && e.PDU.IsState() && e.PDU.Type() == memberType {
		return k.moved(ctx, t, e)
	}
	return nil
}

// addOutside adds an invite from a room that nobody of ours is in, or its end. There is no event here, only what its sender's server told.
//
// Spec: as sendTransaction
func (k *worker) addOutside(ctx context.Context, t *transaction, e bus.Entry) error {
	if !k.s.Has(e.User) {
		return nil
	}
	row, ok, err := k.cfg.Graph.MembershipOf(ctx, e.User, graph.RoomNID(e.Room))
	if err != nil || !ok || row.Event != 0 || row.Pos != e.Pos {
		return err // the room's own events tell it
	}
	for _, entry := range gjson.ParseBytes(row.Stripped).Array() {
		if entry.Get("type").Str != memberType || entry.Get("state_key").Str != string(e.User) {
			continue
		}
		var event map[string]json.RawMessage
		if err := json.Unmarshal([]byte(entry.Raw), &event); err != nil {
			return fmt.Errorf("read an invite to %s: %w", row.RoomID, err)
		}
		event["room_id"] = canon.AppendString(nil, string(row.RoomID))
		told, err := k.cfg.Graph.OutsideAt(ctx, e.User, []int64{int64(e.Pos)})
		if err != nil {
			return err
		}
		for _, o := range told {
			event["event_id"], event["origin_server_ts"] = canon.AppendString(nil, string(o.ID)), strconv.AppendInt(nil, o.TS, 10)
		}
		if event["event_id"] == nil { // it came before that was kept
			sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d", row.RoomID, e.User, e.Pos))
			event["event_id"] = canon.AppendString(nil, "$"+base64.RawURLEncoding.EncodeToString(sum[:]))
		}
		if event["origin_server_ts"] == nil {
			event["origin_server_ts"] = strconv.AppendInt(nil, time.Now().UnixMilli(), 10)
		}
		if row.Membership == graph.Invite {
			event["unsigned"] = append(append([]byte(`{"invite_room_state":`), row.Stripped...), '}')
		}
		raw, err := json.Marshal(event)
		if err != nil {
			return err
		}
		t.events, t.size = append(t.events, raw), t.size+len(raw)
		return nil
	}
	return nil
}

// addEphemeral adds what is in no room's history.
//
// Spec: as Pushing ephemeral data
func (k *worker) addEphemeral(ctx context.Context, t *transaction, e bus.Entry) error {
	var raw []byte
	switch d := e.Data.(type) {
	case *ephemeral.Receipt:
		if d.Type == ephemeral.ReadPrivate && !k.s.Has(d.User) {
			return nil
		}
		name, concerned, err := k.interest.in(ctx, d.Room)
		if err != nil || !concerned {
			return err
		}
		raw = inRoom(ephemeral.AppendReceipts(nil, []*ephemeral.Receipt{d}, d.User), name)
	case *ephemeral.Typing:
		name, concerned, err := k.interest.in(ctx, d.Room)
		if err != nil || !concerned {
			return err
		}
		raw = inRoom(ephemeral.AppendTyping(nil, d, nil), name)
	case *ephemeral.Presence:
		concerned, err := k.interest.meets(ctx, d.User)
		if err != nil || !concerned || !k.cfg.Ephemeral.ShowsPresence() {
			return err
		}
		raw = k.cfg.Ephemeral.AppendPresence(nil, d)
	}
	if raw != nil {
		t.ephemeral, t.size, t.others = append(t.ephemeral, raw), t.size+len(raw), t.others+1
	}
	return nil
}

// inRoom adds the room to an event that sync shows without it.
func inRoom(event []byte, room id.RoomID) []byte {
	if len(event) == 0 {
		return nil
	}
	return append(append(canon.AppendString([]byte(`{"room_id":`), string(room)), ','), event[1:]...)
}

// encode makes the body.
//
// Spec: as sendTransaction
func (k *worker) encode(ctx context.Context, t *transaction) ([]byte, error) {
	body := append([]byte(`{"events":[`), bytes.Join(t.events, []byte{','})...)
	body = append(body, ']')
	if len(t.ephemeral) > 0 {
		name := "ephemeral"
		if !k.s.Ephemeral {
			name = "de.sorunome.msc2409.ephemeral"
		}
		body = append(canon.AppendString(append(body, ','), name), ":["...)
		body = append(append(body, bytes.Join(t.ephemeral, []byte{','})...), ']')
	}
	more, err := k.encryption(ctx, t)
	if err != nil {
		return nil, err
	}
	return append(append(body, more...), '}'), nil
}

// read takes from the database what the stream in memory has lost. Kinds are read up to the position at which the first of them is too much.
func (k *worker) read(ctx context.Context, from, last sqldb.Pos) (entries []bus.Entry, to sqldb.Pos, err error) {
	events, err := k.cfg.Graph.EventsSince(ctx, from, last, maxTaken)
	if err != nil {
		return nil, 0, err
	}
	if to = last; len(events) == maxTaken {
		to = events[maxTaken-1].Pos
	}
	for _, e := range events {
		entries = append(entries, bus.Entry{Pos: e.Pos, Kind: bus.RoomEvent, Room: int64(e.Room), Data: e})
	}
	most := to
	err = k.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		entries, to = entries[:len(events):len(events)], most
		for _, read := range k.readers() {
			more, err := read(tx, from, to)
			if err != nil {
				return err
			}
			if len(more) >= maxTaken {
				to = more[len(more)-1].Pos
			}
			entries = append(entries, more...)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return inOrder(entries, to), to, nil
}

// readers read what happened besides events, each at most maxTaken entries.
func (k *worker) readers() []func(tx *sqldb.Tx, from, to sqldb.Pos) ([]bus.Entry, error) {
	all := []func(tx *sqldb.Tx, from, to sqldb.Pos) ([]bus.Entry, error){readOutside}
	if k.s.ephemeral() {
		all = append(all, readReceipts, readPrivate, readTyping, readPresence, readMail)
	}
	if k.s.Encryption {
		all = append(all, readLists, readStocks)
	}
	return all
}

func readOutside(tx *sqldb.Tx, from, to sqldb.Pos) (out []bus.Entry, err error) {
	rows, err := graph.OutsideSince(tx, from, to, maxTaken)
	for _, m := range rows {
		out = append(out, bus.Entry{Pos: m.Pos, Kind: bus.Membership, Room: int64(m.Room), User: m.User})
	}
	return out, err
}

func readReceipts(tx *sqldb.Tx, from, to sqldb.Pos) ([]bus.Entry, error) {
	return receipts(ephemeral.PublicReceipts(tx, from, to, maxTaken))
}

func readPrivate(tx *sqldb.Tx, from, to sqldb.Pos) ([]bus.Entry, error) {
	return receipts(ephemeral.PrivateReceipts(tx, from, to, maxTaken))
}

func receipts(found []*ephemeral.Receipt, err error) (out []bus.Entry, _ error) {
	for _, r := range found {
		out = append(out, bus.Entry{Pos: r.Pos, Kind: bus.Receipt, Data: r})
	}
	return out, err
}

func readTyping(tx *sqldb.Tx, from, to sqldb.Pos) (out []bus.Entry, err error) {
	found, err := ephemeral.TypingSince(tx, from, to, maxTaken)
	for _, t := range found {
		out = append(out, bus.Entry{Pos: t.Pos, Kind: bus.Typing, Data: t})
	}
	return out, err
}

func readPresence(tx *sqldb.Tx, from, to sqldb.Pos) (out []bus.Entry, err error) {
	found, err := ephemeral.PresenceSince(tx, from, to)
	for _, p := range found {
		out = append(out, bus.Entry{Pos: p.Pos, Kind: bus.Presence, Data: p})
	}
	return out, err
}

func readMail(tx *sqldb.Tx, from, to sqldb.Pos) (out []bus.Entry, err error) {
	return asEntries(bus.ToDevice, from, to, tx, e2ee.MailSince)
}

func readLists(tx *sqldb.Tx, from, to sqldb.Pos) (out []bus.Entry, err error) {
	return asEntries(bus.DeviceListLocal, from, to, tx, e2ee.ListsSince)
}

func readStocks(tx *sqldb.Tx, from, to sqldb.Pos) (out []bus.Entry, err error) {
	return asEntries(bus.OneTimeKeys, from, to, tx, e2ee.StocksSince)
}

func asEntries(kind bus.Kind, from, to sqldb.Pos, tx *sqldb.Tx, read func(*sqldb.Tx, sqldb.Pos, sqldb.Pos, int) ([]e2ee.Notice, error)) (out []bus.Entry, err error) {
	found, err := read(tx, from, to, maxTaken)
	for _, n := range found {
		out = append(out, bus.Entry{Pos: n.Pos, Kind: kind, User: n.User, Device: n.Device})
	}
	return out, err
}
