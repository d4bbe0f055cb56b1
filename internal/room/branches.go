package room

import (
	"cmp"
	"context"
	"slices"

	"myelin/internal/graph"
	"myelin/matrix/id"
)

const (
	// maxBranches is the most branches of a room that are followed, and whose states make up the state of the room.
	maxBranches = 100
	// maxOfServer is the most of them that end with events of one server.
	maxOfServer = 10
)

// spare takes from the branches beside an event those that are too many once it is there: of a server that has more than its share, or
// else of the one that has most, the shallowest. The event itself may be the one. dropped are their numbers.
func (r *Rooms) spare(ctx context.Context, head *graph.Head, others []graph.Extremity, e *graph.Event) (kept []graph.Extremity, dropped []graph.EventNID, err error) {
	if len(others) < maxOfServer {
		return others, nil, nil
	}
	nids := make([]graph.EventNID, len(others))
	for i, x := range others {
		nids[i] = x.NID
	}
	ends, err := r.cfg.Graph.Events(ctx, head.Room, nids)
	if err != nil {
		return nil, nil, err
	}
	byServer := make(map[id.ServerName][]graph.Extremity)
	for _, end := range append(ends, e) {
		server := end.PDU.Sender().Domain()
		byServer[server] = append(byServer[server], graph.Extremity{NID: end.NID, ID: end.PDU.ID(), Depth: end.PDU.Depth()})
	}
	for _, of := range byServer {
		slices.SortFunc(of, func(a, b graph.Extremity) int {
			return cmp.Or(cmp.Compare(a.Depth, b.Depth), cmp.Compare(a.NID, b.NID))
		})
	}
	for total := len(others) + 1; ; total-- {
		server := greediest(byServer)
		of := byServer[server]
		if total <= maxBranches && len(of) <= maxOfServer {
			break
		}
		dropped = append(dropped, of[0].NID)
		byServer[server] = of[1:]
	}
	return slices.DeleteFunc(others, func(x graph.Extremity) bool { return slices.Contains(dropped, x.NID) }), dropped, nil
}

// greediest returns the server with most branches, the first by name among equals.
func greediest(byServer map[id.ServerName][]graph.Extremity) id.ServerName {
	var found id.ServerName
	for server, of := range byServer {
		if n := len(byServer[found]); len(of) > n || len(of) == n && server < found {
			found = server
		}
	}
	return found
}
