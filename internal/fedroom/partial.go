package fedroom

import (
	"context"
	"fmt"
	"time"

	"myelin/internal/graph"
	"myelin/internal/work"
	"myelin/matrix/id"
)

const (
	// completeLook is how often rooms are looked for that were joined with a part of their state.
	completeLook = 30 * time.Second
	// completePause is how long a room is left alone after all servers failed, in the beginning; it doubles up to maxPause.
	completePause = 10 * time.Second
	// completeTime bounds one attempt.
	completeTime = 15 * time.Minute
	// soonTime and soonAtMost bound what a user who joins waits for besides the join.
	soonTime   = 2 * time.Second
	soonAtMost = 500
	// partialAtOnce bounds how many rooms are looked at.
	partialAtOnce = 100
)

// completeAll fetches the rest of the state of rooms that were joined with a part of it, also after a restart, one room after the other.
//
// Spec: ss sendJoinV2
func (f *Federated) completeAll(ctx context.Context, _ *work.Lease) error {
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
			if time.Now().Before(next[r.Room]) {
				continue
			}
			if err := f.completeOne(ctx, r, failures[r.Room] >= strictFor); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				pause := min(maxPause, completePause<<min(failures[r.Room], 20))
				failures[r.Room]++
				next[r.Room] = time.Now().Add(pause)
				f.cfg.Log.WarnContext(ctx, "could not get the rest of a room's state", "room", r.RoomID, "err", err, "again_in", pause)
				continue
			}
			delete(failures, r.Room)
			delete(next, r.Room)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
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
	return f.completeOne(ctx, r, false)
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
		err = f.completeFrom(ctx, r, soonAtMost, false)
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

func (f *Federated) completeOne(ctx context.Context, r graph.PartialRoom, lenient bool) error {
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	return f.completeFrom(ctx, r, maxIntake, lenient)
}

// completeFrom fetches the state before the join from one of the servers that the join told of, unless more than so many events of it are missing.
func (f *Federated) completeFrom(ctx context.Context, r graph.PartialRoom, atMost int, lenient bool) error {
	head, member, err := f.head(ctx, r.RoomID)
	if err != nil {
		return err
	}
	if head == nil {
		// Everybody has left again. What is missing is of no use, and no server would give it.
		return f.cfg.Rooms.Complete(ctx, r.RoomID, nil)
	}
	started := time.Now()
	refused := new(refusals)
	for _, server := range f.permitted(r.Servers) {
		p := placeOf(head, member)
		p.atMost, p.lenient = atMost, lenient
		state, err := f.stateAt(ctx, p, server, r.Join)
		if err == nil {
			if err := f.cfg.Rooms.Complete(ctx, r.RoomID, state); err != nil {
				return fmt.Errorf("complete %s: %w", r.RoomID, err)
			}
			f.cfg.Log.InfoContext(ctx, "the room's state is complete", "room", r.RoomID, "origin", server, "state", len(state), "took", time.Since(started))
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
