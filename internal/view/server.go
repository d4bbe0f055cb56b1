package view

import (
	"context"
	"slices"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Server is another server that looks at a room, for the time of one request. It is not safe for concurrent use.
//
// What a server may see is what one of its users may, by the state before an event: the specification defines history
// visibility for users only. Two things are simpler than for users. Events of "shared" visibility are shown to every server that is in the
// room now; one that left sees what was sent while it was there. And state that we know only because other events refer to it, as
// when it authorises them, is shown to servers in the room.
type Server struct {
	// Head is the room as it is.
	Head *graph.Head
	// InRoom is set if a user of the server is joined.
	InRoom bool

	view *View
	name id.ServerName
	// users of the server, who have or had to do with the room, once they were needed.
	users []id.UserID
	known bool
	at    map[graph.StateNID]serverMoment
	// since is when users asked to be erased, 0 for never.
	since map[id.UserID]sqldb.Pos
}

// serverMoment is what the state before an event says about the server.
type serverMoment struct {
	visibility      string
	joined, invited bool
}

// Server returns another server's sight of a room, and M_NOT_FOUND where this server has no part in the room. What it costs doesn't grow with the
// room; what is asked of it may take as long as the server has users there.
//
// Spec: cs Room History Visibility
func (v *View) Server(ctx context.Context, name id.ServerName, room id.RoomID) (*Server, error) {
	head, err := v.cfg.Graph.Head(ctx, room)
	if err != nil {
		return nil, err
	}
	s := &Server{Head: head, view: v, name: name, at: make(map[graph.StateNID]serverMoment), since: make(map[id.UserID]sqldb.Pos)}
	if s.InRoom, err = v.cfg.Graph.Joined(ctx, head, name); err != nil {
		return nil, err
	}
	if !head.Partial || s.InRoom {
		return s, nil
	}
	// Its users may be among the members that are not known yet.
	told, _, err := v.cfg.Graph.ServersTold(ctx, head.Room)
	s.InRoom = slices.Contains(told, name)
	return s, err
}

// Sees reports whether the server may see an event of the room.
func (s *Server) Sees(ctx context.Context, e *graph.Event) (bool, error) {
	if e.Flags&graph.Outlier != 0 {
		return s.InRoom && e.PDU.IsState(), nil
	}
	if s.InRoom && sticks(e) {
		return true, nil
	}
	m, err := s.before(ctx, e)
	if err != nil {
		return false, err
	}
	if s.allows(m) || !e.PDU.IsState() {
		return s.allows(m), nil
	}
	// Events that change what decides are visible if either side of the change lets them be.
	switch key := e.PDU.Key(); key.Type {
	case "m.room.history_visibility":
		if key.StateKey == "" {
			m.visibility = visibilityOf(e.PDU)
		}
	case "m.room.member":
		if id.UserID(key.StateKey).Domain() == s.name {
			m.joined = m.joined || e.PDU.Membership() == string(graph.Join)
			m.invited = m.invited || e.PDU.Membership() == string(graph.Invite)
		}
	}
	return s.allows(m), nil
}

func (s *Server) allows(m serverMoment) bool {
	switch m.visibility {
	case worldReadable:
		return true
	case shared:
		return s.InRoom || m.joined
	case invited:
		return m.joined || m.invited
	}
	return m.joined
}

func (s *Server) before(ctx context.Context, e *graph.Event) (serverMoment, error) {
	if m, ok := s.at[e.StateBefore]; ok {
		return m, nil
	}
	state, err := s.view.cfg.Graph.StateBefore(ctx, e)
	if err != nil {
		return serverMoment{}, err
	}
	m := serverMoment{visibility: shared}
	if nid, ok := state.Get("m.room.history_visibility", ""); ok {
		events, err := s.view.cfg.Graph.Events(ctx, e.Room, []graph.EventNID{nid})
		if err != nil {
			return serverMoment{}, err
		}
		m.visibility = visibilityOf(events[0].PDU)
	}
	// Who is joined decides no more where the room lets all see, or all who are in it.
	if !s.allows(m) {
		if err := s.atThatTime(ctx, state, &m); err != nil {
			return serverMoment{}, err
		}
	}
	s.at[e.StateBefore] = m
	return m, nil
}

// atThatTime finds out whether users of the server were joined or invited in a state.
func (s *Server) atThatTime(ctx context.Context, state *graph.State, m *serverMoment) error {
	if !s.known {
		var err error
		if s.users, err = s.view.cfg.Graph.UsersOf(ctx, s.Head, s.name); err != nil {
			return err
		}
		s.known = true
	}
	for i, user := range s.users {
		switch state.Membership(user) {
		case graph.Join:
			m.joined = true
			// The next state is most likely one with the same user in it.
			s.users[0], s.users[i] = s.users[i], s.users[0]
			return nil
		case graph.Invite:
			m.invited = true
		}
	}
	return nil
}

// show returns an event as the server may have it: pruned, where it may not see what the event says. Pruned events
// keep the room's graph whole.
func (s *Server) show(ctx context.Context, e *graph.Event) (*event.PDU, error) {
	sees, err := s.Sees(ctx, e)
	if err != nil {
		return nil, err
	}
	if sees {
		if gone, err := s.erased(ctx, e); err != nil || !gone {
			return e.PDU, err
		}
	}
	return e.PDU.Redacted()
}

var errNotInRoom = mxerr.Forbidden("Your server is not in this room.")

// mayStartFrom returns M_FORBIDDEN unless the server is in the room or sees one of the events.
func (s *Server) mayStartFrom(ctx context.Context, events []*graph.Event) error {
	if s.InRoom {
		return nil
	}
	for _, e := range events {
		if sees, err := s.Sees(ctx, e); err != nil || sees {
			return err
		}
	}
	return errNotInRoom
}

// EventFor returns an event as another server may have it: whole or pruned for a server in the room, whole for one that may see it,
// M_FORBIDDEN for others and M_NOT_FOUND if it isn't here. Rejected and soft-failed events are returned as well.
//
// Spec: ss getEvent
// Spec: ss Soft failure
func (v *View) EventFor(ctx context.Context, name id.ServerName, eventID id.EventID, allowed func(id.RoomID) error) (*event.PDU, error) {
	missing := mxerr.NotFound("There is no event %s here.", eventID)
	e, ok, err := v.cfg.Graph.Event(ctx, eventID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, missing
	}
	if err := allowed(e.PDU.RoomID()); err != nil {
		return nil, err
	}
	s, err := v.Server(ctx, name, e.PDU.RoomID())
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	if err := s.mayStartFrom(ctx, []*graph.Event{e}); err != nil {
		return nil, err
	}
	return s.show(ctx, e)
}
