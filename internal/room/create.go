package room

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Preset is a named set of initial state.
type Preset string

// The presets of the specification.
const (
	PrivateChat        Preset = "private_chat"
	TrustedPrivateChat Preset = "trusted_private_chat"
	PublicChat         Preset = "public_chat"
)

// StateEntry is one event of a new room's initial state.
type StateEntry struct {
	Type     string
	StateKey string
	Content  json.RawMessage
}

// Creation describes a new room.
type Creation struct {
	Creator id.UserID
	// Version is nil for the server's default.
	Version *roomver.Version
	Preset  Preset
	// Content holds further fields of the creation event.
	Content map[string]any
	// PowerLevels overrides fields of the power level event, nil for none.
	PowerLevels map[string]json.RawMessage
	// Alias becomes the canonical alias, empty for none. The caller reserves it in Also.
	Alias        id.RoomAlias
	InitialState []StateEntry
	Name         *string
	Topic        *string
	Invite       []id.UserID
	IsDirect     bool
	// Also runs in the transaction that creates the room, for what other packages keep
	// of it. Optional.
	Also func(tx *sqldb.Tx, room id.RoomID) error

	// replaces marks an upgrade: no preset, no default power levels.
	replaces bool
}

// Create makes a room with all its initial events in one transaction.
//
// It returns M_UNSUPPORTED_ROOM_VERSION, M_INVALID_ROOM_STATE where the creator may not make
// one of the events that were asked for, or the error of Also.
//
// Spec: cs createRoom
func (r *Rooms) Create(ctx context.Context, c Creation) (id.RoomID, error) {
	if c.Version == nil {
		c.Version = r.cfg.DefaultVersion
	}
	for range maxAttempts {
		room, err := r.create(ctx, c)
		if !errors.Is(err, graph.ErrConflict) {
			return room, err
		}
	}
	return "", fmt.Errorf("create a room: its ID was taken %d times in a row", maxAttempts)
}

// create makes one attempt. It returns graph.ErrConflict where another node has just made the
// same room: from version 12 on the ID of a room is a hash over its creation event, and nothing but
// the time tells the creations of one user apart.
func (r *Rooms) create(ctx context.Context, c Creation) (id.RoomID, error) {
	b, err := r.newRoom(ctx, c)
	if err != nil {
		return "", err
	}
	proposals, err := r.initialEvents(ctx, c)
	if err != nil {
		return "", err
	}
	for _, p := range proposals {
		p.Sender = c.Creator
		if _, err := b.add(ctx, p); err != nil {
			return "", initialStateError(p, err)
		}
	}
	commit := b.commit()
	room := b.head.ID
	if c.Also != nil {
		commit.Also = func(tx *sqldb.Tx) error { return c.Also(tx, room) }
	}
	if err := b.succeed(ctx, c.Creator, commit); err != nil {
		return "", err
	}
	return room, r.cfg.Graph.Commit(commit).Wait(context.WithoutCancel(ctx))
}

// creationTime is the time of a creation event in milliseconds: now, but later than that of
// the room made before.
func (r *Rooms) creationTime() int64 {
	for {
		last := r.lastCreation.Load()
		t := max(now(), last+1)
		if r.lastCreation.CompareAndSwap(last, t) {
			return t
		}
	}
}

// initialStateError says which initial event the creator may not send.
func initialStateError(p Proposal, err error) error {
	if e, ok := mxerr.Of(err); ok && (e.Code == mxerr.CodeForbidden || e.Code == mxerr.CodeBadJSON || e.Code == mxerr.CodeInvalidParam) {
		return mxerr.New(mxerr.CodeInvalidRoomState, "the initial state is invalid at %s: %s", p.Type, e.Text)
	}
	return err
}

// newRoom begins the batch with the creation event and the creator's join.
func (r *Rooms) newRoom(ctx context.Context, c Creation) (*batch, error) {
	origin, key, err := r.signer(c.Creator)
	if err != nil {
		return nil, err
	}
	content, err := createContent(c)
	if err != nil {
		return nil, err
	}
	empty := ""
	draft := event.Draft{
		Type: "m.room.create", StateKey: &empty, Sender: c.Creator, Content: content, OriginServerTS: r.creationTime(), Depth: 1,
	}
	if !c.Version.CreateAsRoomID {
		draft.RoomID = id.RoomID("!" + rand.Text() + ":" + string(origin))
	}
	create, err := draft.Build(c.Version, origin, key, rand.Text)
	if err != nil {
		return nil, err
	}
	if err := eventauth.Check(create, func(string, string) *event.PDU { return nil }); err != nil {
		var rejection *eventauth.Rejection
		if errors.As(err, &rejection) {
			return nil, mxerr.New(mxerr.CodeBadJSON, "the room can't be created: %s", rejection.Text)
		}
		return nil, err
	}
	head, err := r.cfg.Graph.NewHead(ctx, create.RoomID(), c.Version)
	if err != nil {
		return nil, err
	}
	b := r.batch(head, true)
	b.prev = nil
	if err := b.push(ctx, create, place{}); err != nil {
		return nil, err
	}
	member, err := r.memberContent(ctx, Membership{Sender: c.Creator}, graph.Join)
	if err != nil {
		return nil, err
	}
	target := string(c.Creator)
	_, err = b.add(ctx, Proposal{Sender: c.Creator, Type: "m.room.member", StateKey: &target, Content: member})
	return b, err
}

// createContent is the content of the creation event.
func createContent(c Creation) ([]byte, error) {
	content := make(map[string]any, len(c.Content)+2)
	for k, v := range c.Content {
		content[k] = v
	}
	content["room_version"] = c.Version.ID
	delete(content, "creator")
	if !c.Version.ImplicitCreator {
		content["creator"] = string(c.Creator)
	}
	if c.Version.PrivilegedCreators && c.Preset == TrustedPrivateChat {
		creators, err := userList(content["additional_creators"])
		if err != nil {
			return nil, err
		}
		for _, u := range c.Invite {
			if !slices.Contains(creators, string(u)) && u != c.Creator {
				creators = append(creators, string(u))
			}
		}
		content["additional_creators"] = creators
	}
	raw, err := canon.Marshal(content)
	if err != nil {
		return nil, mxerr.BadJSON("creation_content: %v", err)
	}
	return raw, nil
}

func userList(v any) ([]string, error) {
	bad := mxerr.InvalidParam("additional_creators must be a list of user IDs")
	users := []string{}
	switch list := v.(type) {
	case nil:
		return users, nil
	case []string:
		return slices.Clone(list), nil
	case []any:
		for _, v := range list {
			s, ok := v.(string)
			if !ok {
				return nil, bad
			}
			users = append(users, s)
		}
		return users, nil
	}
	return nil, bad
}

// initialEvents lists what follows the creator's join, in the order of the specification.
func (r *Rooms) initialEvents(ctx context.Context, c Creation) ([]Proposal, error) {
	var list []Proposal
	add := func(typ, stateKey string, content any) error {
		raw, err := canon.Marshal(content)
		if err != nil {
			return mxerr.BadJSON("content of %s: %v", typ, err)
		}
		list = append(list, Proposal{Type: typ, StateKey: &stateKey, Content: raw})
		return nil
	}
	var errs []error
	if !c.replaces {
		errs = append(errs, add("m.room.power_levels", "", powerLevels(c)))
	}
	if c.Alias != "" {
		errs = append(errs, add("m.room.canonical_alias", "", map[string]any{"alias": c.Alias}))
	}
	for _, e := range presetState(c) {
		errs = append(errs, add(e.Type, e.StateKey, e.Content))
	}
	for _, e := range c.InitialState {
		if e.Type == "m.room.name" && c.Name != nil || e.Type == "m.room.topic" && c.Topic != nil {
			continue
		}
		errs = append(errs, add(e.Type, e.StateKey, e.Content))
	}
	if c.Name != nil {
		errs = append(errs, add("m.room.name", "", map[string]any{"name": *c.Name}))
	}
	if c.Topic != nil {
		errs = append(errs, add("m.room.topic", "", topicContent(*c.Topic)))
	}
	for _, u := range c.Invite {
		if r.cfg.MayInvite != nil && r.cfg.Ours.Is(u.Domain()) {
			errs = append(errs, r.cfg.MayInvite(ctx, c.Creator, u))
		}
		raw, err := r.memberContent(ctx, Membership{Sender: c.Creator, Target: u, IsDirect: c.IsDirect}, graph.Invite)
		if err != nil {
			return nil, err
		}
		target := string(u)
		list = append(list, Proposal{Type: "m.room.member", StateKey: &target, Content: raw})
	}
	return list, errors.Join(errs...)
}

// topicContent has both the plain form and the extensible one.
//
// Spec: cs m.room.topic
func topicContent(topic string) map[string]any {
	return map[string]any{
		"topic":   topic,
		"m.topic": map[string]any{"m.text": []map[string]any{{"body": topic}}},
	}
}

// presetState is the state that the preset implies, without what the initial state overrides.
//
// Deviates: cs createRoom: a public room gets no m.room.guest_access, whose absence says the same.
func presetState(c Creation) []StateEntry {
	if c.replaces {
		return nil
	}
	rule := "invite"
	if c.Preset == PublicChat {
		rule = "public"
	}
	all := []StateEntry{
		{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"` + rule + `"}`)},
		{Type: "m.room.history_visibility", Content: json.RawMessage(`{"history_visibility":"shared"}`)},
	}
	if c.Preset != PublicChat {
		// A room that does not speak of guests forbids them, so that a public one needs no event for it.
		all = append(all, StateEntry{Type: "m.room.guest_access", Content: json.RawMessage(`{"guest_access":"can_join"}`)})
	}
	return slices.DeleteFunc(all, func(e StateEntry) bool {
		return slices.ContainsFunc(c.InitialState, func(s StateEntry) bool {
			return s.Type == e.Type && s.StateKey == e.StateKey
		})
	})
}

// powerLevels is the default power level event of a new room with the overrides applied.
//
// Spec: cs createRoom
func powerLevels(c Creation) map[string]any {
	users := map[string]any{}
	if !c.Version.PrivilegedCreators {
		users[string(c.Creator)] = 100
		if c.Preset == TrustedPrivateChat {
			for _, u := range c.Invite {
				users[string(u)] = 100
			}
		}
	}
	// Everybody can come into a public room without being invited, so that an invite there is for those who look after it.
	invite := 0
	if c.Preset == PublicChat {
		invite = 50
	}
	content := map[string]any{
		"users":          users,
		"users_default":  0,
		"events_default": 0,
		"state_default":  50,
		"ban":            50,
		"kick":           50,
		"redact":         50,
		"invite":         invite,
		"notifications":  map[string]any{"room": 50},
		"events": map[string]any{
			"m.room.name":               50,
			"m.room.avatar":             50,
			"m.room.canonical_alias":    50,
			"m.room.power_levels":       100,
			"m.room.history_visibility": 100,
			"m.room.encryption":         100,
			"m.room.server_acl":         100,
			"m.room.tombstone":          100,
		},
	}
	for k, v := range c.PowerLevels {
		content[k] = v
	}
	if state := gjson.ParseBytes(c.PowerLevels["state_default"]).Int(); c.Version.PrivilegedCreators && c.PowerLevels["events"] == nil {
		content["events"].(map[string]any)["m.room.tombstone"] = tombstoneLevel(state)
	}
	return content
}

// tombstoneLevel is what it takes to close a room whose creators have unlimited power: more than other
// state takes.
//
// Spec: cs createRoom
func tombstoneLevel(stateDefault int64) int64 { return max(150, stateDefault+1) }
