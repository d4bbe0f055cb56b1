package roomver

import "slices"

// Redaction is the set of keys that a redaction leaves on an event. Everything else goes.
type Redaction struct {
	// TopLevel lists the keys of the event itself, in canonical order.
	TopLevel []string
	// Content lists what survives inside content, by event type. A type that is absent
	// keeps an empty content.
	Content map[string]Keep
}

// Keep lists the surviving keys of one object.
type Keep struct {
	// All: the object stays whole.
	All bool
	// Keys survive with their whole value, in canonical order.
	Keys []string
	// Nested keys survive if their value is an object, which is itself cut down to the keys listed.
	Nested map[string][]string
}

// Has reports whether the key survives at the top level of an event.
func (r *Redaction) Has(key string) bool { return slices.Contains(r.TopLevel, key) }

var (
	topLevelV1 = []string{
		"auth_events", "content", "depth", "event_id", "hashes", "membership", "origin",
		"origin_server_ts", "prev_events", "prev_state", "room_id", "sender", "signatures",
		"state_key", "type",
	}
	topLevelV11 = []string{
		"auth_events", "content", "depth", "event_id", "hashes", "origin_server_ts",
		"prev_events", "room_id", "sender", "signatures", "state_key", "type",
	}

	powerLevelsV1 = Keep{Keys: []string{
		"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default",
	}}
	powerLevelsV11 = Keep{Keys: []string{
		"ban", "events", "events_default", "invite", "kick", "redact", "state_default", "users", "users_default",
	}}
	historyVisibility = Keep{Keys: []string{"history_visibility"}}
)

// Spec: rooms/v1 Redactions
var redactionV1 = &Redaction{
	TopLevel: topLevelV1,
	Content: map[string]Keep{
		"m.room.member":             {Keys: []string{"membership"}},
		"m.room.create":             {Keys: []string{"creator"}},
		"m.room.join_rules":         {Keys: []string{"join_rule"}},
		"m.room.power_levels":       powerLevelsV1,
		"m.room.aliases":            {Keys: []string{"aliases"}},
		"m.room.history_visibility": historyVisibility,
	},
}

// Spec: rooms/v6 Redactions
var redactionV6 = &Redaction{
	TopLevel: topLevelV1,
	Content: map[string]Keep{
		"m.room.member":             {Keys: []string{"membership"}},
		"m.room.create":             {Keys: []string{"creator"}},
		"m.room.join_rules":         {Keys: []string{"join_rule"}},
		"m.room.power_levels":       powerLevelsV1,
		"m.room.history_visibility": historyVisibility,
	},
}

// Spec: rooms/v8 Redactions
var redactionV8 = &Redaction{
	TopLevel: topLevelV1,
	Content: map[string]Keep{
		"m.room.member":             {Keys: []string{"membership"}},
		"m.room.create":             {Keys: []string{"creator"}},
		"m.room.join_rules":         {Keys: []string{"allow", "join_rule"}},
		"m.room.power_levels":       powerLevelsV1,
		"m.room.history_visibility": historyVisibility,
	},
}

// Spec: rooms/v9 Redactions
var redactionV9 = &Redaction{
	TopLevel: topLevelV1,
	Content: map[string]Keep{
		"m.room.member":             {Keys: []string{"join_authorised_via_users_server", "membership"}},
		"m.room.create":             {Keys: []string{"creator"}},
		"m.room.join_rules":         {Keys: []string{"allow", "join_rule"}},
		"m.room.power_levels":       powerLevelsV1,
		"m.room.history_visibility": historyVisibility,
	},
}

// Spec: rooms/v11 Redactions
var redactionV11 = &Redaction{
	TopLevel: topLevelV11,
	Content: map[string]Keep{
		"m.room.member": {
			Keys:   []string{"join_authorised_via_users_server", "membership"},
			Nested: map[string][]string{"third_party_invite": {"signed"}},
		},
		"m.room.create":             {All: true},
		"m.room.join_rules":         {Keys: []string{"allow", "join_rule"}},
		"m.room.power_levels":       powerLevelsV11,
		"m.room.history_visibility": historyVisibility,
		"m.room.redaction":          {Keys: []string{"redacts"}},
	},
}
