package room

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Upgrade is a request to replace a room by one of another version.
type Upgrade struct {
	Room    id.RoomID
	Sender  id.UserID
	Version *roomver.Version
	// AdditionalCreators is used by room versions with privileged creators only.
	AdditionalCreators []id.UserID
	// Also runs in the transaction that closes the old room: it moves the aliases.
	Also func(tx *sqldb.Tx, replacement id.RoomID) error
}

// transferred lists the state that moves to the replacement, power levels last: until they
// stand, the creator may set everything.
//
// Spec: cs Room Upgrades
var transferred = []string{
	"m.room.server_acl", "m.room.encryption", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.guest_access",
	"m.room.history_visibility", "m.room.join_rules", "m.room.canonical_alias", "m.room.power_levels",
}

// Upgrade creates the replacement, then closes the old room with a tombstone. A server that fails in
// between leaves a room that nothing refers to.
//
// Spec: cs upgradeRoom
func (r *Rooms) Upgrade(ctx context.Context, u Upgrade) (id.RoomID, error) {
	head, err := r.cfg.Graph.Head(ctx, u.Room)
	if err != nil {
		return "", err
	}
	old := r.batch(head, true)
	// Refuse before anything is made; the batch is thrown away.
	if err := r.entomb(ctx, old, u, "!replacement"); err != nil {
		return "", err
	}
	c, err := r.replacement(ctx, r.batch(head, true), u)
	if err != nil {
		return "", err
	}
	room, err := r.Create(ctx, c)
	if err != nil {
		return "", err
	}
	_, err = r.compose(ctx, u.Room, graph.TxnRef{}, func(b *batch) (step, error) {
		if err := r.entomb(ctx, b, u, room); err != nil {
			return step{}, err
		}
		next := b.step("", graph.TxnRef{})
		if next.commit != nil && u.Also != nil {
			next.commit.Also = func(tx *sqldb.Tx) error { return u.Also(tx, room) }
		}
		return next, nil
	})
	return room, err
}

// replacement describes the new room.
func (r *Rooms) replacement(ctx context.Context, old *batch, u Upgrade) (Creation, error) {
	c := Creation{Creator: u.Sender, Version: u.Version, replaces: true}
	predecessor := map[string]any{"room_id": u.Room}
	if x := old.head.Extremities; !u.Version.CreateAsRoomID && len(x) > 0 {
		predecessor["event_id"] = x[0].ID
	}
	c.Content = map[string]any{"predecessor": predecessor}
	create, err := old.current(ctx, "m.room.create", "")
	if err != nil {
		return c, err
	}
	for _, field := range []string{"type", "m.federate"} {
		if v := gjson.GetBytes(create.Content(), gjson.Escape(field)); v.Exists() {
			c.Content[field] = v.Value()
		}
	}
	if u.Version.PrivilegedCreators && len(u.AdditionalCreators) > 0 {
		users := make([]string, len(u.AdditionalCreators))
		for i, user := range u.AdditionalCreators {
			users[i] = string(user)
		}
		c.Content["additional_creators"] = users
	}
	for _, typ := range transferred {
		e, err := old.current(ctx, typ, "")
		if err != nil {
			return c, err
		}
		content := []byte(nil)
		if e != nil {
			content = e.Content()
		}
		if typ == "m.room.power_levels" {
			if content, err = transferLevels(ctx, old, u, content); err != nil {
				return c, err
			}
		}
		if content != nil {
			c.InitialState = append(c.InitialState, StateEntry{Type: typ, Content: content})
		}
	}
	return c, nil
}

// transferLevels adapts the power levels of the old room to the form that the new room's version
// asks for, and to its rules about creators.
func transferLevels(ctx context.Context, old *batch, u Upgrade, content []byte) ([]byte, error) {
	levels := map[string]any{}
	if content != nil {
		if err := json.Unmarshal(content, &levels); err != nil {
			return nil, err
		}
	}
	integers(levels)
	users := object(levels, "users")
	if u.Version.PrivilegedCreators {
		delete(users, string(u.Sender))
		for _, user := range u.AdditionalCreators {
			delete(users, string(user))
		}
		events := object(levels, "events")
		if _, ok := events["m.room.tombstone"]; !ok || !old.head.Version.PrivilegedCreators {
			state, _ := levels["state_default"].(int64)
			events["m.room.tombstone"] = tombstoneLevel(state)
		}
		return canon.Marshal(levels)
	}
	// Creators with unlimited power have none in a version that doesn't know them.
	if old.head.Version.PrivilegedCreators || content == nil {
		create, err := old.current(ctx, "m.room.create", "")
		if err != nil {
			return nil, err
		}
		for _, user := range eventauth.Creators(create) {
			users[string(user)] = 100
		}
	}
	return canon.Marshal(levels)
}

// object returns a field that is an object, and makes it one.
func object(of map[string]any, field string) map[string]any {
	o, ok := of[field].(map[string]any)
	if !ok {
		o = map[string]any{}
		of[field] = o
	}
	return o
}

// integers turns the levels that old room versions allow, strings and fractions, into the integers
// that they stand for, and drops what stands for none.
//
// Spec: rooms/v10 Values in m.room.power_levels events must be integers
func integers(levels map[string]any) {
	for k, v := range levels {
		switch v := v.(type) {
		case map[string]any:
			integers(v)
		case nil:
			delete(levels, k)
		case float64:
			levels[k] = int64(v)
		case string:
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				delete(levels, k)
				continue
			}
			levels[k] = n
		}
	}
}

// entomb adds the tombstone and, where the sender has the power, takes from ordinary members
// the right to speak and to invite.
func (r *Rooms) entomb(ctx context.Context, b *batch, u Upgrade, replacement id.RoomID) error {
	empty := ""
	content, err := canon.Marshal(map[string]any{
		"body": "This room has been replaced", "replacement_room": replacement,
	})
	if err != nil {
		return err
	}
	_, err = b.add(ctx, Proposal{Sender: u.Sender, Type: "m.room.tombstone", StateKey: &empty, Content: content})
	if err != nil {
		return err
	}
	e, err := b.current(ctx, "m.room.power_levels", "")
	if err != nil || e == nil {
		return err
	}
	was, err := b.levels(ctx)
	if err != nil {
		return err
	}
	floor := max(50, int64(was.UsersDefault())+1)
	levels := map[string]any{}
	if err := json.Unmarshal(e.Content(), &levels); err != nil {
		return err
	}
	levels["events_default"] = max(floor, int64(was.Event("m.room.message", false)))
	levels["invite"] = max(floor, int64(was.Invite()))
	if content, err = canon.Marshal(levels); err != nil {
		return err
	}
	_, err = b.add(ctx, Proposal{Sender: u.Sender, Type: "m.room.power_levels", StateKey: &empty, Content: content})
	if mxerr.Is(err, mxerr.CodeForbidden) {
		return nil
	}
	return err
}
