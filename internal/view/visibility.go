package view

import (
	"context"
	"math"

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
	o := &onlooker{view: v, user: user, room: room, joinedUntil: math.MinInt64, at: make(map[graph.StateNID]moment)}
	if user == "" {
		return o, nil
	}
	row, ok, err := v.cfg.Graph.MembershipOf(ctx, user, room)
	if err != nil || !ok {
		return o, err
	}
	o.forgotten = row.Forgotten
	if row.Membership == graph.Join {
		o.joinedUntil = math.MaxInt64
		return o, nil
	}
	o.joinedUntil, err = v.lastJoinEnd(ctx, room, row.Event)
	return o, err
}

// maxMemberHistory bounds how many changes of a user's membership are followed back.
const maxMemberHistory = 100

// lastJoinEnd follows a user's member events back to the last join and returns the place of
// the event that ended it.
func (v *View) lastJoinEnd(ctx context.Context, room graph.RoomNID, member graph.EventNID) (int64, error) {
	var end int64
	for range maxMemberHistory {
		if member == 0 {
			break
		}
		events, err := v.cfg.Graph.Events(ctx, room, []graph.EventNID{member})
		if err != nil {
			return 0, err
		}
		if graph.Membership(events[0].PDU.Membership()) == graph.Join {
			return end, nil
		}
		end, member = events[0].Ord, events[0].Replaces
	}
	return math.MinInt64, nil
}

func (o *onlooker) sees(ctx context.Context, e *graph.Event) (bool, error) {
	if e.Flags&(graph.Outlier|graph.Rejected|graph.SoftFailed) != 0 {
		return false, nil
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
		return m.membership == graph.Invite
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

// WithoutIgnored takes out the events, other than state, whose senders the user ignores. It
// may reuse the slice.
//
// Spec: cs Ignoring Users
func (v *View) WithoutIgnored(ctx context.Context, user id.UserID, events []*graph.Event) ([]*graph.Event, error) {
	ignored, err := v.cfg.Ignored(ctx, user)
	if err != nil || len(ignored) == 0 {
		return events, err
	}
	kept := events[:0]
	for _, e := range events {
		if _, ok := ignored[e.PDU.Sender()]; !ok || e.PDU.IsState() {
			kept = append(kept, e)
		}
	}
	return kept, nil
}
