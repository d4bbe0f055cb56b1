package syncer

import (
	"runtime"
	"runtime/metrics"
	"time"
)

const (
	// leastPause is the least time between two answers to one device that polls: messages that come faster share an answer. A
	// client that was idle for longer is answered at once.
	leastPause = 10 * time.Millisecond
	// mostPause is the pause of a server that can't keep up: an answer with more messages is less work than more answers.
	mostPause = 100 * time.Millisecond
	// easyQueue is how many goroutines may wait for each processor without any sign of load. A message that a hundred clients
	// wait for sets off as many at once; on the average over time few of them wait.
	easyQueue = 6
	// pausePerWaiting is how much longer the pause gets with each goroutine more.
	pausePerWaiting = 5 * time.Millisecond

	lookEvery = 2 * time.Millisecond   // the least time between two looks
	lookBack  = 250 * time.Millisecond // looks from before this count for little
)

// pace finds out how long devices should wait between two answers. hub.mu guards it.
type pace struct {
	looked time.Time
	queue  float64 // goroutines that wait for a processor, for each processor: a moving average
	sample []metrics.Sample
}

// look takes notice of how busy the process is. It is called with each commit, before it wakes anybody.
func (p *pace) look(now time.Time) {
	since := now.Sub(p.looked)
	if since < lookEvery {
		return
	}
	p.looked = now
	if p.sample == nil {
		p.sample = []metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}}
	}
	metrics.Read(p.sample) // takes about a microsecond
	if p.sample[0].Value.Kind() == metrics.KindUint64 {
		waiting := float64(p.sample[0].Value.Uint64()) / float64(runtime.GOMAXPROCS(0))
		p.queue += (waiting - p.queue) * min(1, float64(since)/float64(lookBack))
	}
}

// pause is leastPause on a server that keeps up, and grows to mostPause with the goroutines that wait for processors.
func (p *pace) pause() time.Duration {
	more := time.Duration((p.queue - easyQueue) * float64(pausePerWaiting))
	return leastPause + min(mostPause-leastPause, max(0, more))
}
