package eventauth

import (
	"strconv"
	"strings"

	"myelin/matrix/roomver"
)

// rule names one point of the authorisation rules, in whatever version it is written.
type rule uint8

// The points of the rules. A name stays the same where its number moves.
const (
	noRule rule = iota

	create
	createPrevEvents
	createRoomDomain
	createHasRoomID
	createRoomVersion
	createNoCreator
	createAdditionalCreators
	createOtherwise

	roomIsCreate

	authEvents
	authDuplicate
	authNotSelected
	authRejected
	authNoCreate
	authOtherRoom

	federate

	aliases
	aliasesNoStateKey
	aliasesOtherDomain
	aliasesOtherwise

	member
	memberMalformed
	memberAuthoriser
	memberAuthoriserSignature
	join
	joinFirst
	joinOtherSender
	joinBanned
	joinInvited
	joinRestricted
	joinRestrictedMember
	joinRestrictedAuthoriser
	joinRestrictedOtherwise
	joinPublic
	joinOtherwise
	invite
	inviteThirdParty
	thirdPartyBanned
	thirdPartyNoSigned
	thirdPartyIncomplete
	thirdPartyOtherUser
	thirdPartyNoInvite
	thirdPartyOtherSender
	thirdPartySignature
	thirdPartyKey
	thirdPartyKeys
	thirdPartyOtherwise
	inviteSenderNotJoined
	inviteTargetThere
	inviteLevel
	inviteOtherwise
	leave
	leaveSelf
	leaveSenderNotJoined
	leaveUnban
	leaveKick
	leaveOtherwise
	ban
	banSenderNotJoined
	banLevel
	banOtherwise
	knock
	knockJoinRule
	knockOtherSender
	knockMembership
	knockOtherwise
	memberUnknown

	senderNotJoined

	thirdPartyInvite
	thirdPartyInviteLevel

	eventLevel

	otherUsersKey

	powerLevels
	levelsProperties
	levelsMaps
	levelsUsers
	levelsCreators
	levelsFirst
	levelsChange
	levelsChangeCurrent
	levelsChangeNew
	levelsEntryOld
	levelsEntryCurrent
	levelsEntryNew
	levelsEntryAdded
	levelsUserOld
	levelsUserCurrent
	levelsUserNew
	levelsUserAdded
	levelsOtherwise

	redaction
	redactionLevel
	redactionDomain
	redactionOtherwise

	otherwise

	levelsFormat // outside the numbered rules

	ruleCount
)

// point is one row of the outline.
type point struct {
	depth    int8 // 1 for "4.", 2 for "4.1.", ...
	rule     rule
	from, to int8 // the room versions that have it, both included
	text     string
}

const (
	first = 1
	last  = 12
)

// outline holds the rules of all versions, in the order of the text. The text column is what a
// rejection says; points that only head others, or only allow, have none.
var outline = []point{
	{1, create, 1, last, ""},
	{2, createPrevEvents, 1, last, "a create event must have no previous events"},
	{2, createRoomDomain, 1, 11, "the room ID and the creator are of different servers"},
	{2, createHasRoomID, 12, last, "a create event of this room version must have no room_id"},
	{2, createRoomVersion, 1, last, "the room version is not known"},
	{2, createNoCreator, 1, 10, "the create event names no creator"},
	{2, createAdditionalCreators, 12, last, "additional_creators is not a list of user IDs"},
	{2, createOtherwise, 1, last, ""},

	{1, roomIsCreate, 12, last, "the room ID is not that of the create event"},

	{1, authEvents, 1, last, ""},
	{2, authDuplicate, 1, last, "two auth events have the same type and state key"},
	{2, authNotSelected, 1, last, "an auth event is not one that this event needs"},
	{2, authRejected, 1, last, "an auth event was itself rejected"},
	{2, authNoCreate, 1, 11, "the room's create event is not among the auth events"},
	{2, authOtherRoom, 1, last, "an auth event is of another room"},

	{1, federate, 1, last, "the room is closed to users of other servers"},

	{1, aliases, 1, 5, ""},
	{2, aliasesNoStateKey, 1, 5, "an m.room.aliases event must have a state key"},
	{2, aliasesOtherDomain, 1, 5, "a server's aliases may be set by its own users only"},
	{2, aliasesOtherwise, 1, 5, ""},

	{1, member, 1, last, ""},
	{2, memberMalformed, 1, last, "a membership event needs a state key and a membership"},
	{2, memberAuthoriser, 8, last, ""},
	{3, memberAuthoriserSignature, 8, last, "the server of join_authorised_via_users_server did not sign"},
	{2, join, 1, last, ""},
	{3, joinFirst, 1, last, ""},
	{3, joinOtherSender, 1, last, "nobody can make another user join"},
	{3, joinBanned, 1, last, "the user is banned from the room"},
	{3, joinInvited, 1, last, ""},
	{3, joinRestricted, 8, last, ""},
	{4, joinRestrictedMember, 8, last, ""},
	{4, joinRestrictedAuthoriser, 8, last, "the join was not authorised by a member who may invite"},
	{4, joinRestrictedOtherwise, 8, last, ""},
	{3, joinPublic, 1, last, ""},
	{3, joinOtherwise, 1, last, "the room's join rule does not let this user in"},
	{2, invite, 1, last, ""},
	{3, inviteThirdParty, 1, last, ""},
	{4, thirdPartyBanned, 1, last, "the invited user is banned from the room"},
	{4, thirdPartyNoSigned, 1, last, "the third-party invite holds nothing signed"},
	{4, thirdPartyIncomplete, 1, last, "the third-party invite lacks the user or the token"},
	{4, thirdPartyOtherUser, 1, last, "the third-party invite is for another user"},
	{4, thirdPartyNoInvite, 1, last, "the room has no third-party invite with this token"},
	{4, thirdPartyOtherSender, 1, last, "the third-party invite was made by another user"},
	{4, thirdPartySignature, 1, last, ""},
	{5, thirdPartyKey, 1, last, ""},
	{5, thirdPartyKeys, 1, last, ""},
	{4, thirdPartyOtherwise, 1, last, "the third-party invite has no valid signature"},
	{3, inviteSenderNotJoined, 1, last, "only a member of the room can invite"},
	{3, inviteTargetThere, 1, last, "the invited user is already a member, or is banned"},
	{3, inviteLevel, 1, last, ""},
	{3, inviteOtherwise, 1, last, "the sender's power level does not suffice to invite"},
	{2, leave, 1, last, ""},
	{3, leaveSelf, 1, last, "the user is not in the room, nor invited to it"},
	{3, leaveSenderNotJoined, 1, last, "only a member of the room can remove others"},
	{3, leaveUnban, 1, last, "the sender's power level does not suffice to unban"},
	{3, leaveKick, 1, last, ""},
	{3, leaveOtherwise, 1, last, "the sender's power level does not suffice to remove this user"},
	{2, ban, 1, last, ""},
	{3, banSenderNotJoined, 1, last, "only a member of the room can ban"},
	{3, banLevel, 1, last, ""},
	{3, banOtherwise, 1, last, "the sender's power level does not suffice to ban this user"},
	{2, knock, 7, last, ""},
	{3, knockJoinRule, 7, last, "the room's join rule does not let users knock"},
	{3, knockOtherSender, 7, last, "nobody can knock for another user"},
	{3, knockMembership, 7, last, ""},
	{3, knockOtherwise, 7, last, "the user is a member, invited or banned, so can't knock"},
	{2, memberUnknown, 1, last, "the membership is not known in this room version"},

	{1, senderNotJoined, 1, last, "the sender is not in the room"},

	{1, thirdPartyInvite, 1, last, ""},
	{2, thirdPartyInviteLevel, 1, last, "the sender's power level does not suffice to invite"},

	{1, eventLevel, 1, last, "the sender's power level does not suffice for this event type"},

	{1, otherUsersKey, 1, last, "the state key is another user's ID"},

	{1, powerLevels, 1, last, ""},
	{2, levelsProperties, 10, last, "a power level is not an integer"},
	{2, levelsMaps, 10, last, "events or notifications is not an object of integers"},
	{2, levelsUsers, 1, last, "users is not an object of user IDs and levels"},
	{2, levelsCreators, 12, last, "a creator of the room can't be given a power level"},
	{2, levelsFirst, 1, last, ""},
	{2, levelsChange, 1, last, ""},
	{3, levelsChangeCurrent, 1, last, "the level being changed is above the sender's own"},
	{3, levelsChangeNew, 1, last, "the new level is above the sender's own"},
	{2, levelsEntryOld, 1, last, ""},
	{3, levelsEntryCurrent, 1, last, "the level being changed is above the sender's own"},
	{2, levelsEntryNew, 1, last, ""},
	{3, levelsEntryAdded, 1, last, "the new level is above the sender's own"},
	{2, levelsUserOld, 1, last, ""},
	{3, levelsUserCurrent, 1, last, "the user's level is not below the sender's own"},
	{2, levelsUserNew, 1, last, ""},
	{3, levelsUserAdded, 1, last, "the user's new level is above the sender's own"},
	{2, levelsOtherwise, 1, last, ""},

	{1, redaction, 1, 2, ""},
	{2, redactionLevel, 1, 2, ""},
	{2, redactionDomain, 1, 2, ""},
	{2, redactionOtherwise, 1, 2, "the sender's power level does not suffice to redact this event"},

	{1, otherwise, 1, last, ""},
}

// formatText and formatChapter describe levelsFormat, which is text of versions 1 to 9 but not a numbered rule.
const (
	formatText    = "a power level is neither a number nor a string that holds one"
	formatChapter = "Deprecated event content schemas"
	formatLast    = 9
)

// ruleset is the rules of one room version: for each rule its number, "" where the version does not have it.
type ruleset struct {
	id     string
	number [ruleCount]string
}

func (s *ruleset) has(r rule) bool { return s.number[r] != "" }

// rulesets is indexed by the room version's number.
var rulesets, texts = count()

// count numbers the points of each version by their position among those that the version has.
func count() (*[last + 1]ruleset, *[ruleCount]string) {
	var sets [last + 1]ruleset
	var texts [ruleCount]string
	for v := int8(first); v <= last; v++ {
		set := &sets[v]
		set.id = "v" + strconv.Itoa(int(v))
		var counters [8]int
		for _, p := range outline {
			if v < p.from || v > p.to {
				continue
			}
			counters[p.depth]++
			clear(counters[p.depth+1:])
			set.number[p.rule] = dotted(counters[1 : p.depth+1])
		}
		if v <= formatLast {
			set.number[levelsFormat] = formatChapter
		}
	}
	for _, p := range outline {
		texts[p.rule] = p.text
	}
	texts[levelsFormat] = formatText
	return &sets, &texts
}

func dotted(counters []int) string {
	parts := make([]string, len(counters))
	for i, n := range counters {
		parts[i] = strconv.Itoa(n)
	}
	return strings.Join(parts, ".")
}

// rulesOf finds the rules of a version; nil for one that this package has no text of.
func rulesOf(v *roomver.Version) *ruleset {
	n, err := strconv.Atoi(v.ID)
	if err != nil || n < first || n > last {
		return nil
	}
	return &rulesets[n]
}
