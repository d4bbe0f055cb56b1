package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"maps"
	"slices"
	"strings"

	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
)

// quirk is a departure from the specification that gomatrixserverlib is seen to make. The
// differential test shows that the model with all of them gives what the library gives.
type quirk uint

const (
	orderFromTheEnd quirk = 1 << iota
	noLevelsNoPower
	nowhereIsTheEnd
	countSteps
	enlargeByConflictedOnly
	noStandIns
	otherRules
	restrictedSticks
	noImpliedCreate
	quirksEnd
)

// allowedDifferences names, for each quirk, what the specification says instead.
var allowedDifferences = map[quirk]string{
	orderFromTheEnd: "rooms/v2 Definitions, Reverse topological power ordering: «at each step selecting, among all the candidate vertices, " +
		"the smallest vertex»; the library fills the order from its end with the greatest, and puts events that it counts twice in front",
	noLevelsNoPower: "cs m.room.power_levels: «If the room contains no m.room.power_levels event, the room's creator has a power level of 100»; " +
		"the library takes 0",
	nowhereIsTheEnd: "rooms/v2 Definitions, Mainline ordering: «Otherwise set i = ∞»; the library takes the position of the oldest mainline event",
	countSteps: "rooms/v2 Definitions, Mainline ordering: events at the same position compare by origin_server_ts next; " +
		"the library compares the number of steps to the mainline first",
	enlargeByConflictedOnly: "rooms/v2 Algorithm 1: X is enlarged by events which «belong to the full conflicted set»; " +
		"the library takes the conflicted state set, without the auth difference",
	noStandIns: "rooms/v2 Definitions, Iterative auth checks: «the appropriate state event from the event's auth_events is used»; " +
		"the library puts the checked event itself there",
	restrictedSticks: "rooms/v8 Authorisation rules, join_rule restricted: the rule is that of the room's m.room.join_rules event for every event; " +
		"the library turns it into public or invite while it checks a join and keeps that for the next event",
	noImpliedCreate: "rooms/v12 Authorisation rules 2: the room ID names the create event, whatever the state holds; the library's v2.1 starts from an empty state " +
		"and then refuses every event for want of a create event, or panics when it looks for the sender's power",
	otherRules: "the authorisation rules; see allowedVerdicts",
}

// itselfAsStandIn is the state that noStandIns checks an event against.
func (m *model) itselfAsStandIn(p *event.PDU, state Set) Set {
	view := Set{}
	needed := eventauth.Needed(m.room.version, p)
	// The library looks in this order, and a later find replaces an earlier one.
	rank := func(k event.Key) int {
		return slices.Index([]string{"m.room.create", "m.room.join_rules", "m.room.power_levels", "m.room.member", "m.room.third_party_invite"}, k.Type)
	}
	slices.SortFunc(needed, func(a, b event.Key) int {
		return cmp.Or(rank(a)-rank(b), strings.Compare(a.StateKey, b.StateKey))
	})
	for _, key := range needed {
		if e, ok := state[key]; ok {
			view[key] = e
			continue
		}
		for _, a := range p.AuthEvents() {
			if m.room.events[a].Key() == key && !m.rejected[a] {
				view[p.Key()] = p.ID()
			}
		}
	}
	return view
}

// orderFromTheEnd is the ordering of the quirk of this name.
func (m *model) orderFromTheEnd(x []id.EventID, conflicted map[id.EventID]bool, smaller func(a, b id.EventID) bool) []id.EventID {
	compare := func(a, b id.EventID) int {
		if smaller(a, b) {
			return -1
		}
		return 1
	}
	count, left := map[id.EventID]int{}, map[id.EventID]bool{}
	for _, e := range x {
		left[e] = true
	}
	// A power event stands in the list for itself, once more if it is conflicted and in the auth
	// difference, and once more if another one refers to it.
	times := map[id.EventID]int{}
	for _, e := range x {
		if isPower(m.room.events[e]) {
			times[e]++
			if m.both[e] {
				times[e]++
			}
		}
	}
	cited := map[id.EventID]bool{}
	for _, e := range x {
		for _, a := range m.room.events[e].AuthEvents() {
			cited[a] = true
		}
	}
	for _, e := range x {
		if cited[e] && conflicted[e] {
			times[e]++
		}
	}
	for _, e := range x {
		for _, a := range m.room.events[e].AuthEvents() {
			count[a] += times[e]
		}
	}
	var ready, order []id.EventID
	for _, e := range x {
		if count[e] == 0 {
			ready = append(ready, e)
			delete(left, e)
		}
	}
	for len(ready) > 0 {
		slices.SortFunc(ready, compare)
		e := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		order = append([]id.EventID{e}, order...)
		for _, a := range m.room.events[e].AuthEvents() {
			if count[a]--; count[a] == 0 && left[a] {
				ready = append(ready, a)
				delete(left, a)
			}
		}
	}
	var stray []id.EventID
	for e := range left {
		stray = append(stray, e)
	}
	slices.SortFunc(stray, compare)
	return append(stray, order...)
}

// sticky is what restrictedSticks remembers between two checks.
type sticky struct{ event, rule id.EventID }

// stick replaces the join rules of a view by what the check before left of them, and works out what
// this check leaves.
func (m *model) stick(s *sticky, p *event.PDU, view Set) Set {
	now, ok := view[joinRulesKey]
	if !ok || !slices.Contains(eventauth.Needed(m.room.version, p), joinRulesKey) {
		*s = sticky{}
		return view
	}
	if s.event == now {
		view[joinRulesKey] = s.rule
	} else {
		*s = sticky{event: now, rule: now}
	}
	if rule := m.rule(view[joinRulesKey]); rule != "restricted" && rule != "knock_restricted" {
		return view
	}
	key, _ := p.StateKey()
	old := m.room.at(view)("m.room.member", key)
	if p.Membership() != "join" || key != string(p.Sender()) || old != nil && old.Membership() == "ban" {
		return view
	}
	raw, _ := canon.Get(p.Content(), "join_authorised_via_users_server")
	if len(raw) == 0 || old != nil && (old.Membership() == "join" || old.Membership() == "invite") {
		s.rule = m.joinRules("invite")
	} else if m.allows(p, view) {
		s.rule = m.joinRules("public")
	}
	return view
}

func (m *model) rule(e id.EventID) string {
	raw, _ := canon.Get(m.room.events[e].Content(), "join_rule")
	return strings.Trim(string(raw), `"`)
}

// joinRules makes an event that is not part of the room.
func (m *model) joinRules(rule string) id.EventID {
	p := m.room.build(draft{typ: "m.room.join_rules", sender: "@alice:a", content: map[string]any{"join_rule": rule}, auth: []id.EventID{}})
	m.room.events[p.ID()] = p
	return p.ID()
}

// modelV1 is the algorithm of v1, written down plainly.
func modelV1(r *testRoom, sets []Set, check func(p *event.PDU, state Set) bool) Set {
	isConflicted, state := splitV1(sets)
	lists := map[event.Key][]id.EventID{}
	for _, s := range sets {
		for k, e := range s {
			if isConflicted[k] && !slices.Contains(lists[k], e) {
				lists[k] = append(lists[k], e)
			}
		}
	}
	for _, list := range lists {
		slices.SortFunc(list, func(a, b id.EventID) int {
			p, q := r.events[a], r.events[b]
			if p.Depth() != q.Depth() {
				return int(p.Depth() - q.Depth())
			}
			x, y := sha1.Sum([]byte(a)), sha1.Sum([]byte(b))
			return bytes.Compare(y[:], x[:])
		})
	}
	for _, typ := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member", ""} {
		results := Set{}
		for k, list := range lists {
			if typ != "" && k.Type == typ {
				view := maps.Clone(state)
				for i, e := range list {
					if i > 0 && !check(r.events[e], view) {
						break
					}
					view[k] = e
				}
				results[k] = view[k]
				delete(lists, k)
			} else if typ == "" {
				results[k] = list[0]
				for _, e := range slices.Backward(list[1:]) {
					if check(r.events[e], state) {
						results[k] = e
						break
					}
				}
			}
		}
		maps.Copy(state, results)
	}
	return state
}
