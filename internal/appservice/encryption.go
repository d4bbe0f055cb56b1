package appservice

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"myelin/internal/bus"
	"myelin/internal/e2ee"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// What application services need to encrypt. None of it is in the specification yet; it goes by the names of the proposals until it is.
//
// MSC2409: messages to devices
// MSC3202: lists of devices, numbers of one-time keys

// inOrder sorts entries by position and leaves out what is after a position.
func inOrder(entries []bus.Entry, to sqldb.Pos) []bus.Entry {
	entries = slices.DeleteFunc(entries, func(e bus.Entry) bool { return e.Pos > to })
	slices.SortStableFunc(entries, func(a, b bus.Entry) int { return cmp.Compare(a.Pos, b.Pos) })
	return entries
}

// addEncryption adds what concerns keys and devices.
func (k *worker) addEncryption(ctx context.Context, t *transaction, e bus.Entry) error {
	switch e.Kind {
	case bus.ToDevice:
		if !k.s.ephemeral() || !k.s.Owns(e.User) {
			return nil
		}
		t.stock(e.User, e.Device)
	case bus.OneTimeKeys:
		if !k.s.Encryption || !k.s.Has(e.User) {
			return nil
		}
		t.stock(e.User, e.Device)
	case bus.DeviceListLocal, bus.DeviceListRemote:
		if _, own := e.Data.(e2ee.OwnChange); !k.s.Encryption || own && !k.s.Has(e.User) {
			return nil
		}
		concerned, err := k.interest.meets(ctx, e.User)
		if err != nil || !concerned {
			return err
		}
		t.changed[e.User] = true
		delete(t.left, e.User)
	}
	t.others++
	return nil
}

// stock notes that a device's messages and the number of its keys are to be told.
func (t *transaction) stock(user id.UserID, device id.DeviceID) {
	if t.stocks[user] == nil {
		t.stocks[user] = make(map[id.DeviceID]bool)
	}
	t.stocks[user][device] = true
}

// moved tells whose keys begin to matter, or cease to, when a user comes or goes.
func (k *worker) moved(ctx context.Context, t *transaction, e *graph.Event) error {
	user := id.UserID(e.PDU.Key().StateKey)
	if k.s.Has(user) {
		return nil
	}
	switch graph.Membership(e.PDU.Membership()) {
	case graph.Join:
		t.changed[user] = true
		delete(t.left, user)
	case graph.Leave, graph.Ban:
		meets, err := k.interest.meets(ctx, user)
		if err != nil || meets {
			return err
		}
		t.left[user] = true
		delete(t.changed, user)
	}
	return nil
}

// mailUpTo loads the messages to the devices in a transaction.
func (k *worker) mailUpTo(ctx context.Context, t *transaction, from, to sqldb.Pos) error {
	if !k.s.ephemeral() || len(t.stocks) == 0 {
		return nil
	}
	var found []e2ee.Mail
	err := k.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		found = found[:0]
		for user, devices := range t.stocks {
			if !k.s.Owns(user) {
				continue
			}
			for device := range devices {
				more, err := e2ee.MailOf(tx, user, device, from, to)
				if err != nil {
					return err
				}
				found = append(found, more...)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b e2ee.Mail) int { return cmp.Compare(a.Pos, b.Pos) })
	for _, m := range found {
		raw := canon.AppendString([]byte(`{"to_user_id":`), string(m.User))
		raw = canon.AppendString(append(raw, `,"to_device_id":`...), string(m.Device))
		t.mail = append(t.mail, append(append(raw, ','), m.Event[1:]...))
	}
	return nil
}

// encryption appends the fields to a body.
func (k *worker) encryption(ctx context.Context, t *transaction) (out []byte, err error) {
	put := func(name string, v any) {
		if err != nil {
			return
		}
		var raw []byte
		if raw, err = json.Marshal(v); err == nil {
			out = append(append(canon.AppendString(append(out, ','), name), ':'), raw...)
		}
	}
	if len(t.mail) > 0 {
		put(mailField, t.mail)
	}
	if !k.s.Encryption {
		return out, err
	}
	if len(t.changed)+len(t.left) > 0 {
		put("org.matrix.msc3202.device_lists", map[string]any{"changed": sorted(t.changed), "left": sorted(t.left)})
	}
	counts := make(map[id.UserID]map[id.DeviceID]json.RawMessage)
	unused := make(map[id.UserID]map[id.DeviceID]json.RawMessage)
	for user, devices := range t.stocks {
		counts[user], unused[user] = make(map[id.DeviceID]json.RawMessage), make(map[id.DeviceID]json.RawMessage)
		for device := range devices {
			count, free, _, err := k.cfg.Encryption.Stock(ctx, user, device, 0)
			if err != nil {
				return nil, err
			}
			counts[user][device], unused[user][device] = count, free
		}
	}
	if len(counts) > 0 {
		put("org.matrix.msc3202.device_one_time_keys_count", counts)
		put("org.matrix.msc3202.device_unused_fallback_key_types", unused)
	}
	return out, err
}

func sorted(users map[id.UserID]bool) []id.UserID {
	list := make([]id.UserID, 0, len(users))
	for u := range users {
		list = append(list, u)
	}
	slices.Sort(list)
	return list
}
