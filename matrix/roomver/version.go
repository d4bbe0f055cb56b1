package roomver

import (
	"slices"

	"myelin/matrix/canon"
)

// StateRes names a state resolution algorithm.
type StateRes uint8

const (
	// StateResV1 is the first algorithm, which can reset state. Spec: rooms/v1 State resolution
	StateResV1 StateRes = iota + 1
	// StateResV2 orders power events first. Spec: rooms/v2 State resolution
	StateResV2
	// StateResV21 is V2 that starts from an empty state and adds the conflicted state
	// subgraph. Spec: rooms/v12 State resolution
	StateResV21
)

// EventIDs names where an event's ID comes from.
type EventIDs uint8

const (
	// EventIDDomain: the ID is a field of the event, "$opaque:domain", and edges are pairs of
	// an ID and a hash. Spec: rooms/v1 Event IDs
	EventIDDomain EventIDs = iota + 1
	// EventIDHashStd: "$" and the reference hash in unpadded base64. Spec: rooms/v3 Event IDs
	EventIDHashStd
	// EventIDHashURL: the same in the URL-safe alphabet. Spec: rooms/v4 Event IDs
	EventIDHashURL
)

// Version holds every difference between room versions. Auth rule numbers differ between
// versions; the fields name the matter instead.
type Version struct {
	// ID is what m.room.create carries in content.room_version.
	ID string
	// Stable is reported in the client capabilities. Spec: cs m.room_versions capability
	Stable bool

	// StateRes is the state resolution algorithm (V1 in 1, V2 in 2–11, V21 in 12).
	StateRes StateRes
	// EventIDs is the source of event IDs (1–2, 3, 4 and later). Where it is EventIDDomain, the
	// server in the event ID must sign too.
	// Spec: ss Validating hashes and signatures on received events
	EventIDs EventIDs
	// Canon is Strict from 6 on, Lax before. Spec: rooms/v6 Canonical JSON
	Canon canon.Mode
	// MaxDepth is the largest depth an event may have; a room that reaches it stays at it
	// (2^63-1, from 6 on 2^53-1). Spec: rooms/v6 Event format
	MaxDepth int64
	// FieldsInBytes: the bound of type and state_key is one of bytes also in events of others (11 and later). Before, deployed servers
	// counted code points, and rooms hold events that others would lack.
	FieldsInBytes bool
	// StrictKeyValidity: a signing key counts only while it is valid at the event's
	// origin_server_ts (5 and later). Spec: rooms/v5 Signing key validity period
	StrictKeyValidity bool

	// Redaction says what survives a redaction.
	Redaction *Redaction
	// RedactsInContent: m.room.redaction names its target in content.redacts instead of at the
	// top level (11 and later). Spec: rooms/v11 Event format
	RedactsInContent bool
	// RedactionAuth: the authorisation rules themselves decide on m.room.redaction, by the
	// redact level or the domain of the event's ID (1–2). Later versions let the event in and
	// apply it, or not. Spec: rooms/v3 Handling redactions
	RedactionAuth bool

	// SpecialCaseAliases: m.room.aliases has an authorisation rule of its own (1–5).
	// Spec: rooms/v6 Authorisation rules
	SpecialCaseAliases bool
	// NotificationsPowerLevel: the power_levels rules check changes of `notifications` as they
	// check `events` (6 and later). Spec: rooms/v6 Authorisation rules
	NotificationsPowerLevel bool
	// Knock: membership and join rule `knock` exist (7 and later). Spec: rooms/v7 Authorisation rules
	Knock bool
	// Restricted: join rule `restricted` exists (8 and later). Spec: rooms/v8 Authorisation rules
	Restricted bool
	// KnockRestricted: join rule `knock_restricted` exists (10 and later).
	// Spec: rooms/v10 Authorisation rules
	KnockRestricted bool
	// IntegerPowerLevels: levels must be integers; strings are refused (10 and later).
	// Spec: rooms/v10 Values in m.room.power_levels events must be integers
	IntegerPowerLevels bool
	// FloatPowerLevels: levels written as floats count, cut at the decimal point (1–5).
	// Spec: rooms/v1 m.room.power_levels events accept values as floats
	FloatPowerLevels bool

	// ImplicitCreator: the creator is the create event's sender; content.creator means nothing
	// and is not required (11 and later).
	// Spec: rooms/v11 Remove the creator property of m.room.create events
	ImplicitCreator bool
	// CreateAsRoomID: the room ID is the create event's ID with "!" for "$", without a domain; the
	// create event has no room_id and is never among auth_events (12).
	// Spec: rooms/v12 Event format
	CreateAsRoomID bool
	// PrivilegedCreators: the sender of the create event and its additional_creators have
	// infinite power and must not stand in power_levels (12). Spec: rooms/v12 Authorisation rules
	PrivilegedCreators bool
}

// Default is the version of new rooms. Spec: rooms Complete list of room versions
const Default = "12"

// Get finds a version, and false for one that is not supported.
func Get(id string) (*Version, bool) {
	for _, v := range table {
		if v.ID == id {
			return v, true
		}
	}
	return nil, false
}

// All lists the supported versions, oldest first. The slice is the caller's.
func All() []*Version { return slices.Clone(table) }

func (v *Version) String() string { return v.ID }
