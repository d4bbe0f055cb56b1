package eventauth

import (
	"slices"
	"strings"

	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// The event types that the rules know.
const (
	typeCreate           = "m.room.create"
	typeMember           = "m.room.member"
	typeJoinRules        = "m.room.join_rules"
	typePowerLevels      = "m.room.power_levels"
	typeThirdPartyInvite = "m.room.third_party_invite"
	typeAliases          = "m.room.aliases"
	typeRedaction        = "m.room.redaction"
)

// Needed lists the state keys that an event's auth_events must be chosen from; each key once. The event
// at each key, where the state has one, authorises p.
//
// Spec: ss Auth events selection
func Needed(v *roomver.Version, p *event.PDU) []event.Key {
	var stateKey *string
	if key, ok := p.StateKey(); ok {
		stateKey = &key
	}
	return NeededFor(v, p.Type(), stateKey, p.Sender(), p.Content())
}

// NeededFor does the same for an event that is yet to be made. A nil stateKey means that it is not
// a state event. Content is an object, or empty.
//
// Spec: ss Auth events selection
func NeededFor(v *roomver.Version, typ string, stateKey *string, sender id.UserID, content []byte) []event.Key {
	if typ == typeCreate {
		return nil
	}
	keys := make([]event.Key, 0, 6)
	if rs := rulesOf(v); rs != nil && rs.has(authNoCreate) {
		keys = append(keys, event.Key{Type: typeCreate})
	}
	keys = append(keys,
		event.Key{Type: typePowerLevels},
		event.Key{Type: typeMember, StateKey: string(sender)})
	if typ != typeMember || stateKey == nil {
		return keys
	}

	keys = appendNew(keys, event.Key{Type: typeMember, StateKey: *stateKey})
	membership, _ := getText(content, "membership")
	switch membership {
	case "join", "invite", "knock":
		keys = append(keys, event.Key{Type: typeJoinRules})
	}
	switch membership {
	case "invite":
		if token, ok := thirdPartyToken(content); ok {
			keys = append(keys, event.Key{Type: typeThirdPartyInvite, StateKey: strings.Clone(token)})
		}
	case "join":
		if !v.Restricted {
			break
		}
		if authoriser, ok := getText(content, "join_authorised_via_users_server"); ok {
			keys = appendNew(keys, event.Key{Type: typeMember, StateKey: strings.Clone(authoriser)})
		}
	}
	return keys
}

func appendNew(keys []event.Key, key event.Key) []event.Key {
	if slices.Contains(keys, key) {
		return keys
	}
	return append(keys, key)
}

func thirdPartyToken(content []byte) (string, bool) {
	thirdParty, _ := get(content, "third_party_invite")
	signed, _ := get(thirdParty, "signed")
	return getText(signed, "token")
}

// CheckAuthEvents judges an event's auth_events as such: that none is there twice, that the event needs each of
// them, that the create event is among them where the room version wants it, and that they are of the same
// room. That none of them was rejected is for the caller to see, who then says RejectedAuthEvent.
// It returns nil or a *Rejection.
//
// Next the caller runs Check over the state that these events make.
//
// Spec: ss Checks performed on receipt of a PDU
func CheckAuthEvents(p *event.PDU, cited []*event.PDU) error {
	rs := rulesOf(p.Version())
	if rs == nil {
		return unknownVersion(p.Version())
	}
	return checkAuthEvents(rs, p, cited).err(rs)
}

func checkAuthEvents(rs *ruleset, p *event.PDU, cited []*event.PDU) verdict {
	if p.Type() == typeCreate {
		return allow(createOtherwise) // the rules for create events come first and leave auth_events out
	}
	seen := make(map[event.Key]bool, len(cited))
	for _, a := range cited {
		if !a.IsState() {
			continue
		}
		if seen[a.Key()] {
			return reject(authDuplicate).about(a.Type())
		}
		seen[a.Key()] = true
	}
	needed := Needed(p.Version(), p)
	for _, a := range cited {
		if !a.IsState() || !slices.Contains(needed, a.Key()) {
			return reject(authNotSelected).about(a.Type())
		}
	}
	if rs.has(authNoCreate) && !seen[event.Key{Type: typeCreate}] {
		return reject(authNoCreate)
	}
	for _, a := range cited {
		if a.RoomID() != p.RoomID() {
			return reject(authOtherRoom).about(a.Type())
		}
	}
	return allow(authEvents)
}

// RejectedAuthEvent is the rejection of an event that cites an auth event which was itself rejected.
//
// Spec: ss Checks performed on receipt of a PDU
func RejectedAuthEvent(p *event.PDU, authEvent id.EventID) *Rejection {
	rs := rulesOf(p.Version())
	if rs == nil {
		return unknownVersion(p.Version())
	}
	return reject(authRejected).about(string(authEvent)).rejection(rs)
}
