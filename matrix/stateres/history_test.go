package stateres

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// branch is a tip of a random history.
type branch struct {
	state Set
	prev  []id.EventID
	depth int64
	// past holds earlier states of the branch, for events that cite outdated auth events.
	past []Set
}

// history makes random rooms with forks and merges.
type history struct {
	*testRoom
	rnd      *rand.Rand
	users    []id.UserID
	branches []*branch
	clock    int64
	// proposed is called for every event that was tried, with the state before it.
	proposed func(p *event.PDU, state Set)
	// merging is called with the states of every merge; it returns the resolution.
	merging func(sets []Set) Set
}

var historyUsers = []id.UserID{"@alice:a", "@bob:b", "@carol:c", "@dave:a", "@eve:b", "@fay:d"}

func newHistory(r *testRoom, rnd *rand.Rand) *history {
	return &history{testRoom: r, rnd: rnd, users: historyUsers, clock: 1000}
}

// run makes one room: a beginning, then steps on up to five branches.
func (h *history) run(steps int) {
	h.begin()
	for range steps {
		switch n := h.rnd.IntN(20); {
		case n < 3 && len(h.branches) < 5:
			h.fork()
		case n < 5 && len(h.branches) > 1:
			h.merge()
		default:
			h.step(h.branches[h.rnd.IntN(len(h.branches))])
		}
	}
	for len(h.branches) > 1 {
		h.merge()
	}
}

func (h *history) begin() {
	creator := h.users[0]
	b := &branch{state: Set{}}
	h.branches = []*branch{b}
	create := map[string]any{"room_version": h.version.ID}
	if !h.version.ImplicitCreator {
		create["creator"] = creator
	}
	if h.version.PrivilegedCreators && h.rnd.IntN(4) == 0 {
		create["additional_creators"] = []string{string(h.users[1])}
	}
	h.try(b, draft{typ: "m.room.create", sender: creator, content: create}, true)
	h.try(b, draft{typ: "m.room.member", stateKey: string(creator), sender: creator, content: map[string]any{"membership": "join"}}, true)
	if h.rnd.IntN(8) > 0 {
		users := map[string]any{}
		if !h.version.PrivilegedCreators {
			users[string(creator)] = 100
		}
		if h.rnd.IntN(2) == 0 && create["additional_creators"] == nil {
			users[string(h.users[1])] = 50 * (1 + h.rnd.IntN(2))
		}
		h.try(b, draft{typ: "m.room.power_levels", sender: creator, content: map[string]any{"users": users}}, true)
	}
	if h.rnd.IntN(8) > 0 {
		h.try(b, draft{typ: "m.room.join_rules", sender: creator, content: map[string]any{"join_rule": h.joinRule(h.rnd.IntN(3) > 0)}}, true)
	}
	for _, u := range h.users[1:] {
		if h.rnd.IntN(3) > 0 {
			h.try(b, draft{typ: "m.room.member", stateKey: string(u), sender: u, content: map[string]any{"membership": "join"}}, true)
		}
	}
}

func (h *history) joinRule(public bool) string {
	if public {
		return "public"
	}
	rules := []string{"public", "invite", "private"}
	if h.version.Knock {
		rules = append(rules, "knock")
	}
	if h.version.Restricted {
		rules = append(rules, "restricted")
	}
	if h.version.KnockRestricted {
		rules = append(rules, "knock_restricted")
	}
	return rules[h.rnd.IntN(len(rules))]
}

func (h *history) fork() {
	from := h.branches[h.rnd.IntN(len(h.branches))]
	to := *from
	to.past = slices.Clone(from.past)
	h.branches = append(h.branches, &to)
}

// merge resolves two or more branches into one.
func (h *history) merge() {
	h.rnd.Shuffle(len(h.branches), func(i, j int) { h.branches[i], h.branches[j] = h.branches[j], h.branches[i] })
	n := 2 + h.rnd.IntN(len(h.branches)-1)
	into := &branch{}
	var sets []Set
	for _, b := range h.branches[:n] {
		sets = append(sets, b.state)
		into.prev = append(into.prev, b.prev...)
		into.depth = max(into.depth, b.depth)
		into.past = append(into.past, b.past...)
	}
	slices.Sort(into.prev)
	into.prev = slices.Compact(into.prev)
	into.state = h.merging(sets)
	h.branches = append(h.branches[n:], into)
}

// try builds an event on a branch and keeps it if it is allowed there.
func (h *history) try(b *branch, d draft, honest bool) bool {
	h.clock += int64(h.rnd.IntN(4))
	d.ts, d.prev, d.depth, d.state = h.clock-int64(h.rnd.IntN(6)), b.prev, b.depth+1, b.state
	if !honest && len(b.past) > 0 && h.rnd.IntN(6) == 0 {
		d.state = b.past[h.rnd.IntN(len(b.past))]
	}
	p := h.build(d)
	cited := make([]*event.PDU, 0, len(p.AuthEvents()))
	byAuth := Set{}
	for _, a := range p.AuthEvents() {
		cited = append(cited, h.events[a])
		byAuth = with(byAuth, h.events[a])
	}
	if h.proposed != nil {
		h.proposed(p, b.state)
	}
	if _, twice := h.events[p.ID()]; twice || eventauth.CheckAuthEvents(p, cited) != nil ||
		eventauth.Check(p, h.at(byAuth)) != nil || eventauth.Check(p, h.at(b.state)) != nil {
		return false
	}
	h.keep(p)
	if p.IsState() {
		b.past = append(b.past, b.state)
		b.state = with(b.state, p)
	}
	b.prev, b.depth = []id.EventID{p.ID()}, b.depth+1
	return true
}

func (h *history) user() id.UserID { return h.users[h.rnd.IntN(len(h.users))] }

// step tries random events until one is allowed, or a few times.
func (h *history) step(b *branch) {
	for range 6 {
		if h.try(b, h.action(b), false) {
			return
		}
	}
}

// action makes up an event that may or may not be allowed.
func (h *history) action(b *branch) draft {
	sender, target := h.user(), h.user()
	if h.rnd.IntN(3) == 0 {
		sender = h.users[h.rnd.IntN(2)]
	}
	member := func(membership string, who id.UserID) draft {
		return draft{typ: "m.room.member", stateKey: string(who), sender: sender,
			content: map[string]any{"membership": membership, "displayname": fmt.Sprint(h.rnd.IntN(1000))}}
	}
	switch h.rnd.IntN(16) {
	case 0, 1:
		return member("join", sender)
	case 2:
		d := member("join", sender)
		if h.version.Restricted {
			d.content.(map[string]any)["join_authorised_via_users_server"] = target
		}
		return d
	case 3:
		return member("leave", sender)
	case 4:
		return member("invite", target)
	case 5, 6:
		return member("leave", target)
	case 7, 8:
		return member("ban", target)
	case 9:
		return member("knock", sender)
	case 10, 11:
		return draft{typ: "m.room.power_levels", sender: sender, content: h.powerLevels(b)}
	case 12:
		return draft{typ: "m.room.join_rules", sender: sender, content: map[string]any{"join_rule": h.joinRule(false)}}
	case 13:
		return draft{typ: "m.room.message", message: true, sender: sender, content: map[string]any{"body": fmt.Sprint(h.rnd.IntN(1000))}}
	case 14:
		return draft{typ: "m.custom", stateKey: string(sender), sender: sender, content: map[string]any{"n": h.rnd.IntN(1000)}}
	}
	return draft{typ: []string{"m.room.topic", "m.room.name"}[h.rnd.IntN(2)], sender: sender, content: map[string]any{"n": h.rnd.IntN(1000)}}
}

// powerLevels changes the levels of the branch a little.
func (h *history) powerLevels(b *branch) map[string]any {
	old := eventauth.PowerLevels(h.version, nil, h.at(b.state)("m.room.power_levels", ""))
	levels := []int{0, 25, 50, 75, 100}
	creators := eventauth.Creators(h.at(b.state)("m.room.create", ""))
	users := map[string]any{}
	for _, u := range h.users {
		if h.version.PrivilegedCreators && slices.Contains(creators, u) {
			continue
		}
		if l := old.User(u); l != 0 {
			users[string(u)] = l
		}
	}
	content := map[string]any{"users": users, "ban": old.Ban(), "kick": old.Kick(), "invite": old.Invite(),
		"state_default": old.StateDefault(), "events": map[string]any{"m.room.topic": old.Event("m.room.topic", true)}}
	if len(users) == 0 && !h.version.PrivilegedCreators {
		users[string(h.users[0])] = 100
	}
	switch h.rnd.IntN(6) {
	case 0:
		content[[]string{"ban", "kick", "invite", "state_default"}[h.rnd.IntN(4)]] = levels[h.rnd.IntN(4)]
	case 1:
		content["events"] = map[string]any{"m.room.topic": levels[h.rnd.IntN(4)]}
	default:
		if u := h.user(); !h.version.PrivilegedCreators || !slices.Contains(creators, u) {
			users[string(u)] = levels[h.rnd.IntN(len(levels))]
		}
	}
	return content
}

// mangled makes sets that no history has: events of the room put together at random.
func (h *history) mangled() []Set {
	byKey := map[event.Key][]id.EventID{}
	for _, e := range h.order {
		if p := h.events[e]; p.IsState() {
			byKey[p.Key()] = append(byKey[p.Key()], e)
		}
	}
	keys := slices.SortedFunc(maps.Keys(byKey), compareKeys)
	sets := make([]Set, 2+h.rnd.IntN(3))
	for i := range sets {
		sets[i] = Set{}
	}
	for _, k := range keys {
		events := byKey[k]
		shared := events[h.rnd.IntN(len(events))]
		how := h.rnd.IntN(4)
		for i := range sets {
			switch {
			case k == createKey || how > 0 && h.rnd.IntN(8) > 0:
				sets[i][k] = shared
			case h.rnd.IntN(3) > 0:
				sets[i][k] = events[h.rnd.IntN(len(events))]
			}
		}
	}
	return sets
}

func newRand(v *roomver.Version, seed uint64) *rand.Rand {
	var n uint64
	for _, c := range v.ID {
		n = n*10 + uint64(c-'0')
	}
	return rand.New(rand.NewPCG(n, seed))
}
