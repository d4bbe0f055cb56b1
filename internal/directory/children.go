package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/id"
)

const (
	// maxChildEvents bounds the events that the children of a space are picked from.
	maxChildEvents = 2000
	// maxChildBytes bounds what all children of one space say together.
	maxChildBytes = 1 << 20
	// maxVia bounds the servers of a child that are asked for it.
	maxVia = 5
	// spaceType is the type of rooms whose children count.
	spaceType  = "m.space"
	childEvent = "m.space.child"
)

// child is a child of a space.
type child struct {
	room    id.RoomID
	order   string
	sender  id.UserID
	ts      int64
	content json.RawMessage
}

// asChild reads a child event. It reports false where the event adds no child, or not one that is asked for.
//
// Spec: cs m.space.child
func asChild(parent id.RoomID, key string, sender id.UserID, ts int64, content []byte, suggestedOnly bool) (child, bool) {
	c := gjson.ParseBytes(content)
	room, err := id.ParseRoomID(key)
	if err != nil || room == parent || !c.IsObject() || !c.Get("via").IsArray() || len(c.Get("via").Array()) == 0 || suggestedOnly && !c.Get("suggested").Bool() {
		return child{}, false
	}
	return child{room, orderOf(c), sender, ts, content}, true
}

// via lists the first servers by which the child can be found.
func (c child) via() []id.ServerName {
	var servers []id.ServerName
	for _, v := range gjson.GetBytes(c.content, "via").Array() {
		if s, err := id.ParseServerName(str(v)); err == nil && len(servers) < maxVia {
			servers = append(servers, s)
		}
	}
	return servers
}

// stripped is the child event as a hierarchy shows it.
func (c child) stripped() json.RawMessage {
	raw, _ := json.Marshal(struct { // of what was JSON before
		Type     string          `json:"type"`
		StateKey id.RoomID       `json:"state_key"`
		Sender   id.UserID       `json:"sender"`
		TS       int64           `json:"origin_server_ts"`
		Content  json.RawMessage `json:"content"`
	}{childEvent, c.room, c.sender, c.ts, c.content})
	return raw
}

func strippedChildren(children []child) []json.RawMessage {
	out := make([]json.RawMessage, len(children))
	for i, c := range children {
		out[i] = c.stripped()
	}
	return out
}

// children lists the children of a room of this type in their order, the first ones if there are very many. Only spaces have any.
func (d *Directory) children(ctx context.Context, head *graph.Head, roomType string, suggestedOnly bool, most int) ([]child, error) {
	if roomType != spaceType {
		return nil, nil
	}
	var nids []graph.EventNID
	for _, nid := range head.State.OfType(childEvent) {
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
		if c, ok := asChild(head.ID, e.PDU.Key().StateKey, e.PDU.Sender(), e.PDU.OriginServerTS(), e.PDU.Content(), suggestedOnly); ok {
			found = append(found, c)
		}
	}
	return ordered(found, most), nil
}

// ordered puts children in their order and keeps the first ones.
//
// Spec: cs Ordering of children within a space
func ordered(found []child, most int) []child {
	slices.SortFunc(found, func(a, b child) int {
		if (a.order == "") != (b.order == "") {
			return cmp.Compare(b.order, a.order) // those with an order come first
		}
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.ts, b.ts), cmp.Compare(a.room, b.room))
	})
	found = found[:min(len(found), most)]
	size := 0
	for i, c := range found {
		if size += len(c.content); size > maxChildBytes {
			return found[:i]
		}
	}
	return found
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
