package simulation

import (
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
)

var (
	seeds = flag.Int("seeds", 150, "how many seeds TestFederation runs")
	trace = flag.Bool("trace", false, "log what happens in each seed, not only in those that fail")
)

// TestFederation runs one world for each seed. One alone, whatever its number: go test ./internal/simulation -run 'TestFederation/(prepare|seed=17)$' -v -seeds 18
func TestFederation(t *testing.T) {
	tmpl := prepare(t)
	for seed := range *seeds {
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
			t.Logf("seed %d fails; alone: go test ./internal/simulation -run 'TestFederation/(prepare|seed=%d)$' -v -seeds %d", seed, seed, seed+1)
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
