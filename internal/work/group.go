package work

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"
)

const (
	firstPause = time.Second // before a failed goroutine starts again; doubles up to
	lastPause  = time.Minute // which is also how long it must run to be considered well again
)

// Group supervises goroutines.
type Group struct {
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex // guards stopped
	stopped bool
	wg      sync.WaitGroup // Add only under mu and before stopped
}

// NewGroup makes an empty Group. A nil log discards.
func NewGroup(log *slog.Logger) *Group {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g := &Group{log: log}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// Go runs fn until it returns nil or the Group stops. An error or a panic is logged and fn is called again after a pause.
// fn must return soon after its context ended. After Stop, Go does nothing.
func (g *Group) Go(name string, fn func(ctx context.Context) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return
	}
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		g.supervise(name, fn)
	}()
}

func (g *Group) supervise(name string, fn func(ctx context.Context) error) {
	pause := firstPause
	for {
		start := time.Now()
		err := contained(g.ctx, fn)
		if err == nil || g.ctx.Err() != nil {
			return
		}
		if time.Since(start) >= lastPause {
			pause = firstPause
		}
		g.log.Error("background task failed and will start again", "task", name, "pause", pause, "error", err)
		if sleep(g.ctx, jitter(pause)) != nil {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// Every calls fn once per period on this node, the first time after a random part of it. An error or a panic is logged.
func (g *Group) Every(name string, period time.Duration, fn func(ctx context.Context) error) {
	g.Go(name, func(ctx context.Context) error {
		wait := rand.N(period)
		for sleep(ctx, wait) == nil {
			if err := contained(ctx, fn); err != nil && ctx.Err() == nil {
				g.log.Error("periodic task failed", "task", name, "error", err)
			}
			wait = period
		}
		return nil
	})
}

// Stop ends all goroutines and waits for them. It may be called more than once.
func (g *Group) Stop() {
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.cancel()
	g.wg.Wait()
}

// contained calls fn and turns a panic into an error.
func contained(ctx context.Context, fn func(ctx context.Context) error) (err error) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if cause, ok := v.(error); ok {
			err = fmt.Errorf("panic: %w\n%s", cause, debug.Stack())
		} else {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return fn(ctx)
}

// sleep waits for d or returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// jitter keeps nodes that failed together from trying again together: it returns 3/4 to 5/4 of d.
func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }
