package view

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// EventFilter selects events. A nil list selects everything, an empty one nothing.
//
// Spec: cs Filtering
type EventFilter struct {
	Limit      *int        `json:"limit"`
	Types      []string    `json:"types"`
	NotTypes   []string    `json:"not_types"`
	Senders    []id.UserID `json:"senders"`
	NotSenders []id.UserID `json:"not_senders"`
}

// RoomEventFilter selects events of rooms.
type RoomEventFilter struct {
	EventFilter
	Rooms                     []id.RoomID `json:"rooms"`
	NotRooms                  []id.RoomID `json:"not_rooms"`
	ContainsURL               *bool       `json:"contains_url"`
	LazyLoadMembers           bool        `json:"lazy_load_members"`
	IncludeRedundantMembers   bool        `json:"include_redundant_members"`
	UnreadThreadNotifications bool        `json:"unread_thread_notifications"`
	// RelTypes and NotRelTypes select by the type of the event's relation to another one.
	//
	// MSC3874: under its own names until the specification has them.
	RelTypes    []string `json:"org.matrix.msc3874.rel_types"`
	NotRelTypes []string `json:"org.matrix.msc3874.not_rel_types"`
	// RelatedByRelTypes and RelatedBySenders select events to which an event with such a type of relation, and of such a sender, relates.
	//
	// MSC3440: filters
	RelatedByRelTypes []string    `json:"related_by_rel_types"`
	RelatedBySenders  []id.UserID `json:"related_by_senders"`
}

// RoomFilter selects what a sync says about rooms.
type RoomFilter struct {
	Rooms        []id.RoomID     `json:"rooms"`
	NotRooms     []id.RoomID     `json:"not_rooms"`
	IncludeLeave bool            `json:"include_leave"`
	Timeline     RoomEventFilter `json:"timeline"`
	State        RoomEventFilter `json:"state"`
	Ephemeral    RoomEventFilter `json:"ephemeral"`
	AccountData  RoomEventFilter `json:"account_data"`
}

// Filter selects what a sync says.
type Filter struct {
	// EventFields lists the paths of the fields to show; nil means all.
	EventFields []string    `json:"event_fields"`
	EventFormat string      `json:"event_format"`
	Presence    EventFilter `json:"presence"`
	AccountData EventFilter `json:"account_data"`
	Room        RoomFilter  `json:"room"`
}

// ParseFilter reads the filter of a sync. It returns M_BAD_JSON that names the field at fault.
//
// Spec: cs defineFilter
func ParseFilter(raw []byte) (*Filter, error) {
	f := new(Filter)
	if err := decode(raw, f); err != nil {
		return nil, err
	}
	if f.EventFormat != "" && f.EventFormat != "client" && f.EventFormat != "federation" {
		return nil, mxerr.BadJSON("\"event_format\" must be client or federation")
	}
	room := []*RoomEventFilter{&f.Room.Timeline, &f.Room.State, &f.Room.Ephemeral, &f.Room.AccountData}
	for _, r := range room {
		if err := r.check(); err != nil {
			return nil, err
		}
	}
	for _, e := range []EventFilter{f.Presence, f.AccountData} {
		if err := e.check(); err != nil {
			return nil, err
		}
	}
	if err := checkRooms(f.Room.Rooms, f.Room.NotRooms); err != nil {
		return nil, err
	}
	return f, nil
}

// ParseRoomEventFilter reads the filter of an operation on one room; nothing selects all.
func ParseRoomEventFilter(raw []byte) (*RoomEventFilter, error) {
	f := new(RoomEventFilter)
	if len(raw) == 0 {
		return f, nil
	}
	if err := decode(raw, f); err != nil {
		return nil, err
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f, nil
}

func decode(raw []byte, v any) error {
	if trimmed := strings.TrimLeft(string(raw), " \t\r\n"); !strings.HasPrefix(trimmed, "{") {
		return mxerr.BadJSON("a filter must be a JSON object")
	}
	err := json.Unmarshal(raw, v)
	if wrong, ok := err.(*json.UnmarshalTypeError); ok {
		return mxerr.BadJSON("the filter's %q can't be a JSON %s", wrong.Field, wrong.Value)
	}
	if err != nil {
		return mxerr.New(mxerr.CodeNotJSON, "the filter is not valid JSON")
	}
	return nil
}

func (f *EventFilter) check() error {
	if f.Limit != nil && *f.Limit < 0 {
		return mxerr.BadJSON("a filter's limit must be greater than 0")
	}
	return checkUsers(f.Senders, f.NotSenders)
}

func checkUsers(lists ...[]id.UserID) error {
	for _, list := range lists {
		for _, u := range list {
			if _, err := id.ParseUserID(string(u)); err != nil {
				return mxerr.BadJSON("filter: %v", err)
			}
		}
	}
	return nil
}

func (f *RoomEventFilter) check() error {
	if err := f.EventFilter.check(); err != nil {
		return err
	}
	if err := checkUsers(f.RelatedBySenders); err != nil {
		return err
	}
	for _, t := range f.RelatedByRelTypes {
		if strings.Contains(t, "\x00") {
			return mxerr.BadJSON("filter: no type contains a NUL character")
		}
	}
	return checkRooms(f.Rooms, f.NotRooms)
}

func checkRooms(lists ...[]id.RoomID) error {
	for _, list := range lists {
		for _, r := range list {
			if _, err := id.ParseRoomID(string(r)); err != nil {
				return mxerr.BadJSON("filter: %v", err)
			}
		}
	}
	return nil
}

// LimitOr returns the filter's limit bounded by most, or fallback where it has none.
func (f *EventFilter) LimitOr(fallback, most int) int {
	if f.Limit == nil {
		return fallback
	}
	return min(*f.Limit, most)
}

// Match reports whether something with this type and sender is selected.
func (f *EventFilter) Match(typ string, sender id.UserID) bool {
	return f.MatchType(typ) && selects(f.Senders, f.NotSenders, sender)
}

// MatchType reports whether a type is selected.
func (f *EventFilter) MatchType(typ string) bool {
	for _, pattern := range f.NotTypes {
		if id.MatchStars(pattern, typ) {
			return false
		}
	}
	if f.Types == nil {
		return true
	}
	for _, pattern := range f.Types {
		if id.MatchStars(pattern, typ) {
			return true
		}
	}
	return false
}

// MatchRoom reports whether a room is selected.
func (f *RoomEventFilter) MatchRoom(room id.RoomID) bool { return selects(f.Rooms, f.NotRooms, room) }

// MatchRoom reports whether a room is selected.
func (f *RoomFilter) MatchRoom(room id.RoomID) bool { return selects(f.Rooms, f.NotRooms, room) }

// MatchEvent reports whether an event of a selected room is selected.
func (f *RoomEventFilter) MatchEvent(p *event.PDU) bool {
	if !f.Match(p.Type(), p.Sender()) {
		return false
	}
	if f.RelTypes != nil || len(f.NotRelTypes) > 0 {
		to, _ := p.Relation()
		if f.RelTypes != nil && !slices.Contains(f.RelTypes, to.Type) || to.Type != "" && slices.Contains(f.NotRelTypes, to.Type) {
			return false
		}
	}
	return f.ContainsURL == nil || gjson.GetBytes(p.Content(), "url").Exists() == *f.ContainsURL
}

// SelectsAll reports whether the filter lets every event of every room pass.
func (f *RoomEventFilter) SelectsAll() bool {
	return f.Types == nil && f.Senders == nil && f.Rooms == nil && f.ContainsURL == nil && f.RelTypes == nil && !f.related() &&
		len(f.NotTypes)+len(f.NotSenders)+len(f.NotRooms)+len(f.NotRelTypes) == 0
}

// selects applies a pair of lists; the second one wins.
func selects[T comparable](only, not []T, v T) bool {
	for _, x := range not {
		if x == v {
			return false
		}
	}
	if only == nil {
		return true
	}
	for _, x := range only {
		if x == v {
			return true
		}
	}
	return false
}

// related reports whether the filter asks for what relates to the events.
func (f *RoomEventFilter) related() bool {
	return f.RelatedByRelTypes != nil || f.RelatedBySenders != nil
}

// RelatedBy returns those of the events, which are of one room, that the filter selects by what relates to them; nil where it doesn't ask for that.
//
// MSC3440: filters
func (v *View) RelatedBy(ctx context.Context, f *RoomEventFilter, events []*graph.Event) (map[id.EventID]bool, error) {
	if f == nil || !f.related() || len(events) == 0 {
		return nil, nil
	}
	ids := make([]id.EventID, len(events))
	for i, e := range events {
		ids[i] = e.PDU.ID()
	}
	return v.cfg.Graph.RelatedBy(ctx, events[0].Room, ids, f.RelatedByRelTypes, f.RelatedBySenders)
}
