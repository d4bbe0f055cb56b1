package syncer

import (
	"context"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"myelin/internal/ephemeral"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/internal/view"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// room is a room in an answer of sliding sync in the making.
type room struct {
	a      *slide
	spot   *spot
	config *roomConfig // what the rules ask for; nil where none selects the room
	old    mark
	mark   mark // what the client knows once it has the answer
	told   bool // the state was told under config
	body   []byte

	initial bool
	upTo    sqldb.Pos // the client was told up to there
	v       *visit
	ans     *answer // for what this has in common with sync v2
	state   *roomState
	t       *timeline
	changes []graph.StateDiff
	// entries of the state to send, and keys that hold nothing any more.
	nids map[event.Key]graph.EventNID
	gone []event.Key
}

// visit works out what is said of the room, and what the client knows then.
func (r *room) visit(ctx context.Context) error {
	r.upTo = r.old.told[theEvents].upTo(r.a.from)
	if r.config == nil {
		if r.old.told[theEvents] == current && r.a.happened(r.spot) {
			r.mark.told[theEvents] = progress(r.a.from)
		}
		return nil
	}
	limit := timelineFilters[r.config.limit]
	r.v = &visit{glance: r.spot.glance}
	r.ans = newAnswer(r.a.s, Request{User: r.a.q.User, Device: r.a.q.Device, Filter: limit, Mode: StateAfter},
		&snapshot{to: r.a.seen.to, complete: r.a.seen.complete})
	r.ans.first, r.ans.since, r.ans.ignored, r.ans.invites = false, r.upTo, r.a.ignored, r.a.invites
	switch r.spot.row.Membership {
	case graph.Join:
		return r.joined(ctx)
	case graph.Invite, graph.Knock:
		return r.asked(ctx)
	}
	return r.departed(ctx)
}

// joined is about a room that the user is in.
func (r *room) joined(ctx context.Context) error {
	row := &r.spot.row
	r.initial = r.old.told[theEvents] == never || r.upTo < row.Since
	if r.initial {
		r.mark = mark{}
	}
	happened := r.old.told[theEvents] != current || r.a.happened(r.spot)
	longer := !r.initial && r.config.limit > r.old.limit
	wider := !r.initial && !r.config.within(r.a.oldConfig(r.old.config))
	read := r.readElsewhere()
	if !r.initial && !happened && !longer && !wider && !read && r.spot.direct == r.old.direct {
		return nil
	}
	s := stretch{visit: r.v, floor: r.upTo, top: r.a.seen.to}
	switch {
	case r.initial || longer:
		s.floor = 0
	case !happened:
		s.known = true
	case r.old.told[theEvents] == current && r.a.seen.complete:
		s.events, s.known = r.ans.knownEvents(r.v)
	}
	var err error
	if r.t, err = r.ans.timeline(ctx, s); err != nil {
		return err
	}
	if r.initial {
		r.t.limited = r.t.limited || !r.t.begins()
	}
	r.state = &roomState{a: r.ans, v: r.v, t: r.t, full: r.initial}
	if err := r.ends(ctx, s, happened, wider); err != nil {
		return err
	}
	if err := r.pickState(ctx, wider); err != nil {
		return err
	}
	if err := r.write(ctx, longer, read); err != nil {
		return err
	}
	r.told, r.mark.direct, r.mark.told[theEvents] = true, r.spot.direct, current
	switch {
	case r.initial || longer:
		r.mark.limit = r.config.limit
	case r.t.limited:
		r.mark.limit = min(r.mark.limit, r.config.limit)
	}
	return nil
}

// readElsewhere reports whether another device of the user's has read on, which changes counts.
func (r *room) readElsewhere() bool {
	if !r.a.counting() {
		return false
	}
	own := func(rec *ephemeral.Receipt) bool { return rec.User == r.a.q.User }
	if r.spot.complete {
		return slices.ContainsFunc(r.spot.items, func(it item) bool { return it.receipt != nil && own(it.receipt) })
	}
	return slices.ContainsFunc(r.a.receipts[r.spot.row.Room], own)
}

// ends finds the states between which the news lie.
func (r *room) ends(ctx context.Context, s stretch, happened, wider bool) (err error) {
	g, nid := r.a.s.cfg.Graph, r.spot.row.Room
	switch {
	case r.t.last != nil:
		r.state.end = r.t.last.HeadState
	case r.initial || wider || happened && !s.known:
		r.state.end, err = g.HeadStateAt(ctx, nid, s.top)
	default:
		return nil // nothing happened, and nothing is asked for
	}
	if err != nil || r.initial || !happened {
		return err
	}
	if s.known && len(s.events) > 0 && s.events[0].HeadBefore != 0 {
		r.state.base = s.events[0].HeadBefore
	} else if r.state.base, err = g.HeadStateAt(ctx, nid, r.upTo); err != nil {
		return err
	}
	r.changes, err = g.StateDiff(ctx, nid, r.state.base, r.state.end)
	return err
}

// pickState finds the entries of the state that the client has to be told.
func (r *room) pickState(ctx context.Context, wider bool) error {
	r.nids = make(map[event.Key]graph.EventNID)
	add := func(k event.Key, nid graph.EventNID) { r.nids[k] = nid }
	if r.initial || wider {
		end, err := r.state.atEnd(ctx)
		if err != nil {
			return err
		}
		old := (*roomConfig)(nil)
		if !r.initial {
			old = r.a.oldConfig(r.old.config)
		}
		r.config.pick(end, old, add)
	}
	for _, c := range r.changes {
		if !r.config.matches(c.Key) && !(r.config.lazy && c.Key.Type == memberType && !r.t.limited) {
			continue
		}
		if c.New != 0 {
			add(c.Key, c.New)
		} else {
			r.gone = append(r.gone, c.Key)
		}
	}
	if !r.config.lazy {
		return nil
	}
	return r.introduce(ctx)
}

// introduce adds the members whom the timeline shows and the client doesn't know.
//
// MSC4186: Lazy loaded memberships
func (r *room) introduce(ctx context.Context) error {
	nid := r.spot.row.Room
	fresh := r.initial || r.t.limited // the client drops what it knew of members
	var users []id.UserID
	for _, e := range r.t.events {
		users = append(users, e.PDU.Sender())
		if e.PDU.IsState() && e.PDU.Type() == memberType {
			users = append(users, id.UserID(e.PDU.Key().StateKey))
		}
	}
	if len(users) > 0 {
		end, err := r.state.atEnd(ctx)
		if err != nil {
			return err
		}
		for _, user := range users {
			k := event.Key{Type: memberType, StateKey: string(user)}
			at, ok := end.Get(k.Type, k.StateKey)
			if ok && (fresh || !r.a.conn.members.knows(nid, user, at)) {
				r.nids[k] = at
			}
		}
	}
	known := make(acquaintances)
	for k, at := range r.nids {
		if k.Type == memberType {
			known[id.UserID(k.StateKey)] = at
		}
	}
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	if fresh {
		r.a.members.fresh[nid] = true
	}
	if len(known) > 0 {
		r.a.members.rooms[nid] = known
	}
	return nil
}

// write makes the body, where there is something to say.
//
// MSC4186: RoomResult
func (r *room) write(ctx context.Context, longer, read bool) error {
	out := []byte{'{'}
	var err error
	if out, err = r.appendSummary(ctx, out); err != nil {
		return err
	}
	if r.spot.direct != r.mark.direct {
		out = strconv.AppendBool(append(out, `"is_dm":`...), r.spot.direct)
		out = append(out, ',')
	}
	if out, err = r.appendState(ctx, out); err != nil {
		return err
	}
	if out, err = r.appendTimeline(ctx, out, longer); err != nil {
		return err
	}
	if len(out) == 1 && !read {
		return nil
	}
	out = r.appendCounts(out)
	if r.initial || len(r.t.events) > 0 {
		bump, err := r.bumped(ctx)
		if err != nil {
			return err
		}
		out = append(strconv.AppendInt(append(out, `"bump_stamp":`...), int64(bump), 10), ',')
	}
	r.body = r.appendCommon(out)
	return nil
}

// appendCommon appends what is said of every room, and ends the body.
func (r *room) appendCommon(out []byte) []byte {
	if r.initial {
		out = append(out, `"initial":true,`...)
	}
	if r.a.q.form == SlidingStable && r.spot.lists != (listSet{}) {
		out = append(out, `"lists":[`...)
		for i := range r.a.q.lists {
			if r.spot.lists.has(i) {
				out = append(canon.AppendString(out, r.a.q.lists[i].name), ',')
			}
		}
		out[len(out)-1] = ']'
		out = append(out, ',')
	}
	return append(canon.AppendString(append(out, `"membership":`...), string(r.spot.row.Membership)), '}')
}

func (r *room) audience() view.Audience {
	return view.Audience{User: r.a.q.User, Device: r.a.q.Device, OmitRoomID: true}
}

// appendState appends required_state, if there is any.
func (r *room) appendState(ctx context.Context, out []byte) ([]byte, error) {
	removed := r.a.q.form == SlidingStable && len(r.gone) > 0
	if len(r.nids) == 0 && !removed && !r.initial {
		return out, nil
	}
	nids := make([]graph.EventNID, 0, len(r.nids))
	for _, nid := range r.nids {
		nids = append(nids, nid)
	}
	slices.Sort(nids) // about the order in which they came
	events, err := r.a.s.cfg.Graph.Events(ctx, r.spot.row.Room, nids)
	if err != nil {
		return nil, err
	}
	out = append(out, `"required_state":`...)
	if out, err = r.a.s.cfg.View.AppendEvents(ctx, out, r.audience(), events); err != nil {
		return nil, err
	}
	if removed {
		out = out[:len(out)-1] // the bracket
		for i, k := range r.gone {
			if i > 0 || len(events) > 0 {
				out = append(out, ',')
			}
			out = canon.AppendString(append(out, `{"type":`...), k.Type)
			out = append(canon.AppendString(append(out, `,"state_key":`...), k.StateKey), '}')
		}
		out = append(out, ']')
	}
	return append(out, ','), nil
}

func (r *room) appendTimeline(ctx context.Context, out []byte, longer bool) ([]byte, error) {
	t := r.t
	if len(t.events) == 0 && !t.limited && !r.initial {
		return out, nil
	}
	to := r.audience()
	to.Bundle = t.limited // otherwise the client has seen, or sees, all that relates to the events
	out, err := r.a.s.cfg.View.AppendEvents(ctx, append(out, `"timeline":`...), to, t.events)
	if err != nil {
		return nil, err
	}
	live := 0
	for _, e := range t.events {
		if !r.a.first && e.Pos > r.a.from {
			live++
		}
	}
	out = strconv.AppendInt(append(out, `,"num_live":`...), int64(live), 10)
	out = strconv.AppendBool(append(out, `,"limited":`...), t.limited)
	out = append(canon.AppendString(append(out, `,"prev_batch":`...), t.prev.String()), ',')
	if longer && slices.ContainsFunc(t.events, func(e *graph.Event) bool { return e.Pos <= r.upTo }) {
		name := `"expanded_timeline":true,`
		if r.a.q.form == SlidingUnstable {
			name = `"unstable_expanded_timeline":true,`
		}
		out = append(out, name...)
	}
	return out, nil
}

// appendCounts appends how many events are unread. The accepted form doesn't have it.
func (r *room) appendCounts(out []byte) []byte {
	if !r.a.counting() {
		return out
	}
	c := r.a.unread[r.spot.row.Room].Total()
	out = strconv.AppendInt(append(out, `"notification_count":`...), int64(c.Notifications), 10)
	out = strconv.AppendInt(append(out, `,"highlight_count":`...), int64(c.Highlights), 10)
	return append(out, ',')
}

const (
	// bumpPage and bumpPages bound how far back it is looked for activity.
	bumpPage  = 50
	bumpPages = 4
)

// bumped returns the position of the newest event that counts as activity. Where that is far back it is about when.
func (r *room) bumped(ctx context.Context) (sqldb.Pos, error) {
	if r.spot.bump != 0 {
		return r.spot.bump, nil
	}
	found, err := r.findBump(ctx)
	if err != nil {
		return 0, err
	}
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	r.a.bumps[r.spot.row.Room] = found
	return found, nil
}

func (r *room) findBump(ctx context.Context) (sqldb.Pos, error) {
	for _, e := range slices.Backward(r.t.events) {
		if bumps[e.PDU.Type()] && e.Pos > 0 {
			return e.Pos, nil
		}
	}
	before := int64(r.a.seen.to) + 1
	last := r.spot.row.Since
	for range bumpPages {
		events, err := r.a.s.cfg.Graph.Timeline(ctx, r.spot.row.Room, graph.Range{Before: before, Backward: true, Limit: bumpPage})
		if err != nil {
			return 0, err
		}
		for _, e := range events {
			if before, last = e.Ord, e.Pos; bumps[e.PDU.Type()] {
				return e.Pos, nil
			}
		}
		if len(events) < bumpPage {
			break
		}
	}
	return last, nil
}

// appendSummary appends the name, the avatar, and who is there, as far as it changed.
func (r *room) appendSummary(ctx context.Context, out []byte) ([]byte, error) {
	named, pictured, peopled := r.initial, r.initial, r.initial
	for _, c := range r.changes {
		switch {
		case c.Key == event.Key{Type: "m.room.name"}:
			named = true
		case c.Key == event.Key{Type: "m.room.avatar"}:
			pictured = true
		case c.Key.Type == memberType:
			peopled = true
		}
	}
	if !named && !pictured && !peopled {
		return out, nil
	}
	end, err := r.state.atEnd(ctx)
	if err != nil {
		return nil, err
	}
	name, err := r.text(ctx, end, "m.room.name", "name")
	if err != nil {
		return nil, err
	}
	if named {
		out = appendNullable(out, "name", name, r.initial)
	}
	if pictured {
		avatar, err := r.text(ctx, end, "m.room.avatar", "url")
		if err != nil {
			return nil, err
		}
		out = appendNullable(out, "avatar", avatar, r.initial)
	}
	if name == "" && (named || peopled) {
		if out, err = r.appendHeroes(ctx, out, end); err != nil {
			return nil, err
		}
	}
	if peopled {
		joined, invited, err := r.state.count(ctx, end)
		if err != nil {
			return nil, err
		}
		out = strconv.AppendInt(append(out, `"joined_count":`...), joined, 10)
		out = append(strconv.AppendInt(append(out, `,"invited_count":`...), invited, 10), ',')
	}
	return out, nil
}

// appendNullable appends a text, null where it is gone, and nothing where there never was any.
func appendNullable(out []byte, field, text string, initial bool) []byte {
	if text == "" && initial {
		return out
	}
	out = append(canon.AppendString(out, field), ':')
	if text == "" {
		return append(out, `null,`...)
	}
	return append(canon.AppendString(out, text), ',')
}

func (r *room) text(ctx context.Context, end *graph.State, typ, field string) (string, error) {
	nid, ok := end.Get(typ, "")
	if !ok {
		return "", nil
	}
	events, err := r.a.s.cfg.Graph.Events(ctx, r.spot.row.Room, []graph.EventNID{nid})
	if err != nil {
		return "", err
	}
	return gjson.GetBytes(events[0].PDU.Content(), field).Str, nil
}

// appendHeroes appends whom a room without a name is named after.
func (r *room) appendHeroes(ctx context.Context, out []byte, end *graph.State) ([]byte, error) {
	users := heroes(end, r.a.q.User)
	nids := make([]graph.EventNID, 0, len(users))
	for _, u := range users {
		nid, _ := end.Get(memberType, string(u))
		nids = append(nids, nid)
	}
	events, err := r.a.s.cfg.Graph.Events(ctx, r.spot.row.Room, nids)
	if err != nil {
		return nil, err
	}
	out = append(out, `"heroes":[`...)
	for i, u := range users {
		if i > 0 {
			out = append(out, ',')
		}
		out = canon.AppendString(append(out, `{"user_id":`...), string(u))
		for _, f := range []string{"displayname", "avatar_url"} {
			if v := gjson.GetBytes(events[i].PDU.Content(), f); v.Type == gjson.String {
				out = append(canon.AppendString(append(out, ','), f), ':')
				out = canon.AppendString(out, v.Str)
			}
		}
		out = append(out, '}')
	}
	return append(out, `],`...), nil
}
