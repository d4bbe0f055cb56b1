package push

import (
	"context"
	"encoding/json"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/pushrule"
)

// message is the body of a request to a gateway.
//
// Spec: pg notify
type message struct {
	EventID      id.EventID      `json:"event_id,omitempty"`
	RoomID       id.RoomID       `json:"room_id,omitempty"`
	Type         string          `json:"type,omitempty"`
	Sender       id.UserID       `json:"sender,omitempty"`
	SenderName   string          `json:"sender_display_name,omitempty"`
	RoomName     string          `json:"room_name,omitempty"`
	RoomAlias    string          `json:"room_alias,omitempty"`
	UserIsTarget bool            `json:"user_is_target,omitempty"`
	Prio         string          `json:"prio,omitempty"`
	Content      json.RawMessage `json:"content,omitempty"`
	Counts       map[string]int  `json:"counts"`
	Devices      []messageDevice `json:"devices"`
}

type messageDevice struct {
	AppID     string          `json:"app_id"`
	Pushkey   string          `json:"pushkey"`
	PushkeyTS int64           `json:"pushkey_ts"` // in seconds since the epoch
	Data      json.RawMessage `json:"data"`
	Tweaks    json.RawMessage `json:"tweaks,omitempty"`
}

// Badge returns how many notifications a user has not read, in all the rooms that they are in.
func (p *Push) Badge(ctx context.Context, user id.UserID) (int, error) {
	var rooms []graph.RoomNID
	err := p.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		rooms, err = graph.JoinedRooms(tx, user)
		return err
	})
	if err != nil {
		return 0, err
	}
	counts, err := p.Counts(ctx, user, 0, rooms...)
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, c := range counts {
		sum += c.Total().Notifications
	}
	return sum, nil
}

// message makes the message of what is due, with the badge that it shows. No body means that there is nothing to tell any more.
func (p *Push) message(ctx context.Context, s *pusherState, ord int64) (badge int, body []byte, err error) {
	m := &message{}
	device := messageDevice{AppID: s.AppID, Pushkey: s.Pushkey, PushkeyTS: s.created / 1000, Data: canon.Without(nil, s.Data, "url")}
	if ord != 0 {
		match, err := p.describe(ctx, m, s, ord)
		if err != nil {
			return 0, nil, err
		}
		if match == nil {
			return s.badge, nil, nil
		}
		device.Tweaks = match.Tweaks
	}
	if badge, err = p.Badge(ctx, s.user); err != nil {
		return 0, nil, err
	}
	if ord == 0 && badge == s.badge {
		return badge, nil, nil
	}
	// A count of nothing should be left out, and is told: gateways take its absence for no news, and the old number would stand on the badge for ever.
	//
	// Deviates: pg notify
	m.Counts = map[string]int{"unread": badge}
	m.Devices = []messageDevice{device}
	body, err = json.Marshal(map[string]any{"notification": m})
	return badge, body, err
}

// describe fills in what the message says of an event. No match means that the event is nothing to tell of: it was redacted, for instance.
func (p *Push) describe(ctx context.Context, m *message, s *pusherState, ord int64) (*pushrule.Match, error) {
	events, err := p.cfg.Graph.EventsAtPositions(ctx, []int64{ord})
	if err != nil {
		return nil, err
	}
	if len(events) == 0 {
		return p.describeOutside(ctx, m, s, ord)
	}
	e := events[0]
	membership, err := p.cfg.Graph.MembershipIn(ctx, s.user, e.PDU.RoomID())
	if err != nil || membership != graph.Join && membership != graph.Invite {
		return nil, err
	}
	v, err := p.judge(ctx, e)
	if err != nil {
		return nil, err
	}
	match, err := p.match(ctx, &hearing{verdict: v}, s.user)
	if err != nil || match == nil {
		return nil, err
	}
	m.EventID, m.RoomID, m.Prio = e.PDU.ID(), e.PDU.RoomID(), prio(e.PDU.Type(), match)
	if gjson.GetBytes(s.Data, "format").Str == eventIDOnly {
		return match, nil
	}
	m.Type, m.Sender, m.Content = e.PDU.Type(), e.PDU.Sender(), e.PDU.Content()
	if key, ok := e.PDU.StateKey(); ok && e.PDU.Type() == memberType {
		m.UserIsTarget = key == string(s.user)
	}
	return match, p.surroundings(ctx, m, e)
}

// prio says how much of a hurry there is: what is encrypted may turn out to be anything.
func prio(typ string, m *pushrule.Match) string {
	sound := gjson.GetBytes(m.Tweaks, "sound").Exists()
	if m.Highlight || sound || typ == "m.room.encrypted" {
		return "high"
	}
	return "low"
}

// surroundings are the names of the sender and the room.
func (p *Push) surroundings(ctx context.Context, m *message, e *graph.Event) error {
	state, err := p.cfg.Graph.StateBefore(ctx, e)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		typ, key, field string
		to              *string
	}{
		{memberType, string(e.PDU.Sender()), "displayname", &m.SenderName},
		{"m.room.name", "", "name", &m.RoomName},
		{"m.room.canonical_alias", "", "alias", &m.RoomAlias},
	} {
		nid, ok := state.Get(f.typ, f.key)
		if !ok {
			continue
		}
		found, err := p.cfg.Graph.Events(ctx, e.Room, []graph.EventNID{nid})
		if err != nil {
			return err
		}
		*f.to = gjson.GetBytes(found[0].PDU.Content(), f.field).Str
	}
	return nil
}
