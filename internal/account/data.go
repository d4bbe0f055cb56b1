package account

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Types of account data that this server reads or writes itself.
const (
	TypeFullyRead = "m.fully_read"
	TypePushRules = "m.push_rules"
	TypeTag       = "m.tag"
	TypeIgnored   = "m.ignored_user_list"
)

// Datum is one entry of account data, and the Data of a bus entry of kind AccountData.
type Datum struct {
	Pos sqldb.Pos
	// Room is empty for global account data.
	Room id.RoomID
	Type string
	// Content is a JSON object; {} where the entry was deleted.
	Content json.RawMessage
	Deleted bool
}

// ErrServerManaged answers a client that sets what the server manages. The status is 405.
//
// Spec: cs setAccountData
var ErrServerManaged = mxerr.BadJSON("This type of account data is managed by the server.")

// A deleted entry stays as a row without content, so that sync can tell other devices.
var (
	sqlDatum = sqldb.SQL(`SELECT pos, room_id, type, content FROM account_data WHERE user_id = $1 AND room_id = $2 AND type = $3`)

	sqlPutDatum = sqldb.SQL(`INSERT INTO account_data (user_id, room_id, type, content, pos) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, pos = excluded.pos`)

	sqlDataSince = sqldb.SQL(`SELECT pos, room_id, type, content FROM account_data WHERE user_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos`)

	sqlRoomData = sqldb.SQL(`SELECT pos, room_id, type, content FROM account_data WHERE user_id = $1 AND room_id = $2 ORDER BY type`)

	sqlDataOfType = sqldb.SQL(`SELECT pos, room_id, type, content FROM account_data WHERE user_id = $1 AND type = $2 AND room_id <> ''`)

	sqlCountData = sqldb.SQL(`SELECT COUNT(*) FROM account_data WHERE user_id = $1`)

	sqlEraseData = sqldb.SQL(`DELETE FROM account_data WHERE user_id = $1`)

	sqlEraseFilters = sqldb.SQL(`DELETE FROM filters WHERE user_id = $1`)
)

func scanDatum(r *sqldb.Row) (Datum, error) {
	var d Datum
	var content sql.Null[string]
	err := r.Scan(&d.Pos, &d.Room, &d.Type, &content)
	if d.Content, d.Deleted = json.RawMessage(content.V), !content.Valid; d.Deleted {
		d.Content = json.RawMessage("{}")
	}
	return d, err
}

func getDatum(tx *sqldb.Tx, user id.UserID, room id.RoomID, typ string) (d Datum, found bool, err error) {
	err = tx.Query(sqlDatum, func(r *sqldb.Row) error {
		found = true
		d, err = scanDatum(r)
		return err
	}, user, room, typ)
	if err != nil {
		return Datum{}, false, fmt.Errorf("load account data of %s: %w", user, err)
	}
	return d, found, nil
}

// Data returns an entry of account data; room is empty for global ones. M_NOT_FOUND where there is none.
//
// Spec: cs getAccountData
// Spec: cs getAccountDataPerRoom
func (a *Accounts) Data(ctx context.Context, user id.UserID, room id.RoomID, typ string) (json.RawMessage, error) {
	if checkIdentifier("type", typ) != nil {
		return nil, errNoDatum
	}
	var d Datum
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		var found bool
		var err error
		d, found, err = getDatum(tx, user, room, typ)
		switch d.Room, d.Type = room, typ; {
		case err != nil:
			return err
		case d.isPushRules():
			return d.show(user) // everybody has some
		case !found || d.Deleted:
			return errNoDatum
		}
		return nil
	})
	return d.Content, err
}

var errNoDatum = mxerr.NotFound("There is no account data of this type.")

// SetData is how clients set account data: types that the server manages are refused with
// ErrServerManaged.
//
// Spec: cs setAccountData
// Spec: cs setAccountDataPerRoom
func (a *Accounts) SetData(ctx context.Context, user id.UserID, room id.RoomID, typ string, content []byte) error {
	if typ == TypeFullyRead || typ == TypePushRules {
		return ErrServerManaged
	}
	return a.PutData(ctx, user, room, typ, content)
}

// DeleteData is how clients delete account data. Other devices see it as {}.
//
// MSC3391: deletion of account data.
func (a *Accounts) DeleteData(ctx context.Context, user id.UserID, room id.RoomID, typ string) error {
	if typ == TypeFullyRead || typ == TypePushRules {
		return ErrServerManaged
	}
	return a.UpdateData(ctx, user, room, typ, func(json.RawMessage) (json.RawMessage, error) { return nil, nil })
}

// PutData sets account data of any type.
func (a *Accounts) PutData(ctx context.Context, user id.UserID, room id.RoomID, typ string, content []byte) error {
	return a.UpdateData(ctx, user, room, typ, func(json.RawMessage) (json.RawMessage, error) { return content, nil })
}

// UpdateData changes an entry in one transaction: fn gets the content, nil where there is none, and returns
// the new one, nil to delete it. fn may be called again if the transaction is.
func (a *Accounts) UpdateData(ctx context.Context, user id.UserID, room id.RoomID, typ string, fn func(old json.RawMessage) (json.RawMessage, error)) error {
	if err := checkIdentifier("type", typ); err != nil {
		return mxerr.InvalidParam("%s.", err)
	}
	return a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
		return updateData(tx, c, user, room, typ, fn)
	})
}

// PutDataTx sets account data inside a transaction of the caller's, such as one that moves a
// read marker.
func (a *Accounts) PutDataTx(tx *sqldb.Tx, user id.UserID, room id.RoomID, typ string, content []byte) error {
	pos, err := tx.Pos()
	if err != nil {
		return err
	}
	// What this makes stale is dropped when the bus tells of the commit, or by the recheck.
	return updateData(tx, &changes{pos: pos}, user, room, typ, func(json.RawMessage) (json.RawMessage, error) { return content, nil })
}

func updateData(tx *sqldb.Tx, c *changes, user id.UserID, room id.RoomID, typ string, fn func(json.RawMessage) (json.RawMessage, error)) error {
	old, found, err := getDatum(tx, user, room, typ)
	if err != nil {
		return err
	}
	there := found && !old.Deleted
	var before json.RawMessage
	if there {
		before = old.Content
	}
	content, err := fn(before)
	if err != nil {
		return err
	}
	if content == nil && !there {
		return errUnchanged
	}
	if content != nil {
		if content, err = compactObject(content); err != nil {
			return err
		}
	}
	if !found {
		var count int
		if _, err := tx.Get(sqlCountData, []any{user}, &count); err != nil {
			return fmt.Errorf("count account data of %s: %w", user, err)
		}
		if count >= maxAccountData {
			return mxerr.TooLarge("You have %d entries of account data, which is the limit.", count)
		}
	}
	stored := sql.Null[string]{V: string(content), Valid: content != nil}
	if _, err := tx.Exec(sqlPutDatum, user, room, typ, stored, c.pos); err != nil {
		return fmt.Errorf("set account data of %s: %w", user, err)
	}
	d := &Datum{Pos: c.pos, Room: room, Type: typ, Content: content, Deleted: content == nil}
	if d.Deleted {
		d.Content = json.RawMessage("{}")
	}
	if err := d.show(user); err != nil {
		return err
	}
	tx.Emit(entry(c.pos, bus.AccountData, user, d))
	if typ == TypeIgnored && room == "" {
		c.stale(tx, cacheIgnored, []string{string(user)})
	}
	return nil
}

// compactObject checks that content is a JSON object and takes white space out.
func compactObject(content []byte) (json.RawMessage, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, content); err != nil || !utf8.Valid(content) {
		return nil, mxerr.New(mxerr.CodeNotJSON, "The content is not valid JSON.")
	}
	if b.Len() == 0 || b.Bytes()[0] != '{' {
		return nil, mxerr.BadJSON("The content must be an object.")
	}
	return b.Bytes(), nil
}

// DataSince lists the entries, global and of rooms, that changed in (from, to], by position. With from 0 that
// is everything, predefined push rules too; deleted entries are included.
//
// Spec: cs Client Config
func (a *Accounts) DataSince(ctx context.Context, user id.UserID, from, to sqldb.Pos) ([]Datum, error) {
	list, err := a.data(ctx, sqlDataSince, user, from, to)
	if err != nil || from != 0 {
		return list, err
	}
	return withPushRules(list, user)
}

// RoomData lists what a user has in one room; an empty room stands for global account data.
func (a *Accounts) RoomData(ctx context.Context, user id.UserID, room id.RoomID) ([]Datum, error) {
	list, err := a.data(ctx, sqlRoomData, user, room)
	if err != nil || room != "" {
		return list, err
	}
	return withPushRules(list, user)
}

// DataOfType lists the entries of one type in all rooms.
func (a *Accounts) DataOfType(ctx context.Context, user id.UserID, typ string) ([]Datum, error) {
	return a.data(ctx, sqlDataOfType, user, typ)
}

func (a *Accounts) data(ctx context.Context, stmt *sqldb.Stmt, user id.UserID, args ...any) ([]Datum, error) {
	var list []Datum
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = nil
		return tx.Query(stmt, func(r *sqldb.Row) error {
			d, err := scanDatum(r)
			if err == nil {
				err = d.show(user)
			}
			list = append(list, d)
			return err
		}, append([]any{user}, args...)...)
	})
	if err != nil {
		return nil, fmt.Errorf("list account data: %w", err)
	}
	return list, nil
}

// eraseData deletes what is not an event: account data, filters and the profile.
func eraseData(tx *sqldb.Tx, user id.UserID) error {
	for _, stmt := range []*sqldb.Stmt{sqlEraseData, sqlEraseFilters} {
		if _, err := tx.Exec(stmt, user); err != nil {
			return fmt.Errorf("erase data of %s: %w", user, err)
		}
	}
	fields, err := profileOf(tx, user)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if err := putProfileField(tx, user, f.name, nil); err != nil {
			return err
		}
	}
	return nil
}

// IgnoredUsers returns the users whose events a user does not want to see. The map is shared: don't
// change it.
//
// Spec: cs Ignoring Users
func (a *Accounts) IgnoredUsers(ctx context.Context, user id.UserID) (map[id.UserID]struct{}, error) {
	if err := a.recheck(ctx); err != nil {
		return nil, err
	}
	if set, ok := a.gate.ignored.GetIfPresent(user); ok {
		return set, nil
	}
	epoch := a.gate.begin()
	raw, err := a.Data(ctx, user, "", TypeIgnored)
	if err != nil && !mxerr.Is(err, mxerr.CodeNotFound) {
		return nil, err
	}
	var content struct {
		Users map[id.UserID]json.RawMessage `json:"ignored_users"`
	}
	// What a client stored in another shape ignores nobody.
	_ = json.Unmarshal(raw, &content)
	set := make(map[id.UserID]struct{}, len(content.Users))
	for u := range content.Users {
		if u != user {
			set[u] = struct{}{}
		}
	}
	a.gate.enter(epoch, func() { a.gate.ignored.Set(user, set) })
	return set, nil
}
