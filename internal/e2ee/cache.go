package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

const (
	// maxRemoteDevices bounds what is kept of one user of another server. Of a longer list the rest is left out.
	maxRemoteDevices = 2000
	// fewLists is up to how many users of one server are asked for one by one. Such an answer says which update it includes, so that later
	// updates can be applied to it; what was asked for together is asked for again after an update.
	fewLists = 4
	// listsKept is how long the devices of a user are kept whom nobody asked for.
	listsKept = 30 * 24 * time.Hour
	// noteUse is how often it is written down that a list was asked for.
	noteUse = 24 * time.Hour
)

// remoteList is what is kept of a user of another server.
type remoteList struct {
	user    id.UserID
	stream  int64
	devices []remoteDevice
	has     map[id.DeviceID]bool
	crossed crossKeys
}

type remoteDevice struct {
	id   id.DeviceID
	name string
	keys []byte
}

var (
	stmtKept          = sqldb.SQL(`SELECT user_id, fetched, asker, stale, used FROM remote_lists WHERE user_id = ANY($1)`)
	stmtKeptDevices   = sqldb.SQL(`SELECT user_id, device_id, name, keys FROM remote_devices WHERE user_id = ANY($1)`)
	stmtUsed          = sqldb.SQL(`UPDATE remote_lists SET used = $2 WHERE user_id = ANY($1)`)
	stmtDropRemoteAll = sqldb.SQL(`DELETE FROM remote_devices WHERE user_id = $1`)
	stmtKeep          = sqldb.SQL(`INSERT INTO remote_lists (user_id, stream_id, fetched, asker, stale, used) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (user_id) DO UPDATE SET stream_id = excluded.stream_id, fetched = excluded.fetched, asker = excluded.asker,
		stale = excluded.stale, used = excluded.used`)
	stmtForgetDevices = sqldb.SQL(`DELETE FROM remote_devices WHERE user_id IN (SELECT user_id FROM remote_lists WHERE used < $1)`)
	stmtForgetCrossed = sqldb.SQL(`DELETE FROM cross_keys WHERE user_id IN (SELECT user_id FROM remote_lists WHERE used < $1)`)
	stmtForgetLists   = sqldb.SQL(`DELETE FROM remote_lists WHERE used < $1`)
)

// view is what one query knows of users of other servers before it asks.
type view struct {
	at sqldb.Pos // of the stream
	// kept is what is in the database, if only as a second choice.
	kept    map[id.UserID][]remoteDevice
	crossed map[id.UserID]crossKeys
	// signatures are those of the asker.
	signatures signed
	// current are those of kept that need not be asked for.
	current map[id.UserID]bool
	// shared are those whose server will tell of changes, so that what it answers can be kept.
	shared map[id.UserID]bool
	// before is where their keys last changed.
	before map[id.UserID]sqldb.Pos
	stale  []string // lists whose use is to be written down
}

// look finds what is known of users of other servers. What is kept counts as long as it came from a time since when their server was told to keep
// ours informed: since when the user is in a room with the asker, or with the one who asked then.
func (e *Encryption) look(ctx context.Context, asker id.UserID, list []id.UserID) (*view, error) {
	v := &view{}
	err := e.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		*v = view{kept: make(map[id.UserID][]remoteDevice), current: make(map[id.UserID]bool),
			shared: make(map[id.UserID]bool), before: make(map[id.UserID]sqldb.Pos),
			crossed: make(map[id.UserID]crossKeys), signatures: make(signed)}
		if v.at, err = tx.Last(); err != nil {
			return err
		}
		for part := range slices.Chunk(list, usersAtOnce) {
			if err := v.load(tx, asker, part); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load keys of other servers: %w", err)
	}
	return v, nil
}

func (v *view) load(tx *sqldb.Tx, asker id.UserID, part []id.UserID) error {
	type row struct {
		user, asker id.UserID
		fetched     sqldb.Pos
		stale, used int64
	}
	var rows []row
	err := tx.Query(stmtKept, func(r *sqldb.Row) error {
		var o row
		err := r.Scan(&o.user, &o.fetched, &o.asker, &o.stale, &o.used)
		rows = append(rows, o)
		return err
	}, texts(part))
	if err != nil {
		return err
	}
	for _, o := range rows {
		current, err := graph.ShareSince(tx, asker, o.user, o.fetched)
		if err == nil && !current && o.asker != asker {
			current, err = graph.ShareSince(tx, o.asker, o.user, o.fetched)
		}
		if err != nil {
			return err
		}
		v.kept[o.user] = []remoteDevice{}
		v.current[o.user] = current && o.stale == 0
		if now()-o.used > noteUse.Milliseconds() {
			v.stale = append(v.stale, string(o.user))
		}
	}
	err = tx.Query(stmtKeptDevices, func(r *sqldb.Row) error {
		var user id.UserID
		var d remoteDevice
		err := r.Scan(&user, &d.id, &d.name, &d.keys)
		if _, ok := v.kept[user]; ok {
			v.kept[user] = append(v.kept[user], d)
		}
		return err
	}, texts(part))
	if err != nil {
		return err
	}
	crossed, err := crossKeysOf(tx, texts(part))
	if err != nil {
		return err
	}
	maps.Copy(v.crossed, crossed)
	signatures, err := signaturesOf(tx, texts(part), asker)
	if err != nil {
		return err
	}
	maps.Copy(v.signatures, signatures)
	for _, user := range part {
		if v.current[user] {
			continue
		}
		if v.shared[user], err = graph.ShareSince(tx, asker, user, forever); err != nil {
			return err
		}
		var pos sqldb.Pos
		if _, err := tx.Get(stmtListPos, []any{user}, &pos); err != nil {
			return err
		}
		v.before[user] = pos
	}
	return nil
}

func texts(list []id.UserID) []string {
	out := make([]string, len(list))
	for i, u := range list {
		out[i] = string(u)
	}
	return out
}

// fetch asks a server for the keys of users, and keeps those that it will tell changes of.
func (e *Encryption) fetch(ctx context.Context, asker id.UserID, v *view, server id.ServerName, asked Query, patience Patience) ([]*remoteList, error) {
	call := fedclient.Call{Origin: asker.Domain(), Destination: server, Timeout: patience.duration()}
	var single []id.UserID
	together := make(Query)
	for user, devices := range asked {
		if v.shared[user] && len(single) < fewLists {
			single = append(single, user)
			continue
		}
		if v.shared[user] {
			devices = nil
		}
		together[user] = devices
	}
	if len(single) == fewLists && len(together) > 0 { // many: one request is better than some and another one
		for _, user := range single {
			together[user] = nil
		}
		single = nil
	}
	var got []*remoteList
	for _, user := range single {
		l, err := e.fetchOne(ctx, call, user)
		if err != nil {
			return nil, err
		}
		got = append(got, l)
	}
	if len(together) > 0 {
		list, err := e.fetchSome(ctx, call, together)
		if err != nil {
			return nil, err
		}
		got = append(got, list...)
	}
	return got, e.keep(ctx, asker, v, got)
}

// fetchOne asks for the devices of one user.
//
// Spec: ss getUserDevices
func (e *Encryption) fetchOne(ctx context.Context, call fedclient.Call, user id.UserID) (*remoteList, error) {
	got, err := e.cfg.Client.UserDevices(ctx, call, user)
	if err != nil {
		return nil, err
	}
	l := &remoteList{user: user, stream: max(0, got.StreamID)}
	for _, raw := range got.Devices {
		device, _ := canon.GetText(raw, "device_id")
		keys, _ := canon.Get(raw, "keys")
		name, _ := canon.GetText(raw, "device_display_name")
		l.add(id.DeviceID(device), name, keys)
	}
	l.cross(master, got.Master)
	l.cross(selfSigning, got.SelfSigner)
	return l, nil
}

// cross takes a cross-signing key as another server describes it, if that makes sense.
func (l *remoteList) cross(purpose string, raw json.RawMessage) {
	if k, err := parseCrossKey(raw, l.user, purpose); len(raw) > 0 && err == nil {
		if l.crossed == nil {
			l.crossed = make(crossKeys)
		}
		l.crossed[purpose] = k
	}
}

// fetchSome asks for the keys of several users.
//
// Spec: ss queryUserEncryptionKeys
func (e *Encryption) fetchSome(ctx context.Context, call fedclient.Call, asked Query) ([]*remoteList, error) {
	got, err := e.cfg.Client.QueryKeys(ctx, call, asked)
	if err != nil {
		return nil, err
	}
	var lists []*remoteList
	for user := range asked {
		l := &remoteList{user: user}
		for device, raw := range got.Devices[user] {
			unsigned, _ := canon.Get(raw, "unsigned")
			name, _ := canon.GetText(unsigned, "device_display_name")
			l.add(device, name, raw)
		}
		l.cross(master, got.Masters[user])
		l.cross(selfSigning, got.SelfSigners[user])
		lists = append(lists, l)
	}
	return lists, nil
}

// add takes a device as another server describes it, if that makes sense.
func (l *remoteList) add(device id.DeviceID, name string, raw json.RawMessage) {
	if _, err := id.ParseDeviceID(string(device)); err != nil || len(l.devices) >= maxRemoteDevices || !describes(raw, l.user, device) {
		return
	}
	keys, err := canonicalObject(raw)
	if err != nil || l.has[device] {
		return
	}
	if l.has == nil {
		l.has = make(map[id.DeviceID]bool)
	}
	l.has[device] = true
	l.devices = append(l.devices, remoteDevice{device, shortName(name), keys})
}

// keep stores the lists of those users whose server will tell of changes. If it did so meanwhile the answer may be older than that.
func (e *Encryption) keep(ctx context.Context, asker id.UserID, v *view, lists []*remoteList) error {
	lists = slices.DeleteFunc(slices.Clone(lists), func(l *remoteList) bool { return !v.shared[l.user] })
	if len(lists) == 0 {
		return nil
	}
	err := e.db.Write(ctx, func(tx *sqldb.Tx) error {
		for _, l := range lists {
			var pos sqldb.Pos
			if _, err := tx.Get(stmtListPos, []any{l.user}, &pos); err != nil {
				return err
			}
			tx.Queue(stmtDropRemoteAll, l.user)
			for _, d := range l.devices {
				tx.Queue(stmtSetRemote, l.user, d.id, d.name, string(d.keys))
			}
			for _, purpose := range []string{master, selfSigning} {
				if k := l.crossed[purpose]; k != nil {
					tx.Queue(stmtSetCrossKey, l.user, purpose, k.text, string(k.raw), 0)
				} else {
					tx.Queue(stmtDropCrossKey, l.user, purpose)
				}
			}
			tx.Queue(stmtKeep, l.user, l.stream, v.at, asker, pos > v.before[l.user], now())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep keys of other servers: %w", err)
	}
	return nil
}

// used writes down that lists are of use.
func (e *Encryption) used(ctx context.Context, v *view) error {
	if len(v.stale) == 0 {
		return nil
	}
	return e.db.Write(ctx, func(tx *sqldb.Tx) error {
		tx.Queue(stmtUsed, v.stale, now())
		return nil
	})
}

// goneKept is how long devices are remembered that were deleted: a server that is away for longer may believe in them until the user's next
// change but one.
const goneKept = 180 * 24 * time.Hour

// ForgetLists deletes what nobody asked for in long, and the memory of devices that were deleted long ago.
func (e *Encryption) ForgetLists(ctx context.Context) error {
	return e.db.Write(ctx, func(tx *sqldb.Tx) error {
		before := now() - listsKept.Milliseconds()
		tx.Queue(stmtForgetDevices, before)
		tx.Queue(stmtForgetCrossed, before)
		tx.Queue(stmtForgetLists, before)
		tx.Queue(stmtForgetGone, now()-goneKept.Milliseconds())
		return nil
	})
}
