package push

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/pushrule"
)

// outside is an invite to a room that this server has no part in. There is no event of it here, only what its sender's server told: the stripped
// state of the room, with the invite in it. It has a place in the stream, as events do, and is notified of as they are.
type outside struct {
	graph.Outside
	sender  id.UserID
	content json.RawMessage
}

// readOutside finds the invite among what was told.
func readOutside(of graph.Outside) (o outside, ok bool) {
	entry := stateIn(of.Stripped, memberType, string(of.User))
	sender, err := id.ParseUserID(entry.Get("sender").Str)
	content := entry.Get("content")
	return outside{of, sender, json.RawMessage(content.Raw)}, err == nil && content.IsObject()
}

// stateIn finds an entry of stripped state.
func stateIn(stripped []byte, typ, key string) (found gjson.Result) {
	gjson.ParseBytes(stripped).ForEach(func(_, e gjson.Result) bool {
		if e.Get("type").Str == typ && e.Get("state_key").Str == key {
			found = e
		}
		return !found.Exists()
	})
	return found
}

// matchOutside returns what an invite from outside means to the invited, nil for nothing.
func (p *Push) matchOutside(ctx context.Context, o outside) (*pushrule.Match, error) {
	ignored, err := p.cfg.Accounts.IgnoredUsers(ctx, o.User)
	if err != nil {
		return nil, err
	}
	if _, ok := ignored[o.sender]; ok {
		return nil, nil
	}
	wants, err := p.cfg.Accounts.InviteRules(ctx, o.User)
	if err != nil || wants.Judge(o.sender) != account.InviteAllowed {
		return nil, err
	}
	rules, err := p.rulesOf(ctx, o.User)
	if err != nil {
		return nil, err
	}
	key := string(o.User)
	m := rules.Evaluate(&pushrule.Event{
		ID: o.ID, RoomID: o.RoomID, Type: memberType, Sender: o.sender, StateKey: &key, OriginServerTS: o.TS, Content: o.content,
	}, pushrule.Facts{SenderMayNotify: func(string) bool { return false }}, pushrule.Target{User: o.User})
	if m == nil || !m.Notify {
		return nil, nil
	}
	return m, nil
}

// outside notes what an invite from outside means.
func (f *follower) outside(ctx context.Context, r *rows, of graph.Outside) error {
	o, ok := readOutside(of)
	if !ok {
		return nil
	}
	m, err := f.p.matchOutside(ctx, o)
	if err != nil || m == nil {
		return err
	}
	h := number(m.Highlight)
	r.marks = append(r.marks, mark{user: o.User, room: o.Room, ord: int64(o.Pos), n: 1, h: h, outcome: 1 + h})
	for _, pusher := range f.pushers[o.User] {
		r.due = append(r.due, due{pusher, int64(o.Pos)})
	}
	return nil
}

// outsideAt returns the open invites from outside that came to a user at these places, by place.
func (p *Push) outsideAt(ctx context.Context, user id.UserID, ords []int64) (map[int64]outside, error) {
	rows, err := p.cfg.Graph.OutsideAt(ctx, user, ords)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	found := make(map[int64]outside, len(rows))
	for _, row := range rows {
		if o, ok := readOutside(row); ok && row.Membership == graph.Invite {
			found[int64(row.Pos)] = o
		}
	}
	return found, nil
}

// describeOutside fills in what a message says of an invite from outside. No match means that there is nothing to tell any more.
func (p *Push) describeOutside(ctx context.Context, m *message, s *pusherState, ord int64) (*pushrule.Match, error) {
	found, err := p.outsideAt(ctx, s.user, []int64{ord})
	if err != nil {
		return nil, err
	}
	o, ok := found[ord]
	if !ok {
		return nil, nil
	}
	match, err := p.matchOutside(ctx, o)
	if err != nil || match == nil {
		return nil, err
	}
	m.EventID, m.RoomID, m.Prio = o.ID, o.RoomID, prio(memberType, match)
	if gjson.GetBytes(s.Data, "format").Str == eventIDOnly {
		return match, nil
	}
	m.Type, m.Sender, m.Content, m.UserIsTarget = memberType, o.sender, o.content, true
	m.SenderName = stateIn(o.Stripped, memberType, string(o.sender)).Get("content.displayname").Str
	m.RoomName = stateIn(o.Stripped, "m.room.name", "").Get("content.name").Str
	m.RoomAlias = stateIn(o.Stripped, "m.room.canonical_alias", "").Get("content.alias").Str
	return match, nil
}

// lookOutside adds an invite from outside to the page, if it belongs there.
func (l *lister) lookOutside(ctx context.Context, o outside) error {
	m, err := l.p.matchOutside(ctx, o)
	if err != nil || m == nil || l.q.Highlights && !m.Highlight {
		return err
	}
	l.page.Notifications = append(l.page.Notifications, Notification{Actions: m.Actions, Event: o.event(), RoomID: o.RoomID, TS: o.TS})
	return nil
}

// event is the invite as clients see events.
func (o *outside) event() []byte {
	out := canon.AppendString([]byte(`{"type":"`+memberType+`","state_key":`), string(o.User))
	out = canon.AppendString(append(out, `,"sender":`...), string(o.sender))
	out = canon.AppendString(append(out, `,"event_id":`...), string(o.ID))
	out = strconv.AppendInt(append(out, `,"origin_server_ts":`...), o.TS, 10)
	return append(append(append(out, `,"content":`...), o.content...), '}')
}

// outsideInvites returns the invites from outside at positions in (from, to], and up to where these are all.
func (p *Push) outsideInvites(ctx context.Context, from, to sqldb.Pos) ([]graph.Outside, sqldb.Pos, error) {
	found, err := p.cfg.Graph.OutsideInvites(ctx, from, to, maxBatch)
	if len(found) == maxBatch {
		to = found[len(found)-1].Pos
	}
	return found, to, err
}
