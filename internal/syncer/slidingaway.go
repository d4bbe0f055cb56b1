package syncer

import (
	"context"
	"strconv"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// asked is about a room that the user is invited to, or knocks at.
//
// MSC4186: Invite/knock/rejections
func (r *room) asked(ctx context.Context) error {
	row := &r.spot.row
	if r.old.told[theEvents] != never && row.Pos <= r.upTo && r.spot.direct == r.old.direct {
		return nil
	}
	stripped, sender := row.Stripped, senderOf(row.Stripped, r.a.q.User)
	if row.Event != 0 {
		events, err := r.a.s.cfg.Graph.Events(ctx, row.Room, []graph.EventNID{row.Event})
		if err != nil {
			return err
		}
		sender = events[0].PDU.Sender()
		if stripped, err = r.ans.stripped(ctx, events[0]); err != nil {
			return err
		}
	}
	if row.Membership == graph.Invite {
		if unwanted, err := r.ans.unwanted(sender); err != nil || unwanted {
			return err
		}
	}
	r.initial, r.mark = true, mark{}
	r.outside(stripped)
	r.mark.told[theEvents], r.mark.direct = current, r.spot.direct
	return nil
}

// outside writes the body for a room of which the user knows stripped state only.
func (r *room) outside(stripped []byte) {
	if len(stripped) == 0 {
		stripped = []byte("[]")
	}
	name := `{"stripped_state":`
	if r.a.q.form == SlidingUnstable {
		name = `{"invite_state":`
	}
	out := append(append([]byte(name), stripped...), ',')
	if r.spot.direct {
		out = append(out, `"is_dm":true,`...)
	}
	out = append(strconv.AppendInt(append(out, `"bump_stamp":`...), int64(r.spot.row.Pos), 10), ',')
	r.body = r.appendCommon(out)
}

// departed is about a room that the user has left, or was taken out of.
func (r *room) departed(ctx context.Context) error {
	row := &r.spot.row
	known := r.old.told[theEvents] != never
	switch {
	case known && row.Since <= r.upTo:
		return nil
	case !known && !r.spot.removed && r.spot.sub == nil:
		return nil
	}
	now, ok, err := r.a.s.cfg.Graph.MembershipOf(ctx, r.a.q.User, row.Room)
	if err != nil || !ok {
		return err
	}
	if now.Forgotten {
		if known {
			r.mark, r.body = mark{}, r.appendCommon([]byte{'{'})
		}
		return nil
	}
	if row.Event == 0 {
		return r.rejected(ctx, nil, known)
	}
	departure, later, err := r.ans.departure(ctx, r.v)
	switch {
	case err != nil:
		return err
	case len(later) > 0 && (departure == nil || departure.Pos <= r.upTo):
		return r.rejected(ctx, later[0], known)
	case departure == nil:
		return nil
	}
	return r.left(ctx, departure, known)
}

// rejected is about a room that the user never came to be in, as far as this connection knows.
func (r *room) rejected(ctx context.Context, member *graph.Event, known bool) error {
	if !known {
		return nil
	}
	r.initial, r.mark = true, mark{}
	if member == nil {
		// The event that ended it is all there is; clients of v2 see it whole.
		r.outside(r.spot.row.Stripped)
		return nil
	}
	r.outside(append(member.PDU.AppendStripped([]byte{'['}), ']'))
	return nil
}

// left tells of a room up to the user's departure.
func (r *room) left(ctx context.Context, departure *graph.Event, known bool) (err error) {
	stayed := false
	if known {
		if stayed, err = r.ans.wasJoined(ctx, r.v, r.upTo); err != nil {
			return err
		}
	}
	r.initial = !stayed
	s := stretch{visit: r.v, floor: r.upTo, top: departure.Pos, shown: departure.NID}
	if r.initial {
		s.floor = 0
	}
	if s.floor < s.top {
		r.t, err = r.ans.timeline(ctx, s)
	} else {
		r.t = &timeline{room: r.spot.row.Room}
	}
	if err != nil {
		return err
	}
	if r.initial {
		r.t.limited = r.t.limited || !r.t.begins()
	}
	r.state = &roomState{a: r.ans, v: r.v, t: r.t, full: r.initial, end: departure.HeadState}
	if !r.initial {
		if r.state.base, err = r.a.s.cfg.Graph.HeadStateAt(ctx, r.spot.row.Room, r.upTo); err != nil {
			return err
		}
		if r.changes, err = r.a.s.cfg.Graph.StateDiff(ctx, r.spot.row.Room, r.state.base, r.state.end); err != nil {
			return err
		}
	}
	if err := r.pickState(ctx, false); err != nil {
		return err
	}
	if err := r.writeLeft(ctx); err != nil {
		return err
	}
	if r.mark = (mark{}); r.spot.removed {
		r.told, r.mark.direct, r.mark.limit, r.mark.told[theEvents] = true, r.spot.direct, r.config.limit, current
	}
	return nil
}

func (r *room) writeLeft(ctx context.Context) error {
	out, err := r.appendSummaryLeft(ctx, []byte{'{'})
	if err != nil {
		return err
	}
	if out, err = r.appendState(ctx, out); err != nil {
		return err
	}
	if out, err = r.appendTimeline(ctx, out, false); err != nil {
		return err
	}
	out = append(strconv.AppendInt(append(out, `"bump_stamp":`...), int64(r.spot.row.Pos), 10), ',')
	r.body = r.appendCommon(out)
	return nil
}

// appendSummaryLeft appends name and avatar as they were; who is there is not the user's business any more.
func (r *room) appendSummaryLeft(ctx context.Context, out []byte) ([]byte, error) {
	if !r.initial {
		return out, nil
	}
	end, err := r.state.atEnd(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range [][3]string{{"name", "m.room.name", "name"}, {"avatar", "m.room.avatar", "url"}} {
		text, err := r.text(ctx, end, f[1], f[2])
		if err != nil {
			return nil, err
		}
		if text != "" {
			out = append(canon.AppendString(out, f[0]), ':')
			out = append(canon.AppendString(out, text), ',')
		}
	}
	return out, nil
}

// inRoom reports whether extensions may tell of the room.
func (r *room) inRoom() bool { return r.spot.row.Membership == graph.Join }

// byRoom is what extensions select rooms by.
//
// MSC4186: Extensions
type byRoom struct {
	Enabled bool     `json:"enabled"`
	Lists   []string `json:"lists"`
	Rooms   []string `json:"rooms"`
}

func (b *byRoom) on() bool { return b != nil && b.Enabled }

// selects reports whether the extension tells of a room: by default of all that rules select.
func (b *byRoom) selects(r *room) bool {
	if !b.on() || r.config == nil {
		return false
	}
	named := func(list []string, name string) bool {
		if list == nil {
			return true
		}
		for _, s := range list {
			if s == "*" || s == name {
				return true
			}
		}
		return false
	}
	if r.spot.sub != nil && named(b.Rooms, string(r.spot.row.RoomID)) {
		return true
	}
	for i := range r.a.q.lists {
		if r.spot.lists.has(i) && named(b.Lists, r.a.q.lists[i].name) {
			return true
		}
	}
	return false
}

// ignores reports whether the user ignores another.
func (a *slide) ignores(user id.UserID) bool {
	_, ignored := a.ignored[user]
	return ignored
}
