// Package pushrule decides what an event means to a user: nothing, a notification, a highlight.
//
// It owns the predefined rules, the JSON form of a ruleset, the changes a client may make to one and the
// evaluation of a ruleset against an event.
//
//	rules := pushrule.Default(user)                    // or Parse, from what is stored
//	rules, err := rules.Put(kind, ruleID, draft, place) // a changed copy
//	compiled := pushrule.Compile(user, rules)           // kept by the caller beside the rules' version
//	match := compiled.Evaluate(event, room, target)     // nil: no rule matched
//
// Invariants. A Ruleset is never changed: each operation returns a copy. Each kind's rules stand in the
// order in which they are checked: .m.rule.master, the user's own rules, the other predefined
// ones. The historical actions "dont_notify" and "coalesce" are kept and ignored: no Match holds them. A Compiled
// is immutable and may be shared by goroutines; users who changed nothing share one. An Event remembers what it looked
// up and belongs to one goroutine at a time.
//
// Work is bounded: Put refuses rules beyond the Max constants, and matching a pattern takes time in
// proportion to the text times the pattern at worst, whatever the pattern holds.
//
// The package refuses to guess: an unknown condition never matches, a property that is absent matches nothing.
// It does not know who is in a room or what was read: those are facts it is given.
//
// Spec: cs Push Notifications
// Spec: cs Predefined Rules
package pushrule
