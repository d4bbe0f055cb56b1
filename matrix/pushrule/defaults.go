package pushrule

import (
	"encoding/json"

	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// MasterRule is the one predefined rule that is checked before a user's own rules. It is off by default;
// on, it silences everything.
const MasterRule = ".m.rule.master"

// Actions of the predefined rules.
const (
	silent          = ``
	notify          = `"notify"`
	notifySound     = `"notify",{"set_tweak":"sound","value":"default"}`
	notifyRing      = `"notify",{"set_tweak":"sound","value":"ring"}`
	notifyHighlight = `"notify",{"set_tweak":"highlight"}`
	notifyMention   = `"notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}`
)

// self stands for the user's ID in the table below.
const self = `"\u0000"`

// predefined is the table of predefined rules in the order they are checked. Conditions and actions
// are the elements of JSON arrays, in canonical form.
//
// Spec: cs Default Override Rules
// Spec: cs Default Underride Rules
var predefined = []struct {
	kind       Kind
	id         string
	conditions string
	actions    string
}{
	{Override, MasterRule, ``, silent},
	{Override, ".m.rule.suppress_notices", matches("content.msgtype", "m.notice"), silent},
	{Override, ".m.rule.invite_for_me", matches("type", "m.room.member") + "," + matches("content.membership", "invite") + "," +
		`{"key":"state_key","kind":"event_match","pattern":` + self + `}`, notifySound},
	{Override, ".m.rule.member_event", matches("type", "m.room.member"), silent},
	{Override, ".m.rule.is_user_mention", `{"key":"content.m\\.mentions.user_ids","kind":"event_property_contains","value":` + self + `}`, notifyMention},
	{Override, ".m.rule.is_room_mention", `{"key":"content.m\\.mentions.room","kind":"event_property_is","value":true},` +
		`{"key":"room","kind":"sender_notification_permission"}`, notifyHighlight},
	{Override, ".m.rule.tombstone", matches("type", "m.room.tombstone") + "," + matches("state_key", ""), notifyHighlight},
	{Override, ".m.rule.reaction", matches("type", "m.reaction"), silent},
	{Override, ".m.rule.room.server_acl", matches("type", "m.room.server_acl") + "," + matches("state_key", ""), silent},
	{Override, ".m.rule.suppress_edits", `{"key":"content.m\\.relates_to.rel_type","kind":"event_property_is","value":"m.replace"}`, silent},

	{Underride, ".m.rule.call", matches("type", "m.call.invite"), notifyRing},
	{Underride, ".m.rule.encrypted_room_one_to_one", twoMembers + "," + matches("type", "m.room.encrypted"), notifySound},
	{Underride, ".m.rule.room_one_to_one", twoMembers + "," + matches("type", "m.room.message"), notifySound},
	{Underride, ".m.rule.message", matches("type", "m.room.message"), notify},
	{Underride, ".m.rule.encrypted", matches("type", "m.room.encrypted"), notify},
}

const twoMembers = `{"is":"2","kind":"room_member_count"}`

func matches(key, pattern string) string {
	return `{"key":"` + key + `","kind":"event_match","pattern":"` + pattern + `"}`
}

// Default returns the predefined rules of a user.
func Default(user id.UserID) Ruleset {
	var s Ruleset
	me := canon.AppendString(nil, string(user))
	for _, p := range predefined {
		r := Rule{
			ID: p.id, Default: true, Enabled: p.id != MasterRule,
			Conditions: elements(p.conditions, me), Actions: elements(p.actions, me),
		}
		*s.list(p.kind) = append(*s.list(p.kind), r)
	}
	return s
}

// elements splits the elements of an array of the table and puts the user in the place of self.
func elements(list string, me []byte) []json.RawMessage {
	out := []json.RawMessage{}
	for e := range canon.Elements([]byte("[" + list + "]")) {
		if _, ok := canon.Get(e, "key"); ok {
			for _, field := range []string{"pattern", "value"} {
				if v, ok := canon.Get(e, field); ok && string(v) == self {
					e = canon.With(nil, e, field, me)
				}
			}
		}
		out = append(out, e)
	}
	return out
}
