package directory

import (
	"context"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/tidwall/gjson"

	"myelin/internal/fedclient"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// toldFor is how long what another server said of a room stands in for asking it again.
	//
	// Spec: cs Spaces
	toldFor = 2 * time.Minute
	// toldMemory bounds in bytes what is kept of it.
	toldMemory = 16 << 20
)

// told is what another server said of a room that nobody of ours is in. Immutable.
type told struct {
	room     SpaceRoom
	children []child
	// known are the children that the server described, closed those that it says nobody of ours can enter or read.
	known  map[id.RoomID]SpaceRoom
	closed map[id.RoomID]bool
	at     time.Time
	size   int
}

// question names a told: servers may tell those of one of our domains more than those of another.
type question struct {
	origin        id.ServerName
	room          id.RoomID
	suggestedOnly bool
}

// hearsay keeps what other servers said for a while.
type hearsay struct{ cache *otter.Cache[question, *told] }

func newHearsay() hearsay {
	return hearsay{otter.Must(&otter.Options[question, *told]{
		MaximumWeight: toldMemory,
		Weigher:       func(_ question, t *told) uint32 { return uint32(t.size + 500) },
	})}
}

func (h hearsay) get(q question) *told {
	if t, ok := h.cache.GetIfPresent(q); ok && time.Since(t.at) < toldFor {
		return t
	}
	return nil
}

// Seeker is a user who looks for rooms.
type Seeker struct {
	// User is empty for anybody.
	User id.UserID
	// Ask asks other servers of a room that nobody of ours is in. Its errors with a code are theirs. It is nil where nobody shall be asked.
	Ask func(ctx context.Context, room id.RoomID, via []id.ServerName, suggestedOnly bool) (fedclient.Hierarchy, error)
}

// ask returns what other servers say of a room, nil where nobody knows it.
//
// Spec: ss getSpaceHierarchy
func (d *Directory) ask(ctx context.Context, who Seeker, room id.RoomID, via []id.ServerName, suggestedOnly bool) (*told, error) {
	q := question{who.User.Domain(), room, suggestedOnly}
	if t := d.hearsay.get(q); t != nil {
		return t, nil
	}
	answer, err := who.Ask(ctx, room, via, suggestedOnly)
	if err != nil {
		if _, refused := mxerr.Of(err); refused {
			return nil, nil
		}
		return nil, err
	}
	t := heard(room, suggestedOnly, answer)
	if t != nil {
		d.hearsay.cache.Set(q, t)
	}
	return t, nil
}

// heard reads another server's answer, and leaves out what is wrong in it. It returns nil where that is the room itself.
func heard(room id.RoomID, suggestedOnly bool, h fedclient.Hierarchy) *told {
	self := gjson.ParseBytes(h.Room)
	t := &told{known: make(map[id.RoomID]SpaceRoom), closed: make(map[id.RoomID]bool), at: time.Now(), size: len(h.Room)}
	var ok bool
	if t.room, ok = describedRoom(self); !ok || t.room.RoomID != room {
		return nil
	}
	if t.room.RoomType != spaceType {
		return t
	}
	var found []child
	seen := make(map[id.RoomID]bool)
	self.Get("children_state").ForEach(func(_, e gjson.Result) bool {
		sender, err := id.ParseUserID(str(e.Get("sender")))
		content := e.Get("content")
		if err != nil || str(e.Get("type")) != childEvent || e.Get("origin_server_ts").Type != gjson.Number {
			return true
		}
		c, ok := asChild(room, str(e.Get("state_key")), sender, e.Get("origin_server_ts").Int(), []byte(content.Raw), suggestedOnly)
		if ok && !seen[c.room] {
			seen[c.room] = true
			found = append(found, c)
		}
		return len(found) < maxChildEvents
	})
	t.children = ordered(found, maxSteps)
	for _, raw := range h.Children {
		if c, ok := describedRoom(gjson.ParseBytes(raw)); ok && seen[c.RoomID] {
			t.known[c.RoomID] = c
			t.size += len(raw)
		}
	}
	for _, r := range h.Inaccessible {
		if seen[r] {
			t.closed[r] = true
		}
	}
	return t
}

// describedRoom reads another server's summary of a room.
//
// Spec: ss getSpaceHierarchy
func describedRoom(v gjson.Result) (SpaceRoom, bool) {
	room, err := id.ParseRoomID(str(v.Get("room_id")))
	if err != nil {
		return SpaceRoom{}, false
	}
	s := SpaceRoom{
		Summary: &Summary{
			RoomID:         room,
			Name:           clip(str(v.Get("name")), maxName),
			Topic:          clip(str(v.Get("topic")), maxTopic),
			CanonicalAlias: str(v.Get("canonical_alias")),
			AvatarURL:      str(v.Get("avatar_url")),
			JoinRule:       clip(str(v.Get("join_rule")), id.MaxLength),
			RoomType:       clip(str(v.Get("room_type")), id.MaxLength),
			Joined:         max(0, v.Get("num_joined_members").Int()),
			WorldReadable:  v.Get("world_readable").Bool(),
			GuestCanJoin:   v.Get("guest_can_join").Bool(),
		},
		Encryption:  clip(str(v.Get("encryption")), id.MaxLength),
		RoomVersion: clip(str(v.Get("room_version")), id.MaxLength),
	}
	s.tidy()
	if s.JoinRule == "" {
		s.JoinRule = "public" // what the absence of a rule means here
	}
	for _, r := range v.Get("allowed_room_ids").Array() {
		if allowed, err := id.ParseRoomID(str(r)); err == nil && len(s.AllowedRoomIDs) < maxAllowed {
			s.AllowedRoomIDs = append(s.AllowedRoomIDs, allowed)
		}
	}
	return s, true
}
