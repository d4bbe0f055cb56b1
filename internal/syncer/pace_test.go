package syncer

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Devices wait longer between two answers while more wants to run than can, and no longer afterwards.
func TestPaceFollowsLoad(t *testing.T) {
	var p pace
	now := time.Now()
	if got := p.pause(); got != leastPause {
		t.Fatalf("a server that did nothing yet pauses for %v", got)
	}
	var stop atomic.Bool
	var busy sync.WaitGroup
	for range 64 * runtime.GOMAXPROCS(0) {
		busy.Go(func() {
			for !stop.Load() {
				runtime.Gosched()
			}
		})
	}
	for range 1000 {
		now = now.Add(lookBack) // as far apart that each look counts in full
		if p.look(now); p.pause() == mostPause {
			break
		}
		runtime.Gosched()
	}
	if got := p.pause(); got != mostPause {
		t.Errorf("with 64 busy goroutines for each processor the pause is %v (%.0f waiting)", got, p.queue)
	}
	stop.Store(true)
	busy.Wait()
	before := p.queue
	p.look(now.Add(lookEvery / 2))
	if p.queue != before {
		t.Error("two looks came too close together")
	}
	p.look(now.Add(lookBack))
	if got := p.pause(); got != leastPause {
		t.Errorf("after the load the pause is %v (%.0f waiting)", got, p.queue)
	}
}
