package syncer

import (
	"context"
	"slices"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/matrix/event"
)

const (
	// defaultTimeline is how many events of a room are shown to who doesn't say.
	defaultTimeline = 10
	// MaxTimeline is the most events of a room in one answer.
	MaxTimeline = 100
	// maxScan bounds how many events of a room are looked at for a filter that few of them pass.
	maxScan = 2000
	// scanPage is how many events are read at a time where some may not be shown.
	scanPage = 50
)

// timeline is the part of a room's order that an answer shows.
type timeline struct {
	room   graph.RoomNID
	events []*graph.Event // oldest first
	// told are JSON events of a room that this server has no part in, as clients see them, in an array; nil for none.
	told []byte
	// limited: there are more events in the window, before these.
	limited bool
	// last is the newest event of the window, shown or not; nil if there is none.
	last *graph.Event
	// before is the event before events[0] in the room's order, if it was come by.
	before *graph.Event
	// prev is the place before the first event shown.
	prev view.Token
}

// begins reports that the timeline begins with the room. In a room that is new to the client, and that it doesn't see
// the beginning of, there is more to ask for, whatever kept it from the timeline.
func (t *timeline) begins() bool {
	return len(t.events) > 0 && t.events[0].PDU.Type() == "m.room.create"
}

// keys returns the state events that the timeline shows: of each key the last.
func (t *timeline) keys() map[event.Key]*graph.Event {
	var keys map[event.Key]*graph.Event
	for _, e := range t.events {
		if e.PDU.IsState() {
			if keys == nil {
				keys = make(map[event.Key]*graph.Event)
			}
			keys[e.PDU.Key()] = e
		}
	}
	return keys
}

// cut drops the first n events.
func (t *timeline) cut(n int) {
	t.before = t.events[n-1]
	t.prev = view.Token(t.before.Ord)
	t.events, t.limited = t.events[n:], true
}

// stretch is a part of a room's order: the positions after floor, up to top.
type stretch struct {
	visit *visit
	floor sqldb.Pos
	top   sqldb.Pos
	// shown is an event that is shown although the user may have lost the right to see it; 0 for none.
	shown graph.EventNID
	// events are all of the stretch, oldest first, if known.
	events []*graph.Event
	known  bool
}

// timeline collects the newest events of a stretch that the filter selects and the user may see.
func (a *answer) timeline(ctx context.Context, s stretch) (*timeline, error) {
	t := &timeline{room: s.visit.row.Room, prev: view.Token(s.top)}
	f := &a.q.Filter.Room.Timeline
	limit := f.LimitOr(defaultTimeline, MaxTimeline)
	if !f.MatchRoom(s.visit.row.RoomID) {
		limit = 0
	}
	page := limit + 1
	if !f.SelectsAll() || len(a.ignored) > 0 {
		page = max(page, scanPage)
	}
	var scanned []*graph.Event // newest first
	var shown []int            // indices of scanned
	for more, torn := true, -1; more && len(shown) <= limit && torn < 0; {
		if len(scanned) >= maxScan {
			t.limited = true
			break
		}
		from := len(scanned)
		var err error
		if scanned, more, err = a.more(ctx, s, scanned, page); err != nil {
			return nil, err
		}
		if torn = slices.IndexFunc(scanned[from:], isTorn); torn >= 0 {
			// What came before is no part of the same piece of history: the client asks for what lies between.
			t.limited = f.MatchRoom(s.visit.row.RoomID)
			scanned = scanned[:from+torn+1]
		}
		if shown, err = a.choose(ctx, s, scanned, from, shown); err != nil {
			return nil, err
		}
	}
	if len(scanned) > 0 {
		t.last = scanned[0]
	}
	if len(shown) > limit {
		shown, t.limited = shown[:limit], f.MatchRoom(s.visit.row.RoomID)
	}
	if len(shown) == 0 {
		return t, nil
	}
	for _, i := range slices.Backward(shown) {
		t.events = append(t.events, scanned[i])
	}
	if i := shown[len(shown)-1] + 1; i < len(scanned) {
		t.before = scanned[i]
	}
	t.prev = view.Token(t.events[0].Ord - 1)
	return t, nil
}

func isTorn(e *graph.Event) bool { return e.Flags&graph.Torn != 0 }

// more appends the next older events of the stretch, and reports whether there may be others.
func (a *answer) more(ctx context.Context, s stretch, scanned []*graph.Event, page int) ([]*graph.Event, bool, error) {
	if s.known {
		for _, e := range slices.Backward(s.events) {
			scanned = append(scanned, e)
		}
		return scanned, false, nil
	}
	before := int64(s.top) + 1
	if n := len(scanned); n > 0 {
		before = scanned[n-1].Ord
	}
	found, err := a.s.cfg.Graph.Timeline(ctx, s.visit.row.Room, graph.Range{
		After: int64(s.floor), Before: before, Backward: true, Limit: page,
	})
	return append(scanned, found...), len(found) == page, err
}

// choose appends the indices of those scanned events, from an index on, that are to be shown.
func (a *answer) choose(ctx context.Context, s stretch, scanned []*graph.Event, from int, shown []int) ([]int, error) {
	var candidates []int
	var doubtful []*graph.Event
	verdicts := make(map[graph.EventNID]bool)
	related, err := a.s.cfg.View.RelatedBy(ctx, &a.q.Filter.Room.Timeline, scanned[from:])
	if err != nil {
		return nil, err
	}
	for i := from; i < len(scanned); i++ {
		e := scanned[i]
		if !a.wants(e) || related != nil && !related[e.PDU.ID()] {
			continue
		}
		candidates = append(candidates, i)
		sees, err := a.plainlySees(ctx, s, e)
		if err != nil {
			return nil, err
		}
		if verdicts[e.NID] = sees; !sees {
			doubtful = append(doubtful, e)
		}
	}
	if len(doubtful) > 0 {
		visible, err := a.s.cfg.View.Visible(ctx, a.q.User, doubtful)
		if err != nil {
			return nil, err
		}
		for i, e := range doubtful {
			verdicts[e.NID] = visible[i]
		}
	}
	for _, i := range candidates {
		if verdicts[scanned[i].NID] {
			shown = append(shown, i)
		}
	}
	return shown, nil
}

// wants reports whether the filter selects the event and its sender is not ignored.
//
// Spec: cs Ignoring Users
func (a *answer) wants(e *graph.Event) bool {
	if _, ignored := a.ignored[e.PDU.Sender()]; ignored && !e.PDU.IsState() {
		return false
	}
	return a.q.Filter.Room.Timeline.MatchEvent(e.PDU)
}

// plainlySees reports that the user was in the room when the event was sent, by means that need no database. Where it
// says no package view has to be asked.
func (a *answer) plainlySees(ctx context.Context, s stretch, e *graph.Event) (bool, error) {
	row := &s.visit.row
	switch {
	case e.NID == s.shown:
		return true, nil
	case row.Membership == graph.Join && e.Pos > row.Since && e.StateBefore == e.HeadState:
		// The head's state has the user joined since row.Since, and before the event it was the head's.
		return true, nil
	}
	state, err := a.s.cfg.Graph.StateBefore(ctx, e)
	if err != nil {
		return false, err
	}
	return state.Membership(a.q.User) == graph.Join, nil
}
