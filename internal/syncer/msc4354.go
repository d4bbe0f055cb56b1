package syncer

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"myelin/internal/graph"
	"myelin/internal/view"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxSticky is the most events that stick in one answer of /sync, the next has more, and maxStickyPage in one of sliding sync.
const (
	maxSticky     = 200
	maxStickyPage = 100
)

// sticky returns the events of a stretch that stick and that the timeline doesn't show: nothing keeps them from whoever is in the
// room, neither the timeline's filter nor the history's visibility.
//
// MSC4354: Sticky events
func (a *answer) sticky(ctx context.Context, s stretch, t *timeline) ([]*graph.Event, error) {
	more := a.stuckSince() != graph.StickyPlace{At: a.since, Pos: a.since} // an answer before had no room for all
	if !more && s.known && len(s.events) == len(t.events) {
		return nil, nil // all is in the timeline
	}
	if !more && !a.first && !s.visit.entered && !t.limited && t.last == nil {
		return nil, nil // nothing happened
	}
	byRoom, err := a.sticking()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(byRoom[s.visit.row.Room]), func(e *graph.Event) bool {
		shown := slices.ContainsFunc(t.events, func(o *graph.Event) bool { return o.NID == e.NID })
		_, ignored := a.ignored[e.PDU.Sender()]
		return shown || ignored || !more && e.Pos <= s.floor
	}), nil
}

// stuckSince is from where on the client has yet to be told of events that stick.
func (a *answer) stuckSince() graph.StickyPlace {
	if !a.first && a.q.Since.Sticky != (graph.StickyPlace{}) {
		return a.q.Since.Sticky
	}
	return graph.StickyPlace{At: a.since, Pos: a.since}
}

// loadSticky reads what sticks in all rooms that the user is in. Of too much the next answer has the rest.
func (a *answer) loadSticky(ctx context.Context) (map[graph.RoomNID][]*graph.Event, error) {
	found, err := a.s.cfg.Graph.StickyFor(ctx, a.q.User, a.stuckSince(), a.to, maxSticky)
	if err != nil {
		return nil, err
	}
	if len(found) == maxSticky {
		a.mu.Lock()
		a.next.Sticky = found[maxSticky-1].Place
		a.mu.Unlock()
	}
	byRoom := make(map[graph.RoomNID][]*graph.Event)
	for _, f := range found {
		byRoom[f.Room] = append(byRoom[f.Room], f.Event)
	}
	return byRoom, nil
}

// appendSticky appends the part of a room's answer with the events that stick; nothing where there are none.
//
// MSC4354: Sticky events
func (a *answer) appendSticky(ctx context.Context, out []byte, sticky []*graph.Event) ([]byte, error) {
	if len(sticky) == 0 {
		return out, nil
	}
	out, err := a.s.cfg.View.AppendEvents(ctx, append(out, `,"msc4354_sticky":{"events":`...), a.audience(), sticky)
	return append(out, '}'), err
}

// stickyRequest asks for events that stick. They have tokens of their own, so that none is missed.
//
// MSC4480: Sliding Sync Extension: Sticky Events
type stickyRequest struct {
	Enabled bool   `json:"enabled"`
	Limit   *int   `json:"limit"`
	Since   string `json:"since"`
}

// stickyName is the extension's name.
const stickyName = "org.matrix.msc4354.sticky_events"

func (q *stickyRequest) check() error {
	if q == nil {
		return nil
	}
	if _, ok := q.from(); !ok {
		return mxerr.InvalidParam("%.60q is no token of the extension %s.", q.Since, stickyName)
	}
	if q.Limit != nil && *q.Limit < 1 {
		return mxerr.InvalidParam("The limit of %s must be positive.", stickyName)
	}
	return nil
}

// from reads a token: the position up to which the client was told, and, in the middle of a room that the user came into there, that of the last event.
func (q *stickyRequest) from() (graph.StickyPlace, bool) {
	if q.Since == "" {
		return graph.StickyPlace{}, true
	}
	at, in, cut := strings.Cut(q.Since, "_")
	p, ok := parsePos(at)
	if !ok || !cut {
		return graph.StickyPlace{At: p, Pos: p}, ok
	}
	last, ok := parsePos(in)
	return graph.StickyPlace{At: p, Pos: last}, ok && last < p
}

func stickyToken(p graph.StickyPlace) string {
	s := strconv.FormatInt(int64(p.At), 10)
	if p.Pos < p.At {
		s += "_" + strconv.FormatInt(int64(p.Pos), 10)
	}
	return s
}

// sticky tells of the events that stick, the oldest first, in all rooms that the user is in: each is of interest to a client that lists its rooms.
//
// MSC4480: Sliding Sync Extension: Sticky Events
func (a *slide) sticky(ctx context.Context, _ *mark) (string, []byte, bool, error) {
	q := a.q.ext.Sticky
	if q == nil || !q.Enabled {
		return "", nil, false, nil
	}
	from, _ := q.from()
	if from.At > a.seen.to {
		return "", nil, false, mxerr.InvalidParam("The token of %s is from the future.", stickyName)
	}
	limit := maxStickyPage
	if q.Limit != nil {
		limit = min(limit, *q.Limit)
	}
	found, err := a.s.cfg.Graph.StickyFor(ctx, a.q.User, from, a.seen.to, limit)
	if err != nil || len(found) == 0 {
		return "", nil, false, err
	}
	full := len(found) == limit
	next := graph.StickyPlace{At: a.seen.to, Pos: a.seen.to}
	if full {
		next = found[limit-1].Place
	}
	byRoom := make(map[graph.RoomNID][]*graph.Event)
	var rooms []graph.RoomNID
	for _, f := range found {
		if a.ignores(f.Event.PDU.Sender()) || a.shows(f) {
			continue
		}
		if byRoom[f.Room] == nil {
			rooms = append(rooms, f.Room)
		}
		byRoom[f.Room] = append(byRoom[f.Room], f.Event)
	}
	out := canon.AppendString([]byte(`{"next_batch":`), stickyToken(next))
	out = append(out, `,"rooms":{`...)
	to := view.Audience{User: a.q.User, Device: a.q.Device, OmitRoomID: true}
	for i, nid := range rooms {
		if i > 0 {
			out = append(out, ',')
		}
		var name id.RoomID
		if name, _, err = a.s.cfg.Graph.RoomID(ctx, nid); err != nil {
			return "", nil, false, err
		}
		out = append(canon.AppendString(out, string(name)), `:{"events":`...)
		if out, err = a.s.cfg.View.AppendEvents(ctx, out, to, byRoom[nid]); err != nil {
			return "", nil, false, err
		}
		out = append(out, '}')
	}
	return stickyName, append(out, "}}"...), full || len(rooms) > 0, nil
}

// shows reports whether the answer has the event in a timeline.
func (a *slide) shows(f graph.Sticky) bool {
	for _, r := range a.rooms {
		if r.spot.row.Room == f.Room && r.body != nil && r.t != nil {
			return slices.ContainsFunc(r.t.events, func(e *graph.Event) bool { return e.NID == f.Event.NID })
		}
	}
	return false
}
