package fedroom

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

const (
	// singlyAtMost is how many events are fetched one by one; more come faster with the whole state.
	singlyAtMost = 100
	// singlyAtOnce is how many of these are asked for at a time.
	singlyAtOnce = 4
	// leastForeign and foreignTimes bound what is missing of a state that another server tells of in a room whose state is known: so many events, or
	// so many times as many as that state has. A state of the same room has much in common with it.
	leastForeign = 10_000
	foreignTimes = 4
	// fetchTime bounds a question of the background that has a small answer.
	fetchTime = time.Minute
)

// quiet is a call of the background: it respects that a server failed shortly before.
func quiet(origin, destination id.ServerName) fedclient.Call {
	return fedclient.Call{Origin: origin, Destination: destination, Timeout: fetchTime}
}

// place is a room as another server is asked about it.
type place struct {
	room    id.RoomID
	version *roomver.Version
	// origin is the name of ours that asks: one that has a member in the room.
	origin id.ServerName
	// urgent says that a user waits.
	urgent bool
	// atMost bounds how many events are fetched for a state.
	atMost int
	// lenient says that a state will do that lacks events whose keys nobody has at the moment. Servers whose keys are gone for good must not
	// keep a room from being repaired, and those that can't be reached for a moment must not be left out of its state.
	lenient bool
}

func (p place) call(server id.ServerName) fedclient.Call {
	call := quiet(p.origin, server)
	call.Urgent = p.urgent
	return call
}

func placeOf(head *graph.Head, member id.UserID) place {
	p := place{room: head.ID, version: head.Version, origin: member.Domain(), atMost: maxIntake}
	if !head.Partial {
		p.atMost = min(p.atMost, max(leastForeign, foreignTimes*head.State.Len()))
	}
	return p
}

// stateAt fetches the state before an event from one server: its IDs first, then those events that aren't here. It returns the state once all of it
// is stored that the server has and that passes the checks.
//
// Spec: ss getRoomStateIds
// Spec: ss getRoomState
func (f *Federated) stateAt(ctx context.Context, p place, server id.ServerName, at id.EventID) ([]id.EventID, error) {
	call := p.call(server)
	call.Timeout = 0
	ids, err := f.cfg.Client.StateIDs(ctx, call, p.room, at)
	if err != nil {
		return nil, err
	}
	if len(ids.State)+len(ids.AuthChain) > maxIntake {
		return nil, misfitf("the room's state is larger than this server takes")
	}
	if len(ids.State) == 0 {
		return nil, misfitf("it says that the room had no state")
	}
	missing, err := f.absent(ctx, slices.Concat(ids.AuthChain, ids.State))
	if err != nil {
		return nil, err
	}
	if len(missing) > p.atMost {
		return nil, misfitf("%d events of the state are missing", len(missing))
	}
	in := f.intake(p.room, p.version, server)
	defer in.close()
	// The answer has each event once, or twice where the state is part of the auth chain.
	in.most = min(maxIntake, 2*(len(ids.State)+len(ids.AuthChain)))
	if len(missing) > singlyAtMost {
		err = f.cfg.Client.State(ctx, call, p.room, at, in.events(ctx))
	} else {
		err = f.singly(ctx, p, server, missing, in)
	}
	if err != nil {
		return nil, err
	}
	if err := in.flush(ctx); err != nil {
		return nil, err
	}
	if in.late > 0 && !p.lenient {
		return nil, misfitf("the keys to %d events of the state can't be had now", in.late)
	}
	if _, err := in.store(ctx, ids.State, ids.AuthChain); err != nil {
		return nil, err
	}
	state, err := f.fit(ctx, p.room, ids.State)
	if err != nil {
		return nil, err
	}
	// Rejected and badly signed events are left out of the state; those that the server named and would not give make it unfit.
	if lost := len(ids.State) - len(state); lost > in.dropped+f.rejectedAmong(ctx, ids.State) {
		return nil, misfitf("it names %d events of the state that it does not give", lost)
	}
	return state, nil
}

// rejectedAmong counts those of the events that are stored and were rejected.
func (f *Federated) rejectedAmong(ctx context.Context, events []id.EventID) (n int) {
	for part := range slices.Chunk(events, storedAtOnce) {
		stored, err := f.cfg.Graph.EventsByID(ctx, part)
		if err != nil {
			return n
		}
		for _, e := range stored {
			if e.Flags&graph.Rejected != 0 {
				n++
			}
		}
	}
	return n
}

// absent returns those of the events that aren't stored, each once.
func (f *Federated) absent(ctx context.Context, events []id.EventID) ([]id.EventID, error) {
	seen := make(map[id.EventID]bool, len(events))
	var missing []id.EventID
	for part := range slices.Chunk(events, storedAtOnce) {
		stored, err := f.cfg.Graph.EventsByID(ctx, part)
		if err != nil {
			return nil, err
		}
		for _, e := range part {
			if stored[e] == nil && !seen[e] {
				seen[e] = true
				missing = append(missing, e)
			}
		}
	}
	return missing, nil
}

// singly fetches events one by one. Those that the server does not give are left out.
//
// Spec: ss getEvent
func (f *Federated) singly(ctx context.Context, p place, server id.ServerName, events []id.EventID, in *intake) error {
	var mu sync.Mutex // guards failure and raws
	var failure error
	var raws [][]byte
	var group errgroup.Group
	group.SetLimit(singlyAtOnce)
	for _, e := range events {
		mu.Lock()
		stop := failure != nil && !answered(failure)
		mu.Unlock()
		if stop {
			break
		}
		group.Go(func() error {
			raw, err := f.cfg.Client.Event(ctx, p.call(server), e)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failure = err
				return nil
			}
			raws = append(raws, raw)
			return nil
		})
	}
	group.Wait() // nobody returns an error
	for _, raw := range raws {
		if err := in.add(ctx, raw, false); err != nil {
			return err
		}
	}
	if failure != nil && !answered(failure) {
		return failure
	}
	return ctx.Err()
}

// authOf fetches the auth chain of an event from one server and stores it. What is stored has its own chain here, so nothing is fetched where the
// event's auth events are.
//
// Spec: ss Retrieving event authorisation information
func (f *Federated) authOf(ctx context.Context, p place, server id.ServerName, of *event.PDU) error {
	if missing, err := f.absent(ctx, of.AuthEvents()); err != nil || len(missing) == 0 {
		return err
	}
	chain, err := f.cfg.Client.EventAuth(ctx, p.call(server), p.room, of.ID())
	in := f.intake(p.room, p.version, server)
	defer in.close()
	switch {
	case err == nil:
		for _, raw := range chain {
			if err := in.add(ctx, raw, false); err != nil {
				return err
			}
		}
	case !answered(err):
		return err
	}
	if err := in.flush(ctx); err != nil {
		return err
	}
	if _, err := in.store(ctx, of.AuthEvents()); err != nil {
		return err
	}
	// The server may not know the event's chain, and have the events all the same.
	missing, err := f.absent(ctx, of.AuthEvents())
	if err != nil || len(missing) == 0 {
		return err
	}
	rest := f.intake(p.room, p.version, server)
	defer rest.close()
	if err := f.singly(ctx, p, server, missing, rest); err != nil {
		return err
	}
	if err := rest.flush(ctx); err != nil {
		return err
	}
	_, err = rest.store(ctx, missing)
	return err
}
