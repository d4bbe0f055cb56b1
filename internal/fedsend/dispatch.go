package fedsend

import (
	"context"
	"time"

	"myelin/matrix/id"
)

const (
	// maxFlights bounds the transactions on their way. One that takes longer than patience gives its slot to another, unless there are
	// maxSlow of those: so servers that hang keep nobody waiting.
	maxFlights = 128
	maxSlow    = 1024
	patience   = 500 * time.Millisecond
	// keptFree is how many slots are left to servers that answer.
	keptFree = maxFlights / 2
)

// awake has a link take its turn if it has something to send and is not to be left alone. Caller holds mu.
func (l *leader) awake(k *link) {
	if l.ended || k.ready || k.flying || !k.waiting() {
		return
	}
	wait := time.Until(k.retryAt)
	if !k.urgent() {
		wait = max(wait, time.Until(k.owedAt))
	}
	if wait > 0 {
		l.alarm(k, wait)
		return
	}
	k.ready = true
	if k.failingSince.IsZero() {
		l.ready = append(l.ready, k)
	} else {
		l.retry = append(l.retry, k)
	}
	l.signal()
}

// alarm wakes a link later. Caller holds mu.
func (l *leader) alarm(k *link, wait time.Duration) {
	if k.timer != nil {
		return
	}
	k.timer = time.AfterFunc(wait, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		k.timer = nil
		l.awake(k)
	})
}

func (l *leader) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// heard has what waits for a server sent soon. While a transaction is on its way it is only noted: should that fail, it was begun before the server was heard of
// and says nothing of how long to wait.
func (l *leader) heard(server id.ServerName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, origin := range l.cfg.Ours.Names() {
		switch k := l.links[route{origin, server}]; {
		case k == nil:
		case k.flying:
			k.heard = true
		case !k.failingSince.IsZero() && k.hurry():
			l.awake(k)
		}
	}
}

// dispatch starts transactions, in turn, for as long as ctx lasts.
func (l *leader) dispatch(ctx context.Context) error {
	for {
		for l.next() {
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			l.mu.Lock()
			defer l.mu.Unlock()
			l.ended = true
			return context.Cause(ctx)
		}
	}
}

// next starts the transaction whose turn it is. It reports false where there is none or no slot is free.
func (l *leader) next() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var k *link
	switch {
	case l.ended || l.free == 0:
		return false
	case len(l.ready) > 0:
		k = shift(&l.ready)
	case len(l.retry) > 0 && l.free > keptFree:
		k = shift(&l.retry)
	default:
		return false
	}
	k.ready, k.flying, k.heard, k.tried = false, true, false, time.Now()
	l.free--
	l.flights.Go(func() { l.fly(l.flying, k) })
	return true
}

// shift takes the first of a list.
func shift(list *[]*link) *link {
	first := (*list)[0]
	(*list)[0] = nil
	if *list = (*list)[1:]; len(*list) == 0 {
		*list = nil
	}
	return first
}

// slot is a flight's right to be on its way.
type slot struct {
	l     *leader
	timer *time.Timer
	slow  bool // leader.mu guards it
	done  bool
}

func (l *leader) slot() *slot {
	s := &slot{l: l}
	s.timer = time.AfterFunc(patience, s.lend)
	return s
}

// lend gives the slot to somebody faster.
func (s *slot) lend() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.done || s.l.slow >= maxSlow {
		return
	}
	s.slow = true
	s.l.slow++
	s.l.free++
	s.l.signal()
}

// release gives the slot back. Caller holds mu.
func (s *slot) release() {
	s.timer.Stop()
	s.done = true
	if s.slow {
		s.l.slow--
	} else {
		s.l.free++
	}
	s.l.signal()
}
