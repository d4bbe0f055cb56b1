package fedroom

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"myelin/internal/graph"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// completeLook is how often rooms are looked for that were joined with a part of their state.
	completeLook = 30 * time.Second
	// completePause is how long a room is left alone after all servers failed, in the beginning; it doubles up to completeRest, for servers that come
	// back should not wait to be noticed.
	completePause = 10 * time.Second
	completeRest  = 5 * time.Minute
	// completeTime bounds one attempt, completeEach what one server has of it, and completeServers is how many are asked. The next attempt asks
	// the next ones, and gives each more time: a very large room may need it.
	completeTime    = 20 * time.Minute
	completeEach    = 2 * time.Minute
	completeServers = 10
	// completeStrict is after how many attempts, more than two hours, members are left out to whose events there are no keys. What is left out is left
	// out for good, so a server that is only away should come back first; and a room must not wait for ever for one that is gone.
	completeStrict = 32
	// completeAtOnce is how many rooms are completed at a time.
	completeAtOnce = 4
	// maxTold and maxToldOf bound the servers that a join tells of, in all and by host.
	maxTold   = 20_000
	maxToldOf = 5
	// soonTime and soonAtMost bound what a user who joins waits for besides the join.
	soonTime   = 2 * time.Second
	soonAtMost = 500
	// partialAtOnce bounds how many rooms are looked at.
	partialAtOnce = 100
)

// completeAll fetches the rest of the state of rooms that were joined with a part of it, also after a restart. A room that is slow to complete
// holds up one of a few places, and no other room.
//
// Spec: ss sendJoinV2
func (f *Federated) completeAll(ctx context.Context, _ *work.Lease) error {
	var running sync.WaitGroup
	defer running.Wait()
	type outcome struct {
		room graph.PartialRoom
		err  error
	}
	finished := make(chan outcome, completeAtOnce) // with a place for each, so that nobody waits to tell
	busy := make(map[graph.RoomNID]bool)
	failures := make(map[graph.RoomNID]int)
	next := make(map[graph.RoomNID]time.Time)
	ticker := time.NewTicker(completeLook)
	defer ticker.Stop()
	for {
		rooms, err := f.cfg.Graph.Partial(ctx, 0, partialAtOnce)
		if err != nil {
			return err
		}
		for _, r := range rooms {
			if busy[r.Room] || len(busy) == completeAtOnce || time.Now().Before(next[r.Room]) {
				continue
			}
			busy[r.Room] = true
			failed := failures[r.Room]
			running.Go(func() { finished <- outcome{r, f.completeOne(ctx, r, failed)} })
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case o := <-finished:
			delete(busy, o.room.Room)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if o.err == nil {
				delete(failures, o.room.Room)
				delete(next, o.room.Room)
				continue
			}
			pause := min(completeRest, completePause<<min(failures[o.room.Room], 20))
			failures[o.room.Room]++
			next[o.room.Room] = time.Now().Add(pause)
			f.cfg.Log.WarnContext(ctx, "could not get the rest of a room's state", "room", o.room.RoomID, "err", o.err, "again_in", pause)
		case <-f.joined:
		case <-ticker.C:
		}
	}
}

// Complete makes one attempt to get the rest of the state of a room that was joined with a part of it. For any other room it does nothing.
func (f *Federated) Complete(ctx context.Context, room id.RoomID) error {
	r, ok, err := f.partial(ctx, room)
	if err != nil || !ok {
		return err
	}
	return f.completeOne(ctx, r, 0)
}

const (
	// wholeTime is how long somebody waits for the members of a room, wholeLook how often is looked whether they are there, and wholeAgain when to ask again.
	wholeTime  = 50 * time.Second
	wholeLook  = 250 * time.Millisecond
	wholeAgain = 10 * time.Second
)

// AwaitWhole waits until all members of a room are known, and returns M_LIMIT_EXCEEDED where that takes too long. For most rooms it returns at once.
//
// MSC3902: faster joins. Who asks for members is not told of a part of them.
func (f *Federated) AwaitWhole(ctx context.Context, room id.RoomID) error {
	deadline := time.Now().Add(wholeTime)
	for {
		head, err := f.cfg.Graph.Head(ctx, room)
		if mxerr.Is(err, mxerr.CodeNotFound) {
			return nil
		}
		if err != nil || !head.Partial {
			return err
		}
		if time.Now().After(deadline) {
			return mxerr.LimitExceeded(wholeAgain)
		}
		timer := time.NewTimer(wholeLook)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// partial finds a room among those that were joined with a part of their state.
func (f *Federated) partial(ctx context.Context, room id.RoomID) (graph.PartialRoom, bool, error) {
	nid, known, err := f.cfg.Graph.RoomNID(ctx, room)
	if err != nil || !known {
		return graph.PartialRoom{}, false, err
	}
	found, err := f.cfg.Graph.Partial(ctx, nid-1, 1)
	if err != nil || len(found) == 0 || found[0].Room != nid {
		return graph.PartialRoom{}, false, err
	}
	return found[0], true, nil
}

// completeSoon gets the rest of a small room's state before the user who joined hears of it. A large room's is left to the background.
func (f *Federated) completeSoon(ctx context.Context, room id.RoomID) {
	ctx, cancel := context.WithTimeout(ctx, soonTime)
	defer cancel()
	r, ok, err := f.partial(ctx, room)
	if err == nil && ok {
		err = f.completeFrom(ctx, r, soonAtMost, 0)
	}
	if err == nil {
		return
	}
	f.cfg.Log.DebugContext(ctx, "the rest of a room's state comes later", "room", room, "err", err)
	select {
	case f.joined <- struct{}{}:
	default:
	}
}

// completeOne makes one attempt, after some that failed.
func (f *Federated) completeOne(ctx context.Context, r graph.PartialRoom, failed int) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("complete %s: panic: %v", r.RoomID, p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	return f.completeFrom(ctx, r, maxIntake, failed)
}

// completeFrom fetches the state before the join from one of the servers that the join told of, unless more than so many events of it are missing.
func (f *Federated) completeFrom(ctx context.Context, r graph.PartialRoom, atMost, failed int) error {
	head, member, err := f.head(ctx, r.RoomID)
	if err != nil {
		return err
	}
	if head == nil {
		// Everybody has left again. What is missing is of no use now, and no server would give it. It comes when somebody joins again.
		return f.cfg.Rooms.Complete(ctx, r.RoomID, nil)
	}
	joins, err := f.cfg.Rooms.Lacking(ctx, r)
	if err != nil {
		return err
	}
	started := time.Now()
	refused := new(refusals)
	for _, server := range turnOf(f.permitted(r.Servers), failed) {
		p := placeOf(head, member)
		p.atMost, p.lenient = atMost, failed >= completeStrict
		asking, cancel := context.WithTimeout(ctx, min(completeTime, completeEach<<min(failed, 8)))
		states, err := f.statesAt(asking, p, server, joins, failed >= strictFor)
		late := err != nil && asking.Err() != nil && ctx.Err() == nil
		cancel()
		if late {
			err = misfitf("it took too long to give the state")
		}
		if err == nil {
			if err := f.cfg.Rooms.Complete(ctx, r.RoomID, states); err != nil {
				return fmt.Errorf("complete %s: %w", r.RoomID, err)
			}
			f.cfg.Log.InfoContext(ctx, "the room's state is complete", "room", r.RoomID, "origin", server, "state", len(states[r.Join]), "joins", len(joins), "took", time.Since(started))
			return nil
		}
		if !outside(err) {
			return err
		}
		refused.add(server, err)
	}
	if len(refused.servers) == 0 {
		return fmt.Errorf("complete %s: %w", r.RoomID, errNobody)
	}
	return refused.err("getting the room's state")
}

// statesAt fetches the states before several joins from one server. After some attempts that before the first will do: an earlier stay, or a join that
// nobody can tell of, must not keep the room from being complete for ever.
func (f *Federated) statesAt(ctx context.Context, p place, server id.ServerName, joins []id.EventID, firstWillDo bool) (map[id.EventID][]id.EventID, error) {
	states := make(map[id.EventID][]id.EventID, len(joins))
	for i, join := range joins {
		state, err := f.stateAt(ctx, p, server, join)
		if err == nil {
			states[join] = state
		} else if i == 0 || !firstWillDo || !outside(err) {
			return nil, err
		}
	}
	return states, nil
}

// turnOf returns the servers that an attempt asks, after some attempts that failed: the first ones first, and then those that follow.
func turnOf(servers []id.ServerName, failed int) []id.ServerName {
	if len(servers) <= completeServers {
		return servers
	}
	from := failed * completeServers % len(servers)
	return slices.Concat(servers[from:], servers[:from])[:completeServers]
}

// told returns those of the servers that a join tells of which are remembered, and not many of one host under different ports.
func told(servers []id.ServerName) []id.ServerName {
	seen := make(map[id.ServerName]bool)
	hosts := make(map[string]int)
	var out []id.ServerName
	for _, s := range servers {
		host := strings.ToLower(s.Host())
		if len(out) == maxTold {
			break
		}
		if seen[s] || hosts[host] == maxToldOf {
			continue
		}
		seen[s] = true
		hosts[host]++
		out = append(out, s)
	}
	return out
}
