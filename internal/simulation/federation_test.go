package simulation

import (
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
)

var (
	seeds  = flag.Int("seeds", 50, "how many seeds TestFederation runs")
	from   = flag.Int("from", 0, "the first of these seeds")
	trace  = flag.Bool("trace", false, "log what happens in each seed, not only in those that fail")
	shared = flag.String("template", "", "folder in which the first process leaves to others what every seed begins with")
)

// TestFederation runs one world for each seed, many at once. Command replay runs them one by one, each the same way every time.
func TestFederation(t *testing.T) {
	tmpl := prepare(t)
	for seed := *from; seed < *from+*seeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			chance(t, uint64(seed))
			synctest.Test(t, func(t *testing.T) { simulate(t, tmpl, uint64(seed)) })
		})
	}
}

func simulate(t *testing.T, tmpl *template, seed uint64) {
	w := newWorld(t, tmpl, seed)
	defer func() {
		if t.Failed() || *trace {
			w.report()
		}
		if t.Failed() {
			t.Logf("seed %d fails; alone, and the same way each time: go run ./internal/simulation/replay -from %d -seeds 1", seed, seed)
		}
	}()
	w.settle()
	if t.Failed() {
		return
	}
	finish := w.live()
	w.play()
	w.heal(finish)
	last := w.conclude()
	for _, s := range w.towns {
		w.serving(s)
	}
	for _, s := range w.towns {
		s.server.Stop()
	}
	w.judge(last)
}
