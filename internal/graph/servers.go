package graph

import (
	"context"

	"myelin/matrix/id"
)

// serverList is the joined servers of a room by one state of it.
type serverList struct {
	state   StateNID
	servers []id.ServerName
}

// Servers returns the servers that have joined members by the room's current state, about in the order in which they came. In a room whose
// members are not all known yet, those are among them that the join was told of. The first call for a state costs as much as the room has
// members.
func (g *Graph) Servers(ctx context.Context, room RoomNID) ([]id.ServerName, error) {
	head, err := g.HeadOf(ctx, room)
	if err != nil {
		return nil, err
	}
	told, _, err := g.ServersTold(ctx, room)
	if err != nil {
		return nil, err
	}
	if l, ok := g.servers.GetIfPresent(room); ok && l.state == head.StateNID && len(told) == 0 {
		return l.servers, nil
	}
	var servers []id.ServerName
	seen := make(map[id.ServerName]bool)
	add := func(s id.ServerName) {
		if s != "" && !seen[s] {
			seen[s] = true
			servers = append(servers, s)
		}
	}
	for m := range head.State.Members(Join) {
		add(m.User.Domain())
	}
	for _, s := range told {
		add(s)
	}
	if len(told) == 0 {
		g.servers.Set(room, serverList{head.StateNID, servers})
	}
	return servers, nil
}
