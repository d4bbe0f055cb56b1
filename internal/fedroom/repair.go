package fedroom

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"myelin/internal/fedclient"
	"myelin/internal/work"
	"myelin/matrix/id"
)

const (
	// repairsAtOnce is how many rooms are repaired at a time. A room that is slow to repair holds up one of these places and no other room.
	repairsAtOnce = 8
	// repairTime bounds one attempt at one room.
	repairTime = 5 * time.Minute
	// outsiderRepairs and outsiderTime bound the repair of rooms where all that waits is from servers with nobody in them: one that has just
	// joined needs no more, and others have only a part of the places.
	outsiderRepairs = 2
	outsiderTime    = 30 * time.Second
	// look is how often the repair looks for what another node staged.
	look = 10 * time.Second
	// firstPause and maxPause bound the time between two attempts, which doubles.
	firstPause = 5 * time.Second
	maxPause   = time.Hour
	// maxTries is how many attempts are made before an event is given up: over about seven hours.
	maxTries = 16
	// dueAtOnce bounds how many rooms are looked at for their turn.
	dueAtOnce = 200
)

// repairAll repairs rooms whose turn it is, one attempt at a time for each.
func (f *Federated) repairAll(ctx context.Context, _ *work.Lease) error {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, repairsAtOnce)
	finished := make(chan due, repairsAtOnce)
	busy := make(map[id.RoomID]bool)
	outsiders := 0 // of the busy
	for {
		rooms, err := f.dueRooms(ctx, false, dueAtOnce)
		if err != nil {
			return err
		}
		more, err := f.dueRooms(ctx, true, dueAtOnce)
		if err != nil {
			return err
		}
		next := time.Now().Add(look)
		for _, d := range append(rooms, more...) {
			at := time.UnixMilli(d.at)
			if busy[d.room] || len(places) == cap(places) || d.outsiders && outsiders == outsiderRepairs {
				continue
			}
			if at.After(time.Now()) {
				if at.Before(next) {
					next = at
				}
				continue
			}
			busy[d.room] = true
			if d.outsiders {
				outsiders++
			}
			places <- struct{}{}
			running.Go(func() {
				defer func() { finished <- d; <-places }()
				f.repairOne(ctx, d.room)
			})
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			drain(&running, finished)
			return ctx.Err()
		case d := <-finished:
			delete(busy, d.room)
			if d.outsiders {
				outsiders--
			}
		case <-f.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// drain lets the attempts end that were under way.
func drain(running *sync.WaitGroup, finished <-chan due) {
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	for {
		select {
		case <-finished:
		case <-done:
			return
		}
	}
}

// repairOne makes one attempt at one room. Whatever goes wrong is the room's own.
func (f *Federated) repairOne(ctx context.Context, room id.RoomID) {
	defer func() {
		if p := recover(); p != nil {
			f.cfg.Log.ErrorContext(ctx, "the repair of a room panicked", "room", room, "err", fmt.Sprint(p))
			f.postponeRoom(ctx, room, fmt.Errorf("panic: %v", p))
		}
	}()
	if err := f.Repair(ctx, room); err != nil && ctx.Err() == nil {
		f.cfg.Log.WarnContext(ctx, "could not repair a room", "room", room, "err", err)
		f.postponeRoom(ctx, room, err)
	}
}

// postponeRoom gives every event of a room another turn later, after an attempt that did not come to an end of its own.
func (f *Federated) postponeRoom(ctx context.Context, room id.RoomID, cause error) {
	waiting, err := f.stagedOf(ctx, room, mendAtOnce)
	if err != nil {
		f.cfg.Log.ErrorContext(ctx, "could not postpone the repair of a room", "room", room, "err", err)
		return
	}
	fates := make([]fate, 0, len(waiting))
	for _, s := range waiting {
		fates = append(fates, s.later(cause, time.Time{}))
	}
	if err := f.settle(ctx, room, fates); err != nil {
		f.cfg.Log.ErrorContext(ctx, "could not postpone the repair of a room", "room", room, "err", err)
	}
}

// later is the fate of an event whose attempt failed: another one, not before a time if that is not zero, or none any more.
func (s staged) later(cause error, notBefore time.Time) fate {
	if s.tries+1 >= maxTries {
		return fate{staged: s, giveUp: true, reason: fmt.Sprintf("after %d attempts: %v", s.tries+1, cause)}
	}
	pause := min(maxPause, firstPause<<min(s.tries, 20))
	next := time.Now().Add(pause)
	if limit := time.Now().Add(maxPause); notBefore.After(limit) {
		notBefore = limit
	}
	if next.Before(notBefore) {
		next = notBefore
	}
	return fate{staged: s, next: next, reason: cause.Error()}
}

// retryAt is when a failed server wants to be asked again, zero where that isn't known.
func retryAt(err error) time.Time {
	if remote, ok := errors.AsType[*fedclient.RemoteError](err); ok && remote.RetryAfter > 0 {
		return time.Now().Add(remote.RetryAfter)
	}
	if away, ok := errors.AsType[*fedclient.Unreachable](err); ok {
		return away.RetryAt
	}
	return time.Time{}
}
