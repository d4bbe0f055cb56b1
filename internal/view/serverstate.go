package view

import (
	"context"
	"slices"
	"strings"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// statePage is how many events of a state are in memory at once while it is told to another server.
const statePage = 512

// Excerpt is a state of a room as it is told to another server, with the events that authorise it. Nothing of it but
// numbers and IDs is in memory.
type Excerpt struct {
	view *View
	room graph.RoomNID
	nids []graph.EventNID
	// roots are further events whose authorisation belongs to the excerpt.
	roots []id.EventID
	// lean leaves events of the state out of the auth chain.
	lean bool
	// MembersOmitted is set if member events of the state were left out.
	MembersOmitted bool
}

// StateBefore returns the state before an event, for a server that is in the room or sees the event. It returns M_NOT_FOUND
// where the event isn't here, or the state before it isn't known, or not all of it yet.
//
// Spec: ss getRoomState
func (s *Server) StateBefore(ctx context.Context, eventID id.EventID) (*Excerpt, error) {
	events, err := s.stored(ctx, []id.EventID{eventID})
	if err != nil {
		return nil, err
	}
	if len(events) == 0 || s.Head.Partial || events[0].Flags&graph.Thin != 0 {
		// Who isn't in the room learns nothing of what is known of it.
		if !s.InRoom {
			return nil, errNotInRoom
		}
		return nil, mxerr.NotFound("The state at the event %s is not known here.", eventID)
	}
	if err := s.mayStartFrom(ctx, events); err != nil {
		return nil, err
	}
	state, err := s.view.cfg.Graph.StateBefore(ctx, events[0])
	if err != nil {
		return nil, err
	}
	x := &Excerpt{view: s.view, room: s.Head.Room, nids: make([]graph.EventNID, 0, state.Len()), roots: implied(events[0].PDU)}
	for _, nid := range state.All() {
		x.nids = append(x.nids, nid)
	}
	return x, nil
}

// maxHeroes is how many members stand for a room without a name.
//
// Spec: cs sync
const maxHeroes = 5

// JoinExcerpt returns the state before a join that was accepted, for the server that joined. If it wants no members, only those are in the
// state that a room without a name is named by.
//
// Spec: ss sendJoinV2
func (v *View) JoinExcerpt(ctx context.Context, join *graph.Event, omitMembers bool) (*Excerpt, *graph.State, error) {
	state, err := v.cfg.Graph.StateBefore(ctx, join)
	if err != nil {
		return nil, nil, err
	}
	x := &Excerpt{view: v, room: join.Room, roots: cloneIDs(append(implied(join.PDU), join.PDU.AuthEvents()...)), lean: omitMembers}
	if !omitMembers {
		x.nids = make([]graph.EventNID, 0, state.Len())
	}
	for key, nid := range state.All() {
		if omitMembers && key.Type == "m.room.member" {
			x.MembersOmitted = true
			continue
		}
		x.nids = append(x.nids, nid)
	}
	if !x.MembersOmitted {
		return x, state, nil
	}
	_, named := state.Get("m.room.name", "")
	_, known := state.Get("m.room.canonical_alias", "")
	if named || known {
		return x, state, nil
	}
	heroes := 0
	for m := range state.Members(graph.Join, graph.Invite) {
		if m.User == join.PDU.Sender() {
			continue
		}
		x.nids = append(x.nids, m.Event)
		if heroes++; heroes == maxHeroes {
			break
		}
	}
	return x, state, nil
}

func cloneIDs(names []id.EventID) []id.EventID { return unseen(make(map[id.EventID]bool), names) }

// Each calls state for each event of the state, and then auth for each event of the auth chain, those that the state's events
// name first. It ends with the first error.
func (x *Excerpt) Each(ctx context.Context, state, auth func(*event.PDU) error) error {
	seen := make(map[id.EventID]bool)
	told := make(map[id.EventID]bool) // events of the state, if they are not to be repeated
	queue := unseen(seen, x.roots)
	for page := range slices.Chunk(x.nids, statePage) {
		events, err := x.view.cfg.Graph.Events(ctx, x.room, page)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := state(e.PDU); err != nil {
				return err
			}
			if x.lean {
				unseen(told, []id.EventID{e.PDU.ID()})
			}
			queue = append(queue, unseen(seen, e.PDU.AuthEvents())...)
		}
	}
	for len(queue) > 0 {
		page := queue[:min(len(queue), statePage)]
		queue = queue[len(page):]
		found, err := x.view.cfg.Graph.EventsByID(ctx, page)
		if err != nil {
			return err
		}
		for _, name := range page {
			e := found[name]
			if e == nil || e.Room != x.room {
				continue // its event was judged by what there was
			}
			queue = append(queue, unseen(seen, e.PDU.AuthEvents())...)
			if told[name] {
				continue
			}
			if err := auth(e.PDU); err != nil {
				return err
			}
		}
	}
	return nil
}

// AuthChain returns the events that authorise an event, and those that authorise these. The event may be known only because
// others refer to it.
//
// Spec: ss getEventAuth
func (s *Server) AuthChain(ctx context.Context, eventID id.EventID) (*Excerpt, error) {
	e, ok, err := s.view.cfg.Graph.Event(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if !ok || e.Room != s.Head.Room {
		if !s.InRoom {
			return nil, errNotInRoom
		}
		return nil, mxerr.NotFound("There is no event %s in this room.", eventID)
	}
	if err := s.mayStartFrom(ctx, []*graph.Event{e}); err != nil {
		return nil, err
	}
	return &Excerpt{view: s.view, room: s.Head.Room, roots: cloneIDs(append(implied(e.PDU), e.PDU.AuthEvents()...))}, nil
}

// implied is the event that authorises another although that doesn't name it: in rooms whose ID is made of the create event's, that
// event. Servers look for it in auth chains as they do in rooms of older versions.
//
// Spec: rooms/v12 Authorisation rules
func implied(pdu *event.PDU) []id.EventID {
	if !pdu.Version().CreateAsRoomID || pdu.Type() == "m.room.create" {
		return nil
	}
	return []id.EventID{id.EventID("$" + strings.TrimPrefix(string(pdu.RoomID()), "!"))}
}

// Servers lists the servers that have a joined member in a state, each once.
func Servers(state *graph.State) []id.ServerName {
	seen := make(map[id.ServerName]bool)
	names := []id.ServerName{}
	for m := range state.Members(graph.Join) {
		if name := m.User.Domain(); !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// introducing are the types of the events that tell outsiders what a room is.
//
// Spec: cs Stripped state
var introducing = []string{
	"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias", "m.room.encryption",
}

// Introduction returns the events that tell who knocks what the room is, as servers exchange them.
//
// Spec: ss sendKnock
func (v *View) Introduction(ctx context.Context, knock *graph.Event) ([]*event.PDU, error) {
	state, err := v.cfg.Graph.StateBefore(ctx, knock)
	if err != nil {
		return nil, err
	}
	var nids []graph.EventNID
	for _, typ := range introducing {
		if nid, ok := state.Get(typ, ""); ok {
			nids = append(nids, nid)
		}
	}
	events, err := v.cfg.Graph.Events(ctx, knock.Room, nids)
	if err != nil {
		return nil, err
	}
	pdus := make([]*event.PDU, len(events))
	for i, e := range events {
		pdus[i] = e.PDU
	}
	return pdus, nil
}
