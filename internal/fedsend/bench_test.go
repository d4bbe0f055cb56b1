package fedsend_test

import (
	"fmt"
	"testing"
	"time"

	"myelin/internal/sqldb/sqldbtest"
)

const crowd = 1000

// BenchmarkThousandServers measures how long one message takes to arrive at a thousand servers, which are in the same process and share its
// processors. "first" is with connections yet to be made.
func BenchmarkThousandServers(b *testing.B) {
	sqldbtest.EachBench(b, func(b *testing.B, open sqldbtest.Open) {
		w := newWorld(b)
		var all []*remote
		for i := range crowd {
			all = append(all, w.server(fmt.Sprint("s", i)))
		}
		n := w.node(open).start()
		r := n.create()
		n.join(r, all...)
		arrive := func(text string) time.Duration {
			began := time.Now()
			n.say(r, text)
			for _, s := range all {
				s.has(b, text)
			}
			return time.Since(began)
		}
		first := arrive("first")
		i := 0
		for b.Loop() {
			arrive(fmt.Sprint("message ", i))
			i++
		}
		b.ReportMetric(first.Seconds(), "first-s")
	})
}
