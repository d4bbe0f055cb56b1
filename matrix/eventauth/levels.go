package eventauth

import (
	"iter"
	"math"

	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// Power is a power level.
type Power int64

const (
	// Infinite is the level of the creators of a room of version 12. No level that an event states
	// reaches it.
	Infinite Power = math.MaxInt64

	greatest = Infinite - 1
	least    = -greatest
)

// Levels reads the power levels of a room. It is a view of the events it was made from: cheap to
// make, and safe to share.
//
// Spec: cs m.room.power_levels
type Levels struct {
	version *roomver.Version
	create  *event.PDU

	present bool // whether the room has an m.room.power_levels event

	usersDefault, eventsDefault, stateDefault Power
	ban, invite, kick, redact                 Power

	users, events, notifications []byte // objects, or nil
}

// PowerLevels reads the levels of a room of this version from its create event and its
// m.room.power_levels event, either of which may be nil. What the event doesn't say, or says in a form that
// the room version doesn't know, has its default.
func PowerLevels(v *roomver.Version, create, powerLevels *event.PDU) Levels {
	l := Levels{version: v, create: create, stateDefault: 50, ban: 50, kick: 50, redact: 50}
	if powerLevels == nil {
		return l
	}
	l.present = true
	for key, raw := range canon.Fields(powerLevels.Content()) {
		switch key {
		case "users":
			l.users = object(raw)
		case "events":
			l.events = object(raw)
		case "notifications":
			l.notifications = object(raw)
		default:
			if level := l.property(key); level != nil {
				if n, ok := parseLevel(v, raw); ok {
					*level = n
				}
			}
		}
	}
	return l
}

// properties are the levels at the top of m.room.power_levels, in canonical order.
var properties = [...]string{"ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"}

func (l *Levels) property(key string) *Power {
	switch key {
	case "ban":
		return &l.ban
	case "events_default":
		return &l.eventsDefault
	case "invite":
		return &l.invite
	case "kick":
		return &l.kick
	case "redact":
		return &l.redact
	case "state_default":
		return &l.stateDefault
	case "users_default":
		return &l.usersDefault
	}
	return nil
}

func object(raw []byte) []byte {
	if isObject(raw) {
		return raw
	}
	return nil
}

// User returns a user's level: Infinite for the creators of a room of version 12, 100 for the creator
// of an older room without power levels.
func (l Levels) User(u id.UserID) Power {
	if l.version.PrivilegedCreators && l.IsCreator(u) {
		return Infinite
	}
	if !l.present {
		if !l.version.PrivilegedCreators && l.IsCreator(u) {
			return 100
		}
		return 0
	}
	return l.entry(l.users, string(u), l.usersDefault)
}

// Event returns the level that it takes to send an event of this type. Membership events have
// rules of their own.
func (l Levels) Event(typ string, isState bool) Power {
	if isState {
		return l.entry(l.events, typ, l.stateDefault)
	}
	return l.entry(l.events, typ, l.eventsDefault)
}

// Notification returns the level that it takes to trigger notifications of this kind, such as "room".
func (l Levels) Notification(key string) Power { return l.entry(l.notifications, key, 50) }

// Invite returns the level that it takes to invite.
func (l Levels) Invite() Power { return l.invite }

// Kick returns the level that it takes to remove somebody from the room.
func (l Levels) Kick() Power { return l.kick }

// Ban returns the level that it takes to ban.
func (l Levels) Ban() Power { return l.ban }

// Redact returns the level that it takes to redact the events of others.
func (l Levels) Redact() Power { return l.redact }

// UsersDefault returns the level of users that are not listed.
func (l Levels) UsersDefault() Power { return l.usersDefault }

// EventsDefault returns the level for message events of types that are not listed.
func (l Levels) EventsDefault() Power { return l.eventsDefault }

// StateDefault returns the level for state events of types that are not listed.
func (l Levels) StateDefault() Power { return l.stateDefault }

func (l Levels) entry(object []byte, key string, otherwise Power) Power {
	raw, ok := find(object, key)
	if !ok {
		return otherwise
	}
	n, ok := parseLevel(l.version, raw)
	if !ok {
		return otherwise
	}
	return n
}

// IsCreator reports whether a user created the room: the user that content.creator names up to version 10,
// the create event's sender from version 11 on, and from version 12 on also the additional_creators.
func (l Levels) IsCreator(u id.UserID) bool {
	switch {
	case l.create == nil:
		return false
	case !l.version.ImplicitCreator:
		creator, ok := getText(l.create.Content(), "creator")
		return ok && creator == string(u)
	case l.create.Sender() == u:
		return true
	}
	return l.version.PrivilegedCreators && isAdditionalCreator(l.create, string(u))
}

func isAdditionalCreator(create *event.PDU, user string) bool {
	for raw := range additionalCreators(create) {
		if s, ok := canon.Text(raw); ok && s == user {
			return true
		}
	}
	return false
}

func additionalCreators(create *event.PDU) iter.Seq[[]byte] {
	raw, _ := get(create.Content(), "additional_creators")
	return canon.Elements(raw)
}

// Creators lists the users for whom IsCreator holds, the sender of the create event first.
//
// Spec: rooms/v12 Authorisation rules
func Creators(create *event.PDU) []id.UserID {
	if create == nil {
		return nil
	}
	v := create.Version()
	if !v.ImplicitCreator {
		creator, ok := getText(create.Content(), "creator")
		if !ok {
			return nil
		}
		return []id.UserID{id.UserID(creator)}
	}
	creators := []id.UserID{create.Sender()}
	if v.PrivilegedCreators {
		for raw := range additionalCreators(create) {
			if s, ok := canon.Text(raw); ok && id.UserID(s) != creators[0] {
				creators = append(creators, id.UserID(s))
			}
		}
	}
	return creators
}
