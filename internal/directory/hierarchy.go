package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/internal/view"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxChildren bounds the rooms of a space that one answer looks at, maxChildEvents the events that these are picked from.
const (
	maxChildren    = 200
	maxChildEvents = 2000
)

// SpaceRoom is what a space's hierarchy says of a room.
//
// Spec: ss getSpaceHierarchy
type SpaceRoom struct {
	*Summary
	AllowedRoomIDs []id.RoomID `json:"allowed_room_ids,omitempty"`
	Encryption     string      `json:"encryption,omitempty"`
	RoomVersion    string      `json:"room_version"`
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
	children, err := d.children(ctx, head, suggestedOnly)
	if err != nil {
		return nil, err
	}
	out := &Space{Children: []SpaceRoom{}, InaccessibleChildren: []id.RoomID{}}
	if out.Room.SpaceRoom, err = d.spaceRoom(ctx, head); err != nil {
		return nil, err
	}
	out.Room.ChildrenState = []json.RawMessage{}
	for _, c := range children {
		out.Room.ChildrenState = append(out.Room.ChildrenState, c.stripped())
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
	if err != nil || !view.Joined(head.State, d.ours.Is) {
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
	switch str(gjson.GetBytes(rules.Content(), "join_rule")) {
	case "public", "knock", "knock_restricted":
		return true, nil
	case "restricted":
		return d.mayEnterBy(ctx, who.Name, rules)
	}
	return false, nil
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
	is := func(name id.ServerName) bool { return name == server }
	for _, room := range allowedRooms(rules) {
		head, err := d.resident(ctx, room)
		if err != nil {
			return false, err
		}
		if head != nil && view.Joined(head.State, is) {
			return true, nil
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
	if rules := state["m.room.join_rules"]; rules != nil && strings.HasSuffix(summary.JoinRule, "restricted") {
		s.AllowedRoomIDs = allowedRooms(rules)
	}
	return s, nil
}

// child is a child of a space.
type child struct {
	room  id.RoomID
	order string
	event *event.PDU
}

// stripped is the child event as a hierarchy shows it.
func (c child) stripped() json.RawMessage {
	raw, _ := json.Marshal(struct { // of what was JSON before
		Type     string          `json:"type"`
		StateKey string          `json:"state_key"`
		Sender   id.UserID       `json:"sender"`
		TS       int64           `json:"origin_server_ts"`
		Content  json.RawMessage `json:"content"`
	}{c.event.Type(), c.event.Key().StateKey, c.event.Sender(), c.event.OriginServerTS(), c.event.Content()})
	return raw
}

// children lists the children of a space in their order, the first ones if there are very many.
//
// Spec: cs Ordering of children within a space
func (d *Directory) children(ctx context.Context, head *graph.Head, suggestedOnly bool) ([]child, error) {
	var nids []graph.EventNID
	for _, nid := range head.State.OfType("m.space.child") {
		if len(nids) < maxChildEvents {
			nids = append(nids, nid)
		}
	}
	events, err := d.graph.Events(ctx, head.Room, nids)
	if err != nil {
		return nil, err
	}
	var found []child
	for _, e := range events {
		content := gjson.ParseBytes(e.PDU.Content())
		room, err := id.ParseRoomID(e.PDU.Key().StateKey)
		if err != nil || room == head.ID || !content.Get("via").IsArray() || len(content.Get("via").Array()) == 0 ||
			suggestedOnly && !content.Get("suggested").Bool() {
			continue
		}
		found = append(found, child{room, orderOf(content), e.PDU})
	}
	slices.SortFunc(found, func(a, b child) int {
		if (a.order == "") != (b.order == "") {
			return cmp.Compare(b.order, a.order) // those with an order come first
		}
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.event.OriginServerTS(), b.event.OriginServerTS()), cmp.Compare(a.room, b.room))
	})
	return found[:min(len(found), maxChildren)], nil
}

// orderOf returns the order of a child, "" where it has none that is valid.
//
// Spec: cs m.space.child
func orderOf(content gjson.Result) string {
	order := str(content.Get("order"))
	if len(order) > 50 || strings.ContainsFunc(order, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return ""
	}
	return order
}
