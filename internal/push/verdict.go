package push

import (
	"context"
	"slices"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/graph"
	"myelin/matrix/id"
	"myelin/matrix/pushrule"
)

// verdict is what an event means, as far as that is the same for everybody. Immutable.
type verdict struct {
	event  *graph.Event
	thread string // ID of the root, empty for the main timeline
	// dead events mean nothing to anybody: those that are not shown, and those that were redacted.
	dead bool
	// read says that the event tells that its sender has read the thread up to it.
	read bool
	// base is what the event means to those whom it does not name and whose rules are the predefined ones; nil for nothing.
	base *pushrule.Match
	// named are the users whom the event names so that a predefined rule may see it.
	named []id.UserID
}

// judge returns the verdict on an event.
func (p *Push) judge(ctx context.Context, e *graph.Event) (*verdict, error) {
	if v, ok := p.verdicts.GetIfPresent(e.NID); ok && v.event.Flags == e.Flags {
		return v, nil
	}
	v := &verdict{event: e}
	v.dead = e.Pos == 0 || e.Flags&(graph.Outlier|graph.Rejected|graph.SoftFailed|graph.Backfilled|graph.Redacted) != 0
	_, redacts := e.PDU.Redacts()
	v.read = !e.PDU.IsState() && !redacts && e.Flags&graph.Local != 0
	if !v.dead || v.read {
		root, err := p.cfg.Graph.ThreadOf(ctx, e)
		if err != nil {
			return nil, err
		}
		v.thread = string(root)
	}
	if !v.dead {
		v.named = named(e)
		facts, err := p.facts(ctx, e)
		if err != nil {
			return nil, err
		}
		v.base = p.standard.Evaluate(asRulesSee(e), facts, pushrule.Target{User: p.stranger})
		if v.base != nil && !v.base.Notify {
			v.base = nil
		}
	}
	p.verdicts.Set(e.NID, v)
	return v, nil
}

// hearing is an event that many users are asked about: what rules see of it, and of the room, is found out once. It belongs to one goroutine.
type hearing struct {
	*verdict
	seen  *pushrule.Event
	facts pushrule.Facts
}

// prepare finds out what rules ask for.
func (p *Push) prepare(ctx context.Context, h *hearing) (err error) {
	if h.seen == nil {
		if h.facts, err = p.facts(ctx, h.event); err == nil {
			h.seen = asRulesSee(h.event)
		}
	}
	return err
}

// match returns what an event means to a user, nil for nothing.
func (p *Push) match(ctx context.Context, h *hearing, user id.UserID) (*pushrule.Match, error) {
	if h.dead || h.event.PDU.Sender() == user {
		return nil, nil
	}
	rules, err := p.rulesOf(ctx, user)
	if err != nil {
		return nil, err
	}
	return p.matchBy(ctx, h, user, rules)
}

// matchBy returns what an event means to a user with these rules, nil for nothing.
func (p *Push) matchBy(ctx context.Context, h *hearing, user id.UserID, rules *pushrule.Compiled) (*pushrule.Match, error) {
	e := h.event
	if h.dead || e.PDU.Sender() == user {
		return nil, nil
	}
	ignored, err := p.cfg.Accounts.IgnoredUsers(ctx, user)
	if err != nil {
		return nil, err
	}
	if _, ok := ignored[e.PDU.Sender()]; ok {
		return nil, nil
	}
	if unwanted, err := p.unwantedInvite(ctx, e, user); err != nil || unwanted {
		return nil, err
	}
	if rules == p.standard && !slices.Contains(h.named, user) {
		return h.base, nil
	}
	if err := p.prepare(ctx, h); err != nil {
		return nil, err
	}
	target := pushrule.Target{User: user}
	if rules.UsesDisplayName() {
		if target.DisplayName, err = p.displayName(ctx, e, user); err != nil {
			return nil, err
		}
	}
	m := rules.Evaluate(h.seen, h.facts, target)
	if m == nil || !m.Notify {
		return nil, nil
	}
	return m, nil
}

// unwantedInvite reports whether an event invites the user, who wants to hear nothing of invites by its sender.
//
// Spec: cs Invite permission
func (p *Push) unwantedInvite(ctx context.Context, e *graph.Event, user id.UserID) (bool, error) {
	key, ok := e.PDU.StateKey()
	if !ok || key != string(user) || e.PDU.Type() != memberType || graph.Membership(e.PDU.Membership()) != graph.Invite {
		return false, nil
	}
	rules, err := p.cfg.Accounts.InviteRules(ctx, user)
	return err == nil && rules.Judge(e.PDU.Sender()) != account.InviteAllowed, err
}

// asRulesSee returns the event in the form that rules are evaluated on. It belongs to one goroutine.
func asRulesSee(e *graph.Event) *pushrule.Event {
	seen := &pushrule.Event{
		ID: e.PDU.ID(), RoomID: e.PDU.RoomID(), Type: e.PDU.Type(), Sender: e.PDU.Sender(),
		OriginServerTS: e.PDU.OriginServerTS(), Content: e.PDU.Content(),
	}
	if key, ok := e.PDU.StateKey(); ok {
		seen.StateKey = &key
	}
	return seen
}

// named lists whom an event names. An event has at most 64 KiB, so these are not many.
func named(e *graph.Event) (users []id.UserID) {
	if key, ok := e.PDU.StateKey(); ok && e.PDU.Type() == memberType {
		users = append(users, id.UserID(key))
	}
	for _, u := range gjson.GetBytes(e.PDU.Content(), `m\.mentions.user_ids`).Array() {
		if u.Type == gjson.String {
			users = append(users, id.UserID(u.Str))
		}
	}
	return users
}

const memberType = "m.room.member"

// facts are what rules ask about the room.
func (p *Push) facts(ctx context.Context, e *graph.Event) (pushrule.Facts, error) {
	members, err := p.cfg.Graph.JoinedCount(ctx, e.Room)
	if err != nil {
		return pushrule.Facts{}, err
	}
	return pushrule.Facts{Members: int(members), SenderMayNotify: func(key string) bool {
		may, err := p.mayNotify(ctx, e, key)
		return err == nil && may
	}}, nil
}

// mayNotify says whether the power level of an event's sender suffices to notify the whole room.
//
// Spec: cs m.room.power_levels
func (p *Push) mayNotify(ctx context.Context, e *graph.Event, key string) (bool, error) {
	state, err := p.cfg.Graph.StateBefore(ctx, e)
	if err != nil {
		return false, err
	}
	of := make([]*graph.Event, 0, 2)
	for _, typ := range []string{"m.room.create", "m.room.power_levels"} {
		nid, ok := state.Get(typ, "")
		if !ok {
			of = append(of, nil)
			continue
		}
		found, err := p.cfg.Graph.Events(ctx, e.Room, []graph.EventNID{nid})
		if err != nil {
			return false, err
		}
		of = append(of, found[0])
	}
	create, levels := of[0], of[1]
	sender := e.PDU.Sender()
	if create != nil && create.PDU.Version().PrivilegedCreators {
		additional := gjson.GetBytes(create.PDU.Content(), "additional_creators").Array()
		if create.PDU.Sender() == sender || slices.ContainsFunc(additional, func(u gjson.Result) bool { return u.Str == string(sender) }) {
			return true, nil
		}
	}
	if levels == nil {
		return create != nil && create.PDU.Sender() == sender, nil
	}
	content := gjson.ParseBytes(levels.PDU.Content())
	has, needs := content.Get("users_default").Int(), int64(50)
	content.Get("users").ForEach(func(user, level gjson.Result) bool {
		if user.Str == string(sender) {
			has = level.Int()
		}
		return user.Str != string(sender)
	})
	content.Get("notifications").ForEach(func(of, level gjson.Result) bool {
		if of.Str == key {
			needs = level.Int()
		}
		return of.Str != key
	})
	return has >= needs, nil
}

// displayName is what a user is called in the room before an event.
func (p *Push) displayName(ctx context.Context, e *graph.Event, user id.UserID) (string, error) {
	state, err := p.cfg.Graph.StateBefore(ctx, e)
	if err != nil {
		return "", err
	}
	nid, ok := state.Get(memberType, string(user))
	if !ok {
		return "", nil
	}
	member, err := p.cfg.Graph.Events(ctx, e.Room, []graph.EventNID{nid})
	if err != nil {
		return "", err
	}
	return gjson.GetBytes(member[0].PDU.Content(), "displayname").Str, nil
}
