package view

import (
	"context"
	"math"
	"time"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// onlooker is what decides, for one user in one room, which events they may see.
type onlooker struct {
	view *View
	user id.UserID
	room graph.RoomNID
	// joinedUntil is the place in the room's order up to which the user was joined the last
	// time: no bound where they are joined, math.MinInt64 where they never were.
	joinedUntil int64
	forgotten   bool
	// at remembers the verdicts by snapshot, since many events share one.
	at map[graph.StateNID]moment
}

// moment is what the state before an event says about the user.
type moment struct {
	visibility string
	membership graph.Membership
}

// The values of m.room.history_visibility. What isn't understood counts as shared.
const (
	worldReadable = "world_readable"
	shared        = "shared"
	invited       = "invited"
	joined        = "joined"
)

// Visible reports for each of the events, which are of one room, whether the user may see
// it. The user "" is anybody: they see what is world readable.
//
// Spec: cs Room History Visibility
func (v *View) Visible(ctx context.Context, user id.UserID, events []*graph.Event) ([]bool, error) {
	verdicts := make([]bool, len(events))
	if len(events) == 0 {
		return verdicts, nil
	}
	o, err := v.onlooker(ctx, user, events[0].Room)
	if err != nil {
		return nil, err
	}
	for i, e := range events {
		if verdicts[i], err = o.sees(ctx, e); err != nil {
			return nil, err
		}
	}
	return verdicts, nil
}

func (v *View) onlooker(ctx context.Context, user id.UserID, room graph.RoomNID) (*onlooker, error) {
	a := access{user: user}
	if user != "" {
		var ok bool
		var err error
		if a.row, ok, err = v.cfg.Graph.MembershipOf(ctx, user, room); err != nil {
			return nil, err
		}
		if ok && a.row.Membership != graph.Join {
			if a.departure, err = v.departure(ctx, room, a.row.Event); err != nil {
				return nil, err
			}
		}
	}
	return v.looking(a, room), nil
}

// looking is the onlooker that somebody with access is.
func (v *View) looking(a access, room graph.RoomNID) *onlooker {
	o := &onlooker{
		view: v, user: a.user, room: room, joinedUntil: math.MinInt64,
		forgotten: a.row.Forgotten, at: make(map[graph.StateNID]moment),
	}
	switch {
	case a.row.Membership == graph.Join:
		o.joinedUntil = math.MaxInt64
	case a.departure != nil:
		o.joinedUntil = a.departure.Ord
	}
	return o
}

// maxMemberHistory bounds how many changes of a user's membership are followed back.
const maxMemberHistory = 100

// departure follows a user's member events back to their last join and returns the event that
// ended it, nil where they never joined.
func (v *View) departure(ctx context.Context, room graph.RoomNID, member graph.EventNID) (*graph.Event, error) {
	var end *graph.Event
	for range maxMemberHistory {
		if member == 0 {
			break
		}
		events, err := v.cfg.Graph.Events(ctx, room, []graph.EventNID{member})
		if err != nil {
			return nil, err
		}
		if graph.Membership(events[0].PDU.Membership()) == graph.Join {
			return end, nil
		}
		end, member = events[0], events[0].Replaces
	}
	return nil, nil
}

func (o *onlooker) sees(ctx context.Context, e *graph.Event) (bool, error) {
	if e.Flags&(graph.Outlier|graph.Rejected|graph.SoftFailed) != 0 {
		return false, nil
	}
	if o.joinedUntil == math.MaxInt64 && sticks(e) {
		return true, nil
	}
	before, err := o.before(ctx, e)
	if err != nil {
		return false, err
	}
	if o.allows(before, e) {
		return true, nil
	}
	// Events that change what decides are visible if either side of the change lets them be.
	after := before
	switch e.PDU.Key() {
	case event.Key{Type: "m.room.history_visibility"}:
		after.visibility = visibilityOf(e.PDU)
	case event.Key{Type: "m.room.member", StateKey: string(o.user)}:
		after.membership = graph.Membership(e.PDU.Membership())
	default:
		return false, nil
	}
	return e.PDU.IsState() && o.allows(after, e), nil
}

// sticks reports whether an event sticks still. Whoever is in its room may see it then, whatever they may see of the history.
//
// MSC4354: Sticky events
func sticks(e *graph.Event) bool {
	now := time.Now().UnixMilli()
	return e.PDU.Sticky() > 0 && e.PDU.StickyUntil(now) > now
}

// allows applies the five rules.
func (o *onlooker) allows(m moment, e *graph.Event) bool {
	switch {
	case m.visibility == worldReadable:
		return true
	case o.forgotten:
		return false
	case m.membership == graph.Join:
		return true
	case m.visibility == shared:
		return e.Ord < o.joinedUntil
	case m.visibility == invited:
		// Until they join, the invited see no more than their invite.
		return m.membership == graph.Invite && e.Ord < o.joinedUntil
	}
	return false
}

// before reads the state before an event.
func (o *onlooker) before(ctx context.Context, e *graph.Event) (moment, error) {
	if m, ok := o.at[e.StateBefore]; ok {
		return m, nil
	}
	state, err := o.view.cfg.Graph.StateBefore(ctx, e)
	if err != nil {
		return moment{}, err
	}
	m := moment{visibility: shared, membership: state.Membership(o.user)}
	// Who was in the room sees the event whatever its visibility.
	if nid, ok := state.Get("m.room.history_visibility", ""); ok && (m.membership != graph.Join || o.forgotten) {
		events, err := o.view.cfg.Graph.Events(ctx, o.room, []graph.EventNID{nid})
		if err != nil {
			return moment{}, err
		}
		m.visibility = visibilityOf(events[0].PDU)
	}
	o.at[e.StateBefore] = m
	return m, nil
}

func visibilityOf(p *event.PDU) string {
	switch s := gjson.GetBytes(p.Content(), "history_visibility").Str; s {
	case worldReadable, invited, joined:
		return s
	}
	return shared
}

// ignores reports whether an event is one that a user who ignores these senders doesn't want to see.
// State is never hidden: clients would get the room wrong.
//
// Spec: cs Ignoring Users
func ignores(ignored map[id.UserID]struct{}, e *graph.Event) bool {
	_, ok := ignored[e.PDU.Sender()]
	return ok && !e.PDU.IsState()
}
