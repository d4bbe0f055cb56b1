package eventauth

import (
	"fmt"
	"strings"

	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// State gives the event at a place in the state that an event is judged by; nil when there is none. Check
// asks it for Needed keys and for the create event, which it must give in every room version.
type State func(typ, stateKey string) *event.PDU

// Check applies the authorisation rules of p's room version, by this state. It returns nil or a *Rejection.
//
// p's signatures and hashes are right and CheckAuthEvents has passed it, where that applies.
//
// Spec: ss Authorization rules
func Check(p *event.PDU, state State) error {
	rs := rulesOf(p.Version())
	if rs == nil {
		return unknownVersion(p.Version())
	}
	return decide(rs, p, state).err(rs)
}

// trial is the judging of one event.
type trial struct {
	*ruleset
	p       *event.PDU
	version *roomver.Version
	state   State
	create  *event.PDU
	levels  Levels
}

func decide(rs *ruleset, p *event.PDU, state State) verdict {
	t := trial{ruleset: rs, p: p, version: p.Version(), state: state}
	if p.Type() == typeCreate {
		return t.checkCreate()
	}
	t.create = state(typeCreate, "")
	if v := t.checkRoom(); !v.ok {
		return v
	}
	t.levels = PowerLevels(t.version, t.create, state(typePowerLevels, ""))

	switch {
	case p.Type() == typeAliases && t.has(aliases):
		return t.checkAliases()
	case p.Type() == typeMember:
		return t.checkMember()
	}
	if t.membership(p.Sender()) != "join" {
		return reject(senderNotJoined)
	}
	if p.Type() == typeThirdPartyInvite {
		return t.atLeast(thirdPartyInviteLevel, t.levels.Invite())
	}
	if v := t.atLeast(eventLevel, t.levels.Event(p.Type(), p.IsState())); !v.ok {
		return v
	}
	if key, _ := p.StateKey(); strings.HasPrefix(key, "@") && key != string(p.Sender()) {
		return reject(otherUsersKey)
	}
	switch {
	case p.Type() == typePowerLevels:
		return t.checkPowerLevels()
	case p.Type() == typeRedaction && t.has(redaction):
		return t.checkRedaction()
	}
	return allow(otherwise)
}

// checkCreate applies the rules for m.room.create.
func (t *trial) checkCreate() verdict {
	content := t.p.Content()
	if len(t.p.PrevEvents()) > 0 {
		return reject(createPrevEvents)
	}
	if t.has(createRoomDomain) {
		if domain, ok := t.p.RoomID().Domain(); !ok || domain != t.p.Sender().Domain() {
			return reject(createRoomDomain)
		}
	}
	if t.has(createHasRoomID) {
		if _, ok := get(t.p.Raw(), "room_id"); ok {
			return reject(createHasRoomID)
		}
	}
	if raw, ok := get(content, "room_version"); ok {
		name, _ := canon.Text(raw)
		if _, known := roomver.Get(name); !known {
			return reject(createRoomVersion)
		}
	}
	if t.has(createNoCreator) {
		if _, ok := get(content, "creator"); !ok {
			return reject(createNoCreator)
		}
	}
	if t.has(createAdditionalCreators) {
		if raw, ok := get(content, "additional_creators"); ok && !areUserIDs(raw) {
			return reject(createAdditionalCreators)
		}
	}
	return allow(createOtherwise)
}

func areUserIDs(raw []byte) bool {
	if !isArray(raw) {
		return false
	}
	for e := range canon.Elements(raw) {
		user, ok := canon.Text(e)
		if !ok {
			return false
		}
		if _, err := id.ParseUserID(user); err != nil {
			return false
		}
	}
	return true
}

// checkRoom applies the rules that bind the event to the room's create event.
func (t *trial) checkRoom() verdict {
	if t.has(roomIsCreate) {
		if t.create == nil || t.create.RoomID() != t.p.RoomID() {
			return reject(roomIsCreate)
		}
	} else if t.create == nil {
		return reject(authNoCreate)
	}
	sender, creator := t.p.Sender().Domain(), t.create.Sender().Domain()
	if raw, ok := get(t.create.Content(), "m.federate"); ok && string(raw) == "false" && sender != creator {
		return reject(federate)
	}
	return verdict{ok: true}
}

func (t *trial) checkAliases() verdict {
	key, ok := t.p.StateKey()
	switch {
	case !ok:
		return reject(aliasesNoStateKey)
	case key != string(t.p.Sender().Domain()):
		return reject(aliasesOtherDomain)
	}
	return allow(aliasesOtherwise)
}

// checkRedaction applies the rules for m.room.redaction of versions 1 and 2. Later versions let the redaction
// in and ask Redacts.
func (t *trial) checkRedaction() verdict {
	if t.levels.User(t.p.Sender()) >= t.levels.Redact() {
		return allow(redactionLevel)
	}
	target, _ := t.p.Redacts()
	theirs, ok := target.Domain()
	ours, ok2 := t.p.ID().Domain()
	if ok && ok2 && theirs == ours {
		return allow(redactionDomain)
	}
	return reject(redactionOtherwise)
}

// Redacts reports whether a redaction that the rules let in takes effect on its target, by the levels
// of the room at the redaction.
//
// Spec: rooms/v3 Handling redactions
func Redacts(redaction, target *event.PDU, levels Levels) bool {
	named, ok := redaction.Redacts()
	switch {
	case !ok || named != target.ID() || redaction.RoomID() != target.RoomID():
		return false
	case redaction.Version().RedactionAuth:
		return true // the authorisation rules have decided
	}
	return levels.User(redaction.Sender()) >= levels.Redact() ||
		redaction.Sender().Domain() == target.Sender().Domain()
}

// atLeast allows the event if and only if its sender has this level.
func (t *trial) atLeast(r rule, level Power) verdict {
	own := t.levels.User(t.p.Sender())
	if own < level {
		return reject(r).about(fmt.Sprintf("it takes %d, the sender has %d", level, own))
	}
	return allow(r)
}

// membership returns a user's membership in the state, "" when there is none.
func (t *trial) membership(u id.UserID) string {
	if m := t.state(typeMember, string(u)); m != nil {
		return m.Membership()
	}
	return ""
}

// JoinRule returns what an m.room.join_rules event says; nil, and one that says nothing, mean "invite".
//
// Spec: cs m.room.join_rules
func JoinRule(joinRules *event.PDU) string {
	if joinRules == nil {
		return "invite"
	}
	raw, ok := get(joinRules.Content(), "join_rule")
	if !ok {
		return "invite"
	}
	name, _ := canon.Text(raw)
	return name
}
