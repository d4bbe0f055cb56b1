package push

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	defaultNotifications = 20
	maxNotifications     = 200
	// maxLooked bounds the events that are looked at for one page.
	maxLooked = 2000
)

var (
	sqlNotified = sqldb.SQL(`SELECT ord FROM push_events WHERE ord < $1 AND room_nid = ANY($2) ORDER BY ord DESC LIMIT $3`)
	sqlMarked   = sqldb.SQL(`SELECT ord, outcome FROM push_marks WHERE user_id = $1 AND ord < $2 AND outcome > 0 ORDER BY ord DESC LIMIT $3`)
)

// NotificationsQuery is a request for a page of notifications.
type NotificationsQuery struct {
	To    view.Audience
	From  string // next_token of the page before; empty for the first
	Limit int    // 0 means the default
	// Highlights leaves out what has no highlight.
	Highlights bool
}

// Notification is an event that a user was notified of.
//
// Spec: cs getNotifications
type Notification struct {
	Actions json.RawMessage `json:"actions"`
	Event   json.RawMessage `json:"event"`
	Read    bool            `json:"read"`
	RoomID  id.RoomID       `json:"room_id"`
	TS      int64           `json:"ts"`
}

// NotificationsPage is a page of notifications, the newest first.
type NotificationsPage struct {
	NextToken     string         `json:"next_token,omitempty"`
	Notifications []Notification `json:"notifications"`
}

// Notifications lists what a user was notified of in rooms that they are in or invited to. The actions are those of the rules as they are now.
//
// Spec: cs getNotifications
func (p *Push) Notifications(ctx context.Context, q NotificationsQuery) (*NotificationsPage, error) {
	before := int64(math.MaxInt64)
	if q.From != "" {
		n, err := strconv.ParseInt(q.From, 10, 64)
		if err != nil || n <= 0 {
			return nil, mxerr.InvalidParam("%.40q is no token of this list.", q.From)
		}
		before = n
	}
	limit := defaultNotifications
	if q.Limit > 0 {
		limit = min(q.Limit, maxNotifications)
	}
	l := &lister{p: p, q: q, page: &NotificationsPage{Notifications: []Notification{}}, rooms: make(map[graph.RoomNID]*listed)}
	if err := p.Settle(ctx); err != nil {
		return nil, err
	}
	for looked := 0; ; {
		step := min(100, maxLooked-looked)
		ords, outcomes, err := p.notified(ctx, q.To.User, before, step)
		if err != nil {
			return nil, err
		}
		if err := l.load(ctx, ords); err != nil {
			return nil, err
		}
		for _, ord := range ords {
			if len(l.page.Notifications) == limit {
				l.page.NextToken = strconv.FormatInt(before, 10)
				return l.page, nil
			}
			if e := l.events[ord]; e != nil {
				err = l.look(ctx, e, outcomes[ord])
			} else if o, ok := l.outside[ord]; ok {
				err = l.lookOutside(ctx, o)
			}
			if err != nil {
				return nil, fmt.Errorf("list notifications of %s: %w", q.To.User, err)
			}
			before = ord
		}
		if len(ords) < step {
			return l.page, nil
		}
		before = ords[len(ords)-1]
		if looked += len(ords); looked >= maxLooked {
			l.page.NextToken = strconv.FormatInt(before, 10)
			return l.page, nil
		}
	}
}

// notified returns the places of events that a user may have been notified of, newest first, and what marks say of them.
func (p *Push) notified(ctx context.Context, user id.UserID, before int64, limit int) (ords []int64, outcomes map[int64]int64, err error) {
	err = p.db.Read(ctx, func(tx *sqldb.Tx) error {
		ords, outcomes = nil, make(map[int64]int64)
		rooms, err := graph.JoinedRooms(tx, user)
		if err != nil {
			return err
		}
		nids := make([]int64, len(rooms))
		for i, r := range rooms {
			nids[i] = int64(r)
		}
		err = tx.Query(sqlNotified, func(r *sqldb.Row) error {
			var ord int64
			err := r.Scan(&ord)
			ords = append(ords, ord)
			return err
		}, before, nids, limit)
		if err != nil {
			return err
		}
		return tx.Query(sqlMarked, func(r *sqldb.Row) error {
			var ord, outcome int64
			err := r.Scan(&ord, &outcome)
			ords, outcomes[ord] = append(ords, ord), outcome
			return err
		}, user, before, limit)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list notifications of %s: %w", user, err)
	}
	slices.SortFunc(ords, func(a, b int64) int { return cmp.Compare(b, a) })
	ords = slices.Compact(ords)
	return ords[:min(len(ords), limit)], outcomes, nil
}

// lister makes a page.
type lister struct {
	p     *Push
	q     NotificationsQuery
	page  *NotificationsPage
	rooms map[graph.RoomNID]*listed
	// events and outside are what is to be looked at, by place.
	events  map[int64]*graph.Event
	outside map[int64]outside
}

// load finds what stands at places of the stream.
func (l *lister) load(ctx context.Context, ords []int64) error {
	found, err := l.p.cfg.Graph.EventsAtPositions(ctx, ords)
	if err != nil {
		return err
	}
	l.events, l.outside = make(map[int64]*graph.Event, len(found)), nil
	for _, e := range found {
		l.events[e.Ord] = e
	}
	if len(found) < len(ords) {
		l.outside, err = l.p.outsideAt(ctx, l.q.To.User, ords)
	}
	return err
}

// listed is what a page knows of a room.
type listed struct {
	joined bool
	floors floors
	since  int64
}

func (l *lister) room(ctx context.Context, room graph.RoomNID) (*listed, error) {
	if r := l.rooms[room]; r != nil {
		return r, nil
	}
	r := new(listed)
	l.rooms[room] = r
	row, ok, err := l.p.cfg.Graph.MembershipOf(ctx, l.q.To.User, room)
	if err != nil || !ok {
		return r, err
	}
	if r.since = int64(row.Since); row.Membership == graph.Invite {
		r.since-- // the invite itself
	}
	if r.joined = row.Membership == graph.Join || row.Membership == graph.Invite; row.Membership != graph.Join {
		return r, nil
	}
	return r, l.p.tallies(ctx, l.q.To.User, 0, []graph.RoomNID{room}, func(_ graph.RoomNID, t *tally) { r.floors = t.floors })
}

// look adds an event to the page if it belongs there.
func (l *lister) look(ctx context.Context, e *graph.Event, outcome int64) error {
	r, err := l.room(ctx, e.Room)
	if err != nil || !r.joined || e.Ord <= r.since {
		return err
	}
	v, err := l.p.judge(ctx, e)
	if err != nil || v.dead {
		return err
	}
	m, err := l.p.match(ctx, &hearing{verdict: v}, l.q.To.User)
	if err != nil {
		return err
	}
	n := Notification{RoomID: e.PDU.RoomID(), TS: e.PDU.OriginServerTS(), Read: e.Ord <= r.floors.of(v.thread)}
	highlight := outcome == 2
	switch {
	case m != nil:
		n.Actions, highlight = m.Actions, m.Highlight
	case highlight:
		n.Actions = json.RawMessage(`["notify",{"set_tweak":"highlight"}]`)
	case outcome == 1:
		n.Actions = json.RawMessage(`["notify"]`)
	default:
		return nil
	}
	if l.q.Highlights && !highlight {
		return nil
	}
	// Who is invited may see no event of the room, and is told of the invite all the same.
	if key, ok := e.PDU.StateKey(); !ok || e.PDU.Type() != memberType || key != string(l.q.To.User) {
		if visible, err := l.p.cfg.View.Visible(ctx, l.q.To.User, []*graph.Event{e}); err != nil || !visible[0] {
			return err
		}
	}
	if n.Event, err = l.p.cfg.View.AppendEvent(ctx, nil, l.q.To, e); err == nil {
		l.page.Notifications = append(l.page.Notifications, n)
	}
	return err
}
