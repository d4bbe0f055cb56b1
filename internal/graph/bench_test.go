package graph

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// lane lets many goroutines commit prepared messages to one room, each on the head of the one before.
type lane struct {
	mu   sync.Mutex
	head *Head
	pdus []*event.PDU
	g    *Graph
}

func newLane(b *testing.B, g *Graph, n int) *lane {
	w := newRoom(b, g)
	l := &lane{g: g, head: w.head}
	prev := []id.EventID{w.head.Extremities[0].ID}
	for i := range n {
		d := event.Draft{RoomID: w.head.ID, Type: "m.room.message", Sender: alice, OriginServerTS: 1_700_000_000_000 + int64(i),
			Content:    fmt.Appendf(nil, `{"body":"message %d, of a length that people write","msgtype":"m.text"}`, i),
			PrevEvents: prev, AuthEvents: []id.EventID{prev[0], prev[0], prev[0]}, Depth: int64(i)}
		pdu, err := d.Build(v10, "hs.test", testKey, nil)
		if err != nil {
			b.Fatal(err)
		}
		l.pdus = append(l.pdus, pdu)
		prev = []id.EventID{pdu.ID()}
	}
	return l
}

func (l *lane) send(b *testing.B) {
	l.mu.Lock()
	pdu := l.pdus[0]
	l.pdus = l.pdus[1:]
	nid, err := l.g.NextNID(b.Context())
	if err != nil {
		b.Error(err)
	}
	e := &Event{NID: nid, PDU: pdu, Flags: Local, Txn: TxnRef{User: alice, Device: "DEVICE", Scope: "send", ID: string(pdu.ID())}}
	next, err := l.head.Advance(e)
	if err != nil {
		b.Error(err)
	}
	t := l.g.Commit(&Commit{Prev: l.head, Next: next, Events: []*Event{e}})
	l.head = next
	l.mu.Unlock()
	if err := t.Wait(b.Context()); err != nil {
		b.Error(err)
	}
}

func benchmarkCommit(b *testing.B, rooms, senders int) {
	sqldbtest.EachBench(b, func(b *testing.B, o sqldbtest.Open) {
		g := open(b, o)
		lanes := make([]*lane, rooms)
		for i := range lanes {
			lanes[i] = newLane(b, g, b.N/rooms+1)
		}
		b.ResetTimer()
		cpu := cpuTime()
		var next atomic.Int64
		var wg sync.WaitGroup
		for range senders {
			wg.Go(func() {
				for {
					i := next.Add(1) - 1
					if i >= int64(b.N) {
						return
					}
					lanes[i%int64(rooms)].send(b)
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
	})
}

// cpuTime is what this process used; unlike elapsed time it means something on a busy machine.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkCommitOneRoom1(b *testing.B)   { benchmarkCommit(b, 1, 1) }
func BenchmarkCommitOneRoom64(b *testing.B)  { benchmarkCommit(b, 1, 64) }
func BenchmarkCommit64Rooms64(b *testing.B)  { benchmarkCommit(b, 64, 64) }
func BenchmarkCommit64Rooms256(b *testing.B) { benchmarkCommit(b, 64, 256) }
