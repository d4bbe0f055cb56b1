package directory

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
	"golang.org/x/text/unicode/norm"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// Summary is what the list says of a room. Immutable.
//
// Spec: cs getPublicRooms
type Summary struct {
	RoomID         id.RoomID `json:"room_id"`
	Name           string    `json:"name,omitempty"`
	Topic          string    `json:"topic,omitempty"`
	CanonicalAlias string    `json:"canonical_alias,omitempty"`
	AvatarURL      string    `json:"avatar_url,omitempty"`
	JoinRule       string    `json:"join_rule,omitempty"`
	RoomType       string    `json:"room_type,omitempty"`
	Joined         int64     `json:"num_joined_members"`
	WorldReadable  bool      `json:"world_readable"`
	GuestCanJoin   bool      `json:"guest_can_join"`

	// words is what a search looks at, folded.
	words string
}

// What the list keeps of a room is bounded, in bytes: all of it stands in memory.
//
// Deviates: cs getPublicRooms: long names and topics are cut, long avatar URLs left out.
const (
	maxName  = 512
	maxTopic = 4096
	maxURL   = 1024
)

// shown lists the state that a summary is made of.
var shown = []string{
	"m.room.create", "m.room.name", "m.room.topic", "m.room.canonical_alias", "m.room.avatar",
	"m.room.join_rules", "m.room.history_visibility", "m.room.guest_access",
}

func (d *Directory) summary(ctx context.Context, head *graph.Head) (*Summary, error) {
	state, err := d.entries(ctx, head, shown...)
	if err != nil {
		return nil, err
	}
	text := func(typ, field string) string {
		if state[typ] == nil {
			return ""
		}
		return str(gjson.GetBytes(state[typ].Content(), field))
	}
	s := &Summary{
		RoomID:         head.ID,
		Name:           clip(text("m.room.name", "name"), maxName),
		Topic:          clip(topic(state["m.room.topic"]), maxTopic),
		CanonicalAlias: text("m.room.canonical_alias", "alias"),
		AvatarURL:      text("m.room.avatar", "url"),
		JoinRule:       clip(text("m.room.join_rules", "join_rule"), id.MaxLength),
		RoomType:       clip(text("m.room.create", "type"), id.MaxLength),
		Joined:         head.Joined,
		WorldReadable:  isWorldReadable(state["m.room.history_visibility"]),
		GuestCanJoin:   text("m.room.guest_access", "guest_access") == "can_join",
	}
	s.tidy()
	if s.JoinRule == "" {
		s.JoinRule = "invite" // what no rule means to the authorisation rules
	}
	s.words = fold(s.Name + "\n" + s.Topic + "\n" + s.CanonicalAlias)
	return s, nil
}

// tidy leaves out what can't be shown.
func (s *Summary) tidy() {
	if _, err := id.ParseRoomAlias(s.CanonicalAlias); err != nil {
		s.CanonicalAlias = ""
	}
	if len(s.AvatarURL) > maxURL {
		s.AvatarURL = ""
	}
}

func str(v gjson.Result) string {
	if v.Type != gjson.String {
		return ""
	}
	return v.Str
}

// topic returns the plain text of a topic.
//
// Spec: cs m.room.topic
func topic(e *event.PDU) string {
	if e == nil {
		return ""
	}
	if plain := str(gjson.GetBytes(e.Content(), "topic")); plain != "" {
		return plain
	}
	for _, part := range gjson.GetBytes(e.Content(), `m\.topic.m\.text`).Array() {
		if kind := part.Get("mimetype"); !kind.Exists() || kind.Str == "text/plain" {
			return str(part.Get("body"))
		}
	}
	return ""
}

// isWorldReadable reads an m.room.history_visibility event, which may be nil.
func isWorldReadable(e *event.PDU) bool {
	return e != nil && str(gjson.GetBytes(e.Content(), "history_visibility")) == "world_readable"
}

// clip cuts a text after at most max bytes, between characters.
func clip(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}

// fold makes texts that look alike equal: case, width and composition don't count.
func fold(s string) string { return strings.ToLower(norm.NFKC.String(s)) }
