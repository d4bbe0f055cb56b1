package pushrule

import (
	"encoding/json"
	"slices"
	"strings"

	"myelin/matrix/canon"
	"myelin/matrix/mxerr"
)

// Bounds on what a client may store.
const (
	MaxRules      = 5000 // of a user's own, all kinds together
	MaxRuleID     = 255  // bytes
	MaxConditions = 32   // of a rule
	MaxActions    = 16   // of a rule
	MaxPattern    = 1024 // bytes of a pattern, a key or a value
	MaxElement    = 4096 // bytes of one condition or one action
)

// Draft is the body of a request that sets a rule.
//
// Spec: cs setPushRule
type Draft struct {
	Actions    []json.RawMessage `json:"actions"`    // required; nil is missing
	Conditions []json.RawMessage `json:"conditions"` // of override and underride rules; ignored elsewhere
	Pattern    *string           `json:"pattern"`    // of content rules; ignored elsewhere
}

// Place says where among the user's own rules of the kind a rule goes: right before or right after another one,
// by rule ID. If both are set, Before counts. If none is, a new rule goes to the front and an old one
// stays where it is.
type Place struct{ Before, After string }

// Find returns a rule, or an M_NOT_FOUND error.
//
// Spec: cs getPushRule
func (s Ruleset) Find(kind Kind, ruleID string) (Rule, error) {
	rules := s.Rules(kind)
	if at := find(rules, ruleID); at >= 0 {
		return rules[at], nil
	}
	return Rule{}, notFound(kind, ruleID)
}

// Put returns the ruleset with a rule of the user's own added or replaced. A new rule is enabled; an old one keeps
// being enabled or not.
//
// Spec: cs setPushRule
func (s Ruleset) Put(kind Kind, ruleID string, d Draft, place Place) (Ruleset, error) {
	if err := checkRuleID(ruleID); err != nil {
		return s, err
	}
	rule, err := d.rule(kind, ruleID)
	if err != nil {
		return s, err
	}
	rules := slices.Clone(s.Rules(kind))
	old := find(rules, ruleID)
	at := firstOwn(rules)
	if old >= 0 {
		rule.Enabled, at = rules[old].Enabled, old
		rules = slices.Delete(rules, old, old+1)
	} else if s.own() >= MaxRules {
		return s, mxerr.New(mxerr.CodeResourceLimitExceeded, "You have %d push rules of your own already, and no more are allowed.", MaxRules)
	}
	switch {
	case place.Before != "":
		at, err = placeOf(rules, "before", place.Before)
	case place.After != "":
		at, err = placeOf(rules, "after", place.After)
		at++
	}
	if err != nil {
		return s, err
	}
	*s.list(kind) = slices.Insert(rules, at, rule)
	return s, nil
}

// placeOf finds the rule of the user's own that another one is placed by.
func placeOf(rules []Rule, param, ruleID string) (int, error) {
	at := find(rules, ruleID)
	switch {
	case at < 0:
		return 0, mxerr.InvalidParam("There is no other push rule %q of this kind to put the rule %s.", ruleID, param)
	case rules[at].Default:
		return 0, mxerr.InvalidParam("%q is a predefined rule: a rule can be placed only relative to one of your own.", ruleID)
	}
	return at, nil
}

// Delete returns the ruleset without a rule of the user's own. Predefined rules can't be deleted.
//
// Spec: cs deletePushRule
func (s Ruleset) Delete(kind Kind, ruleID string) (Ruleset, error) {
	rules := s.Rules(kind)
	at := find(rules, ruleID)
	switch {
	case at < 0:
		return s, notFound(kind, ruleID)
	case rules[at].Default:
		return s, mxerr.NotFound("%q is a predefined rule: it can be disabled, but not deleted.", ruleID)
	}
	*s.list(kind) = slices.Delete(slices.Clone(rules), at, at+1)
	return s, nil
}

// SetEnabled returns the ruleset with a rule, predefined or not, enabled or disabled.
//
// Spec: cs setPushRuleEnabled
func (s Ruleset) SetEnabled(kind Kind, ruleID string, enabled bool) (Ruleset, error) {
	return s.update(kind, ruleID, func(r *Rule) { r.Enabled = enabled })
}

// SetActions returns the ruleset with other actions for a rule, predefined or not.
//
// Spec: cs setPushRuleActions
func (s Ruleset) SetActions(kind Kind, ruleID string, actions []json.RawMessage) (Ruleset, error) {
	checked, err := checkActions(actions)
	if err != nil {
		return s, err
	}
	return s.update(kind, ruleID, func(r *Rule) { r.Actions = checked })
}

func (s Ruleset) update(kind Kind, ruleID string, change func(*Rule)) (Ruleset, error) {
	rules := slices.Clone(s.Rules(kind))
	at := find(rules, ruleID)
	if at < 0 {
		return s, notFound(kind, ruleID)
	}
	change(&rules[at])
	*s.list(kind) = rules
	return s, nil
}

// own counts the user's own rules.
func (s Ruleset) own() int {
	n := 0
	for _, k := range Kinds {
		for _, r := range s.Rules(k) {
			if !r.Default {
				n++
			}
		}
	}
	return n
}

func notFound(kind Kind, ruleID string) error {
	return mxerr.NotFound("You have no %s rule %q.", kind, ruleID)
}

func checkRuleID(ruleID string) error {
	switch {
	case ruleID == "":
		return mxerr.InvalidParam("The rule ID is empty.")
	case len(ruleID) > MaxRuleID:
		return mxerr.InvalidParam("The rule ID is longer than %d bytes.", MaxRuleID)
	case ruleID[0] == '.':
		return mxerr.InvalidParam("Rule IDs that start with a dot are those of predefined rules.")
	case strings.ContainsAny(ruleID, `/\`):
		return mxerr.InvalidParam("A rule ID can't contain a slash or a backslash.")
	}
	return nil
}

// rule checks a draft and makes a rule of it.
func (d Draft) rule(kind Kind, ruleID string) (Rule, error) {
	actions, err := checkActions(d.Actions)
	if err != nil {
		return Rule{}, err
	}
	rule := Rule{ID: ruleID, Enabled: true, Actions: actions}
	switch {
	case kind == Content && d.Pattern == nil:
		return Rule{}, mxerr.MissingParam(`A content rule needs a "pattern".`)
	case kind == Content && len(*d.Pattern) > MaxPattern:
		return Rule{}, mxerr.InvalidParam("The pattern is longer than %d bytes.", MaxPattern)
	case kind == Content:
		rule.Pattern = d.Pattern
	case kind.hasConditions():
		rule.Conditions, err = checkConditions(d.Conditions)
	}
	return rule, err
}

// checkActions checks actions and brings them to canonical form.
//
// Spec: cs Actions
func checkActions(actions []json.RawMessage) ([]json.RawMessage, error) {
	if actions == nil {
		return nil, mxerr.MissingParam(`"actions" is missing.`)
	}
	if len(actions) > MaxActions {
		return nil, mxerr.InvalidParam("A push rule has at most %d actions.", MaxActions)
	}
	canonical, err := canonicalAll("action", actions)
	if err != nil {
		return nil, err
	}
	for _, a := range canonical {
		if name, ok := canon.Text(a); ok {
			if name != "notify" && !historical(name) {
				return nil, mxerr.InvalidParam("There is no action %q for a push rule.", name)
			}
			continue
		}
		if tweak, ok := canon.GetText(a, "set_tweak"); a[0] != '{' || !ok || tweak == "" {
			return nil, mxerr.InvalidParam(`An action is "notify" or an object with the name of a tweak as "set_tweak".`)
		}
	}
	return canonical, nil
}

// checkConditions brings conditions to canonical form. Those of unknown kinds are kept, and never match.
func checkConditions(conditions []json.RawMessage) ([]json.RawMessage, error) {
	if len(conditions) > MaxConditions {
		return nil, mxerr.InvalidParam("A push rule has at most %d conditions.", MaxConditions)
	}
	canonical, err := canonicalAll("condition", conditions)
	if err != nil {
		return nil, err
	}
	for _, c := range canonical {
		if c[0] != '{' {
			return nil, mxerr.InvalidParam("A condition of a push rule must be an object.")
		}
		if kind, ok := canon.GetText(c, "kind"); !ok || kind == "" {
			return nil, mxerr.MissingParam(`A condition of a push rule needs a "kind".`)
		}
		for _, field := range []string{"key", "pattern", "value", "is"} {
			if v, _ := canon.Get(c, field); len(v) > MaxPattern+2 {
				return nil, mxerr.InvalidParam("The %q of a condition is longer than %d bytes.", field, MaxPattern)
			}
		}
		if _, problem := compileCondition(c, ""); problem != "" {
			return nil, mxerr.InvalidParam("A condition of the push rule can't be used: %s.", problem)
		}
	}
	return canonical, nil
}

func canonicalAll(what string, raw []json.RawMessage) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, 0, len(raw))
	for _, r := range raw {
		if len(r) > MaxElement {
			return nil, mxerr.InvalidParam("One %s of the push rule is longer than %d bytes.", what, MaxElement)
		}
		c, err := canon.Canonicalize(nil, r, canon.Lax)
		if err != nil {
			return nil, mxerr.BadJSON("One %s of the push rule is not valid JSON.", what)
		}
		out = append(out, c)
	}
	return out, nil
}
