package appservice

import (
	"context"
	"fmt"
	"slices"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

const (
	memberType = "m.room.member"
	// maxRooms bounds the rooms that are remembered for one application service.
	maxRooms = 20_000
	// maxShared bounds the rooms that are looked at to find out whether a user meets one of an application service's.
	maxShared = 500
)

// interest is what of the server concerns one application service. Only its worker uses it.
type interest struct {
	s     *Service
	cfg   *Config
	rooms map[graph.RoomNID]*presence
}

// presence is how many users of an application service are joined to a room, by one state of it.
type presence struct {
	name    id.RoomID
	always  bool // the room is in the namespaces
	known   bool
	state   graph.StateNID
	members int
}

func newInterest(s *Service, c *Config) *interest {
	return &interest{s: s, cfg: c, rooms: make(map[graph.RoomNID]*presence)}
}

// room returns what is remembered of a room.
func (i *interest) room(nid graph.RoomNID, name id.RoomID) *presence {
	p := i.rooms[nid]
	if p == nil {
		if len(i.rooms) >= maxRooms {
			clear(i.rooms)
		}
		p = &presence{name: name, always: i.s.rooms.match(string(name))}
		i.rooms[nid] = p
	}
	return p
}

// event reports whether an event concerns the application service.
//
// Spec: as Registration
func (i *interest) event(ctx context.Context, e *graph.Event) (bool, error) {
	p := i.room(e.Room, e.PDU.RoomID())
	// The count follows the room in any case, so that the step to the next state stays small.
	if err := i.shift(ctx, e.Room, p, e.HeadState); err != nil {
		return false, err
	}
	if p.always || p.members > 0 || i.s.Has(e.PDU.Sender()) {
		return true, nil
	}
	if e.PDU.IsState() && e.PDU.Type() == memberType && i.s.Has(id.UserID(e.PDU.Key().StateKey)) {
		return true, nil
	}
	return i.named(ctx, p.name)
}

// named reports whether a room has an alias in the namespaces.
func (i *interest) named(ctx context.Context, name id.RoomID) (bool, error) {
	if len(i.s.aliases) == 0 {
		return false, nil
	}
	aliases, err := i.cfg.Aliases(ctx, name)
	return slices.ContainsFunc(aliases, func(a id.RoomAlias) bool { return i.s.aliases.match(string(a)) }), err
}

// shift counts the members in a state, by what differs where there is something to compare with.
func (i *interest) shift(ctx context.Context, room graph.RoomNID, p *presence, state graph.StateNID) error {
	if p.always || p.known && p.state == state {
		return nil
	}
	if p.known {
		diff, err := i.cfg.Graph.StateDiff(ctx, room, p.state, state)
		if err == nil {
			for _, d := range diff {
				was, is := d.OldMembership == graph.Join, d.NewMembership == graph.Join
				if d.Key.Type != memberType || was == is || !i.s.Has(id.UserID(d.Key.StateKey)) {
					continue
				}
				if is {
					p.members++
				} else {
					p.members--
				}
			}
			p.state = state
			return nil
		}
		// The state that is compared with may have been reclaimed since.
		p.known = false
	}
	s, err := i.cfg.Graph.StateAt(ctx, room, state)
	if err != nil {
		return fmt.Errorf("count the members of room %d: %w", room, err)
	}
	p.members = 0
	for m := range s.Members(graph.Join) {
		if i.s.Has(m.User) {
			p.members++
		}
	}
	p.known, p.state = true, state
	return nil
}

// in reports whether what happens in a room besides events concerns the application service, and returns the room's ID.
func (i *interest) in(ctx context.Context, nid graph.RoomNID) (id.RoomID, bool, error) {
	p := i.rooms[nid]
	if p == nil {
		name, _, err := i.cfg.Graph.RoomID(ctx, nid)
		if err != nil {
			return "", false, err
		}
		p = i.room(nid, name)
	}
	if !p.known && !p.always {
		head, err := i.cfg.Graph.HeadOf(ctx, nid)
		if err != nil {
			return "", false, err
		}
		if err := i.shift(ctx, nid, p, head.StateNID); err != nil {
			return "", false, err
		}
	}
	if p.always || p.members > 0 {
		return p.name, true, nil
	}
	named, err := i.named(ctx, p.name)
	return p.name, named, err
}

// meets reports whether a user is one of the application service's, or in a room that concerns it.
func (i *interest) meets(ctx context.Context, user id.UserID) (bool, error) {
	if i.s.Has(user) {
		return true, nil
	}
	var rooms []graph.RoomNID
	err := i.cfg.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		rooms, err = graph.JoinedRooms(tx, user)
		return err
	})
	if err != nil {
		return false, err
	}
	for _, room := range rooms[:min(len(rooms), maxShared)] {
		if _, concerned, err := i.in(ctx, room); err != nil || concerned {
			return concerned, err
		}
	}
	return false, nil
}
