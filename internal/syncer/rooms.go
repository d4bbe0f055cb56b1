package syncer

import (
	"context"
	"slices"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// joined returns what is said of a room that the user is in, nil for nothing.
func (a *answer) joined(ctx context.Context, v *visit) ([]byte, error) {
	r := &roomState{a: a, v: v, full: a.first || a.q.FullState || v.entered, based: !a.first && !v.entered}
	s := stretch{visit: v, floor: a.since, top: a.to}
	returned := false // the client may know a part of the timeline
	if v.entered {
		stayed, err := a.wasJoined(ctx, v, a.since)
		if err != nil {
			return nil, err
		}
		if r.based = stayed; !stayed {
			s.floor = 0
			if returned, err = a.wasEverTold(ctx, v); err != nil {
				return nil, err
			}
		}
	} else if s.events, s.known = a.knownEvents(v); s.known && len(s.events) > 0 {
		r.base = s.events[0].HeadBefore
	}
	t, err := a.timeline(ctx, s)
	if err != nil {
		return nil, err
	}
	t.limited = t.limited || returned || v.entered && !r.based && !t.begins()
	r.t = t
	if err := a.ends(ctx, r, s); err != nil {
		return nil, err
	}
	state, err := r.state(ctx)
	if err != nil {
		return nil, err
	}
	summary, err := r.summary(ctx)
	if err != nil {
		return nil, err
	}
	sticky, err := a.sticky(ctx, s, t)
	if err != nil {
		return nil, err
	}
	ephemeral := a.ephemeral(v)
	data, err := a.roomData(ctx, v)
	if err != nil {
		return nil, err
	}
	if !r.full && !t.limited && len(t.events)+len(sticky)+len(state)+len(summary)+len(ephemeral)+len(data) == 0 && !a.read(v) {
		return nil, nil
	}
	out := []byte{'{'}
	if summary != nil {
		out = append(append(append(out, `"summary":`...), summary...), ',')
	}
	if out, err = a.appendUnread(ctx, out, v); err != nil {
		return nil, err
	}
	if out, err = a.appendTimeline(ctx, out, t, state); err != nil {
		return nil, err
	}
	if out, err = a.appendSticky(ctx, out, sticky); err != nil {
		return nil, err
	}
	out = append(appendRawEvents(append(out, `,"ephemeral":`...), ephemeral), '}')
	out = append(appendRawEvents(append(out, `,"account_data":`...), data), '}')
	return append(out, '}'), nil
}

// knownEvents returns the events of the window, if the hub knows them, or if the database is known to have none.
func (a *answer) knownEvents(v *visit) ([]*graph.Event, bool) {
	if !v.complete {
		if a.first || a.snap.complete {
			return nil, false
		}
		_, active := a.active[v.row.Room]
		return nil, !active
	}
	var events []*graph.Event
	for _, it := range v.items {
		if it.event != nil {
			events = append(events, it.event)
		}
	}
	return events, true
}

// ends finds the states between which the window lies.
func (a *answer) ends(ctx context.Context, r *roomState, s stretch) (err error) {
	room := r.v.row.Room
	switch {
	case r.t.last != nil:
		r.end = r.t.last.HeadState
	case r.full || len(a.confirm[room]) > 0:
		r.end, err = a.s.cfg.Graph.HeadStateAt(ctx, room, s.top)
	default:
		return nil // nothing happened: base and end are the same
	}
	if err == nil && r.based && !(s.known && len(s.events) > 0) {
		r.base, err = a.s.cfg.Graph.HeadStateAt(ctx, room, a.since)
	}
	return err
}

// wasJoined reports whether the user was in the room at a position.
func (a *answer) wasJoined(ctx context.Context, v *visit, at sqldb.Pos) (bool, error) {
	nid, err := a.s.cfg.Graph.HeadStateAt(ctx, v.row.Room, at)
	if err != nil || nid == 0 {
		return false, err
	}
	state, err := a.s.cfg.Graph.StateAt(ctx, v.row.Room, nid)
	if err != nil {
		return false, err
	}
	return state.Membership(a.q.User) == graph.Join, nil
}

// maxMemberHistory bounds how many changes of a membership are followed back.
const maxMemberHistory = 100

// history calls fn for the user's member events in the room, the newest first, until it returns false.
func (a *answer) history(ctx context.Context, v *visit, fn func(e *graph.Event) bool) error {
	nid := v.row.Event
	for range maxMemberHistory {
		if nid == 0 {
			return nil
		}
		events, err := a.s.cfg.Graph.Events(ctx, v.row.Room, []graph.EventNID{nid})
		if err != nil {
			return err
		}
		if !fn(events[0]) {
			return nil
		}
		nid = events[0].Replaces
	}
	return nil
}

// wasEverTold reports whether the client may have events of the room's timeline: the user was in the room at some time at or before since, or
// was shown there that an invite or a knock came to nothing.
func (a *answer) wasEverTold(ctx context.Context, v *visit) (told bool, err error) {
	err = a.history(ctx, v, func(e *graph.Event) bool {
		m := graph.Membership(e.PDU.Membership())
		told = e.Pos <= a.since && m != graph.Invite && m != graph.Knock
		return !told
	})
	return told, err
}

// left returns what is said of a room that the user has left or was banned from, nil for nothing.
func (a *answer) left(ctx context.Context, v *visit) ([]byte, error) {
	// Who was banned has not left, and should find out wherever they log in.
	again := (a.q.Filter.Room.IncludeLeave || v.row.Membership == graph.Ban) && (a.first || a.q.FullState)
	if !again && (a.first || v.row.Since <= a.since) {
		return nil, nil
	}
	// Forgetting a room leaves no trace in the stream.
	if row, ok, err := a.s.cfg.Graph.MembershipOf(ctx, a.q.User, v.row.Room); err != nil || !ok {
		return nil, err
	} else if row.Forgotten {
		return a.forgotten(ctx, v)
	}
	t := &timeline{room: v.row.Room, prev: view.Token(a.to)}
	if v.row.Event == 0 {
		t.told = v.row.Stripped
		return a.appendLeft(ctx, v, t, nil)
	}
	departure, later, err := a.departure(ctx, v)
	if err != nil {
		return nil, err
	}
	r := &roomState{a: a, v: v, full: true}
	var state []*graph.Event
	if departure != nil && (departure.Pos > a.since || a.q.FullState) {
		s := stretch{visit: v, floor: a.since, top: departure.Pos, shown: departure.NID}
		stayed := false
		if !a.first {
			if stayed, err = a.wasJoined(ctx, v, a.since); err != nil {
				return nil, err
			}
		}
		r.full, r.based = !stayed || a.q.FullState, stayed
		if !stayed && !(a.q.FullState && departure.Pos <= a.since) {
			s.floor = 0
		}
		if t, err = a.timeline(ctx, s); err != nil {
			return nil, err
		}
		if r.t = t; r.based {
			if r.base, err = a.s.cfg.Graph.HeadStateAt(ctx, v.row.Room, a.since); err != nil {
				return nil, err
			}
		}
		r.end = departure.HeadState
		if state, err = r.state(ctx); err != nil {
			return nil, err
		}
	}
	for _, e := range later {
		if a.q.Filter.Room.Timeline.MatchEvent(e.PDU) {
			t.events = append(t.events, e)
		}
	}
	return a.appendLeft(ctx, v, t, a.withOwn(state, later))
}

// withOwn adds the user's own last member event to the state that holds after the timeline, which clients don't take from the timeline then.
//
// Spec: cs sync
func (a *answer) withOwn(state, own []*graph.Event) []*graph.Event {
	if a.q.Mode == StateBefore {
		return state
	}
	for _, e := range own {
		state = slices.DeleteFunc(state, func(o *graph.Event) bool { return o.PDU.Key() == e.PDU.Key() })
		if a.q.Filter.Room.State.MatchEvent(e.PDU) {
			state = append(state, e)
		}
	}
	return state
}

// forgotten tells a client that its user has left a room, and nothing else of it, nor ever again: another device may have
// left and forgotten the room before this one heard, which would show it for ever.
//
// Deviates: cs Leaving rooms
func (a *answer) forgotten(ctx context.Context, v *visit) ([]byte, error) {
	if a.first || v.row.Since <= a.since {
		return nil, nil
	}
	t := &timeline{room: v.row.Room, prev: view.Token(a.to), limited: true}
	var own []*graph.Event
	if v.row.Event != 0 { // 0 where the room is known only from outside
		events, err := a.s.cfg.Graph.Events(ctx, v.row.Room, []graph.EventNID{v.row.Event})
		if err != nil {
			return nil, err
		}
		if e := events[0]; e.Flags&graph.Outlier == 0 {
			if own = events; a.q.Filter.Room.Timeline.MatchEvent(e.PDU) {
				t.events = events
			}
		}
	}
	return a.appendLeft(ctx, v, t, a.withOwn(nil, own))
}

// departure finds the event that ended the user's last stay in the room, nil if there was none, and the user's later member
// events in the window, oldest first.
func (a *answer) departure(ctx context.Context, v *visit) (departure *graph.Event, later []*graph.Event, err error) {
	var passed []*graph.Event // newest first
	err = a.history(ctx, v, func(e *graph.Event) bool {
		if graph.Membership(e.PDU.Membership()) != graph.Join {
			passed = append(passed, e)
			return true
		}
		if len(passed) > 0 {
			departure = passed[len(passed)-1]
			passed = passed[:len(passed)-1]
		}
		return false
	})
	// Of those that led to nothing only the last matters.
	if len(passed) > 0 && passed[0].Pos > a.since && passed[0].Flags&graph.Outlier == 0 {
		later = passed[:1]
	}
	return departure, later, err
}

func (a *answer) appendLeft(ctx context.Context, v *visit, t *timeline, state []*graph.Event) (out []byte, err error) {
	data, err := a.roomData(ctx, v)
	if err != nil {
		return nil, err
	}
	if out, err = a.appendTimeline(ctx, []byte{'{'}, t, state); err != nil {
		return nil, err
	}
	out = append(appendRawEvents(append(out, `,"account_data":`...), data), '}')
	return append(out, '}'), nil
}

// appendTimeline appends the state and the timeline of a room.
func (a *answer) appendTimeline(ctx context.Context, out []byte, t *timeline, state []*graph.Event) ([]byte, error) {
	out = append(canon.AppendString(out, a.q.Mode.field()), `:{"events":`...)
	var err error
	if t.told != nil && a.q.Mode != StateBefore {
		out = append(out, t.told...)
	} else if out, err = a.s.cfg.View.AppendEvents(ctx, out, a.audience(), state); err != nil {
		return nil, err
	}
	out = append(out, `},"timeline":{"events":`...)
	to := a.audience()
	to.Bundle = t.limited // otherwise the client has seen, or sees, all that relates to the events
	if t.told != nil {
		out = append(out, t.told...)
	} else if out, err = a.s.cfg.View.AppendEvents(ctx, out, to, t.events); err != nil {
		return nil, err
	}
	if t.limited {
		out = append(out, `,"limited":true,"prev_batch":`...)
	} else {
		out = append(out, `,"limited":false,"prev_batch":`...)
	}
	return append(canon.AppendString(out, t.prev.String()), '}'), nil
}

// strippedTypes are the parts of a room's state that help to decide whether to enter it.
//
// Spec: cs Stripped state
var strippedTypes = []string{
	"m.room.create", "m.room.join_rules", "m.room.canonical_alias", "m.room.avatar", "m.room.name", "m.room.topic", "m.room.encryption",
}

// asked returns what is said of a room that the user is invited to, or knocks at; nil for nothing.
func (a *answer) asked(ctx context.Context, v *visit) ([]byte, error) {
	if !a.first && !a.q.FullState && v.row.Pos <= a.since {
		return nil, nil
	}
	stripped, sender := v.row.Stripped, id.UserID("")
	if v.row.Event != 0 {
		events, err := a.s.cfg.Graph.Events(ctx, v.row.Room, []graph.EventNID{v.row.Event})
		if err != nil {
			return nil, err
		}
		sender = events[0].PDU.Sender()
		if stripped, err = a.stripped(ctx, events[0]); err != nil {
			return nil, err
		}
	} else {
		sender = senderOf(stripped, a.q.User)
	}
	if v.section == inInvite {
		if unwanted, err := a.unwanted(sender); err != nil || unwanted {
			return nil, err
		}
	}
	if len(stripped) == 0 {
		stripped = []byte("[]")
	}
	name := `{"invite_state":{"events":`
	if v.section == inKnock {
		name = `{"knock_state":{"events":`
	}
	return append(append([]byte(name), stripped...), "}}"...), nil
}

// unwanted reports whether the user wants to hear nothing of invites by a sender. What came before the user said so is
// not shown either; it is once the user thinks better of it, in a first sync.
//
// Spec: cs Invite permission
func (a *answer) unwanted(sender id.UserID) (bool, error) {
	if _, ignored := a.ignored[sender]; ignored {
		return true, nil
	}
	rules, err := a.invites()
	return err == nil && rules.Judge(sender) != account.InviteAllowed, err
}

// senderOf finds who sent the user's member event among stripped events.
func senderOf(stripped []byte, user id.UserID) id.UserID {
	for _, e := range gjson.ParseBytes(stripped).Array() {
		if e.Get("type").Str == memberType && e.Get("state_key").Str == string(user) {
			return id.UserID(e.Get("sender").Str)
		}
	}
	return ""
}

// stripped returns the stripped state that goes with an invite or a knock.
func (a *answer) stripped(ctx context.Context, member *graph.Event) ([]byte, error) {
	state, err := a.s.cfg.Graph.StateBefore(ctx, member)
	if err != nil {
		return nil, err
	}
	var nids []graph.EventNID
	for _, typ := range strippedTypes {
		if nid, ok := state.Get(typ, ""); ok {
			nids = append(nids, nid)
		}
	}
	if sender := member.PDU.Sender(); sender != a.q.User {
		if nid, ok := state.Get(memberType, string(sender)); ok {
			nids = append(nids, nid)
		}
	}
	events, err := a.s.cfg.Graph.Events(ctx, member.Room, nids)
	if err != nil {
		return nil, err
	}
	out := []byte{'['}
	for _, e := range events {
		out = append(e.PDU.AppendStripped(out), ',')
	}
	return append(member.PDU.AppendStripped(out), ']'), nil
}
