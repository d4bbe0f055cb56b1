package simulation

import (
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
)

var (
	seeds = flag.Int("seeds", 200, "how many seeds TestFederation runs")
	from  = flag.Int("from", 0, "the first of these seeds")
	trace = flag.Bool("trace", false, "log what happens in each seed, not only in those that fail")
)

// TestFederation runs one world for each seed. One alone: go test ./internal/simulation -run TestFederation -v -from 17 -seeds 1
func TestFederation(t *testing.T) {
	tmpl := prepare(t)
	for seed := *from; seed < *from+*seeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
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
			t.Logf("seed %d fails; alone: go test ./internal/simulation -run TestFederation -v -from %d -seeds 1", seed, seed)
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
