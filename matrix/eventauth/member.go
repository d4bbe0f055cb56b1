package eventauth

import (
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/sign"
)

// checkMember applies the rules for m.room.member.
func (t *trial) checkMember() verdict {
	target, isState := t.p.StateKey()
	if _, ok := get(t.p.Content(), "membership"); !ok || !isState {
		return reject(memberMalformed)
	}
	if t.has(memberAuthoriser) && !t.signedByAuthoriser() {
		return reject(memberAuthoriserSignature)
	}
	switch user := id.UserID(target); t.p.Membership() {
	case "join":
		return t.checkJoin(user)
	case "invite":
		return t.checkInvite(user)
	case "leave":
		return t.checkLeave(user)
	case "ban":
		return t.checkBan(user)
	case "knock":
		if t.has(knock) {
			return t.checkKnock(user)
		}
	}
	return reject(memberUnknown)
}

// signedByAuthoriser reports whether the event bears a signature of the server that authorised a
// restricted join, where it names one. Whether the signature is right was checked on receipt.
func (t *trial) signedByAuthoriser() bool {
	raw, ok := get(t.p.Content(), "join_authorised_via_users_server")
	if !ok {
		return true
	}
	name, _ := canon.Text(raw)
	user, err := id.ParseUserID(name)
	return err == nil && len(sign.KeyIDs(t.p.Raw(), string(user.Domain()))) > 0
}

func (t *trial) checkJoin(target id.UserID) verdict {
	sender := t.p.Sender()
	if prev := t.p.PrevEvents(); len(prev) == 1 && prev[0] == t.create.ID() && t.isFirstCreator(target) {
		return allow(joinFirst)
	}
	if sender != target {
		return reject(joinOtherSender)
	}
	current := t.membership(target)
	if current == "ban" {
		return reject(joinBanned)
	}
	there := current == "join" || current == "invite"
	switch name := JoinRule(t.state(typeJoinRules, "")); {
	case name == "invite", name == "knock" && t.version.Knock:
		if there {
			return allow(joinInvited)
		}
	case name == "restricted" && t.version.Restricted, name == "knock_restricted" && t.version.KnockRestricted:
		switch {
		case there:
			return allow(joinRestrictedMember)
		case !t.authorised():
			return reject(joinRestrictedAuthoriser)
		}
		return allow(joinRestrictedOtherwise)
	case name == "public":
		return allow(joinPublic)
	}
	return reject(joinOtherwise)
}

// isFirstCreator reports whether a user may join right after the create event. Additional creators may not:
// they are invited like anybody else.
func (t *trial) isFirstCreator(user id.UserID) bool {
	if t.version.ImplicitCreator {
		return t.create.Sender() == user
	}
	return t.levels.IsCreator(user)
}

// authorised reports whether a restricted join names a member of the room who may invite.
func (t *trial) authorised() bool {
	name, ok := getText(t.p.Content(), "join_authorised_via_users_server")
	user := id.UserID(name)
	return ok && t.membership(user) == "join" && t.levels.User(user) >= t.levels.Invite()
}

func (t *trial) checkInvite(target id.UserID) verdict {
	if thirdParty, ok := get(t.p.Content(), "third_party_invite"); ok {
		return t.checkThirdParty(target, thirdParty)
	}
	if t.membership(t.p.Sender()) != "join" {
		return reject(inviteSenderNotJoined)
	}
	switch t.membership(target) {
	case "join", "ban":
		return reject(inviteTargetThere)
	}
	if t.levels.User(t.p.Sender()) >= t.levels.Invite() {
		return allow(inviteLevel)
	}
	return reject(inviteOtherwise)
}

func (t *trial) checkLeave(target id.UserID) verdict {
	sender := t.p.Sender()
	current := t.membership(target)
	if sender == target {
		return allowIf(leaveSelf, current == "join" || current == "invite" || current == "knock" && t.version.Knock)
	}
	if t.membership(sender) != "join" {
		return reject(leaveSenderNotJoined)
	}
	own := t.levels.User(sender)
	if current == "ban" && own < t.levels.Ban() {
		return reject(leaveUnban)
	}
	if own >= t.levels.Kick() && t.levels.User(target) < own {
		return allow(leaveKick)
	}
	return reject(leaveOtherwise)
}

func (t *trial) checkBan(target id.UserID) verdict {
	sender := t.p.Sender()
	if t.membership(sender) != "join" {
		return reject(banSenderNotJoined)
	}
	if own := t.levels.User(sender); own >= t.levels.Ban() && t.levels.User(target) < own {
		return allow(banLevel)
	}
	return reject(banOtherwise)
}

func (t *trial) checkKnock(target id.UserID) verdict {
	switch name := JoinRule(t.state(typeJoinRules, "")); {
	case name == "knock", name == "knock_restricted" && t.version.KnockRestricted:
	default:
		return reject(knockJoinRule)
	}
	if t.p.Sender() != target {
		return reject(knockOtherSender)
	}
	switch t.membership(target) {
	case "ban", "invite", "join":
		return reject(knockOtherwise)
	}
	return allow(knockMembership)
}

// checkThirdParty applies the rules for an invite that redeems an m.room.third_party_invite.
func (t *trial) checkThirdParty(target id.UserID, thirdParty []byte) verdict {
	if t.membership(target) == "ban" {
		return reject(thirdPartyBanned)
	}
	signed, ok := get(thirdParty, "signed")
	if !ok {
		return reject(thirdPartyNoSigned)
	}
	mxid, hasUser := get(signed, "mxid")
	token, hasToken := get(signed, "token")
	if !hasUser || !hasToken {
		return reject(thirdPartyIncomplete)
	}
	if user, ok := canon.Text(mxid); !ok || user != string(target) {
		return reject(thirdPartyOtherUser)
	}
	var made *event.PDU
	if key, ok := canon.Text(token); ok {
		made = t.state(typeThirdPartyInvite, key)
	}
	switch {
	case made == nil:
		return reject(thirdPartyNoInvite)
	case made.Sender() != t.p.Sender():
		return reject(thirdPartyOtherSender)
	}
	return checkSignatures(signed, inviteKeys(made))
}
