package push

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Bounds of what clients may store.
const (
	maxPushers = 100 // of a user
	maxAppID   = 64
	maxPushkey = 512
	maxText    = 512  // of names and languages
	maxData    = 8192 // of data
	maxURL     = 1024
)

// gatewayPath is the path that the URL of every push gateway has.
//
// Spec: pg notify
const gatewayPath = "/_matrix/push/v1/notify"

// Pusher is how one device of a user is to be told of notifications.
//
// Spec: cs getPushers
type Pusher struct {
	AppID      string          `json:"app_id"`
	Pushkey    string          `json:"pushkey"`
	Kind       string          `json:"kind"`
	AppName    string          `json:"app_display_name"`
	DeviceName string          `json:"device_display_name"`
	ProfileTag string          `json:"profile_tag,omitempty"`
	Lang       string          `json:"lang"`
	Data       json.RawMessage `json:"data"` // an object with the URL of the gateway
}

// PusherDraft is the body of a request that sets a pusher. Nil is missing.
//
// Spec: cs postPusher
type PusherDraft struct {
	AppID      *string         `json:"app_id"`
	Pushkey    *string         `json:"pushkey"`
	Kind       json.RawMessage `json:"kind"` // text, or null to delete the pusher
	AppName    *string         `json:"app_display_name"`
	DeviceName *string         `json:"device_display_name"`
	ProfileTag string          `json:"profile_tag"`
	Lang       *string         `json:"lang"`
	Data       json.RawMessage `json:"data"`
	Append     bool            `json:"append"`
}

var (
	sqlPushers      = sqldb.SQL(`SELECT shown FROM pushers WHERE user_id = $1 ORDER BY pusher_id`)
	sqlCountPushers = sqldb.SQL(`SELECT COUNT(*) FROM pushers WHERE user_id = $1 AND NOT (app_id = $2 AND pushkey = $3)`)
	sqlSetPusher    = sqldb.SQL(`INSERT INTO pushers (pusher_id, user_id, app_id, pushkey, device_id, host, shown, badge, failures, retry, created, pos)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, $8, $9) ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET
		device_id = excluded.device_id, host = excluded.host, shown = excluded.shown, failures = 0, retry = 0,
		created = excluded.created, pos = excluded.pos`)
	sqlPusherIDs    = sqldb.SQL(`SELECT pusher_id FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3`)
	sqlOthersPusher = sqldb.SQL(`SELECT pusher_id FROM pushers WHERE pushkey = $1 AND app_id = $2 AND user_id <> $3`)
	sqlOfDevice     = sqldb.SQL(`SELECT pusher_id FROM pushers WHERE user_id = $1 AND device_id = $2`)
	sqlDropPusher   = sqldb.SQL(`DELETE FROM pushers WHERE pusher_id = $1`)
	sqlDropAllDue   = sqldb.SQL(`DELETE FROM push_due WHERE pusher_id = $1`)
)

// Pushers lists the pushers of a user.
//
// Spec: cs getPushers
func (p *Push) Pushers(ctx context.Context, user id.UserID) ([]json.RawMessage, error) {
	list := []json.RawMessage{}
	err := p.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = list[:0]
		return tx.Query(sqlPushers, func(r *sqldb.Row) error {
			var shown string
			err := r.Scan(&shown)
			list = append(list, json.RawMessage(shown))
			return err
		}, user)
	})
	return list, wrap(err, "list pushers")
}

// SetPusher adds, changes or deletes a pusher of a user's device, which goes when the device does.
//
// Spec: cs postPusher
func (p *Push) SetPusher(ctx context.Context, user id.UserID, device id.DeviceID, d PusherDraft) error {
	k, host, err := d.check()
	if err != nil {
		return err
	}
	if k.Kind == "" {
		return p.deletePusher(ctx, user, k)
	}
	shown, err := json.Marshal(k)
	if err != nil {
		return mxerr.BadJSON("The pusher is not valid JSON.")
	}
	number, err := p.pusherIDs.Next(ctx)
	if err != nil {
		return wrap(err, "number a pusher")
	}
	err = p.db.Write(ctx, func(tx *sqldb.Tx) error {
		pos, err := tx.Pos() // first, so that other nodes wait
		if err != nil {
			return err
		}
		var count int
		if _, err := tx.Get(sqlCountPushers, []any{user, k.AppID, k.Pushkey}, &count); err != nil {
			return err
		}
		if count >= maxPushers {
			return mxerr.Forbidden("You have %d pushers. Delete some before you add another.", count)
		}
		if !d.Append {
			if err := dropPushers(tx, sqlOthersPusher, k.Pushkey, k.AppID, user); err != nil {
				return err
			}
		}
		tx.Queue(sqlSetPusher, number, user, k.AppID, k.Pushkey, device, host, string(shown), time.Now().UnixMilli(), pos)
		tx.Emit(bus.Entry{Pos: pos, Kind: bus.PushDue, User: user})
		return nil
	})
	return wrap(err, "set a pusher")
}

func (p *Push) deletePusher(ctx context.Context, user id.UserID, k Pusher) error {
	err := p.db.Write(ctx, func(tx *sqldb.Tx) error { return dropPushers(tx, sqlPusherIDs, user, k.AppID, k.Pushkey) })
	return wrap(err, "delete a pusher")
}

// dropPushers deletes the pushers that a statement names, with what they have not been told.
func dropPushers(tx *sqldb.Tx, which *sqldb.Stmt, args ...any) error {
	var gone []int64
	err := tx.Query(which, func(r *sqldb.Row) error {
		var n int64
		err := r.Scan(&n)
		gone = append(gone, n)
		return err
	}, args...)
	for _, n := range gone {
		tx.Queue(sqlDropPusher, n)
		tx.Queue(sqlDropAllDue, n)
	}
	return err
}

// DevicesChanged deletes the pushers of devices that are gone: account.Config.DevicesChanged.
func DevicesChanged(tx *sqldb.Tx, _ sqldb.Pos, changes []account.DeviceChange) error {
	for _, c := range changes {
		if c.Event != account.DeviceDeleted {
			continue
		}
		if err := dropPushers(tx, sqlOfDevice, c.User, c.Device); err != nil {
			return fmt.Errorf("delete pushers of a device: %w", err)
		}
	}
	return nil
}

// check makes a pusher of a draft, without a kind where it is to be deleted.
func (d *PusherDraft) check() (k Pusher, host string, err error) {
	switch {
	case len(d.Kind) == 0:
		return k, "", mxerr.MissingParam(`"kind" is missing.`)
	case d.AppID == nil || *d.AppID == "":
		return k, "", mxerr.MissingParam(`"app_id" is missing.`)
	case d.Pushkey == nil || *d.Pushkey == "":
		return k, "", mxerr.MissingParam(`"pushkey" is missing.`)
	case len(*d.AppID) > maxAppID:
		return k, "", mxerr.InvalidParam(`"app_id" is longer than %d bytes.`, maxAppID)
	case len(*d.Pushkey) > maxPushkey:
		return k, "", mxerr.InvalidParam(`"pushkey" is longer than %d bytes.`, maxPushkey)
	}
	k = Pusher{AppID: *d.AppID, Pushkey: *d.Pushkey}
	if string(d.Kind) == "null" {
		return k, "", nil
	}
	k.Kind, _ = canon.Text(d.Kind)
	switch k.Kind {
	case "http":
	case "email":
		return k, "", mxerr.InvalidParam("This server sends no e-mail.")
	default:
		return k, "", mxerr.InvalidParam(`"kind" must be "http", or null.`)
	}
	for _, f := range []struct {
		name string
		from *string
		to   *string
	}{{"app_display_name", d.AppName, &k.AppName}, {"device_display_name", d.DeviceName, &k.DeviceName},
		{"lang", d.Lang, &k.Lang}, {"profile_tag", &d.ProfileTag, &k.ProfileTag}} {
		if f.from == nil {
			return k, "", mxerr.MissingParam("%q is missing.", f.name)
		}
		if *f.to = *f.from; len(*f.to) > maxText {
			return k, "", mxerr.InvalidParam("%q is longer than %d bytes.", f.name, maxText)
		}
	}
	k.Data, host, err = checkData(d.Data)
	return k, host, err
}

// checkData checks the data of a pusher and returns it in canonical form, with the host of its gateway.
func checkData(raw json.RawMessage) (data json.RawMessage, host string, err error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, "", mxerr.MissingParam(`"data" is missing.`)
	}
	if data, err = canon.Canonicalize(nil, raw, canon.Lax); err != nil || data[0] != '{' {
		return nil, "", mxerr.BadJSON(`"data" must be an object.`)
	}
	if len(data) > maxData {
		return nil, "", mxerr.TooLarge(`"data" is longer than %d bytes.`, maxData)
	}
	text, ok := canon.GetText(data, "url")
	if !ok || text == "" {
		return nil, "", mxerr.MissingParam(`"data" needs the URL of a push gateway as "url".`)
	}
	u, err := url.Parse(text)
	if err != nil || len(text) > maxURL || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Path != gatewayPath {
		return nil, "", mxerr.InvalidParam("The URL of a push gateway begins with https:// and its path is %s.", gatewayPath)
	}
	if format := gjson.GetBytes(data, "format"); format.Exists() && format.Str != eventIDOnly {
		return nil, "", mxerr.InvalidParam(`The only format of notifications that can be asked for is %q.`, eventIDOnly)
	}
	return data, strings.ToLower(u.Host), nil
}

const eventIDOnly = "event_id_only"
