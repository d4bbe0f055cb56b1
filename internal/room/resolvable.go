package room

import (
	"fmt"
	"runtime"

	"myelin/matrix/stateres"
)

// What a fork makes this server load and compute is bounded as package doc says.
const (
	// maxResolved and maxResolvedBytes bound the events that one resolution loads. Package fedroom takes no more of a room's state and auth chain
	// when it joins, and no resolution needs events outside of the auth chains of the room's states.
	maxResolved      = 500_000
	maxResolvedBytes = 512 << 20
	// largeResolved is from how many events on a resolution is large: it then waits for one of few slots.
	largeResolved = 20_000
)

// resolvable bounds a resolution.
type resolvable struct {
	events, large int
	bytes         int64
}

// largeAtOnce is how many large resolutions run at a time: they leave half of the processors to everything else.
func largeAtOnce() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// grow is called when events were loaded. It waits for a slot when the resolution becomes a large one, and fails when it becomes too large.
func (x *resolution) grow() error {
	most := x.rooms.resolvable
	if len(x.byID) > most.events || x.bytes > most.bytes {
		return fmt.Errorf("room: %w: more than %d events or %d MiB", stateres.ErrTooLarge, most.events, most.bytes>>20)
	}
	if x.large || x.locked || len(x.byID) <= most.large {
		return nil
	}
	select {
	case x.rooms.resolving <- struct{}{}:
		x.large = true
		return nil
	case <-x.ctx.Done():
		return x.ctx.Err()
	}
}

// leave gives the slot back.
func (x *resolution) leave() {
	if x.large {
		<-x.rooms.resolving
	}
}
