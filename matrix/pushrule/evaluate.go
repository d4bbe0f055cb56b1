package pushrule

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"

	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// Match is the rule that decided over an event, and what it says. It is shared: do not change it.
type Match struct {
	Kind      Kind
	RuleID    string
	Notify    bool
	Highlight bool
	Actions   json.RawMessage // array, as GET /notifications shows it
	Tweaks    json.RawMessage // object, as a push gateway gets it
}

// Facts is what rules ask about the room at the time of the event.
type Facts struct {
	Members int // joined members
	// SenderMayNotify says whether the sender's power level suffices for a kind of notification, such
	// as "room". It is asked only if a rule needs it. Nil means no.
	SenderMayNotify func(key string) bool
}

// Target is the user whose rules are evaluated.
type Target struct {
	User        id.UserID
	DisplayName string // in the room; may be empty
}

// Compiled is a ruleset made ready for evaluation. It is immutable.
type Compiled struct {
	override, content, underride []rule
	room, sender                 map[string]*Match // by rule ID, which is a room's or a user's
	names                        bool
}

// UsesDisplayName reports whether a rule looks for the user's display name: otherwise a Target needs none.
func (c *Compiled) UsesDisplayName() bool { return c.names }

type rule struct {
	conditions []condition
	match      *Match
}

type op uint8

const (
	opNever op = iota
	opMatch
	opIs
	opContains
	opDisplayName
	opMembers
	opPermission
)

type condition struct {
	op   op
	key  string
	path []string
	glob glob
	want value
	// self compares with the user who is evaluated, in place of glob or want: so users share a rule.
	self bool

	compare string // of opMembers: "==", "<", ">", "<=", ">="
	members int
}

// placeholder is the user for whom the shared default ruleset is compiled.
const placeholder id.UserID = "\x00"

var compiledDefault = sync.OnceValue(func() *Compiled { return compile(placeholder, Default(placeholder)) })

// Compile prepares a user's ruleset. All users who changed nothing get the same one.
func Compile(user id.UserID, s Ruleset) *Compiled {
	if s.Stored(user) == nil {
		return compiledDefault()
	}
	return compile(user, s)
}

func compile(user id.UserID, s Ruleset) *Compiled {
	c := &Compiled{room: compileIDs(Room, s.Room), sender: compileIDs(Sender, s.Sender)}
	for _, r := range s.Content {
		if r.Enabled && r.Pattern != nil {
			body := condition{op: opMatch, key: bodyKey, path: parsePath(bodyKey), glob: compileGlob(*r.Pattern)}
			c.content = append(c.content, rule{conditions: []condition{body}, match: compileMatch(Content, r)})
		}
	}
	c.override = compileRules(user, Override, s.Override)
	c.underride = compileRules(user, Underride, s.Underride)
	for _, r := range slices.Concat(c.override, c.underride) {
		c.names = c.names || slices.ContainsFunc(r.conditions, func(c condition) bool { return c.op == opDisplayName })
	}
	return c
}

const bodyKey = "content.body"

func compileIDs(kind Kind, rules []Rule) map[string]*Match {
	var out map[string]*Match
	for _, r := range rules {
		if r.Enabled && out[r.ID] == nil {
			if out == nil {
				out = make(map[string]*Match, len(rules))
			}
			out[r.ID] = compileMatch(kind, r)
		}
	}
	return out
}

// compileRules leaves out what can't match: disabled rules, and those with a condition we don't know.
func compileRules(user id.UserID, kind Kind, rules []Rule) []rule {
	var out []rule
	for _, r := range rules {
		if !r.Enabled {
			continue
		}
		self := user
		if !r.Default {
			self = ""
		}
		usable := true
		conditions := make([]condition, 0, len(r.Conditions))
		for _, raw := range r.Conditions {
			c, _ := compileCondition(raw, self)
			usable = usable && c.op != opNever
			conditions = append(conditions, c)
		}
		if usable {
			out = append(out, rule{conditions: conditions, match: compileMatch(kind, r)})
		}
	}
	return out
}

// compileCondition reads a condition. One of an unknown kind never matches; one of a known kind whose
// parameters can't be used never matches either and comes with the problem.
//
// Spec: cs Conditions
func compileCondition(raw []byte, self id.UserID) (c condition, problem string) {
	kind, _ := canon.GetText(raw, "kind")
	key, hasKey := canon.GetText(raw, "key")
	c.key = key
	switch kind {
	case "event_match", "event_property_is", "event_property_contains":
		if !hasKey {
			return c, kind + ` needs a "key"`
		}
		c.path = parsePath(key)
		if kind == "event_match" {
			pattern, ok := canon.GetText(raw, "pattern")
			if !ok {
				return c, `event_match needs a "pattern"`
			}
			c.op, c.glob, c.self = opMatch, compileGlob(pattern), self != "" && pattern == string(self)
			return c, ""
		}
		raw, _ := canon.Get(raw, "value")
		if c.want = parseValue(raw); !c.want.simple() {
			return c, kind + ` needs a "value" that is a string, an integer, a boolean or null`
		}
		c.self = self != "" && c.want.text == string(self)
		c.op = opIs
		if kind == "event_property_contains" {
			c.op = opContains
		}
	case "contains_display_name":
		c.op, c.key, c.path = opDisplayName, bodyKey, parsePath(bodyKey)
	case "room_member_count":
		is, _ := canon.GetText(raw, "is")
		var ok bool
		if c.compare, c.members, ok = parseCount(is); !ok {
			return c, `room_member_count needs an "is" such as "2" or "<=10"`
		}
		c.op = opMembers
	case "sender_notification_permission":
		if !hasKey {
			return c, kind + ` needs a "key"`
		}
		c.op = opPermission
	}
	return c, ""
}

func parseCount(is string) (compare string, n int, ok bool) {
	digits := strings.TrimLeft(is, "=<>")
	compare = is[:len(is)-len(digits)]
	if compare == "" {
		compare = "=="
	}
	u, err := strconv.ParseUint(digits, 10, 32)
	return compare, int(u), err == nil && slices.Contains([]string{"==", "<", ">", "<=", ">="}, compare)
}

// compileMatch reads the actions. A highlight without a value is true.
//
// Spec: cs Actions
func compileMatch(kind Kind, r Rule) *Match {
	m := &Match{Kind: kind, RuleID: r.ID, Actions: []byte{'['}, Tweaks: []byte("{}")}
	for _, a := range r.Actions {
		name, named := canon.Text(a)
		if named && historical(name) {
			continue
		}
		if len(m.Actions) > 1 {
			m.Actions = append(m.Actions, ',')
		}
		m.Actions = append(m.Actions, a...)
		if named {
			m.Notify = m.Notify || name == "notify"
			continue
		}
		tweak, ok := canon.GetText(a, "set_tweak")
		if !ok {
			continue
		}
		raw, ok := canon.Get(a, "value")
		if tweak == "highlight" {
			if !ok {
				raw = []byte("true")
			}
			m.Highlight = string(raw) == "true"
		}
		if len(raw) > 0 {
			m.Tweaks = canon.With(nil, m.Tweaks, tweak, raw)
		}
	}
	m.Actions = append(m.Actions, ']')
	m.Highlight = m.Highlight && m.Notify
	return m
}

// Evaluate returns the most important rule that matches the event, and nil where none does or where the
// user sent the event.
//
// Spec: cs Push Rules
func (c *Compiled) Evaluate(e *Event, f Facts, t Target) *Match {
	if e.Sender == t.User {
		return nil
	}
	steps := MaxSteps
	if m := first(c.override, e, f, t, &steps); m != nil {
		return m
	}
	if m := first(c.content, e, f, t, &steps); m != nil {
		return m
	}
	if m := c.room[string(e.RoomID)]; m != nil {
		return m
	}
	if m := c.sender[string(e.Sender)]; m != nil {
		return m
	}
	return first(c.underride, e, f, t, &steps)
}

func first(rules []rule, e *Event, f Facts, t Target, steps *int) *Match {
next:
	for i := range rules {
		conditions := rules[i].conditions
		for k := range conditions {
			if !conditions[k].holds(e, f, t, steps) {
				continue next
			}
		}
		return rules[i].match
	}
	return nil
}

func (c *condition) holds(e *Event, f Facts, t Target, steps *int) bool {
	switch c.op {
	case opMatch:
		return c.matches(e.property(c.key, c.path), t, steps)
	case opIs:
		return same(e.property(c.key, c.path).value, c.wanted(t))
	case opContains:
		p := e.property(c.key, c.path)
		if p.value.kind != arrayValue {
			return false
		}
		want := c.wanted(t)
		for element := range canon.Elements(p.raw) {
			if same(parseValue(element), want) {
				return true
			}
		}
	case opDisplayName:
		p := e.property(c.key, c.path)
		if p.value.kind != textValue || t.DisplayName == "" {
			return false
		}
		// A name is taken literally: its stars are no wildcards.
		return glob{segments: []string{literal.Replace(fold(t.DisplayName))}}.words(literal.Replace(p.folded()), steps)
	case opMembers:
		return c.counts(f.Members)
	case opPermission:
		return f.SenderMayNotify != nil && f.SenderMayNotify(c.key)
	}
	return false
}

// literal hides the question marks of names, which a segment would take for any character.
var literal = strings.NewReplacer("?", "\x00")

func (c *condition) matches(p *property, t Target, steps *int) bool {
	switch {
	case p.value.kind != textValue:
		return false
	case c.self:
		return strings.EqualFold(p.value.text, string(t.User))
	case c.key == bodyKey:
		return c.glob.words(p.folded(), steps)
	}
	return c.glob.whole(p.folded(), steps)
}

func (c *condition) wanted(t Target) value {
	if c.self {
		return value{kind: textValue, text: string(t.User)}
	}
	return c.want
}

func same(a, b value) bool { return a == b && a.simple() }

func (c *condition) counts(members int) bool {
	switch c.compare {
	case "<":
		return members < c.members
	case ">":
		return members > c.members
	case "<=":
		return members <= c.members
	case ">=":
		return members >= c.members
	}
	return members == c.members
}
