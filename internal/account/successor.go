package account

import (
	"encoding/json"
	"errors"
	"slices"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/pushrule"
)

// TypeDirect lists the rooms that a user chats with others in.
//
// Spec: cs m.direct
const TypeDirect = "m.direct"

// Succeed copies what a user keeps for a room to the room that replaces it: tags, push rules and whom it is a
// direct chat with. What the user has for the new room already stays. tx has taken a position.
//
// Spec: cs Room Upgrades
func (a *Accounts) Succeed(tx *sqldb.Tx, user id.UserID, old, replacement id.RoomID) error {
	if old == replacement {
		return nil
	}
	for _, s := range []struct {
		from, to id.RoomID
		typ      string
		change   func(kept, there json.RawMessage) (json.RawMessage, error)
	}{
		{old, replacement, TypeTag, succeedTags},
		{"", "", TypeDirect, func(kept, _ json.RawMessage) (json.RawMessage, error) { return succeedDirect(kept, old, replacement) }},
		{"", "", TypePushRules, func(kept, _ json.RawMessage) (json.RawMessage, error) {
			return succeedRules(user, kept, old, replacement)
		}},
	} {
		d, found, err := getDatum(tx, user, s.from, s.typ)
		if err != nil {
			return err
		}
		if !found || d.Deleted {
			continue
		}
		if err := succeed(tx, user, s.to, s.typ, func(there json.RawMessage) (json.RawMessage, error) { return s.change(d.Content, there) }); err != nil {
			return err
		}
	}
	return nil
}

// succeed changes an entry. That there is no room left for it, or that a client stored something odd,
// is no reason not to join.
func succeed(tx *sqldb.Tx, user id.UserID, room id.RoomID, typ string, fn func(json.RawMessage) (json.RawMessage, error)) error {
	pos, err := tx.Pos()
	if err != nil {
		return err
	}
	err = updateData(tx, &changes{pos: pos}, user, room, typ, fn)
	if _, refused := mxerr.Of(err); refused || errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

func succeedTags(kept, there json.RawMessage) (json.RawMessage, error) {
	if there != nil {
		return nil, errUnchanged
	}
	return kept, nil
}

func succeedDirect(kept json.RawMessage, old, replacement id.RoomID) (json.RawMessage, error) {
	var lists map[string]json.RawMessage
	if json.Unmarshal(kept, &lists) != nil {
		return nil, errUnchanged
	}
	changed := false
	for user, raw := range lists {
		var rooms []id.RoomID
		if json.Unmarshal(raw, &rooms) != nil || !slices.Contains(rooms, old) || slices.Contains(rooms, replacement) {
			continue
		}
		raw, err := json.Marshal(append(rooms, replacement))
		if err != nil {
			return nil, err
		}
		lists[user], changed = raw, true
	}
	if !changed {
		return nil, errUnchanged
	}
	return json.Marshal(lists)
}

// succeedRules copies the rules that clients make for a room: those that have its ID as their own.
func succeedRules(user id.UserID, kept json.RawMessage, old, replacement id.RoomID) (json.RawMessage, error) {
	rules, err := (&Datum{Content: kept}).pushRules(user)
	if err != nil {
		return nil, err
	}
	changed := false
	for _, kind := range []pushrule.Kind{pushrule.Override, pushrule.Room, pushrule.Underride} {
		rule, err := rules.Find(kind, string(old))
		if err != nil {
			continue
		}
		if _, err := rules.Find(kind, string(replacement)); err == nil {
			continue
		}
		draft := pushrule.Draft{Actions: rule.Actions, Conditions: conditionsFor(rule.Conditions, old, replacement)}
		if rules, err = rules.Put(kind, string(replacement), draft, pushrule.Place{After: string(old)}); err != nil {
			return nil, err
		}
		if rules, err = rules.SetEnabled(kind, string(replacement), rule.Enabled); err != nil {
			return nil, err
		}
		changed = true
	}
	if !changed {
		return nil, errUnchanged
	}
	return rules.Stored(user), nil
}

// conditionsFor makes conditions on one room those on another.
func conditionsFor(conditions []json.RawMessage, old, replacement id.RoomID) []json.RawMessage {
	out := slices.Clone(conditions)
	for i, raw := range out {
		var c map[string]any
		if json.Unmarshal(raw, &c) != nil || c["key"] != "room_id" || c["pattern"] != string(old) {
			continue
		}
		c["pattern"] = string(replacement)
		if raw, err := json.Marshal(c); err == nil {
			out[i] = raw
		}
	}
	return out
}
