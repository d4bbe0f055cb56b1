package account

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Fields of profiles with a meaning of their own.
const (
	FieldDisplayName = "displayname"
	FieldAvatarURL   = "avatar_url"
	FieldTimeZone    = "m.tz"
)

const (
	maxProfile   = 64 << 10 // bytes of the whole profile as JSON
	maxAvatarURL = 1000     // bytes
)

// ProfileChange is the Data of a bus entry of kind ProfileChanged: one field of a user's profile
// was set or deleted.
type ProfileChange struct {
	Pos   sqldb.Pos
	User  id.UserID
	Field string
	// Value is the raw JSON value; nil where the field was deleted.
	Value json.RawMessage
}

// A deleted field stays as a row without a value, so that followers see the deletion.
var (
	sqlProfile = sqldb.SQL(`SELECT field, value FROM profiles WHERE user_id = $1 AND value IS NOT NULL ORDER BY field`)

	sqlProfileField = sqldb.SQL(`SELECT value FROM profiles WHERE user_id = $1 AND field = $2 AND value IS NOT NULL`)

	sqlPutProfileField = sqldb.SQL(`INSERT INTO profiles (user_id, field, value, pos) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value, pos = excluded.pos`)

	sqlProfilesChanged = sqldb.SQL(`SELECT pos, user_id, field, value FROM profiles WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
)

// Profile returns the whole profile of a user of ours as a JSON object, and M_NOT_FOUND where the user does not
// exist. A user who has set nothing has an empty profile.
//
// Spec: cs getUserProfile
func (a *Accounts) Profile(ctx context.Context, user id.UserID) (json.RawMessage, error) {
	var out []byte
	err := a.known(ctx, user, func() error {
		return a.db.Read(ctx, func(tx *sqldb.Tx) error {
			if err := mustExist(tx, user); err != nil {
				return err
			}
			fields, err := profileOf(tx, user)
			out = appendObject(out[:0], fields)
			return err
		})
	})
	return out, err
}

// ProfileField returns the raw value of one field, and M_NOT_FOUND where the user or the field does not exist.
//
// Spec: cs getProfileField
func (a *Accounts) ProfileField(ctx context.Context, user id.UserID, field string) (json.RawMessage, error) {
	if checkProfileField(field) != nil {
		return nil, errNoProfileField
	}
	var value string
	err := a.known(ctx, user, func() error {
		return a.db.Read(ctx, func(tx *sqldb.Tx) error {
			if err := mustExist(tx, user); err != nil {
				return err
			}
			found, err := tx.Get(sqlProfileField, []any{user, field}, &value)
			if err == nil && !found {
				err = errNoProfileField
			}
			return err
		})
	})
	return json.RawMessage(value), err
}

var errNoProfileField = mxerr.NotFound("The profile has no such field.")

func mustExist(tx *sqldb.Tx, user id.UserID) error {
	_, found, err := getUser(tx, user)
	if err == nil && !found {
		err = mxerr.NotFound("There is no user %s here.", user)
	}
	return err
}

// NameAndAvatar returns what goes into a user's member events; both are empty where they are not set.
//
// Spec: cs Events on Change of Profile Information
func (a *Accounts) NameAndAvatar(ctx context.Context, user id.UserID) (name, avatar string, err error) {
	err = a.db.Read(ctx, func(tx *sqldb.Tx) error {
		fields, err := profileOf(tx, user)
		for _, f := range fields {
			switch f.name {
			case FieldDisplayName:
				_ = json.Unmarshal(f.value, &name) // a string, or it would not be stored
			case FieldAvatarURL:
				_ = json.Unmarshal(f.value, &avatar)
			}
		}
		return err
	})
	return name, avatar, err
}

// SetProfileField sets one field of a profile. body is the request's: an object with the field as its key. An
// empty display name or avatar deletes the field, as clients of old expect.
//
// Spec: cs setProfileField
func (a *Accounts) SetProfileField(ctx context.Context, user id.UserID, field string, body []byte) error {
	if err := checkProfileField(field); err != nil {
		return err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil {
		return mxerr.BadJSON("The request body must be an object.")
	}
	value, ok := object[field]
	if !ok {
		return mxerr.MissingParam("The request body has no field %q.", field)
	}
	if err := checkProfileValue(field, value); err != nil {
		return err
	}
	if string(value) == `""` && (field == FieldDisplayName || field == FieldAvatarURL) {
		return a.DeleteProfileField(ctx, user, field)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil || !utf8.Valid(value) {
		return mxerr.BadJSON("The value is not valid JSON.")
	}
	return a.db.Write(ctx, func(tx *sqldb.Tx) error {
		if err := mustExist(tx, user); err != nil {
			return err
		}
		return putProfileField(tx, user, field, compact.Bytes())
	})
}

// DeleteProfileField deletes one field. Deleting what is not there is no error.
//
// Spec: cs deleteProfileField
func (a *Accounts) DeleteProfileField(ctx context.Context, user id.UserID, field string) error {
	if err := checkProfileField(field); err != nil {
		return err
	}
	return a.db.Write(ctx, func(tx *sqldb.Tx) error {
		return putProfileField(tx, user, field, nil)
	})
}

// putProfileField writes a field, nil to delete it. A value that is there already is not written again.
func putProfileField(tx *sqldb.Tx, user id.UserID, field string, value json.RawMessage) error {
	fields, err := profileOf(tx, user)
	if err != nil {
		return err
	}
	var old json.RawMessage
	size := 2
	for _, f := range fields {
		if f.name == field {
			old = f.value
			continue
		}
		size += f.size()
	}
	if value != nil && size+(profileField{field, value}).size() > maxProfile {
		return mxerr.New(mxerr.CodeProfileTooLarge, "The profile would be larger than %d bytes.", maxProfile)
	}
	if bytes.Equal(old, value) && (old == nil) == (value == nil) {
		return nil
	}
	pos, err := tx.Pos()
	if err != nil {
		return err
	}
	stored := sql.Null[string]{V: string(value), Valid: value != nil}
	if _, err := tx.Exec(sqlPutProfileField, user, field, stored, pos); err != nil {
		return fmt.Errorf("set profile field of %s: %w", user, err)
	}
	tx.Emit(entry(pos, bus.ProfileChanged, user, &ProfileChange{pos, user, field, value}))
	return nil
}

// ProfilesChanged lists the fields that were set or deleted in (from, to], by position: what a follower
// needs to carry names and avatars into rooms.
func (a *Accounts) ProfilesChanged(ctx context.Context, from, to sqldb.Pos, limit int) ([]ProfileChange, error) {
	var list []ProfileChange
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		list = nil
		return tx.Query(sqlProfilesChanged, func(r *sqldb.Row) error {
			var c ProfileChange
			var value sql.Null[string]
			if err := r.Scan(&c.Pos, &c.User, &c.Field, &value); err != nil {
				return err
			}
			if value.Valid {
				c.Value = json.RawMessage(value.V)
			}
			list = append(list, c)
			return nil
		}, from, to, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("list changed profiles: %w", err)
	}
	return list, nil
}

type profileField struct {
	name  string
	value json.RawMessage
}

// size is what the field adds to the profile as JSON: quotes, colon and comma included.
func (f profileField) size() int { return len(f.name) + len(f.value) + 4 }

func profileOf(tx *sqldb.Tx, user id.UserID) ([]profileField, error) {
	var fields []profileField
	err := tx.Query(sqlProfile, func(r *sqldb.Row) error {
		var name, value string
		if err := r.Scan(&name, &value); err != nil {
			return err
		}
		fields = append(fields, profileField{name, json.RawMessage(value)})
		return nil
	}, user)
	if err != nil {
		return nil, fmt.Errorf("load profile of %s: %w", user, err)
	}
	return fields, nil
}

func appendObject(dst []byte, fields []profileField) []byte {
	dst = append(dst, '{')
	for i, f := range fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, quote(f.name)...)
		dst = append(dst, ':')
		dst = append(dst, f.value...)
	}
	return append(dst, '}')
}

// quote encodes a string, which can't fail.
func quote(s string) json.RawMessage {
	raw, _ := json.Marshal(s)
	return raw
}

// checkProfileField checks the name of a field.
//
// Spec: cs setProfileField
// Spec: appendices Common Namespaced Identifier Grammar
func checkProfileField(field string) error {
	if len(field) > maxIdentifier {
		return mxerr.New(mxerr.CodeKeyTooLarge, "The name of a profile field has at most %d bytes.", maxIdentifier)
	}
	if field == "" || field[0] < 'a' || field[0] > 'z' {
		return mxerr.InvalidParam("The name of a profile field begins with a letter from a to z.")
	}
	for _, c := range []byte(field) {
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' {
			continue
		}
		return mxerr.InvalidParam("The name of a profile field may hold only a-z, 0-9 and -_.")
	}
	return nil
}

// checkProfileValue checks the fields that the specification gives a type.
func checkProfileValue(field string, value json.RawMessage) error {
	switch field {
	case FieldDisplayName, FieldAvatarURL, FieldTimeZone:
	default:
		return nil
	}
	var s *string
	if err := json.Unmarshal(value, &s); err != nil || s == nil {
		return mxerr.BadJSON("%q must be a string.", field)
	}
	switch {
	case field == FieldDisplayName && utf8.RuneCountInString(*s) > maxNameRunes:
		return mxerr.InvalidParam("A display name has at most %d characters.", maxNameRunes)
	case field == FieldAvatarURL && len(*s) > maxAvatarURL:
		return mxerr.InvalidParam("An avatar URL has at most %d bytes.", maxAvatarURL)
	case field == FieldAvatarURL && *s != "" && !strings.HasPrefix(*s, "mxc://"):
		return mxerr.InvalidParam("An avatar URL begins with mxc://.")
	case field == FieldTimeZone && len(*s) > maxIdentifier:
		return mxerr.InvalidParam("A time zone has at most %d bytes.", maxIdentifier)
	}
	return nil
}
