package pushrule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Kind is a kind of rule. The kinds are checked in the order of Kinds.
type Kind string

// The kinds of rules.
const (
	Override  Kind = "override"
	Content   Kind = "content"
	Room      Kind = "room"
	Sender    Kind = "sender"
	Underride Kind = "underride"
)

// Kinds lists the kinds from the most to the least important.
var Kinds = [...]Kind{Override, Content, Room, Sender, Underride}

// ParseKind checks a kind that a client names in a path.
func ParseKind(s string) (Kind, error) {
	if slices.Contains(Kinds[:], Kind(s)) {
		return Kind(s), nil
	}
	return "", mxerr.InvalidParam("%q is no kind of push rule: it is override, content, room, sender or underride.", s)
}

// hasConditions reports whether rules of this kind carry a list of conditions.
func (k Kind) hasConditions() bool { return k == Override || k == Underride }

// Rule is one push rule, in the JSON form of the specification.
type Rule struct {
	ID      string `json:"rule_id"`
	Default bool   `json:"default"` // predefined by the server
	Enabled bool   `json:"enabled"`
	// Raw conditions, of override and underride rules only; never nil there. Unknown ones are kept.
	Conditions []json.RawMessage `json:"conditions,omitzero"`
	// Of content rules only.
	Pattern *string `json:"pattern,omitempty"`
	// Raw actions: strings, or objects with "set_tweak". Never nil.
	Actions []json.RawMessage `json:"actions"`
}

// Ruleset holds the rules of a user by kind. Treat it as immutable.
type Ruleset struct {
	Override  []Rule `json:"override"`
	Content   []Rule `json:"content"`
	Room      []Rule `json:"room"`
	Sender    []Rule `json:"sender"`
	Underride []Rule `json:"underride"`
}

// Rules returns the rules of a kind in the order they are checked.
func (s Ruleset) Rules(kind Kind) []Rule {
	if list := s.list(kind); list != nil {
		return *list
	}
	return nil
}

func (s *Ruleset) list(kind Kind) *[]Rule {
	switch kind {
	case Override:
		return &s.Override
	case Content:
		return &s.Content
	case Room:
		return &s.Room
	case Sender:
		return &s.Sender
	case Underride:
		return &s.Underride
	}
	return nil
}

// MarshalJSON writes all kinds, empty ones as empty arrays.
//
// Spec: cs getPushRulesGlobal
func (s Ruleset) MarshalJSON() ([]byte, error) {
	for _, k := range Kinds {
		if list := s.list(k); *list == nil {
			*list = []Rule{}
		}
	}
	type plain Ruleset
	return json.Marshal(plain(s))
}

type content struct {
	Global Ruleset `json:"global"`
}

// AccountData returns the content of the m.push_rules event, which is also the answer to GET /pushrules/.
//
// Spec: cs m.push_rules
func (s Ruleset) AccountData() []byte {
	raw, err := json.Marshal(content{s})
	if err != nil {
		// Every raw message in a ruleset was parsed before.
		panic(fmt.Sprintf("marshal push rules: %v", err))
	}
	canonical, err := canon.Canonicalize(nil, raw, canon.Lax)
	if err != nil {
		panic(fmt.Sprintf("canonicalise push rules: %v", err))
	}
	return canonical
}

// Stored returns what needs to be kept of a user's ruleset: the user's own rules, and the predefined ones
// that differ from Default(user). A later version's new or changed predefined rules then reach users who
// did not touch them. The result is empty if nothing was changed.
func (s Ruleset) Stored(user id.UserID) []byte {
	var kept Ruleset
	base := Default(user)
	n := 0
	for _, k := range Kinds {
		for _, r := range s.Rules(k) {
			if r.Default {
				if at := find(base.Rules(k), r.ID); at >= 0 && sameState(base.Rules(k)[at], r) {
					continue
				}
			}
			*kept.list(k) = append(*kept.list(k), r)
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return kept.AccountData()
}

// sameState compares what a user may change of a predefined rule.
func sameState(a, b Rule) bool {
	return a.Enabled == b.Enabled && slices.EqualFunc(a.Actions, b.Actions, func(x, y json.RawMessage) bool { return bytes.Equal(x, y) })
}

// Parse reads what Stored or AccountData wrote; nothing is the default ruleset. Of predefined rules it takes
// whether they are enabled and their actions, the rest from Default(user).
func Parse(user id.UserID, stored []byte) (Ruleset, error) {
	s := Default(user)
	if len(stored) == 0 {
		return s, nil
	}
	canonical, err := canon.Canonicalize(nil, stored, canon.Lax)
	if err != nil {
		return Ruleset{}, fmt.Errorf("read push rules of %s: %w", user, err)
	}
	var saved content
	if err := json.Unmarshal(canonical, &saved); err != nil {
		return Ruleset{}, fmt.Errorf("read push rules of %s: %w", user, err)
	}
	for _, k := range Kinds {
		list := s.list(k)
		var own []Rule
		for _, r := range saved.Global.Rules(k) {
			if !r.Default {
				own = append(own, r.shaped(k))
			} else if at := find(*list, r.ID); at >= 0 {
				(*list)[at].Enabled, (*list)[at].Actions = r.Enabled, r.Actions
			}
		}
		*list = slices.Insert(*list, firstOwn(*list), own...)
	}
	return s, nil
}

// shaped drops or adds the fields that the kind of a rule decides on.
func (r Rule) shaped(kind Kind) Rule {
	if !kind.hasConditions() {
		r.Conditions = nil
	} else if r.Conditions == nil {
		r.Conditions = []json.RawMessage{}
	}
	if kind != Content {
		r.Pattern = nil
	}
	return r
}

func find(rules []Rule, ruleID string) int {
	return slices.IndexFunc(rules, func(r Rule) bool { return r.ID == ruleID })
}

// firstOwn returns where the most important rule of a user's own stands or would stand.
func firstOwn(rules []Rule) int {
	if len(rules) > 0 && rules[0].ID == MasterRule {
		return 1
	}
	return 0
}

// historical reports whether an action is of older versions of the specification. Such actions mean
// nothing. Users get them back as they set them, and rules are compiled without them.
//
// Spec: cs Historical Actions
func historical(action string) bool { return action == "dont_notify" || action == "coalesce" }
