package e2ee

import (
	"hash/maphash"
	"sync"
)

// epochs count the changes that were heard of, by a hash of what changed: what was read of the database before is current for as long
// as the count stays. Two things that share a count cost a look at the database, nothing else.
type epochs struct {
	seed maphash.Seed

	mu     sync.Mutex // guards all below
	counts [4096]uint64
	every  uint64 // changes of which it isn't known what they changed
}

func newEpochs() *epochs { return &epochs{seed: maphash.MakeSeed()} }

func (e *epochs) slot(what string) uint64 {
	return maphash.String(e.seed, what) % uint64(len(e.counts))
}

func (e *epochs) bump(what string) {
	at := e.slot(what)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts[at]++
}

// all says that anything may have changed.
func (e *epochs) all() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.every++
}

// epoch is a count as it was.
type epoch struct{ count, every uint64 }

func (e *epochs) of(what string) epoch {
	at := e.slot(what)
	e.mu.Lock()
	defer e.mu.Unlock()
	return epoch{e.counts[at], e.every}
}
