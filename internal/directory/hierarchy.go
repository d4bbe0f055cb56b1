package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"strings"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// maxChildren bounds the rooms of a space that one answer to another server looks at.
const maxChildren = 200

// SpaceRoom is what a space's hierarchy says of a room.
//
// Spec: ss getSpaceHierarchy
type SpaceRoom struct {
	*Summary
	AllowedRoomIDs []id.RoomID `json:"allowed_room_ids,omitempty"`
	Encryption     string      `json:"encryption,omitempty"`
	RoomVersion    string      `json:"room_version,omitempty"`
}

// Space is a room with its children.
//
// Spec: ss getSpaceHierarchy
type Space struct {
	Room struct {
		SpaceRoom
		// ChildrenState are stripped m.space.child events with their time.
		ChildrenState []json.RawMessage `json:"children_state"`
	} `json:"room"`
	Children             []SpaceRoom `json:"children"`
	InaccessibleChildren []id.RoomID `json:"inaccessible_children"`
}

// Visitor is another server that looks for rooms to join.
type Visitor struct {
	Name id.ServerName
	// Allowed returns an error where the room shuts the server out.
	Allowed func(context.Context, id.RoomID) error
}

// Hierarchy returns a room and its children as far as another server could look into them or join them, and M_NOT_FOUND where it couldn't do
// that with the room itself. Children of which nothing is known here are left out.
//
// Spec: ss getSpaceHierarchy
func (d *Directory) Hierarchy(ctx context.Context, who Visitor, room id.RoomID, suggestedOnly bool) (*Space, error) {
	unknown := mxerr.NotFound("The room %s is not known here, or closed to your server.", room)
	head, err := d.resident(ctx, room)
	if err != nil {
		return nil, err
	}
	if head == nil {
		return nil, unknown
	}
	if open, err := d.isOpenTo(ctx, who, head); err != nil || !open {
		return nil, cmp.Or(err, error(unknown))
	}
	out := &Space{Children: []SpaceRoom{}, InaccessibleChildren: []id.RoomID{}}
	if out.Room.SpaceRoom, err = d.spaceRoom(ctx, head); err != nil {
		return nil, err
	}
	children, err := d.children(ctx, head, out.Room.RoomType, suggestedOnly, maxChildren)
	if err != nil {
		return nil, err
	}
	out.Room.ChildrenState = strippedChildren(children)
	for _, c := range children {
		child, err := d.resident(ctx, c.room)
		if err != nil {
			return nil, err
		}
		if child == nil {
			continue
		}
		open, err := d.isOpenTo(ctx, who, child)
		if err != nil {
			return nil, err
		}
		if !open {
			out.InaccessibleChildren = append(out.InaccessibleChildren, c.room)
			continue
		}
		s, err := d.spaceRoom(ctx, child)
		if err != nil {
			return nil, err
		}
		out.Children = append(out.Children, s)
	}
	return out, nil
}

// resident returns the head of a room that a user of ours is in, nil for others: what is known of these may be out of date.
func (d *Directory) resident(ctx context.Context, room id.RoomID) (*graph.Head, error) {
	head, err := d.graph.Head(ctx, room)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if joined, err := d.graph.Joined(ctx, head, d.ours.Names()...); err != nil || !joined {
		return nil, err
	}
	return head, nil
}

// isOpenTo reports whether users of another server could look into a room or join it.
func (d *Directory) isOpenTo(ctx context.Context, who Visitor, head *graph.Head) (bool, error) {
	if err := who.Allowed(ctx, head.ID); err != nil {
		if _, refused := mxerr.Of(err); refused {
			return false, nil
		}
		return false, err
	}
	for m := range head.State.Members(graph.Join, graph.Invite) {
		if m.User.Domain() == who.Name {
			return true, nil
		}
	}
	state, err := d.entries(ctx, head, "m.room.join_rules", "m.room.history_visibility")
	if err != nil {
		return false, err
	}
	if isWorldReadable(state["m.room.history_visibility"]) {
		return true, nil
	}
	rules := state["m.room.join_rules"]
	if rules == nil {
		return false, nil
	}
	rule := str(gjson.GetBytes(rules.Content(), "join_rule"))
	if rule == restricted && head.Version.Restricted {
		return d.mayEnterBy(ctx, who.Name, rules)
	}
	return isOpen(rule, head.Version), nil
}

const restricted = "restricted"

// isOpen reports whether anybody at all may join a room by this rule, or knock. A version of nil is one that isn't known here, which may
// have every rule.
//
// Spec: cs m.room.join_rules
func isOpen(rule string, v *roomver.Version) bool {
	switch rule {
	case "public":
		return true
	case "knock":
		return v == nil || v.Knock
	case "knock_restricted":
		return v == nil || v.KnockRestricted
	}
	return false
}

// maxAllowed bounds the rooms that a restricted room can be entered by.
const maxAllowed = 100

// allowedRooms lists the rooms whose members may join a restricted room.
//
// Spec: cs Restricted rooms
func allowedRooms(rules *event.PDU) []id.RoomID {
	var rooms []id.RoomID
	for _, condition := range gjson.GetBytes(rules.Content(), "allow").Array() {
		room, err := id.ParseRoomID(str(condition.Get("room_id")))
		if err == nil && str(condition.Get("type")) == "m.room_membership" && len(rooms) < maxAllowed {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// mayEnterBy reports whether a server has a user in one of the rooms whose members may join.
func (d *Directory) mayEnterBy(ctx context.Context, server id.ServerName, rules *event.PDU) (bool, error) {
	for _, room := range allowedRooms(rules) {
		head, err := d.resident(ctx, room)
		if err != nil {
			return false, err
		}
		if head == nil {
			continue
		}
		if joined, err := d.graph.Joined(ctx, head, server); err != nil || joined {
			return joined, err
		}
	}
	return false, nil
}

func (d *Directory) spaceRoom(ctx context.Context, head *graph.Head) (SpaceRoom, error) {
	summary, err := d.summary(ctx, head)
	if err != nil {
		return SpaceRoom{}, err
	}
	s := SpaceRoom{Summary: summary, RoomVersion: head.Version.ID}
	state, err := d.entries(ctx, head, "m.room.join_rules", "m.room.encryption")
	if err != nil {
		return SpaceRoom{}, err
	}
	if e := state["m.room.encryption"]; e != nil {
		s.Encryption = clip(str(gjson.GetBytes(e.Content(), "algorithm")), id.MaxLength)
	}
	if rules := state["m.room.join_rules"]; rules != nil && strings.HasSuffix(summary.JoinRule, restricted) {
		s.AllowedRoomIDs = allowedRooms(rules)
	}
	return s, nil
}
