package fedsend

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"myelin/internal/graph"
	"myelin/matrix/id"
)

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkMemory measures what servers cost in memory: one that has everything, as a member of one room's audience, and one that has
// failed for a while and lacks events of three rooms. maxIdle is what either may cost, in bytes.
func BenchmarkMemory(b *testing.B) {
	const servers, maxIdle = 20_000, 2048
	for _, c := range []struct {
		name string
		make func() any
	}{
		{"idle", func() any { return audienceOf(servers) }},
		{"failing", func() any { return failingLinks(servers) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				kept := c.make()
				each := (heap() - before) / servers
				runtime.KeepAlive(kept)
				b.ReportMetric(float64(each), "B/server")
				if each > maxIdle {
					b.Errorf("a server costs %d bytes", each)
				}
			}
		})
	}
}

func audienceOf(servers int) *audience {
	a := &audience{counts: make(map[id.ServerName]int32)}
	var diff []graph.StateDiff
	for i := range servers {
		d := graph.StateDiff{NewMembership: graph.Join}
		d.Key.Type, d.Key.StateKey = memberType, fmt.Sprintf("@somebody:server%d.example.org", i)
		diff = append(diff, d)
	}
	a.apply(diff)
	for server := range a.counts {
		a.others = append(a.others, server)
	}
	return a
}

func failingLinks(servers int) map[route]*link {
	links := make(map[route]*link)
	for i := range servers {
		r := route{"here.example", id.ServerName(fmt.Sprintf("server%d.example.org", i))}
		k := newLink(r)
		for n := range 30 {
			k.add(entry{room: graph.RoomNID(n % 3), nid: graph.EventNID(n), pos: 1})
		}
		k.failed(fmt.Sprintf("%s can't be reached: dial tcp: lookup of %s: no such host", r.server, r.server), 0)
		k.failingSince = time.Now().Add(-2 * longOutage)
		k.outlast()
		k.timer = time.AfterFunc(24*time.Hour, func() {})
		k.touched, k.changed, k.stored = nil, false, true
		links[r] = k
	}
	return links
}
