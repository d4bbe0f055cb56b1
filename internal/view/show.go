package view

import (
	"context"
	"strconv"
	"time"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// Audience is for whom, and in which shape, events are shown.
type Audience struct {
	User   id.UserID
	Device id.DeviceID
	// OmitRoomID leaves the room's ID out, where the surrounding response names it.
	OmitRoomID bool
	// Federation shows events as servers send them to each other.
	Federation bool
	// Bundle adds what is known of the children of each event: where the specification names the operation.
	Bundle bool
	// Everything shows what events replaced whatever the visibility of the room's history: as application services see it.
	Everything bool
	// Fields lists the paths to keep of each event; nil keeps all.
	Fields []string
}

// companions are the events that stand inside the unsigned part of others.
type companions map[graph.EventNID]*graph.Event

// AppendEvents appends a JSON array of events of one room in the client format. It decides
// nothing about the visibility of the events themselves; the content that a state event replaced is
// shown only where the user may see it.
//
// Spec: cs Room event format
func (v *View) AppendEvents(ctx context.Context, dst []byte, a Audience, events []*graph.Event) ([]byte, error) {
	children, err := v.bundlesFor(ctx, a, events)
	if err != nil {
		return nil, err
	}
	return v.appendEventsWith(ctx, dst, a, events, children)
}

// bundlesFor is bundles where the audience is to have them.
func (v *View) bundlesFor(ctx context.Context, a Audience, events []*graph.Event) (bundles, error) {
	if !a.Bundle || a.Federation {
		return nil, nil
	}
	return v.bundles(ctx, a, events, false)
}

func (v *View) appendEventsWith(ctx context.Context, dst []byte, a Audience, events []*graph.Event, children bundles) ([]byte, error) {
	inside, err := v.companions(ctx, a.User, a.Everything, events)
	if err != nil {
		return nil, err
	}
	was, err := v.memberships(ctx, a.User, events)
	if err != nil {
		return nil, err
	}
	var instead copies
	if !a.Everything {
		if instead, err = v.erased(ctx, a.User, events, was); err != nil {
			return nil, err
		}
	}
	now := time.Now().UnixMilli()
	dst = append(dst, '[')
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendEvent(dst, a, shown{e, instead[e.NID], was[i], children[e.PDU.ID()].json}, inside, now)
	}
	return append(dst, ']'), nil
}

// AppendEvent appends one event in the client format.
func (v *View) AppendEvent(ctx context.Context, dst []byte, a Audience, e *graph.Event) ([]byte, error) {
	children, err := v.bundlesFor(ctx, a, []*graph.Event{e})
	if err != nil {
		return nil, err
	}
	return v.appendWith(ctx, dst, a, e, children)
}

func (v *View) appendWith(ctx context.Context, dst []byte, a Audience, e *graph.Event, children bundles) ([]byte, error) {
	list, err := v.appendEventsWith(ctx, nil, a, []*graph.Event{e}, children)
	if err != nil {
		return nil, err
	}
	return append(dst, list[1:len(list)-1]...), nil
}

// shown is an event with what depends on who looks at it.
type shown struct {
	event *graph.Event
	// instead is a copy to show, nil for the event itself.
	instead    *event.PDU
	membership graph.Membership
	children   []byte
}

func appendEvent(dst []byte, a Audience, s shown, inside companions, now int64) []byte {
	pdu := s.event.PDU
	if s.instead != nil {
		pdu = s.instead
	}
	if a.Federation {
		return append(dst, pdu.Raw()...)
	}
	var buf [512]byte
	unsigned := appendUnsigned(buf[:0], a, s.event, inside, s.children, s.membership, now)
	start := len(dst)
	dst = pdu.AppendClient(dst, event.ClientFormat{OmitRoomID: a.OmitRoomID, Unsigned: unsigned})
	if a.Fields != nil {
		return append(dst[:start], keepFields(dst[start:], a.Fields)...)
	}
	return dst
}

// appendUnsigned appends the unsigned object of an event.
func appendUnsigned(dst []byte, a Audience, e *graph.Event, inside companions, children []byte, membership graph.Membership, now int64) []byte {
	dst = strconv.AppendInt(append(dst, `{"age":`...), now-e.PDU.OriginServerTS(), 10)
	if membership != "" {
		dst = canon.AppendString(append(dst, `,"membership":`...), string(membership))
	}
	if children != nil {
		dst = append(append(dst, `,"m.relations":`...), children...)
	}
	if old := inside[e.Replaces]; old != nil {
		dst = append(append(dst, `,"prev_content":`...), old.PDU.Content()...)
		dst = canon.AppendString(append(dst, `,"prev_sender":`...), string(old.PDU.Sender()))
	}
	if because := inside[e.RedactedBy]; because != nil {
		dst = append(dst, `,"redacted_because":`...)
		dst = because.PDU.AppendClient(dst, event.ClientFormat{OmitRoomID: a.OmitRoomID})
	}
	if old := inside[-e.Replaces]; e.Replaces != 0 && old != nil {
		dst = canon.AppendString(append(dst, `,"replaces_state":`...), string(old.PDU.ID()))
	}
	if e.Txn.ID != "" && e.Txn.User == a.User && e.Txn.Device == a.Device {
		dst = canon.AppendString(append(dst, `,"transaction_id":`...), e.Txn.ID)
	}
	if ttl := e.PDU.StickyUntil(now) - now; ttl > 0 {
		dst = strconv.AppendInt(append(dst, `,"msc4354_sticky_duration_ttl_ms":`...), ttl, 10) // MSC4354
	}
	if e.Txn.Device == graph.DelayedDevice && e.Txn.User == a.User {
		dst = canon.AppendString(append(dst, `,"org.matrix.msc4140.delay_id":`...), e.Txn.ID)
	}
	return append(dst, '}')
}

// membershipAt returns the user's membership after the event: "leave" where there is none.
func (v *View) membershipAt(ctx context.Context, user id.UserID, e *graph.Event) (graph.Membership, error) {
	if user == "" || e.Flags&graph.Outlier != 0 {
		return "", nil
	}
	if k := e.PDU.Key(); k.Type == "m.room.member" && k.StateKey == string(user) && e.PDU.IsState() {
		return graph.Membership(e.PDU.Membership()), nil
	}
	state, err := v.cfg.Graph.StateBefore(ctx, e)
	if err != nil {
		return "", err
	}
	if m := state.Membership(user); m != "" {
		return m, nil
	}
	return graph.Leave, nil
}

// companions loads what the unsigned parts of the events need. A replaced event is found
// under its number where the user may see it, and always under the negative of its number.
func (v *View) companions(ctx context.Context, user id.UserID, everything bool, events []*graph.Event) (companions, error) {
	var nids []graph.EventNID
	for _, e := range events {
		if e.Replaces != 0 {
			nids = append(nids, e.Replaces)
		}
		if e.RedactedBy != 0 {
			nids = append(nids, e.RedactedBy)
		}
	}
	if len(nids) == 0 {
		return nil, nil
	}
	loaded, err := v.cfg.Graph.Events(ctx, events[0].Room, nids)
	if err != nil {
		return nil, err
	}
	visible, err := v.Visible(ctx, user, loaded)
	if err != nil {
		return nil, err
	}
	inside := make(companions, 2*len(loaded))
	for i, e := range loaded {
		inside[-e.NID] = e
		// An invite to a room that this server came into by it stands outside of the history, and is the user's own.
		own := e.PDU.Type() == "m.room.member" && e.PDU.Key().StateKey == string(user)
		if visible[i] || own || everything || e.PDU.Type() == "m.room.redaction" {
			inside[e.NID] = e
		}
	}
	return inside, nil
}
