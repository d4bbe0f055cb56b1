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
	// maxBehind is how many events that were not taken in are looked at to find branches that go on behind them.
	maxBehind = 200
)

// behind returns the branches that events follow over others that were soft-failed or rejected here, so that they end no branch and left the one that they
// follow. Where an event that is taken in follows them, whoever made it saw it otherwise, and the branch goes on there.
func (r *Rooms) behind(ctx context.Context, head *graph.Head, prev []*graph.Event) (ends []graph.EventNID, err error) {
	seen := make(map[id.EventID]bool)
	for len(prev) > 0 && len(seen) < maxBehind {
		var next []id.EventID
		for _, e := range prev {
			if e.Flags&graph.Outlier != 0 || e.Flags&(graph.SoftFailed|graph.Rejected) == 0 {
				continue
			}
			for _, x := range e.PDU.PrevEvents() {
				if seen[x] {
					continue
				}
				seen[x] = true
				if i := slices.IndexFunc(head.Extremities, func(end graph.Extremity) bool { return end.ID == x }); i >= 0 {
					ends = append(ends, head.Extremities[i].NID)
				} else {
					next = append(next, x)
				}
			}
		}
		if len(next) == 0 {
			break
		}
		stored, err := r.cfg.Graph.EventsByID(ctx, next)
		if err != nil {
			return nil, err
		}
		prev = prev[:0:0]
		for _, e := range stored {
			if e.Room == head.Room {
				prev = append(prev, e)
			}
		}
	}
	return ends, nil
}

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
