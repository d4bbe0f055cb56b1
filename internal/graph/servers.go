package graph

import (
	"context"
	"slices"
	"sync"

	"myelin/matrix/id"
)

const (
	// rosterServer and rosterUser are about what a roster remembers of a server and of a user it was asked for, in bytes.
	rosterServer = 120
	rosterUser   = 80
	// maxListed bounds the users that a roster lists, unless they are of one server: it is not the servers that are counted, for anybody can have
	// many names that ask in turn. maxFollowed bounds the changes between two states by which a roster follows.
	maxListed   = 20_000
	maxFollowed = 5000
)

// roster is which servers have to do with a room, by one state of it. It is counted once, which costs as much as the room has members, and
// then follows the room by what differs between states.
type roster struct {
	mu    sync.Mutex // guards all below; held while states are compared
	state StateNID
	known bool
	// of holds the servers with member events in the state.
	of map[id.ServerName]presence
	// servers are those with joined members, about in the order in which they came. It is replaced, never changed.
	servers []id.ServerName
	// users are those of the servers that were asked for.
	users map[id.ServerName]map[id.UserID]struct{}
	// kept counts the users, and the servers of which they are.
	kept int
	cost int
}

// presence counts the member events of one server's users, and those of them that are joined.
type presence struct{ joined, all int32 }

// Servers returns the servers that have joined members by the room's current state, about in the order in which they came. In a room whose
// members are not all known yet, those are among them that the join was told of. The slice is not to be changed.
func (g *Graph) Servers(ctx context.Context, room RoomNID) ([]id.ServerName, error) {
	head, err := g.HeadOf(ctx, room)
	if err != nil {
		return nil, err
	}
	told, _, err := g.ServersTold(ctx, room)
	if err != nil {
		return nil, err
	}
	var servers []id.ServerName
	err = g.onRoster(ctx, head, func(r *roster) { servers = r.servers })
	if err != nil || len(told) == 0 {
		return servers, err
	}
	servers = slices.Clip(servers)
	for _, s := range told {
		if s != "" && !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}
	return servers, nil
}

// Joined reports whether one of the servers has a joined member in the state of a head. Its cost doesn't grow with the room, but for the first call.
func (g *Graph) Joined(ctx context.Context, head *Head, servers ...id.ServerName) (joined bool, err error) {
	err = g.onRoster(ctx, head, func(r *roster) {
		joined = slices.ContainsFunc(servers, func(s id.ServerName) bool { return r.of[s].joined > 0 })
	})
	return joined, err
}

// UsersOf returns the users of a server who have a member event in the state of a head, whatever their membership: those who are in the room, and
// those who had to do with it. Its cost is in proportion to these, but for the first calls.
func (g *Graph) UsersOf(ctx context.Context, head *Head, server id.ServerName) (users []id.UserID, err error) {
	err = g.onRoster(ctx, head, func(r *roster) {
		if r.of[server].all == 0 {
			return
		}
		users = make([]id.UserID, 0, r.of[server].all)
		for user := range r.listed(head.State, server) {
			users = append(users, user)
		}
	})
	slices.Sort(users)
	return users, err
}

// onRoster looks at the roster of a room in the state of a head.
func (g *Graph) onRoster(ctx context.Context, head *Head, look func(*roster)) error {
	r, _ := g.rosters.ComputeIfAbsent(head.Room, func() (*roster, bool) { return &roster{}, false })
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.move(ctx, g, head); err != nil {
		return err
	}
	look(r)
	if cost := len(r.of)*rosterServer + r.kept*rosterUser; cost > r.cost*5/4 {
		r.cost = cost
		g.rosters.Set(head.Room, r) // it weighs more now
	}
	return nil
}

// move brings the roster to the state of a head. It is called with mu held.
func (r *roster) move(ctx context.Context, g *Graph, head *Head) error {
	if r.known && r.state == head.StateNID {
		return nil
	}
	if r.known {
		diff, err := g.StateDiff(ctx, head.Room, r.state, head.StateNID)
		if err == nil && len(diff) <= maxFollowed {
			r.follow(diff)
			r.state = head.StateNID
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// The state that is compared with may have been reclaimed since.
	}
	r.known, r.state = true, head.StateNID
	r.of, r.servers, r.users, r.kept = make(map[id.ServerName]presence), nil, nil, 0
	var servers []id.ServerName
	for m := range head.State.Members() {
		server := m.User.Domain()
		p := r.of[server]
		p.all++
		if m.Membership == Join {
			if p.joined++; p.joined == 1 && server != "" {
				servers = append(servers, server)
			}
		}
		r.of[server] = p
	}
	r.servers = servers
	return nil
}

// follow takes over what differs.
func (r *roster) follow(diff []StateDiff) {
	for _, d := range diff {
		if d.Key.Type != memberType {
			continue
		}
		user := id.UserID(d.Key.StateKey)
		server := user.Domain()
		p := r.of[server]
		was := p.joined
		p.all += int32(btoi(d.New != 0) - btoi(d.Old != 0))
		p.joined += int32(btoi(d.NewMembership == Join) - btoi(d.OldMembership == Join))
		switch {
		case server == "":
		case was == 0 && p.joined > 0:
			r.servers = append(slices.Clone(r.servers), server)
		case was > 0 && p.joined == 0:
			r.servers = slices.DeleteFunc(slices.Clone(r.servers), func(s id.ServerName) bool { return s == server })
		}
		if r.of[server] = p; p.all == 0 {
			delete(r.of, server)
		}
		if users := r.users[server]; users != nil {
			r.kept -= len(users)
			if d.New != 0 {
				users[user] = struct{}{}
			} else {
				delete(users, user)
			}
			r.kept += len(users)
		}
	}
}

// listed returns the users of a server, whom it finds among all members the first time.
func (r *roster) listed(s *State, server id.ServerName) map[id.UserID]struct{} {
	if users := r.users[server]; users != nil {
		return users
	}
	if r.users == nil || r.kept+int(r.of[server].all) >= maxListed {
		r.users, r.kept = make(map[id.ServerName]map[id.UserID]struct{}), 0
	}
	users := make(map[id.UserID]struct{}, r.of[server].all)
	for m := range s.Members() {
		if m.User.Domain() == server {
			users[m.User] = struct{}{}
		}
	}
	r.users[server] = users
	r.kept += len(users) + 1
	return users
}
